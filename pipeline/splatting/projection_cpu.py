"""What each view of a scene sees of its Gaussians, on the CPU: gsplat 1.5.3's semantics, values and gradients.

The projection is numba kernels, forward and backward. Spherical harmonics stay torch: degree 0, which the recipes have,
is three operations per Gaussian whatever the views.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.splatting.compiled import in_threads
from pipeline.splatting.projection_kernels import JACOBIAN_MARGIN, project_scene, project_scene_vjp, views_vjp

PIECE = 4096  # Gaussians that a thread takes at once; fixed, so that sums do not depend on the number of threads


def project(
    gaussians: Gaussians, cameras: Cameras, near_plane: float
) -> tuple[Float[Tensor, "*batch views n 10"], Bool[Tensor, "*batch views n"]]:
    """Columns X … DEPTH of every Gaussian in every view, and which can be seen.

    gaussians [*batch, N] and cameras [*batch, V] share a floating dtype, on the CPU. Differentiable in both. A Gaussian
    that is not finite is seen nowhere; its gradients are NaN, so that it is noticed.
    """
    (*batch, views), n = cameras.batch_shape, gaussians.opacities.shape[-1]
    scenes, colours = math.prod(batch), _colours(gaussians, cameras.centres)
    splats, visible = _Project.apply(
        gaussians.means.reshape(scenes, n, 3),
        gaussians.quats.reshape(scenes, n, 4),
        gaussians.scales.reshape(scenes, n, 3),
        gaussians.opacities.reshape(scenes, n),
        colours.reshape(scenes, colours.shape[-3], n, 3),
        cameras.w2c.reshape(scenes, views, 4, 4),
        cameras.fxfycxcy.reshape(scenes, views, 4),
        (cameras.width, cameras.height),
        near_plane,
    )
    return splats.view(*cameras.batch_shape, n, 10), visible.view(*cameras.batch_shape, n)


def _colours(gaussians: Gaussians, centres: Float[Tensor, "*batch views 3"]) -> Float[Tensor, "*batch any n 3"]:
    """max(0.5 + sum of coefficient times harmonic, 0) along the direction from the camera to the Gaussian.

    One row of colours for all views at degree 0, a row for each above.
    """
    plain = (gaussians.sh[..., 0, :] * SH_C0 + 0.5).unsqueeze(-3)
    if gaussians.sh_degree == 0:
        return plain.clamp(min=0)
    sh = gaussians.sh.movedim(-3, -1).contiguous().unsqueeze(-4)
    colours = plain.mT
    directions = F.normalize(gaussians.means.mT.unsqueeze(-3) - centres[..., None], dim=-2)
    for k, basis in enumerate(sh_basis(directions, gaussians.sh_degree), start=1):
        colours = torch.addcmul(colours, basis.unsqueeze(-2), sh[..., k, :, :])
    return colours.clamp(min=0).mT


def sh_basis(directions: Float[Tensor, "*batch 3 n"], degree: int) -> list[Float[Tensor, "*batch n"]]:
    """Real spherical harmonics of degree 1 to `degree` along unit directions, signs and order as in 3DGS."""
    x, y, z = directions.unbind(-2)
    c1 = math.sqrt(3 / (4 * math.pi))
    basis = [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = math.sqrt(15 / (4 * math.pi))
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            c2 * x * y,
            -c2 * y * z,
            c2 / math.sqrt(12) * (2 * zz - xx - yy),
            -c2 * x * z,
            c2 / 2 * (xx - yy),
        ]
    if degree >= 3:
        c30, c31 = math.sqrt(7 / (16 * math.pi)), math.sqrt(21 / (32 * math.pi))
        c32, c33 = math.sqrt(105 / (16 * math.pi)), math.sqrt(35 / (32 * math.pi))
        tilted = 4 * zz - xx - yy
        basis += [-c33 * y * (3 * xx - yy), 2 * c32 * x * y * z, -c31 * y * tilted]
        basis += [c30 * z * (2 * zz - 3 * xx - 3 * yy)]
        basis += [-c31 * x * tilted, c32 * z * (xx - yy), -c33 * x * (xx - 3 * yy)]
    return basis


class _Project(torch.autograd.Function):
    """Scenes of Gaussians and of views -> splats [scenes, views, N, 10] and which of them can be seen."""

    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: object) -> tuple[Tensor, Tensor]:
        *tensors, size, near_plane = inputs
        means, quats, scales, opacities, colours, w2c, fxfycxcy = (tensor.contiguous() for tensor in tensors)  # type: ignore[attr-defined]
        views = _views(w2c, fxfycxcy, size)  # type: ignore[arg-type]
        splats = means.new_empty(*w2c.shape[:2], means.shape[1], 10)
        visible = torch.empty(splats.shape[:-1], dtype=torch.bool)
        read = [tensor.detach().numpy() for tensor in (means, quats, scales, opacities, colours, views)]
        written = [splats.numpy(), visible.numpy()]

        def work(scene: int, first: int, end: int) -> None:
            arrays = [array[scene] for array in (*read, *written)]
            project_scene(first, end, size, near_plane, *arrays)

        _in_pieces(work, *means.shape[:2])
        ctx.near_plane = near_plane  # type: ignore[attr-defined]
        ctx.save_for_backward(means, quats, scales, opacities, colours, views)
        ctx.mark_non_differentiable(visible)
        return splats, visible

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, cotangents: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, views = ctx.saved_tensors  # type: ignore[attr-defined]
        means, gradients = inputs[0], [torch.empty_like(tensor) for tensor in inputs]
        scenes, n = means.shape[:2]
        of_views = torch.zeros(scenes, -(-n // PIECE), views.shape[1], 16, dtype=torch.float64)
        read = [tensor.detach().numpy() for tensor in (*inputs, views, cotangents.contiguous())]
        written = [tensor.numpy() for tensor in (*gradients, of_views)]

        def work(scene: int, first: int, end: int) -> None:
            *arrays, d_views = (array[scene] for array in (*read, *written))
            project_scene_vjp(first, end, ctx.near_plane, *arrays)  # type: ignore[attr-defined]
            if any(ctx.needs_input_grad[5:7]):  # type: ignore[attr-defined]
                means, quats, scales, _, _, views, cotangents = arrays[:7]
                views_vjp(first, end, ctx.near_plane, means, quats, scales, views, cotangents, d_views[first // PIECE])  # type: ignore[attr-defined]

        _in_pieces(work, scenes, n)
        w2c, fxfycxcy = of_views.sum(1).to(means.dtype).split([12, 4], -1)
        w2c = F.pad(w2c.unflatten(-1, (3, 4)), (0, 0, 0, 1))
        return *gradients, w2c, fxfycxcy, None, None


def _views(w2c: Tensor, fxfycxcy: Tensor, size: tuple[int, int]) -> Float[Tensor, "scenes views 20"]:
    """What the kernels need of each view, in float64.

    The projection is linearised near the image, or grazing Gaussians would cover it.
    """
    intrinsics = fxfycxcy.double()
    focal, centre = intrinsics.split(2, -1)
    extent = torch.tensor(size, dtype=torch.float64)
    low = -(centre + JACOBIAN_MARGIN * extent) / focal
    high = (extent - centre + JACOBIAN_MARGIN * extent) / focal
    return torch.cat([w2c[..., :3, :].flatten(-2).double(), intrinsics, low, high], -1)


def _in_pieces(work: Callable[[int, int, int], None], scenes: int, count: int) -> None:
    """Run work(scene, first, end) for pieces of the Gaussians of each scene, in threads."""
    pieces = [(scene, first) for scene in range(scenes) for first in range(0, count, PIECE)]
    in_threads(lambda i: work(*pieces[i], min(pieces[i][1] + PIECE, count)), len(pieces))
