"""Image metrics, one number per view, and the protocol that says which figures may share a table.

Images are `[*batch, 3, height, width]` in 0..1 sRGB, masks and opacities `[*batch, 1, height, width]`; the
result is `[*batch]`, `[B, V]` for scenes and views, so a caller can average input and held-out views apart.
All are computed in float32.

PSNR, SSIM and mask IoU are torchmetrics'; the docstrings of the others say why they are not. torchmetrics imports
matplotlib, scipy, torchvision and transformers, which takes 3 s and 280 MB: the functions import it, so that only a
process that scores something pays for it, and a training imports it while it takes its first steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pipeline.losses import (
    FOREGROUND,
    SSIM_K1,
    SSIM_K2,
    WINDOW_SIGMA,
    WINDOW_SIZE,
    Images,
    Masks,
    PerImage,
    full_precision,
)
from pipeline.recipe import Precision

DEFINITIONS = 2  # counts up when a figure below changes, be it by rounding: before and after share no protocol
MAX_DECIBELS = 100.0  # of equal images: finite, so that it can be averaged and written as JSON
MIN_MSE = 10 ** (-MAX_DECIBELS / 10)
# scikit-image divides (co)variances by n - 1. That is the same as dividing by n and shrinking the constant K2².
_SAMPLE_K2 = SSIM_K2 * math.sqrt(1 - 1 / WINDOW_SIZE**2)


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
    precision: Precision = "fp32"  # of the network
    refine_steps: int = 0  # of the Gaussians' optimisation on the input views

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that change with every field."""
        always = {"precision": "fp32", "refine_steps": 0}  # before there was a choice, when ids did not name it
        return _digest({name: value for name, value in asdict(self).items() if always.get(name) != value})

    @property
    def targets_id(self) -> str:
        """As `id`, but the same whatever the network is given, computes in and is followed by: what its figures are
        measured on.
        """
        given = ("input_views", "precision", "refine_steps")
        return _digest({name: value for name, value in asdict(self).items() if name not in given})


def _digest(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def of_pictures(rendered: Images, target: Images, network: nn.Module | None) -> dict[str, PerImage]:
    """What can be said of each pair without a mask, by name; `lpips` only with a network."""
    figures = {"psnr": psnr(rendered, target), "white_psnr": white_psnr(target), "ssim": ssim(rendered, target)}
    distance = lpips(rendered, target, network)
    return figures if distance is None else figures | {"lpips": distance}


@contextlib.contextmanager
def import_ahead() -> Iterator[None]:
    """Import torchmetrics in a thread, so that the first validation of a training does not wait for it.

    Not while another thread imports transformers: of the two, one may then see half of it. So the thread has ended when
    the block has: what the process does next may be to import stage 1.
    """
    thread = threading.Thread(target=_import_torchmetrics, name="torchmetrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_torchmetrics() -> None:
    with contextlib.suppress(ImportError):  # the validation imports it again, and raises what is wrong
        for part in ("image", "segmentation"):
            importlib.import_module(f"torchmetrics.functional.{part}")


@full_precision
def psnr(rendered: Images, target: Images) -> PerImage:
    """Peak signal-to-noise ratio in dB over the full frame, of values clipped to 0..1.

    It is torchmetrics' but for equal images: theirs is infinite, ours is cut at 100.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    decibels = peak_signal_noise_ratio(rendered, target, data_range=(0.0, 1.0), reduction="none", dim=(-3, -2, -1))
    return decibels.clamp(max=MAX_DECIBELS)


@full_precision
def psnr_fg(rendered: Images, target: Images, mask: Masks) -> PerImage:
    """PSNR over the foreground alone; NaN for a view without any, so average it with `nanmean`.

    torchmetrics has no PSNR with a mask. Where the backgrounds are equal, its figure of the full frame is higher by
    10·log10(pixels / foreground pixels): 8.1 dB on average and 6.1 to 10.9 in 120 views of procedural mice.
    """
    squared_error = (rendered.clamp(0, 1) - target.clamp(0, 1)).square()
    return -10 * torch.log10(_mean_inside(squared_error, mask).clamp(min=MIN_MSE))


@full_precision
def foreground_mean(images: Images, mask: Masks) -> PerImage:
    """Mean colour inside the mask, of values clipped to 0..1; NaN for a view without any.

    A render near 1 there, where the target is not, shows white in place of the animal. torchmetrics has no such figure.
    """
    return _mean_inside(images.clamp(0, 1), mask)


def white_psnr(target: Images) -> PerImage:
    """What an all-white image scores: the baseline every full-frame PSNR on white is read against."""
    return psnr(torch.ones_like(target), target)


def _mean_inside(values: Images, mask: Masks) -> PerImage:
    inside = mask > FOREGROUND
    return (values * inside).sum((-3, -2, -1)) / (3 * inside.sum((-3, -2, -1)))


@full_precision
def ssim(rendered: Images, target: Images) -> PerImage:
    """Structural similarity by scikit-image's definition, of unclipped values: FaceLift reports this one.

    It is the mean of torchmetrics' map less the 5 pixels at each border, whose windows are padded, with sample
    covariances. torchmetrics' own mean has the border, white in most pictures, and population covariances. For
    procedural mice on white that are blurred or shifted it is higher by 0.02 to 0.03 (means of 120 views, 64 pixels)
    or 0.007 to 0.008 (72 views, 256 pixels); for an all-white render by 0.10 and 0.01. With noise of 0.02 on the
    white it is lower, by 0.03 and 0.001.
    Images smaller than the window of 11 pixels have no figure: NaN, or a RuntimeError where they cannot be padded.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, similarity = structural_similarity_index_measure(
        _listed(rendered),
        _listed(target),
        sigma=WINDOW_SIGMA,
        data_range=1.0,
        k1=SSIM_K1,
        k2=_SAMPLE_K2,
        return_full_image=True,
    )
    border = WINDOW_SIZE // 2
    whole_windows = similarity[..., border:-border, border:-border]
    return whole_windows.mean((-3, -2, -1)).reshape(rendered.shape[:-3])


@full_precision
def lpips(rendered: Images, target: Images, network: nn.Module | None) -> PerImage | None:
    """LPIPS distance under `pipeline.vgg.load_lpips()`; None, not available, without a network.

    The network is the lpips package's, which the loss uses too. torchmetrics' class takes no network: it builds one,
    downloads the weights that it misses, and raises ValueError for renders brighter than white. For the same weights
    its distances are the same to the last bit (48 views of procedural mice).
    """
    if network is None:
        return None
    return network(_listed(rendered), _listed(target), normalize=True).reshape(rendered.shape[:-3])


def mask_iou(alphas: Masks, mask: Masks) -> PerImage:
    """Intersection over union of rendered opacity and mask, both cut at 0.5.

    It is torchmetrics' but for views where both are empty: theirs is -1 (absent), ours is 1 (nothing is wrong).
    Taken from opacity and not from colour, because white fur on a white background has a silhouette too.
    """
    from torchmetrics.functional.segmentation import mean_iou

    overlap = mean_iou(_listed(alphas > FOREGROUND), _listed(mask > FOREGROUND), per_class=True)
    return torch.where(overlap < 0, 1.0, overlap).reshape(alphas.shape[:-3])


def _listed(images: Tensor) -> Tensor:
    """One batch dimension in place of any number: `[n, channels, height, width]`."""
    return images.reshape(-1, *images.shape[-3:])
