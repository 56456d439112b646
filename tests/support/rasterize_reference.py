"""What the rasterizers must equal: every Gaussian against every pixel, in plain torch of any dtype.

Written from the definition (covariances, explicit Jacobian, cumulative product) and sharing no code with
`rasterize_cpu`; time and memory grow as Gaussians times pixels, so only tests call it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians


def rasterize(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [*batch, V, H, W, 3] without background, alphas and expected depths [*batch, V, H, W, 1]."""
    if gaussians.opacities.ndim > 1:
        scenes = [rasterize(gaussians[i], cameras[i], near_plane) for i in range(len(gaussians.opacities))]
    else:
        scenes = [_one_view(gaussians, cameras[i], near_plane) for i in range(len(cameras.c2w))]
    colours, alphas, depths = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    return colours, alphas, depths


def _one_view(gaussians: Gaussians, camera: Cameras, near_plane: float) -> tuple[Tensor, Tensor, Tensor]:
    rotation, translation = camera.w2c[:3, :3], camera.w2c[:3, 3]
    in_front = (gaussians.means @ rotation.T + translation)[:, 2] >= near_plane
    gaussians = gaussians[in_front]
    in_camera = gaussians.means @ rotation.T + translation
    order = torch.argsort(in_camera[:, 2].float(), stable=True)
    gaussians, in_camera = gaussians[order], in_camera[order]

    alpha = _alphas(gaussians, in_camera, camera)
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    weights = torch.where(light[1:] > 1e-4, light[:-1] * alpha, 0.0)
    values = torch.cat([_colours(gaussians, camera), in_camera[:, 2:], torch.ones_like(in_camera[:, 2:])], -1)
    image = torch.einsum("nhw,nc->hwc", weights, values)
    return image[..., :3], image[..., 4:], image[..., 3:4] / image[..., 4:].clamp(min=1e-10)


def _alphas(gaussians: Gaussians, in_camera: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n h w"]:
    """Opacity of every Gaussian at every pixel, 0 below 1/255 and at most 0.999."""
    pixels = torch.stack(
        torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")[::-1], -1
    )
    projected = torch.einsum("ij,nj->ni", camera.K, in_camera)
    offset = projected[:, None, None, :2] / projected[:, None, None, 2:] - (pixels + 0.5).to(in_camera)
    jacobian = _jacobian(in_camera, camera) @ camera.w2c[:3, :3]
    covariance = jacobian @ _covariances(gaussians) @ jacobian.mT + 0.3 * torch.eye(2).to(in_camera)
    sigma = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offset, torch.linalg.inv(covariance), offset)
    alpha = (gaussians.opacities[:, None, None] * torch.exp(-sigma)).clamp(max=0.999)
    return torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0.0)


def _jacobian(in_camera: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n 2 3"]:
    """d(pixel)/d(camera space), with x/z and y/z kept within the image and 15 % of its size around it."""
    z = in_camera[:, 2]
    size = in_camera.new_tensor([camera.width, camera.height])
    focal, centre = camera.fxfycxcy[:2], camera.fxfycxcy[2:]
    low, high = -centre / focal - 0.15 * size / focal, (size - centre) / focal + 0.15 * size / focal
    slope = torch.minimum(torch.maximum(in_camera[:, :2] / z[:, None], low), high)
    return torch.cat([torch.diag(focal) / z[:, None, None], (-focal * slope / z[:, None])[..., None]], -1)


def _covariances(gaussians: Gaussians) -> Float[Tensor, "n 3 3"]:
    """R S Sᵀ Rᵀ; the columns of R are the axes turned by the quaternion (v + 2w q×v + 2 q×(q×v))."""
    quats = gaussians.quats / gaussians.quats.norm(dim=-1, keepdim=True)
    axes = torch.eye(3).to(quats).expand(len(quats), 3, 3)
    vector = quats[:, None, 1:].expand_as(axes)
    once = torch.linalg.cross(vector, axes)
    turned = axes + 2 * quats[:, :1, None] * once + 2 * torch.linalg.cross(vector, once)
    return torch.einsum("nki,nk,nkj->nij", turned, gaussians.scales.square(), turned)


def _colours(gaussians: Gaussians, camera: Cameras) -> Float[Tensor, "n 3"]:
    """max(0.5 + spherical harmonics, 0), with the polynomials of 3DGS."""
    rays = gaussians.means - camera.centres
    x, y, z = (rays / rays.norm(dim=-1, keepdim=True)).unbind(-1)
    harmonics = [
        0.28209479177387814 * torch.ones_like(x),
        -0.4886025119029199 * y,
        0.4886025119029199 * z,
        -0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.9461746957575601 * z**2 - 0.3153915652525200,
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (x**2 - y**2),
        -0.5900435899266435 * y * (3 * x**2 - y**2),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (5 * z**2 - 1),
        0.3731763325901154 * z * (5 * z**2 - 3),
        -0.4570457994644658 * x * (5 * z**2 - 1),
        1.445305721320277 * z * (x**2 - y**2),
        -0.5900435899266435 * x * (x**2 - 3 * y**2),
    ]
    basis = torch.stack(harmonics[: gaussians.sh.shape[-2]], -1)
    return (torch.einsum("nk,nkc->nc", basis, gaussians.sh) + 0.5).clamp(min=0)
