"""What the projection of the CPU must equal: the same semantics in plain torch, which finds the gradients itself.

Written before the kernels of `projection_cpu`, and shares no arithmetic with them but the spherical harmonics, which
`test_render` holds to gsplat's.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.splatting.projection_cpu import sh_basis

MIN_ALPHA = 1 / 255
DILATION = 0.3
JACOBIAN_MARGIN = 0.15


def project(
    gaussians: Gaussians, cameras: Cameras, near_plane: float
) -> tuple[Float[Tensor, "*batch views n 10"], Bool[Tensor, "*batch views n"]]:
    """Centre, inverse covariance, opacity, colour, depth of every Gaussian in every view, and which can be seen."""
    w2c, centres = cameras.w2c, cameras.centres
    x, y, z = (w2c[..., :3, :3] @ gaussians.means.mT.unsqueeze(-3) + w2c[..., :3, 3:]).unbind(-2)
    fx, fy, cx, cy = cameras.fxfycxcy[..., None].unbind(-2)
    near = z.clamp(min=near_plane)
    u, v = x / near, y / near
    axis_x, axis_y = _image_axes(_axes(gaussians), w2c, _linearised(u, fx, cx, cameras.width),
                                 _linearised(v, fy, cy, cameras.height))  # fmt: skip
    focal_x, focal_y = fx / near, fy / near
    cov_xx = (axis_x * axis_x).sum(-2) * focal_x.square() + DILATION
    cov_yy = (axis_y * axis_y).sum(-2) * focal_y.square() + DILATION
    cov_xy = (axis_x * axis_y).sum(-2) * focal_x * focal_y
    unsafe = cov_xx * cov_yy - cov_xy.square()
    determinant = unsafe.clamp(min=DILATION**2)  # its exact lower bound: rounding alone falls below
    px, py = u * fx + cx, v * fy + cy
    conic = (cov_yy / determinant, -cov_xy / determinant, cov_xx / determinant)
    opacity = gaussians.opacities.unsqueeze(-2).expand_as(z)
    splats = torch.stack([px, py, *conic, opacity, *_colours(gaussians, centres).unbind(-2), z], -2)
    with torch.no_grad():
        reach = (2 * (opacity * 255).clamp(min=1).log()).sqrt()
        inside_x = _overlaps(px, (reach * cov_xx.sqrt()).ceil(), cameras.width)
        inside_y = _overlaps(py, (reach * cov_yy.sqrt()).ceil(), cameras.height)
        visible = (z >= near_plane) & (opacity >= MIN_ALPHA) & (unsafe > 0) & inside_x & inside_y
    return splats.mT, visible


def _axes(gaussians: Gaussians) -> Float[Tensor, "*batch 3 3 n"]:
    """Rotation times scales: column j is the Gaussian's j-th standard deviation as a world vector."""
    w, x, y, z = F.normalize(gaussians.quats, dim=-1).unbind(-1)
    a, b, c = gaussians.scales.unbind(-1)
    rows = [
        torch.stack([(1 - 2 * (y * y + z * z)) * a, 2 * (x * y - w * z) * b, 2 * (x * z + w * y) * c], -2),
        torch.stack([2 * (x * y + w * z) * a, (1 - 2 * (x * x + z * z)) * b, 2 * (y * z - w * x) * c], -2),
        torch.stack([2 * (x * z - w * y) * a, 2 * (y * z + w * x) * b, (1 - 2 * (x * x + y * y)) * c], -2),
    ]
    return torch.stack(rows, -3)


def _image_axes(axes: Tensor, w2c: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The axes as the image's columns and rows see them, per focal length over depth: [..., V, 3, N]."""
    in_camera = w2c[..., :3, :3] @ axes.flatten(-2).unsqueeze(-3)
    row_x, row_y, row_z = in_camera.unflatten(-1, axes.shape[-2:]).unbind(-3)
    axis_x = torch.addcmul(row_x, u.unsqueeze(-2), row_z, value=-1)
    axis_y = torch.addcmul(row_y, v.unsqueeze(-2), row_z, value=-1)
    return axis_x, axis_y


def _linearised(slope: Tensor, focal: Tensor, centre: Tensor, size: int) -> Tensor:
    """x/z at which the projection is linearised: kept near the image, or grazing Gaussians would cover it."""
    margin = JACOBIAN_MARGIN * size
    return slope.clamp(min=-(centre + margin) / focal, max=(size - centre + margin) / focal)


def _overlaps(centre: Tensor, radius: Tensor, size: int) -> Tensor:
    return (centre + radius > 0) & (centre - radius < size)


def _colours(gaussians: Gaussians, centres: Float[Tensor, "*batch views 3"]) -> Float[Tensor, "*batch views 3 n"]:
    """max(0.5 + sum of coefficient times harmonic, 0) along the direction from the camera to the Gaussian."""
    sh = gaussians.sh.movedim(-3, -1).contiguous().unsqueeze(-4)
    colours = (sh[..., 0, :, :] * SH_C0 + 0.5).expand(*centres.shape, -1)
    if gaussians.sh_degree > 0:
        directions = F.normalize(gaussians.means.mT.unsqueeze(-3) - centres[..., None], dim=-2)
        for k, basis in enumerate(sh_basis(directions, gaussians.sh_degree), start=1):
            colours = torch.addcmul(colours, basis.unsqueeze(-2), sh[..., k, :, :])
    return colours.clamp(min=0)
