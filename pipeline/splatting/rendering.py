"""The one door to drawing Gaussians: gsplat on CUDA, our own rasterizer elsewhere, one picture from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.errors import NonFiniteError, PipelineError
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.splatting import rasterize_cpu
from pipeline.splatting.chunks import INTERSECTION_BYTES, Drawn, Limits, rasterize_in_chunks
from pipeline.splatting.gsplat_build import require_kernels
from pipeline.transfers import constant

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
    Raises PipelineError when shapes, dtypes or devices do not fit, NonFiniteError when a value is no number,
    OversizedError when Gaussians are so large that a GPU cannot hold one view of them.
    """
    _check_fit(gaussians, cameras, background, near_plane)
    _check_finite(gaussians, cameras)
    return _draw(gaussians, cameras, background, near_plane)


def draw(
    gaussians: Gaussians, cameras: Cameras, background: Sequence[float] = WHITE, near_plane: float = NEAR_PLANE
) -> Rendering:
    """`render` for values from within, as a model in training makes them: nothing waits to see whether they are finite.

    If any is not, every pixel is NaN, and so is a loss made from them. Raises PipelineError and OversizedError as
    `render` does.
    """
    _check_fit(gaussians, cameras, background, near_plane)
    rendering = _draw(gaussians, cameras, background, near_plane)
    sums = [value.detach().sum() for value in _values(gaussians, cameras).values()]
    nothing = torch.stack(sums).sum() * 0  # NaN where a sum is not finite; a NaN Gaussian alone would be left out
    return Rendering(*(channels + nothing for channels in rendering))


def _draw(gaussians: Gaussians, cameras: Cameras, background: Sequence[float], near_plane: float) -> Rendering:
    with torch.autocast(gaussians.means.device.type, enabled=False):
        if gaussians.means.is_cuda:
            with torch.cuda.device(gaussians.means.device):  # the current GPU may be another
                require_kernels()
            limits = _limits(gaussians.means.device)
            colours, alphas, depths = rasterize_in_chunks(_rasterize_gsplat, gaussians, cameras, near_plane, limits)
        else:
            colours, alphas, depths = rasterize_cpu.rasterize(gaussians, cameras, near_plane)
        images = colours + (1 - alphas) * constant(background, alphas)
    return Rendering(*(channels.movedim(-1, -3) for channels in (images, alphas, depths)))


def _limits(device: torch.device) -> Limits:
    """A chunk takes at most a sixth of the memory, and a view what can be sorted in all of it."""
    memory = torch.cuda.get_device_properties(device).total_memory
    most = Limits()
    return Limits(min(most.chunk_bytes, memory // 6), min(most.view_intersections, memory // INTERSECTION_BYTES))


def _rasterize_gsplat(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> Drawn:
    """All scenes and views in one call; same contract as `rasterize_cpu.rasterize`. Needs a Gaussian at least."""
    from gsplat import rasterization

    # Spherical harmonics cost gsplat a direction and all coefficients per view; those of degree 0 are just a colour.
    flat = gaussians.sh_degree == 0
    # The bottom row is 0 0 0 1 in any use, and gsplat's inverse of the matrix would give it a gradient.
    upper, bottom = cameras.w2c.split([3, 1], -2)
    colours_and_depths, alphas, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=(0.5 + SH_C0 * gaussians.sh[..., 0, :]).clamp(min=0) if flat else gaussians.sh,
        viewmats=torch.cat([upper, bottom.detach()], -2),
        Ks=cameras.K,
        width=cameras.width,
        height=cameras.height,
        near_plane=near_plane,
        sh_degree=None if flat else gaussians.sh_degree,
        packed=False,
        render_mode="RGB+ED",
    )
    return colours_and_depths[..., :3], alphas, colours_and_depths[..., 3:]


def _check_fit(gaussians: Gaussians, cameras: Cameras, background: Sequence[float], near_plane: float) -> None:
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
    kinds = {(value.dtype, value.device) for value in _values(gaussians, cameras).values()}
    usable = (torch.float32,) if gaussians.means.is_cuda else (torch.float32, torch.float64)
    if len(kinds) > 1 or gaussians.means.dtype not in usable:
        came = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        wanted = " or ".join(str(dtype) for dtype in usable)
        raise PipelineError(f"render: expected {wanted} on one device, got {came} — use .to() first.")


def _check_finite(gaussians: Gaussians, cameras: Cameras) -> None:
    values = _values(gaussians, cameras)
    finite = torch.stack([torch.isfinite(value.detach()).all() for value in values.values()])
    if not bool(finite.all()):  # the one wait for the device
        name = list(values)[int(finite.int().argmin())]
        raise NonFiniteError(f"render: expected finite {name}, got a NaN or infinity — the model diverged before.")


def _values(gaussians: Gaussians, cameras: Cameras) -> dict[str, Tensor]:
    return {**vars(gaussians), "c2w": cameras.c2w, "fxfycxcy": cameras.fxfycxcy}
