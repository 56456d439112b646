"""The differentiable Gaussian rasterizer for machines without CUDA: gsplat 1.5.3's semantics, line by line.

Compositing is a numba kernel that takes the Gaussians of an image one by one, nearest first, and walks the rows of
each one's ellipse. Pixels that let no more light through are skipped by pointers to the next open pixel, so the cost
follows the pairs that matter. The kernel of the backward pass reads the list of these pairs; behind a pair lies the
finished image less what came before it. The forward pass keeps the list where there is room for it; elsewhere the
backward pass walks again to make it, one image at a time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians
from pipeline.splatting.compiled import compiled, in_threads, inlined
from pipeline.splatting.projection_cpu import project
from pipeline.splatting.projection_kernels import BLUE, DEPTH, GREEN, MIN_ALPHA, OPACITY, RED, XX, XY, YY, X, Y

MAX_ALPHA = 0.999  # gsplat 1.6 lowers this to 0.99
MIN_LIGHT = 1e-4  # a pair that would leave a pixel no more light than this closes it, undrawn
NARROW = 8  # pixels of a row that are looked at one by one
MAX_SIGMA = 16  # beyond it nothing is drawn, whatever the opacity
STEPS = 128  # of a unit of sigma, at which exp is tabulated
EXPONENTIALS = np.exp(-np.arange(MAX_SIGMA * STEPS + 1) / STEPS)
USUAL_PAIRS = 32  # Gaussians drawn on a pixel, for which there is room at first
PAIRS_KEPT = 2**23  # of a pixel and a Gaussian, in all images of a call; 12 bytes each
EVERY_PAIR = 2**62
BLOCK = 256  # Gaussians that are read at once: what is kept of them fits the fastest cache
NUM_CHANNELS = 5  # red, green, blue, depth, and a one whose sum is alpha

Pairs = list[np.ndarray]  # as `_splat` returns them: ends, pixels, falloffs


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
    splats, visible = project(gaussians, cameras, near_plane)
    images = _Splat.apply(splats.flatten(0, -3), visible.flatten(0, -2), cameras.width, cameras.height)
    images = images.reshape(*cameras.batch_shape, cameras.height, cameras.width, NUM_CHANNELS)
    colours, depths, alphas = images.split([3, 1, 1], -1)
    return colours, alphas, depths / alphas.clamp(min=1e-10)


class _Splat(torch.autograd.Function):
    """splats [images, N, 10] -> [images, height, width, 5]."""

    @staticmethod
    def forward(ctx: FunctionCtx, splats: Tensor, visible: Tensor, width: int, height: int) -> Tensor:
        images = splats.new_zeros(len(splats), height * width, NUM_CHANNELS)
        inputs, mask, outputs = splats.detach().numpy(), visible.numpy(), images.numpy()
        kept = PAIRS_KEPT // max(len(splats), 1) if ctx.needs_input_grad[0] else 0  # type: ignore[attr-defined]

        def draw(i: int) -> tuple[np.ndarray, Pairs | None]:
            order = nearest_first(inputs[i, :, DEPTH], mask[i])
            drawn, *pairs = _splat(inputs[i], order, width, outputs[i], kept)
            return order[:drawn].copy(), _whole(pairs)

        ctx.drawn = in_threads(draw, len(splats))  # type: ignore[attr-defined]
        ctx.width = width  # type: ignore[attr-defined]
        ctx.save_for_backward(splats, images)
        return images.view(-1, height, width, NUM_CHANNELS)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, cotangents: Tensor) -> tuple[Tensor, None, None, None]:
        splats, images = ctx.saved_tensors  # type: ignore[attr-defined]
        width = ctx.width  # type: ignore[attr-defined]
        gradients = torch.zeros_like(splats)
        seen = cotangents.reshape(images.shape).contiguous().numpy()
        inputs, drawn, outputs = splats.detach().numpy(), images.numpy(), gradients.numpy()

        def pull_back(i: int) -> None:
            order, pairs = ctx.drawn[i]  # type: ignore[attr-defined]
            if pairs is None:
                _, *pairs = _splat(inputs[i], order, width, np.empty_like(drawn[i]), EVERY_PAIR)  # the order stays
            _splat_vjp(inputs[i], order, width, drawn[i], seen[i], outputs[i], *pairs)

        in_threads(pull_back, len(splats))
        return gradients, None, None, None


def _whole(pairs: Pairs) -> Pairs | None:
    """What the walk kept, if it is all it met."""
    return pairs if len(pairs[0]) else None


@compiled
def nearest_first(depths, visible):  # type: ignore[no-untyped-def]
    """Indices of the visible Gaussians by float32 depth, ties by index, as gsplat's stable sort has them.

    The bits of a positive float sort like the number: by their last 11, their next 11, then their first 10.
    """
    count = 0
    number = np.empty(1, np.float32)
    bits = number.view(np.uint32)
    keys, indices = np.empty(len(visible), np.uint32), np.empty(len(visible), np.int64)
    starts = np.zeros((3, 2048), np.int64)
    for i in range(len(visible)):
        if visible[i]:
            number[0] = depths[i]
            keys[count], indices[count] = bits[0], i
            for digit in range(3):
                starts[digit, (bits[0] >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
            count += 1
    sorted_keys, sorted_indices = np.empty(count, np.uint32), np.empty(count, np.int64)
    for digit in range(3):
        start = 0
        for value in range(2048):
            start, starts[digit, value] = start + starts[digit, value], start
        for n in range(count):
            value = (keys[n] >> np.uint32(11 * digit)) & np.uint32(2047)
            place = starts[digit, value]
            starts[digit, value] = place + 1
            sorted_keys[place], sorted_indices[place] = keys[n], indices[n]
        keys, sorted_keys = sorted_keys, keys
        indices, sorted_indices = sorted_indices, indices
    return indices[:count]


# Indices of pixels are unsigned: numba asks of every other index whether it counts from the end.
@compiled
def _all_open(pixels):  # type: ignore[no-untyped-def]
    """For every pixel the next open one that is known of, itself to begin with."""
    return np.arange(pixels + 1).astype(np.uint64)


@compiled
def _next_open(following, pixel):  # type: ignore[no-untyped-def]
    """First open pixel at or after `pixel`, shortening the chain it followed."""
    while following[pixel] != pixel:
        following[pixel] = following[following[pixel]]
        pixel = following[pixel]
    return pixel


@compiled
def _span(middle, half, size):  # type: ignore[no-untyped-def]
    """Pixels [first, end) whose centres lie within `half` of `middle`; clamped before they are integers."""
    low, high = middle - half - 0.5, middle + half + 0.5
    first = math.ceil(min(low, float(size))) if low > 0.0 else 0
    end = math.floor(min(high, float(size))) if high > 0.0 else 0  # 0 also of what is no number
    return first, end


@compiled
def _shape(splats, i):  # type: ignore[no-untyped-def]
    """Centre, inverse covariance and opacity of a Gaussian, in float64."""
    x, y, a = float(splats[i, X]), float(splats[i, Y]), float(splats[i, XX])
    return x, y, a, float(splats[i, XY]), float(splats[i, YY]), float(splats[i, OPACITY])


@compiled
def _channels(splats, i):  # type: ignore[no-untyped-def]
    """Colour and depth of a Gaussian, in float64."""
    return float(splats[i, RED]), float(splats[i, GREEN]), float(splats[i, BLUE]), float(splats[i, DEPTH])


@compiled
def _empty_block():  # type: ignore[no-untyped-def]
    """Room for what `_read_block` fills in."""
    return np.empty((BLOCK, 10)), np.empty((BLOCK, 4), np.int32), np.empty((BLOCK, 4))


@compiled
def _read_block(splats, order, first, width, height, block):  # type: ignore[no-untyped-def]
    """The next Gaussians from place `first` of the order on: their splats in float64, and where each is drawn.

    That is where alpha is above MIN_ALPHA, and a hair more: a box (top, bottom, left, right); tilt, spread and shrink
    of its rows; the greatest sigma. The row dy below the centre is x - tilt·dy ± sqrt(spread - shrink·dy²). For many at
    once this is faster: reads by index do not wait for each other, and the compiler has vector instructions.
    """
    values, boxes, rows = block
    count = min(BLOCK, len(order) - first)
    for n in range(count):
        i = order[first + n]
        for column in range(10):
            values[n, column] = splats[i, column]
        rows[n, 3] = min(math.log(255.0 * values[n, OPACITY]) + 1e-3, float(MAX_SIGMA))
    for n in range(count):
        x, y, a, b, c, _ = _shape(values, n)
        determinant, reach = max(a * c - b * b, 1e-30), 2.0 * rows[n, 3]
        boxes[n, 0], boxes[n, 1] = _span(y, math.sqrt(reach * a / determinant), height)
        boxes[n, 2], boxes[n, 3] = _span(x, math.sqrt(reach * c / determinant), width)
        rows[n, 0], rows[n, 1], rows[n, 2] = b / a, reach / a, determinant / (a * a)


@compiled
def _row(following, start, width, left, right, middle, half_squared):  # type: ignore[no-untyped-def]
    """First open pixel of the ellipse in the row that begins at pixel `start`, and the end of the ellipse.

    Of a narrow box it is the whole row: to look at a pixel too many takes less time than the ellipse's root.
    """
    if right - left <= NARROW:
        return _next_open(following, np.uint64(start + left)), np.uint64(start + right)
    if _next_open(following, np.uint64(start + left)) >= np.uint64(start + right):
        return np.uint64(start + right), np.uint64(start + right)
    first, end = _span(middle, math.sqrt(max(half_squared, 0.0)), width)
    return _next_open(following, np.uint64(start + first)), np.uint64(start + end)


@inlined
def falloff_at(a, b, c, dx, dy, greatest):  # type: ignore[no-untyped-def]
    """exp(-sigma), or 0 beyond the greatest sigma that is drawn, and where rounding has made sigma negative.

    The value at the nearest step times a polynomial of the rest, within 2 ulp: a call of exp would have every sum of
    the loop around it put away and fetched again.
    """
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    if not 0.0 <= sigma <= greatest:
        return 0.0
    step = np.uint64(sigma * STEPS + 0.5)
    rest = np.int64(step) / STEPS - sigma
    series = 1.0 + rest * (0.5 + rest * (1.0 / 6.0 + rest * (1.0 / 24.0 + rest * (1.0 / 120.0))))
    return EXPONENTIALS[step] * (1.0 + rest * series)


@compiled
def _with_room(array, used, needed):  # type: ignore[no-untyped-def]
    """The array, or a larger one with what is used of it, if it has no room for so many more."""
    if used + needed <= len(array):
        return array
    larger = np.empty(max(2 * len(array), used + needed), array.dtype)
    larger[:used] = array[:used]
    return larger


@compiled
def _splat(splats, order, width, image, most):  # type: ignore[no-untyped-def]
    """Composite onto image [pixels, 5], nearest first.

    Gaussians that drew on a pixel or closed one move to the front of `order`. Returns how many they are, and the pairs
    that were drawn, Gaussian after Gaussian: where those of each end, the pixel of each, and the falloff there. Three
    empty arrays where there may be more than `most`.
    """
    pixels = len(image)
    light, following, sums = np.ones(pixels), _all_open(pixels), np.zeros((pixels, NUM_CHANNELS))
    values, boxes, rows = block = _empty_block()
    drawn, pairs, keeps = 0, 0, most > 0
    ends = np.empty(len(order) if keeps else 0, np.int64)
    begun = min(most, USUAL_PAIRS * pixels)
    places, falloffs = np.empty(begun, np.uint32), np.empty(begun)
    for place in range(len(order)):
        n = place % BLOCK
        if n == 0:
            _read_block(splats, order, place, width, pixels // width, block)
        x, y, a, b, c, opacity = _shape(values, n)
        red, green, blue, depth = _channels(values, n)
        top, bottom, left, right = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        tilt, spread, shrink, greatest = rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3]
        if keeps:
            room = max(bottom - top, 0) * max(right - left, 0)
            keeps = pairs + room <= most
            if keeps:
                places, falloffs = _with_room(places, pairs, room), _with_room(falloffs, pairs, room)
        marked = False
        for row in range(top, bottom):
            start, dy = row * width, row + 0.5 - y
            middle, half_squared = x - tilt * dy, spread - shrink * dy * dy
            pixel, end = _row(following, start, width, left, right, middle, half_squared)
            while pixel < end:
                falloff = falloff_at(a, b, c, np.int64(pixel) - start + 0.5 - x, dy, greatest)
                alpha = min(opacity * falloff, MAX_ALPHA)
                if alpha >= MIN_ALPHA:
                    remaining = light[pixel] * (1.0 - alpha)
                    if remaining <= MIN_LIGHT:
                        following[pixel] = pixel + np.uint64(1)
                    else:
                        weight = light[pixel] * alpha
                        sums[pixel, 0] += weight * red
                        sums[pixel, 1] += weight * green
                        sums[pixel, 2] += weight * blue
                        sums[pixel, 3] += weight * depth
                        sums[pixel, 4] += weight
                        light[pixel] = remaining
                        if keeps:
                            places[pairs], falloffs[pairs] = pixel, falloff
                            pairs += 1
                    marked = True
                pixel = _next_open(following, pixel + np.uint64(1))
        if marked:
            order[drawn] = order[place]
            if keeps:
                ends[drawn] = pairs
            drawn += 1
    image[:] = sums
    if not keeps:
        return drawn, ends[:0], places[:0], falloffs[:0]
    return drawn, ends[:drawn], places[:pairs], falloffs[:pairs]


@compiled
def _splat_vjp(splats, order, width, image, cotangent, gradients, ends, places, falloffs):  # type: ignore[no-untyped-def]
    """Write dL/dsplats, given the finished image and dL/dimage [pixels, 5], and the pairs that `_splat` drew."""
    pixels = len(image)
    light, behind = np.ones(pixels), np.zeros(pixels)
    d = cotangent.astype(np.float64)
    for pixel in range(pixels):
        for channel in range(NUM_CHANNELS):
            behind[pixel] += d[pixel, channel] * image[pixel, channel]
    first = 0
    for place in range(len(order)):
        i = order[place]
        x, y, a, b, c, opacity = _shape(splats, i)
        red, green, blue, depth = _channels(splats, i)
        d_opacity = d_red = d_green = d_blue = d_depth = 0.0
        sum_x = sum_y = sum_xx = sum_xy = sum_yy = 0.0  # moments of dL/dsigma about the centre
        row_sum = row_x = row_xx = 0.0  # the same of a row, which begins at pixel `start`
        start, dy = -width, 0.0
        for pair in range(first, ends[place]):
            pixel, falloff = np.int64(places[pair]), falloffs[pair]
            if pixel >= start + width:
                sum_x, sum_xx, sum_xy = sum_x + row_x, sum_xx + row_xx, sum_xy + row_x * dy
                sum_y, sum_yy = sum_y + row_sum * dy, sum_yy + row_sum * dy * dy
                row_sum = row_x = row_xx = 0.0
                row = pixel // width
                start, dy = row * width, row + 0.5 - y
            dx = pixel - start + 0.5 - x
            alpha = min(opacity * falloff, MAX_ALPHA)
            weight = light[pixel] * alpha
            colour = d[pixel, 0] * red + d[pixel, 1] * green + d[pixel, 2] * blue
            value = colour + d[pixel, 3] * depth + d[pixel, 4]
            d_red += weight * d[pixel, 0]
            d_green += weight * d[pixel, 1]
            d_blue += weight * d[pixel, 2]
            d_depth += weight * d[pixel, 3]
            behind[pixel] -= weight * value
            if opacity * falloff <= MAX_ALPHA:
                d_alpha = light[pixel] * value - behind[pixel] / (1.0 - alpha)
                d_opacity += d_alpha * falloff
                d_sigma = -d_alpha * alpha
                row_sum += d_sigma
                row_x += d_sigma * dx
                row_xx += d_sigma * dx * dx
            light[pixel] *= 1.0 - alpha
        sum_x, sum_xx, sum_xy = sum_x + row_x, sum_xx + row_xx, sum_xy + row_x * dy
        sum_y, sum_yy = sum_y + row_sum * dy, sum_yy + row_sum * dy * dy
        first = ends[place]
        gradients[i, X] = -(a * sum_x + b * sum_y)
        gradients[i, Y] = -(b * sum_x + c * sum_y)
        gradients[i, XX], gradients[i, XY], gradients[i, YY] = 0.5 * sum_xx, sum_xy, 0.5 * sum_yy
        gradients[i, OPACITY] = d_opacity
        gradients[i, RED], gradients[i, GREEN], gradients[i, BLUE], gradients[i, DEPTH] = (
            d_red,
            d_green,
            d_blue,
            d_depth,
        )
