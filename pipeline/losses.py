"""The loss terms of GS-LRM training: one pure function each, a scalar out, the weight left to the caller.

Images are `[*batch, 3, height, width]` in 0..1 sRGB, masks `[*batch, 1, height, width]` in 0..1 (a pixel is
foreground above 0.5); `*batch` is scene and view, `[B, V]`, and every mean is pooled over all of it. FaceLift
clamps the rendering to 0..1 before all terms, which also stops the gradient outside; a caller that wants this
passes `rendered.clamp(0, 1)`.

Every term runs in float32 with autocast off: in bfloat16 the SSIM window does not sum to 1 and its variances
turn negative, and VGG sees 0..255 in eight bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.recipe import LossConfig
from pipeline.transfers import constant
from pipeline.vgg import PerceptualNetwork

Images = Float[Tensor, "*batch 3 height width"]
Masks = Float[Tensor, "*batch 1 height width"]
Vectors = Float[Tensor, "*batch 3 height width"]  # a world point or direction per pixel
PerImage = Float[Tensor, "*batch"]
Scalar = Float[Tensor, ""]
P = ParamSpec("P")
R = TypeVar("R")

FOREGROUND = 0.5  # a pixel whose mask, or rendered opacity, lies above this belongs to the animal
WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
LEVEL_WEIGHTS = (1.0, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)  # pixels, then VGG levels (FaceLift)
POINTSDIST_SPREAD = 0.5
POINTSDIST_WARMUP_WEIGHT = 0.1


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Runs `function` with autocast off and half-precision tensors as float32; float64 stays float64."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in chain(args, kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            named = {name: _promoted(value) for name, value in kwargs.items()}
            return function(*map(_promoted, args), **named)

    return run


def _promoted(value: Any) -> Any:
    return value.to(torch.promote_types(value.dtype, torch.float32)) if isinstance(value, Tensor) else value


@full_precision
def mse(rendered: Images, target: Images, mask: Masks | None = None) -> Scalar:
    """Mean squared error over all pixels or, with a mask, over the foreground of the whole batch together."""
    squared = (rendered - target).square()
    return squared.mean() if mask is None else _mean_where(mask > FOREGROUND, squared)


@full_precision
def background(rendered: Images, mask: Masks, colour: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Scalar:
    """Mean squared distance of the rendering outside the mask from the background colour."""
    target = constant(colour, rendered)[:, None, None]
    return _mean_where(mask < FOREGROUND, (rendered - target).square())


def _mean_where(
    selected: Bool[Tensor, "*batch 1 height width"], values: Float[Tensor, "*batch channels height width"]
) -> Scalar:
    """Mean over the selected pixels and their channels; 0 when there is none."""
    return (values * selected).sum() / (values.shape[-3] * selected.sum().clamp(min=1))


@full_precision
def alpha(alphas: Masks, mask: Masks) -> Scalar:
    """Mean squared difference between rendered opacity and the soft mask.

    Squared and not cross-entropy: pixels that no Gaussian touches have opacity exactly 0, where the logarithm
    is infinite and its clamped gradient useless; and on a plain background opacity errors are colour errors,
    so this term has the same unit as `mse`.
    """
    return (alphas - mask).square().mean()


@full_precision
def ssim(rendered: Images, target: Images, mask: Masks | None = None) -> Scalar:
    """One minus the mean structural similarity, 0 (equal) to 2 (opposite).

    With a mask both images are grey 0.5 outside it, and the mean is still over the full image (FaceLift).
    It is not cut at 1 as in FaceLift's mouse fork: that takes the gradient away where it is needed most.
    """
    if mask is not None:
        outside = mask <= FOREGROUND
        rendered, target = rendered.masked_fill(outside, 0.5), target.masked_fill(outside, 0.5)
    return 1 - structural_similarity(rendered, target).mean()


@full_precision
def structural_similarity(first: Images, second: Images) -> PerImage:
    """SSIM of each image pair (Wang et al. 2004): 11-tap Gaussian window, no padding, data range 1.

    Equal to the map of torchmetrics less its padded border, which its own mean includes; blurring rows, then
    columns, is 5 times faster. Images smaller than the window are a RuntimeError.
    """
    *batch, channels, height, width = first.shape
    moments = torch.stack([first, second, first * first, second * second, first * second], dim=-4)
    blurred = _blur(moments.reshape(-1, 5 * channels, height, width)).unflatten(1, (5, channels))
    mean1, mean2, square1, square2, product = blurred.unbind(1)
    both, energy = mean1 * mean2, mean1 * mean1 + mean2 * mean2
    covariance, variances = product - both, square1 + square2 - energy
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    similarity = (2 * both + c1) * (2 * covariance + c2) / ((energy + c1) * (variances + c2))
    return similarity.mean((-3, -2, -1)).reshape(batch)


def _blur(images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height-10 width-10"]:
    """Gaussian window on every channel, borders dropped."""
    channels = images.shape[1]
    offsets = torch.arange(WINDOW_SIZE, device=images.device, dtype=images.dtype) - WINDOW_SIZE // 2
    window = torch.softmax(-offsets.square() / (2 * WINDOW_SIGMA**2), dim=0).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(images, window, groups=channels), window.transpose(-1, -2), groups=channels)


@full_precision
def perceptual(rendered: Images, target: Images, network: PerceptualNetwork) -> Scalar:
    """FaceLift's perceptual loss: weighted L1 of pixels and five VGG-19 levels, both of 0..255, over 255."""
    with torch.no_grad():
        wanted = network(target.flatten(0, -4))
    levels = zip(LEVEL_WEIGHTS, network(rendered.flatten(0, -4)), wanted, strict=True)
    return torch.stack([weight * F.l1_loss(have, want) for weight, have, want in levels]).sum() / 255


