"""The differentiable Gaussian rasterizer for machines without CUDA: gsplat 1.5.3's semantics, line by line.

Projection and colour are torch, and so are their gradients. Compositing is two numba kernels that take the
Gaussians of an image one by one, nearest first, and walk the rows of each one's ellipse. Pixels that let no
more light through are skipped by pointers to the next open pixel, so the cost follows the pairs that matter.
The backward pass is the same walk again; behind a pair lies the finished image less what came before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.machine import account

MIN_ALPHA = 1 / 255  # fainter pairs are not drawn
MAX_ALPHA = 0.999  # gsplat 1.6 lowers this to 0.99
MIN_LIGHT = 1e-4  # a pair that would leave a pixel no more light than this closes it, undrawn
DILATION = 0.3  # px², added to the diagonal of every projected covariance
JACOBIAN_MARGIN = 0.15  # of the image size: how far outside it x/z may linearise

# Rows of `splats`: everything the kernels need of one Gaussian in one image.
X, Y, XX, XY, YY, OPACITY, FIRST_CHANNEL = range(7)  # centre in px, inverse covariance in px⁻², opacity, r g b depth
NUM_CHANNELS = 5  # red, green, blue, depth, and a one whose sum is alpha

Result = TypeVar("Result")


def rasterize(
    gaussians: Gaussians, cameras: Cameras, near_plane: float
) -> tuple[
    Float[Tensor, "*batch views height width 3"],
    Float[Tensor, "*batch views height width 1"],
    Float[Tensor, "*batch views height width 1"],
]:
    """Colours without background, alphas and expected depths (camera z, 0 where nothing is) of every view.

    gaussians [*batch, N] and cameras [*batch, V] share a floating dtype, on the CPU. Differentiable in means,
    quats, scales, opacities, sh and the cameras. One image per thread, as many threads as torch would use.
    """
    # A trained scene's background is half of all Gaussians, too faint for any pixel: they are not even projected.
    seen = bright(gaussians)
    kept = gaussians if bool(seen.all()) else chosen(gaussians, seen.nonzero()[:, 0])
    splats, visible = project(kept, cameras, near_plane)
    images = _Splat.apply(splats.flatten(0, -3), visible.flatten(0, -2), cameras.width, cameras.height)
    images = images.reshape(*cameras.batch_shape, cameras.height, cameras.width, NUM_CHANNELS)
    colours, depths, alphas = images.split([3, 1, 1], -1)
    return colours, alphas, depths / alphas.clamp(min=1e-10)


def bright(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Which Gaussians are opaque enough to be seen in any scene of a batch."""
    return (gaussians.opacities.detach()[None] >= MIN_ALPHA).flatten(0, -2).any(0)


def chosen(gaussians: Gaussians, indices: Int[Tensor, " m"]) -> Gaussians:
    """The same choice of Gaussians in every scene of a batch."""
    scenes = gaussians.opacities.ndim - 1
    return Gaussians(*(value.index_select(scenes, indices) for value in vars(gaussians).values()))


def project(
    gaussians: Gaussians, cameras: Cameras, near_plane: float
) -> tuple[Float[Tensor, "*batch views 10 n"], Bool[Tensor, "*batch views n"]]:
    """Rows X … OPACITY, red, green, blue, depth of every Gaussian in every view, and which can be seen.

    Components are rows, not columns: each torch operation then reads memory in order. The covariance is never
    formed: with A the Gaussian's axes in camera space, the image sees two 3-vectors whose dot products it is.
    """
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
    return splats, visible


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


class _Splat(torch.autograd.Function):
    """splats [images, 10, N] -> [images, height, width, 5]."""

    @staticmethod
    def forward(ctx: FunctionCtx, splats: Tensor, visible: Tensor, width: int, height: int) -> Tensor:
        images = splats.new_zeros(len(splats), height * width, NUM_CHANNELS)
        inputs, mask, outputs = splats.detach().numpy(), visible.numpy(), images.numpy()

        def draw(i: int) -> np.ndarray:
            order = nearest_first(inputs[i, -1], mask[i])
            drawn = _splat(inputs[i], order, width, outputs[i])
            return order[:drawn].copy()

        ctx.orders = _each_image(draw, len(splats))  # type: ignore[attr-defined]
        ctx.width = width  # type: ignore[attr-defined]
        ctx.save_for_backward(splats, images)
        return images.view(-1, height, width, NUM_CHANNELS)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, cotangents: Tensor) -> tuple[Tensor, None, None, None]:
        splats, images = ctx.saved_tensors  # type: ignore[attr-defined]
        orders, width = ctx.orders, ctx.width  # type: ignore[attr-defined]
        gradients = torch.zeros_like(splats)
        seen = cotangents.reshape(images.shape).contiguous().numpy()
        inputs, drawn, outputs = splats.detach().numpy(), images.numpy(), gradients.numpy()
        _each_image(lambda i: _splat_vjp(inputs[i], orders[i], width, drawn[i], seen[i], outputs[i]), len(splats))
        return gradients, None, None, None


