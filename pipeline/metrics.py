"""Image metrics, one number per view, and the protocol that says which figures may share a table.

Images are `[*batch, 3, height, width]` in 0..1 sRGB, masks and opacities `[*batch, 1, height, width]`; the
result is `[*batch]`, `[B, V]` for scenes and views, so a caller can average input and held-out views apart.
All are computed in float32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pipeline.losses import FOREGROUND, Images, Masks, PerImage, full_precision, structural_similarity

DEFINITIONS = 1  # counts up when a formula below changes: figures before and after share no protocol
MIN_MSE = 1e-10  # equal images score 100 dB: finite, so that it can be averaged and written as JSON


@dataclass(frozen=True)
class Protocol:
    """How figures were measured; figures are compared only when their `id` is the same."""

    resolution: int  # pixels, square
    input_views: tuple[int, ...]
    target_views: tuple[int, ...]  # held out, scored beside the inputs
    split_digest: str  # names the scenes, their order and their content
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mask_rule: str = f"alpha > {FOREGROUND}"
    definitions: int = DEFINITIONS

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that change with every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@full_precision
def psnr(rendered: Images, target: Images) -> PerImage:
    """Peak signal-to-noise ratio in dB over the full frame, of values clipped to 0..1; at most 100."""
    return _decibels(_squared_error(rendered, target).mean((-3, -2, -1)))


@full_precision
def psnr_fg(rendered: Images, target: Images, mask: Masks) -> PerImage:
    """PSNR over the foreground alone; NaN for a view without any, so average it with `nanmean`.

    On a white background the full-frame figure stands about 10 dB higher, whatever the animal looks like.
    """
    return _decibels(_mean_inside(_squared_error(rendered, target), mask))


@full_precision
def foreground_mean(images: Images, mask: Masks) -> PerImage:
    """Mean colour inside the mask, of values clipped to 0..1; NaN for a view without any.

    A render near 1 there, where the target is not, shows white in place of the animal.
    """
    return _mean_inside(images.clamp(0, 1), mask)


def white_psnr(target: Images) -> PerImage:
    """What an all-white image scores: the baseline every full-frame PSNR on white is read against."""
    return psnr(torch.ones_like(target), target)


def _squared_error(rendered: Images, target: Images) -> Images:
    return (rendered.clamp(0, 1) - target.clamp(0, 1)).square()


def _mean_inside(values: Images, mask: Masks) -> PerImage:
    inside = mask > FOREGROUND
    return (values * inside).sum((-3, -2, -1)) / (3 * inside.sum((-3, -2, -1)))


def _decibels(mean_squared_error: PerImage) -> PerImage:
    return -10 * torch.log10(mean_squared_error.clamp(min=MIN_MSE))


def ssim(rendered: Images, target: Images) -> PerImage:
    """Structural similarity by scikit-image's definition, of unclipped values: FaceLift reports this one."""
    return structural_similarity(rendered, target, sample_covariance=True)


@full_precision
def lpips(rendered: Images, target: Images, network: nn.Module | None) -> PerImage | None:
    """LPIPS distance under `pipeline.vgg.load_lpips()`; None, not available, without a network."""
    if network is None:
        return None
    distances = network(rendered.flatten(0, -4), target.flatten(0, -4), normalize=True)
    return distances.reshape(rendered.shape[:-3])


def mask_iou(alphas: Masks, mask: Masks) -> PerImage:
    """Intersection over union of rendered opacity and mask, both cut at 0.5; 1 where both are empty.

    Taken from opacity and not from colour, because white fur on a white background has a silhouette too.
    """
    rendered, wanted = alphas > FOREGROUND, mask > FOREGROUND
    union = (rendered | wanted).sum((-3, -2, -1))
    return torch.where(union > 0, (rendered & wanted).sum((-3, -2, -1)) / union, 1.0)