@full_precision
def lpips(rendered: Images, target: Images, network: nn.Module) -> Scalar:
    """Mean LPIPS distance under the library's own network, see `pipeline.vgg.load_lpips`."""
    return network(rendered.flatten(0, -4), target.flatten(0, -4), normalize=True).mean()


@full_precision
def pixelalign(means: Vectors, origins: Vectors, directions: Vectors, mask: Masks | None = None) -> Scalar:
    """Mean distance of each pixel's Gaussian from that pixel's ray, in world units; `directions` are unit.

    A mask weighs each distance by its soft value, and the mean stays over all pixels (FaceLift).
    """
    offset = means - origins
    along = (offset * directions).sum(-3, keepdim=True) * directions
    away = offset - along if mask is None else (offset - along) * mask
    return torch.linalg.vector_norm(away, dim=-3).mean()


@full_precision
def pointsdist(means: Vectors, origins: Vectors) -> Scalar:
    """Pulls each view's distances camera-to-Gaussian to mean |origin| and deviation 0.5 world units.

    The wanted distances keep their present order and are held fixed; used while training from scratch starts.
    """
    distances = torch.linalg.vector_norm(means - origins, dim=-3)
    with torch.no_grad():
        spread, centre = torch.std_mean(distances, dim=(-2, -1), keepdim=True)
        normal = (distances - centre) / (spread + 1e-8)
        wanted = normal * POINTSDIST_SPREAD + torch.linalg.vector_norm(origins, dim=-3)
    return (distances - wanted).square().mean()


def weights_at(loss: LossConfig, step: int) -> dict[str, float]:
    """The weights that count at an optimizer step, counted from 1; terms of weight 0 are left out.

    FaceLift's two warm-ups, of the first so many steps each: pointsdist in place of mse and perceptual, and no
    perceptual nor lpips. Both can be on at once.
    """
    weights = loss.weights
    if loss.pointsdist_warmup_steps and step <= loss.pointsdist_warmup_steps:
        weights |= {"mse": 0.0, "perceptual": 0.0, "pointsdist": POINTSDIST_WARMUP_WEIGHT}
    if loss.warmup_steps and step <= loss.warmup_steps:
        weights |= {"perceptual": 0.0, "lpips": 0.0}
    return {name: weight for name, weight in weights.items() if weight}
