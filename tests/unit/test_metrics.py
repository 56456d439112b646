"""Metrics: decibels of known noise, overlaps counted by hand, scikit-image's SSIM, torchmetrics' where it differs."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import losses, metrics
from pipeline.data.loader import Loader
from pipeline.metrics import Protocol

PROTOCOL = Protocol(resolution=64, input_views=(0, 1), target_views=(0, 1, 2), split_digest="abc")


def square(rows: slice, columns: slice, size: int = 10) -> Tensor:
    mask = torch.zeros(1, 1, 1, size, size)
    mask[..., rows, columns] = 1
    return mask


def animal_on_white(colour: float, mask: Tensor) -> Tensor:
    return torch.where(mask > 0.5, colour, 1.0).expand(-1, -1, 3, -1, -1)


@pytest.mark.parametrize(("sigma", "decibels"), [(0.1, 20.0), (0.01, 40.0)])
def test_psnr_of_gaussian_noise_is_minus_twenty_log_sigma(sigma, decibels):
    grey = torch.full((1, 2, 3, 128, 128), 0.5)
    noise = sigma * torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.psnr(grey + noise, grey), torch.full((1, 2), decibels), atol=0.1, rtol=0)


def test_psnr_is_one_number_per_view():
    target = torch.full((2, 3, 3, 8, 8), 0.5)
    errors = torch.tensor([[0.5, 0.1, 0.05], [0.25, 0.2, 0.01]])
    torch.testing.assert_close(metrics.psnr(target + errors[..., None, None, None], target), -20 * errors.log10())


def test_psnr_of_equal_images_is_capped_at_100():
    image = torch.rand(1, 1, 3, 8, 8)
    assert metrics.psnr(image, image).item() == 100
    nearly = metrics.psnr(image, image + 1e-3 * (torch.arange(64).view(8, 8) == 0))
    assert 60 < nearly.item() < 100


def test_psnr_clips_renders_brighter_than_white():
    white = torch.ones(1, 1, 3, 8, 8)
    assert metrics.psnr(1.3 * white, white).item() == pytest.approx(100)


def test_psnr_fg_ignores_the_background():
    mask = square(slice(2, 6), slice(3, 8))
    target = animal_on_white(0.4, mask)
    rendered = torch.where(mask > 0.5, target + 0.1, torch.rand(1, 1, 3, 10, 10))
    assert metrics.psnr_fg(rendered, target, mask).item() == pytest.approx(20, abs=1e-4)


def test_psnr_of_the_full_frame_exceeds_the_foregrounds_by_the_share_of_foreground():
    mask = square(slice(0, 1), slice(0, 10))  # a tenth of the frame
    target = animal_on_white(0.4, mask)
    rendered = animal_on_white(0.6, mask)
    gap = metrics.psnr(rendered, target) - metrics.psnr_fg(rendered, target, mask)
    assert gap.item() == pytest.approx(10, abs=1e-4)


def test_psnr_fg_of_a_view_without_foreground_is_not_a_number():
    mask = torch.cat([square(slice(2, 6), slice(2, 6)), torch.zeros(1, 1, 1, 10, 10)], dim=1)
    image = torch.rand(1, 2, 3, 10, 10)
    assert metrics.psnr_fg(image, image, mask).isnan().tolist() == [[False, True]]


def test_foreground_mean_is_the_animals_colour_whatever_stands_around_it():
    mask = square(slice(2, 6), slice(3, 8))
    rendered = torch.where(mask > 0.5, torch.tensor([0.2, 0.4, 0.9])[:, None, None], torch.rand(1, 1, 3, 10, 10))
    assert metrics.foreground_mean(rendered, mask).item() == pytest.approx(0.5)


def test_foreground_mean_clips_renders_brighter_than_white():
    mask = square(slice(2, 6), slice(3, 8))
    assert metrics.foreground_mean(1.3 * torch.ones(1, 1, 3, 10, 10), mask).item() == 1


def test_foreground_mean_of_a_view_without_foreground_is_not_a_number():
    mask = torch.cat([square(slice(2, 6), slice(2, 6)), torch.zeros(1, 1, 1, 10, 10)], dim=1)
    assert metrics.foreground_mean(torch.rand(1, 2, 3, 10, 10), mask).isnan().tolist() == [[False, True]]


def test_white_psnr_is_what_an_all_white_image_scores():
    target = animal_on_white(0.4, square(slice(0, 1), slice(0, 10)))
    assert metrics.white_psnr(target).item() == pytest.approx(-10 * math.log10(0.1 * 0.6**2), abs=1e-4)


def scikit_images_ssim(first: Tensor, second: Tensor) -> Tensor:
    """As FaceLift calls it."""
    from skimage.metrics import structural_similarity

    figures = [
        structural_similarity(a.numpy(), b.numpy(), win_size=11, gaussian_weights=True, channel_axis=0, data_range=1.0)
        for a, b in zip(first.flatten(0, 1), second.flatten(0, 1), strict=True)
    ]
    return torch.tensor(figures, dtype=first.dtype).view(first.shape[:2])


@pytest.fixture
def views(mice, tiny_recipe, frames_cache) -> Tensor:
    """Six views of a procedural mouse on white, [1, 6, 3, 32, 32]."""
    return Loader(mice, "val", tiny_recipe().data, frames_cache).evaluation_batch(0).to("cpu").images


WRONG_RENDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "shifted": lambda views: views.roll(1, -1),
    "white": torch.ones_like,
    "brighter than white": lambda views: 1.2 * views,
}


@pytest.mark.parametrize("wrong", WRONG_RENDERS.values(), ids=WRONG_RENDERS)
def test_ssim_of_mice_on_white_equals_scikit_image(views, wrong):
    target, rendered = views.double(), wrong(views.double())
    expected = scikit_images_ssim(target, rendered)
    torch.testing.assert_close(metrics.ssim(rendered, target), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(metrics.ssim(rendered.float(), views), expected.float(), atol=2e-4, rtol=0)


def test_ssim_of_noise_equals_scikit_image():
    torch.manual_seed(0)
    target = torch.nn.functional.interpolate(torch.rand(6, 3, 6, 8), (48, 40), mode="bicubic").view(2, 3, 3, 48, 40)
    rendered = target + torch.linspace(0.01, 0.3, 6).view(2, 3, 1, 1, 1) * torch.randn_like(target)
    expected = scikit_images_ssim(target, rendered)
    torch.testing.assert_close(metrics.ssim(rendered, target), expected, atol=1e-5, rtol=0)


def test_ssim_is_lower_than_torchmetrics_own_mean_which_has_the_white_border(views):
    from torchmetrics.functional.image import structural_similarity_index_measure

    wrong = torch.ones_like(views)
    theirs = structural_similarity_index_measure(wrong[0], views[0], data_range=1.0, reduction=None)
    assert (theirs - metrics.ssim(wrong, views)[0]).min() > 0.05


def test_ssim_differs_from_the_loss_by_the_sample_covariance_alone():
    first, second = torch.rand(2, 1, 2, 3, 24, 24, dtype=torch.float64).unbind(0)
    population = losses.structural_similarity(first, second)
    gap = (metrics.ssim(first, second) - population).abs().max()
    assert 0 < gap < 1 / 120


def test_mask_iou_of_known_overlap_is_exact():
    first = square(slice(0, 4), slice(0, 5))  # 20 pixels
    second = square(slice(2, 6), slice(1, 6))  # 20 pixels, 8 in common
    assert metrics.mask_iou(0.9 * first, second).item() == pytest.approx(8 / 32)
    assert metrics.mask_iou(first, first).item() == 1
    assert metrics.mask_iou(0.4 * first, first).item() == 0


def test_mask_iou_is_one_where_both_are_empty_and_zero_where_one_is():
    nothing, something = torch.zeros(1, 1, 1, 10, 10), square(slice(0, 3), slice(0, 3))
    assert metrics.mask_iou(nothing, nothing).item() == 1
    assert metrics.mask_iou(something, nothing).item() == 0


def test_torchmetrics_calls_the_overlap_of_two_empty_masks_absent():
    from torchmetrics.functional.segmentation import mean_iou

    nothing = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    assert mean_iou(nothing, nothing, per_class=True).item() == -1


def test_a_white_mouse_on_white_has_a_silhouette():
    mask = square(slice(2, 6), slice(3, 8))
    target = animal_on_white(1.0, mask)
    assert metrics.white_psnr(target).item() == pytest.approx(100)  # colour alone cannot tell it is missing
    assert metrics.mask_iou(mask, mask).item() == 1
    assert metrics.mask_iou(torch.zeros_like(mask), mask).item() == 0


def test_lpips_without_a_network_is_not_available_rather_than_zero():
    image = torch.rand(1, 1, 3, 16, 16)
    assert metrics.lpips(image, image, None) is None


def test_lpips_is_one_number_per_view_and_zero_for_equal_views():
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    first, second = torch.rand(2, 2, 2, 3, 48, 48).unbind(0)
    second[1, 0] = first[1, 0]
    distances = metrics.lpips(first, second, network)
    assert distances.shape == (2, 2)
    assert [value == 0 for value in distances.flatten().tolist()] == [False, False, True, False]


METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "psnr": lambda first, second, _: metrics.psnr(first, second),
    "psnr_fg": metrics.psnr_fg,
    "ssim": lambda first, second, _: metrics.ssim(first, second),
    "foreground_mean": lambda first, _, mask: metrics.foreground_mean(first, mask),
    "mask_iou": lambda first, _, mask: metrics.mask_iou(first[..., :1, :, :], mask),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metrics_are_one_float32_per_view_whatever_the_precision(metric):
    first, second = torch.rand(2, 2, 3, 3, 16, 16).bfloat16().unbind(0)
    mask = (torch.rand(2, 3, 1, 16, 16) > 0.5).bfloat16()
    plain = metric(first.float(), second.float(), mask.float())
    assert (plain.shape, plain.dtype) == ((2, 3), torch.float32)
    assert torch.equal(metric(first, second, mask), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(metric(first.float(), second.float(), mask.float()), plain)


def test_torchmetrics_is_imported_by_what_scores_alone():
    code = "import sys, pipeline.training.loop, pipeline.metrics; sys.exit('torchmetrics' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_protocol_id_is_the_same_on_every_machine():
    assert PROTOCOL.id == "a8a861a07333"


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 128},
        {"input_views": (0, 2)},
        {"target_views": (2,)},
        {"split_digest": "abd"},
        {"background": (0.0, 0.0, 0.0)},
        {"mask_rule": "colour"},
        {"definitions": 1},
        {"precision": "bf16"},
        {"refine_steps": 50},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_protocol_id_changes_with_every_field(change):
    assert replace(PROTOCOL, **change).id != PROTOCOL.id
