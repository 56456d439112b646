"""The one door to drawing Gaussians: gsplat on CUDA, our own rasterizer elsewhere, one picture from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.errors import NonFiniteError, PipelineError
from pipeline.gaussians import Gaussians
from pipeline.splatting import rasterize_cpu
from pipeline.splatting.gsplat_build import require_kernels

WHITE = (1.0, 1.0, 1.0)
NEAR_PLANE = 0.2  # world units; where the renderer that FaceLift's checkpoints were trained with cuts


class Rendering(NamedTuple):
    """Colours over the background (not clamped above 1), opacity in 0…1, expected camera z (0 if empty)."""

    images: Float[Tensor, "*batch views 3 height width"]
    alphas: Float[Tensor, "*batch views 1 height width"]
    depths: Float[Tensor, "*batch views 1 height width"]


def render(
    gaussians: Gaussians, cameras: Cameras, background: Sequence[float] = WHITE, near_plane: float = NEAR_PLANE
) -> Rendering:
    """Draw every scene of gaussians [..., N] into each of its own cameras [..., V].

    background: one RGB colour; depths and alphas have none. near_plane: Gaussians nearer than this (world
    units along the optical axis) are left out. Drawn in the tensors' own precision, whatever autocast says.
    Differentiable in the Gaussians and in c2w (in fxfycxcy on CPU only: gsplat has no gradient for it).
    Raises PipelineError when shapes, dtypes or devices do not fit, NonFiniteError when a value is no number.
    """
    _check(gaussians, cameras, background, near_plane)
    rasterize = _rasterize_gsplat if gaussians.means.is_cuda else rasterize_cpu.rasterize
    with torch.autocast(gaussians.means.device.type, enabled=False):
        colours, alphas, depths = rasterize(gaussians, cameras, near_plane)
        images = colours + (1 - alphas) * colours.new_tensor(background)
    return Rendering(*(channels.movedim(-1, -3) for channels in (images, alphas, depths)))


def _rasterize_gsplat(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> tuple[Tensor, Tensor, Tensor]:
    """All scenes and views in one call; same contract as `rasterize_cpu.rasterize`."""
    from gsplat import rasterization

    require_kernels()
    colours_and_depths, alphas, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.sh,
        viewmats=cameras.w2c,
        Ks=cameras.K,
        width=cameras.width,
        height=cameras.height,
        near_plane=near_plane,
        sh_degree=gaussians.sh_degree,
        packed=False,
        render_mode="RGB+ED",
    )
    return colours_and_depths[..., :3], alphas, colours_and_depths[..., 3:]


def _check(gaussians: Gaussians, cameras: Cameras, background: Sequence[float], near_plane: float) -> None:
    scenes, views = tuple(gaussians.opacities.shape[:-1]), tuple(cameras.batch_shape)
    if not views or views[:-1] != scenes:
        raise PipelineError(
            f"render: expected cameras {(*scenes, 'V')} for Gaussians {(*scenes, 'N')}, "
            f"got cameras {views} — give every scene its own views."
        )
    if len(background) != 3 or not near_plane > 0:
        raise PipelineError(
            f"render: expected an RGB background and a near plane above 0, "
            f"got {tuple(background)} and {near_plane} — correct the call."
        )
    values = {**vars(gaussians), "c2w": cameras.c2w, "fxfycxcy": cameras.fxfycxcy}
    kinds = {(value.dtype, value.device) for value in values.values()}
    usable = (torch.float32,) if gaussians.means.is_cuda else (torch.float32, torch.float64)
    if len(kinds) > 1 or gaussians.means.dtype not in usable:
        came = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        wanted = " or ".join(str(dtype) for dtype in usable)
        raise PipelineError(f"render: expected {wanted} on one device, got {came} — use .to() first.")
    for name, value in values.items():
        if not bool(torch.isfinite(value.detach()).all()):
            raise NonFiniteError(f"render: expected finite {name}, got a NaN or infinity — the model diverged before.")