def nearest_first(depths: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Indices of the visible Gaussians by float32 depth, ties by index, as gsplat's stable sort has them.

    The bits of a positive float sort like the number: depth and index make one integer and one fast sort.
    """
    indices = np.flatnonzero(visible)
    bits = depths[indices].astype(np.float32).view(np.uint32).astype(np.uint64)
    keys = np.sort((bits << np.uint64(32)) | indices.astype(np.uint64))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _each_image(work: Callable[[int], Result], count: int) -> list[Result]:
    """Run `work` for every image, on as many threads as torch is allowed; a pool per call survives fork."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [work(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


# The kernels compute in float64 whatever the arrays hold: scalar code is no slower for it. Without fast maths
# both walks take identical decisions, so the backward pass differentiates exactly what was drawn.
account.settle()  # numba looks for a folder for what it compiles when it is told of a function, and ends without one
_jit = njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _next_open(following, pixel):  # type: ignore[no-untyped-def]
    """First open pixel at or after `pixel`, shortening the chain it followed."""
    while following[pixel] != pixel:
        following[pixel] = following[following[pixel]]
        pixel = following[pixel]
    return pixel


@_jit
def _span(middle, half, size):  # type: ignore[no-untyped-def]
    """Pixels [first, end) whose centres lie within `half` of `middle`; clamped before they are integers."""
    first = math.ceil(min(max(middle - half - 0.5, 0.0), float(size)))
    end = math.floor(max(min(middle + half + 0.5, float(size)), 0.0))
    return int(first), int(end)


@_jit
def _shape(splats, i):  # type: ignore[no-untyped-def]
    """Centre, inverse covariance and opacity of a Gaussian, in float64."""
    x, y, a = float(splats[X, i]), float(splats[Y, i]), float(splats[XX, i])
    return x, y, a, float(splats[XY, i]), float(splats[YY, i]), float(splats[OPACITY, i])


@_jit
def _ellipse(x, y, a, b, c, opacity, width, height):  # type: ignore[no-untyped-def]
    """Where alpha is above MIN_ALPHA, and a hair more: box, and tilt, spread, shrink of its rows.

    The row dy below the centre is x - tilt·dy ± sqrt(spread - shrink·dy²).
    """
    reach = 2.0 * math.log(255.0 * opacity) + 2e-3
    determinant = max(a * c - b * b, 1e-30)
    top, bottom = _span(y, math.sqrt(reach * a / determinant), height)
    left, right = _span(x, math.sqrt(reach * c / determinant), width)
    return top, bottom, left, right, b / a, reach / a, determinant / (a * a)


@_jit
def _row(following, start, width, left, right, middle, half_squared):  # type: ignore[no-untyped-def]
    """First open pixel of the ellipse in the row that begins at pixel `start`, and the end of the ellipse."""
    if _next_open(following, start + left) >= start + right:
        return start + right, start + right
    first, end = _span(middle, math.sqrt(max(half_squared, 0.0)), width)
    return _next_open(following, start + first), start + end


@_jit
def _falloff(a, b, c, dx, dy):  # type: ignore[no-untyped-def]
    """exp(-sigma), or 0 where rounding has made sigma negative."""
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return math.exp(-sigma) if sigma >= 0.0 else 0.0


@_jit
def _splat(splats, order, width, image):  # type: ignore[no-untyped-def]
    """Composite onto image [pixels, 5], nearest first.

    Gaussians that drew on a pixel or closed one move to the front of `order`; returns how many they are.
    """
    pixels = len(image)
    light, following = np.ones(pixels), np.arange(pixels + 1)
    drawn = 0
    for i in order:
        x, y, a, b, c, opacity = _shape(splats, i)
        red, green, blue, depth = splats[6, i], splats[7, i], splats[8, i], splats[9, i]
        top, bottom, left, right, tilt, spread, shrink = _ellipse(x, y, a, b, c, opacity, width, pixels // width)
        marked = False
        for row in range(top, bottom):
            start, dy = row * width, row + 0.5 - y
            middle, half_squared = x - tilt * dy, spread - shrink * dy * dy
            pixel, end = _row(following, start, width, left, right, middle, half_squared)
            while pixel < end:
                alpha = min(opacity * _falloff(a, b, c, pixel - start + 0.5 - x, dy), MAX_ALPHA)
                if alpha >= MIN_ALPHA:
                    remaining = light[pixel] * (1.0 - alpha)
                    if remaining <= MIN_LIGHT:
                        following[pixel] = pixel + 1
                    else:
                        weight = light[pixel] * alpha
                        image[pixel, 0] += weight * red
                        image[pixel, 1] += weight * green
                        image[pixel, 2] += weight * blue
                        image[pixel, 3] += weight * depth
                        image[pixel, 4] += weight
                        light[pixel] = remaining
                    marked = True
                pixel = _next_open(following, pixel + 1)
        if marked:
            order[drawn] = i
            drawn += 1
    return drawn


@_jit
def _splat_vjp(splats, order, width, image, cotangent, gradients):  # type: ignore[no-untyped-def]
    """Write dL/dsplats, given the finished image and dL/dimage [pixels, 5]."""
    pixels = len(image)
    light, following = np.ones(pixels), np.arange(pixels + 1)
    behind = np.zeros(pixels)
    for pixel in range(pixels):
        for channel in range(NUM_CHANNELS):
            behind[pixel] += cotangent[pixel, channel] * image[pixel, channel]
    for i in order:
        x, y, a, b, c, opacity = _shape(splats, i)
        red, green, blue, depth = splats[6, i], splats[7, i], splats[8, i], splats[9, i]
        top, bottom, left, right, tilt, spread, shrink = _ellipse(x, y, a, b, c, opacity, width, pixels // width)
        d_opacity = d_red = d_green = d_blue = d_depth = 0.0
        sum_x = sum_y = sum_xx = sum_xy = sum_yy = 0.0  # moments of dL/dsigma about the centre
        for row in range(top, bottom):
            start, dy = row * width, row + 0.5 - y
            middle, half_squared = x - tilt * dy, spread - shrink * dy * dy
            pixel, end = _row(following, start, width, left, right, middle, half_squared)
            while pixel < end:
                dx = pixel - start + 0.5 - x
                falloff = _falloff(a, b, c, dx, dy)
                alpha = min(opacity * falloff, MAX_ALPHA)
                if alpha >= MIN_ALPHA:
                    remaining = light[pixel] * (1.0 - alpha)
                    if remaining <= MIN_LIGHT:
                        following[pixel] = pixel + 1
                    else:
                        weight = light[pixel] * alpha
                        d = cotangent[pixel]
                        value = d[0] * red + d[1] * green + d[2] * blue + d[3] * depth + d[4]
                        d_red += weight * d[0]
                        d_green += weight * d[1]
                        d_blue += weight * d[2]
                        d_depth += weight * d[3]
                        behind[pixel] -= weight * value
                        if opacity * falloff <= MAX_ALPHA:
                            d_alpha = light[pixel] * value - behind[pixel] / (1.0 - alpha)
                            d_opacity += d_alpha * falloff
                            d_sigma = -d_alpha * alpha
                            sum_x += d_sigma * dx
                            sum_y += d_sigma * dy
                            sum_xx += d_sigma * dx * dx
                            sum_xy += d_sigma * dx * dy
                            sum_yy += d_sigma * dy * dy
                        light[pixel] = remaining
                pixel = _next_open(following, pixel + 1)
        gradients[X, i] = -(a * sum_x + b * sum_y)
        gradients[Y, i] = -(b * sum_x + c * sum_y)
        gradients[XX, i], gradients[XY, i], gradients[YY, i] = 0.5 * sum_xx, sum_xy, 0.5 * sum_yy
        gradients[OPACITY, i] = d_opacity
        gradients[6, i], gradients[7, i], gradients[8, i], gradients[9, i] = d_red, d_green, d_blue, d_depth
