"""How many pairs of a Gaussian and a tile gsplat 1.5.3 will sort for each view, known before its kernels are called.

gsplat lists every tile of 16 by 16 pixels that a Gaussian's bounding box touches, and sorts the list by tile and depth.
Memory follows the length of that list, and its indices are 32 bits wide.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians
from pipeline.splatting.projection_kernels import DILATION, JACOBIAN_MARGIN, MIN_ALPHA

TILE = 16  # pixels along a side
_FAR_PLANE = 1e10  # world units; gsplat's default
_MAX_REACH = 3.33  # standard deviations, even where an opacity above 1 would reach further
_PAIRS = 2**22  # Gaussians times views that are looked at together: some 30 float32 of each are held, half a GiB


@torch.no_grad()
def tile_intersections(
    gaussians: Gaussians, cameras: Cameras, near_plane: float, pairs: int = _PAIRS
) -> Float[Tensor, "scenes views"]:
    """Tiles that the Gaussians [S, N] meet in each of their cameras [S, V], summed over the Gaussians; float64.

    The rule is gsplat's: the bounding box of the projected Gaussian down to an opacity of 1/255, in whole tiles of the
    image; a Gaussian that is culled meets none. A sum is NaN where a Gaussian that is not culled, or a camera, is not a
    number. pairs: Gaussians times views looked at together, a bound on memory. Waits for nothing, has no gradient.
    """
    sums = torch.zeros(cameras.batch_shape, dtype=torch.float64, device=gaussians.means.device)
    for scene in range(len(sums)):
        opacities = gaussians.opacities[scene].split(max(pairs // max(sums.shape[1], 1), 1))
        sizes = [len(part) for part in opacities]
        means, quats, scales = (
            field[scene].split(sizes) for field in (gaussians.means, gaussians.quats, gaussians.scales)
        )
        for part in zip(means, quats, scales, opacities, strict=True):
            sums[scene] += _tiles(*part, cameras[scene], near_plane).sum(-1, dtype=torch.float64)
    return sums


def _tiles(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    cameras: Cameras,
    near_plane: float,
) -> Float[Tensor, "views n"]:
    """Tiles of each Gaussian in each view. Every comparison that decides to cull is false for a NaN, as in gsplat."""
    w2c, (fx, fy, cx, cy) = cameras.w2c, cameras.fxfycxcy[..., None].unbind(-2)
    x, y, z = (w2c[:, :3, :3] @ means.mT + w2c[:, :3, 3:]).unbind(-2)
    right, down, forward = w2c[:, :3, :3].unbind(-2)
    covariances = _covariances(quats, scales)
    reach = (2 * (opacities * 255).log().clamp(min=0)).sqrt().clamp(max=_MAX_REACH)
    along = _quadratic(forward, forward, covariances)
    count = torch.ones_like(z)
    for axis, slope, focal, centre, size in (
        (right, x / z, fx, cx, cameras.width),
        (down, y / z, fy, cy, cameras.height),
    ):
        margin = JACOBIAN_MARGIN * size
        bent = slope.clamp(min=-(centre + margin) / focal, max=(size - centre + margin) / focal)
        across, mixed = _quadratic(axis, axis, covariances), _quadratic(axis, forward, covariances)
        variance = (across - 2 * bent * mixed + bent.square() * along).clamp(min=0) * (focal / z).square() + DILATION
        count *= _touched(slope * focal + centre, (reach * variance.sqrt()).ceil(), size)
    culled = (z < near_plane) | (z > _FAR_PLANE) | (opacities <= MIN_ALPHA)
    return count.masked_fill(culled, 0)


def _touched(middle: Tensor, radius: Tensor, size: int) -> Tensor:
    """Tiles between middle - radius and middle + radius along an axis of `size` pixels; 0 beside the image."""
    number = math.ceil(size / TILE)
    first, last = ((middle - radius) / TILE).floor(), ((middle + radius) / TILE).ceil()
    return (last.clamp(0, number) - first.clamp(0, number)) * (middle - radius < size)


def _covariances(quats: Tensor, scales: Tensor) -> Float[Tensor, "9 n"]:
    """Rows of the world covariance of every Gaussian."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ]
    ).unflatten(0, (3, 3))  # fmt: skip
    return torch.einsum("ikn,nk,jkn->ijn", rotation, scales.square(), rotation).flatten(0, 1)


def _quadratic(a: Float[Tensor, "views 3"], b: Float[Tensor, "views 3"], covariances: Tensor) -> Tensor:
    """Every aᵀ Σ b, [views, n]."""
    return (a[:, :, None] * b[:, None, :]).flatten(1) @ covariances
