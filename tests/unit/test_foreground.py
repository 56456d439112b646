"""Masks of pictures on white: where the edge of a pale animal lies, what noise is, what the cut-out shows on white."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes

from pipeline.data.foreground import all_shown, cut_out, soft_mask
from pipeline.data.mice.mice import MicePlan
from pipeline.data.mice.render import render_mouse
from pipeline.data.photo.photo import photo_of
from pipeline.data.pictures import on_white, pixels_of, view_on_white
from pipeline.mvdiffusion.evaluate import generated_masks

SIDE, RADIUS = 96, 30.3


def disc(grey: float, noise: float = 0.0, middle: float = 48.3) -> np.ndarray:
    """An antialiased disc of this brightness on white, 0…255."""
    places = (np.arange(8 * SIDE) + 0.5) / 8
    fine = np.hypot(places[:, None] - middle, places - 47.8) < RADIUS
    coverage = fine.reshape(SIDE, 8, SIDE, 8).mean((1, 3))[..., None]
    picture = 255 - (255 - grey) * coverage + np.random.default_rng(0).normal(0, noise, (SIDE, SIDE, 3))
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def area(alpha: np.ndarray) -> float:
    return float(alpha.sum() / 255)


@pytest.fixture(scope="module")
def pale_mice() -> np.ndarray:
    """Straight RGBA: six views each of three mice that are nearly white."""
    plan = MicePlan("mouse_centred", 96, pale=True)
    return np.concatenate([render_mouse(*plan.shot(mouse)) for mouse in range(3)])


def photographed(rgba: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(on_white(Image.fromarray(view))) for view in rgba])


@pytest.mark.parametrize("grey", [10, 128, 200, 235, 243])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_edge_of_a_disc_is_where_it_is_however_pale_the_disc(grey: float, noise: float) -> None:
    alpha = soft_mask(disc(grey, noise))
    assert area(alpha) == pytest.approx(np.pi * RADIUS**2, rel=0.02)
    assert ((alpha > 127).sum()) == pytest.approx(np.pi * RADIUS**2, rel=0.02)


def test_a_background_that_is_not_quite_white_is_background() -> None:
    picture = np.minimum(disc(120), 240)
    assert ((soft_mask(picture) > 127).sum()) == pytest.approx(np.pi * RADIUS**2, rel=0.02)


def test_a_disc_that_the_frame_cuts_off_goes_up_to_the_frame() -> None:
    alpha = soft_mask(disc(235, middle=10.0))
    assert (alpha[0, 30:66] == 255).all()


def test_noise_on_white_shows_nothing() -> None:
    noise = disc(255, noise=2.0)[None]
    assert not all_shown(cut_out(noise)) and all_shown(cut_out(disc(235, noise=1.0)[None]))


def test_a_pale_mouse_is_kept_where_a_threshold_cuts_it_away(pale_mice: np.ndarray) -> None:
    pictures, truth = photographed(pale_mice), pale_mice[..., 3] > 127
    threshold = np.stack([binary_fill_holes(picture.min(-1) < 0.9 * 255) for picture in pictures])
    soft = generated_masks(torch.from_numpy(pictures).movedim(-1, 1) / 255)[:, 0].numpy() > 0.5

    def iou(masks: np.ndarray) -> np.ndarray:
        return (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))

    assert np.median(iou(soft)) > 0.96 and np.median(iou(threshold)) < 0.93
    assert (iou(soft) > iou(threshold) - 0.01).all()


def test_the_shade_on_pale_fur_is_no_shadow_where_a_tool_removed_the_background(pale_mice: np.ndarray) -> None:
    read = [photo_of(Image.fromarray(picture), "a") for picture in photographed(pale_mice[::3])]
    truth = pale_mice[::3, ..., 3] > 127
    kept = [float(((photo.alpha > 127) & true).sum() / true.sum()) for photo, true in zip(read, truth, strict=True)]
    assert np.median(kept) > 0.95 and {photo.cut_by for photo in read} == {"background (255, 255, 255)"}


@pytest.mark.parametrize("noise", [0.0, 3.0, 20.0])
def test_a_cut_out_on_white_is_the_picture_that_it_was_cut_from(pale_mice: np.ndarray, noise: float) -> None:
    pictures = photographed(pale_mice[:4]) + np.random.default_rng(0).normal(0, noise, (4, 96, 96, 3))
    pictures = pictures.round().clip(0, 255).astype(np.uint8)
    pictures[0] = np.random.default_rng(1).integers(0, 256, (96, 96, 3))
    for picture, cut in zip(pictures, cut_out(pictures), strict=True):
        again = pixels_of(view_on_white(Image.fromarray(cut), 96))
        assert np.abs(again.astype(int) - picture).max() <= 1
