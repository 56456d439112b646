"""Lossy masks: where the edge lies, and that nothing is left around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from pipeline.data.recording.masks import coverage
from pipeline.data.recording.video import open_video, write_video

RADIUS, CENTRE = 30.4, (61.3, 47.8)  # x, y


def disc(shape: tuple[int, int] = (100, 120)) -> np.ndarray:
    """An antialiased white disc, 0 … 255."""
    y, x = ((np.arange(8 * side) + 0.5) / 8 for side in shape)
    fine = np.hypot(y[:, None] - CENTRE[1], x - CENTRE[0]) < RADIUS
    return 255 * fine.reshape(shape[0], 8, shape[1], 8).mean((1, 3))


def area(alpha: np.ndarray) -> float:
    return float(alpha.sum() / 255)


@pytest.mark.parametrize("blur", [0.6, 1.0, 2.0])
def test_a_blurred_disc_keeps_its_area_and_its_place(blur: float) -> None:
    alpha = coverage(gaussian_filter(disc(), blur).round().astype(np.uint8))
    rows, columns = np.indices(alpha.shape) + 0.5
    assert area(alpha) == pytest.approx(np.pi * RADIUS**2, rel=0.01)
    assert (columns * alpha).sum() / alpha.sum() == pytest.approx(CENTRE[0], abs=0.05)
    assert (rows * alpha).sum() / alpha.sum() == pytest.approx(CENTRE[1], abs=0.05)


def test_a_lossy_video_of_a_disc_keeps_its_area_and_leaves_no_halo(tmp_path: Path) -> None:
    frame = np.repeat(disc().round().astype(np.uint8)[..., None], 3, -1)
    write_video([frame] * 3, tmp_path / "mask.mp4")
    grey = next(open_video(tmp_path / "mask.mp4").read([2], "gray"))
    alpha = coverage(grey)
    outside = distance_transform_edt(disc() == 0) > 1.5
    assert (grey[outside] > 0).any()  # the codec rings
    assert not alpha[outside].any()
    assert area(alpha) == pytest.approx(np.pi * RADIUS**2, rel=0.01)


def test_grey_around_the_mouse_that_stays_below_the_threshold_is_no_mouse() -> None:
    halo = np.maximum(disc(), np.where(gaussian_filter(disc(), 3) > 5, 120, 0)).astype(np.uint8)
    assert not coverage(halo)[distance_transform_edt(disc() == 0) > 1].any()


def test_the_edge_lies_where_the_interpolated_grey_crosses_the_threshold() -> None:
    ramp = np.array([0, 0, 50, 255, 255], np.uint8)  # pixel centres at +0.5: crossed at x = 2.5 + 77 / 205
    alpha = coverage(np.tile(ramp, (6, 1)))
    assert (alpha == alpha[0]).all()
    assert alpha[0].tolist() == [0, 0, 0, 255, 255]  # 2.876 is behind pixel 2's last sample, 2.875
    ramp[2] = 100  # crossed at 2.67: the last of the four samples is covered
    assert coverage(np.tile(ramp, (6, 1)))[0].tolist() == [0, 0, 64, 255, 255]


def test_a_mask_without_grey_above_the_threshold_is_empty() -> None:
    assert not coverage(np.full((8, 9), 127, np.uint8)).any()


def test_a_mouse_at_the_border_is_covered_up_to_the_border() -> None:
    full = coverage(np.full((8, 9), 255, np.uint8))
    corner = np.zeros((8, 9), np.uint8)
    corner[:3, :4] = 255
    assert (full == 255).all() and (coverage(corner)[:2, :3] == 255).all()
    assert not coverage(corner)[4:].any() and not coverage(corner)[:, 5:].any()


def test_a_speck_far_from_the_animal_is_no_part_of_it() -> None:
    grey = np.zeros((200, 200), np.uint8)
    grey[60:140, 60:140] = 255
    with_speck = grey.copy()
    with_speck[5:7, 190:192] = 255
    np.testing.assert_array_equal(coverage(with_speck), coverage(grey))


def test_a_tail_cut_off_from_the_body_stays() -> None:
    grey = np.zeros((200, 200), np.uint8)
    grey[60:140, 60:140] = 255
    grey[98:102, 150:190] = 255
    assert coverage(grey)[100, 170] == 255
