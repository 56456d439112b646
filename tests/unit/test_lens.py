"""Distortion taken out of pictures and points, held against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.data.calibration.lens import PINHOLE, Lens, Undistortion, leaves, lens_of, undistorted
from pipeline.errors import DataError

SIZE = (288, 256)
FXFYCXCY = (408.0, 410.0, 150.4, 123.1)
K = np.array([[408.0, 0, 149.9], [0, 410.0, 122.6], [0, 0, 1]])  # OpenCV's: half a pixel less
LENSES = {
    "k1 k2": (-0.3, 0.12, 0, 0),
    "k1 k2 p1 p2 k3": (-0.3, 0.12, 0.004, -0.006, 0.03),
    "rational": (0.4, -0.1, 0.001, 0.002, 0.05, 0.6, -0.08, 0.02),
    "pincushion": (0.2, 0.05, 0, 0, 0),
    "fisheye": (-0.05, 0.02, -0.004, 0.001),
}


def lens(name: str) -> Lens:
    return lens_of("here", LENSES[name], fisheye=name == "fisheye")


def undistortion(name: str) -> Undistortion:
    return Undistortion(lens(name), FXFYCXCY, SIZE)


@pytest.mark.parametrize("name", LENSES)
def test_each_pixel_comes_from_where_opencv_takes_it(name: str) -> None:
    module = cv2.fisheye if name == "fisheye" else cv2
    x, y = module.initUndistortRectifyMap(K, np.array(LENSES[name]), np.eye(3), K, SIZE, cv2.CV_32FC1)
    np.testing.assert_allclose(undistortion(name).places() - 0.5, np.stack([x, y], -1), atol=1e-3)


@pytest.mark.parametrize("name", LENSES)
def test_points_go_where_their_pixels_went(name: str) -> None:
    straight = np.random.default_rng(0).uniform([10, 10], [278, 246], (200, 2))
    places = undistortion(name).places().astype(float)
    columns, rows = straight.astype(int).T
    centres = np.stack([columns, rows], -1) + 0.5
    np.testing.assert_allclose(undistortion(name).pixels(places[rows, columns]), centres, atol=1e-3)


def test_a_picture_is_undistorted_as_opencv_does_it() -> None:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    image = np.stack([(x * 3) % 256, (y * 3) % 256, (x + y) % 256, np.full_like(x, 255)], -1).astype(np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 2)
    name = "k1 k2 p1 p2 k3"
    came = undistorted(image, undistortion(name).places()).astype(int)
    x, y = cv2.initUndistortRectifyMap(K, np.array(LENSES[name]), None, K, SIZE, cv2.CV_32FC1)
    theirs = cv2.remap(image, x, y, cv2.INTER_LINEAR).astype(int)
    inner = np.s_[4:-4, 4:-4]
    assert np.abs(came - theirs)[inner].max() <= 3  # OpenCV's remap rounds places to 1/32 of a pixel


def test_hidden_colour_does_not_bleed_into_the_edge() -> None:
    image = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    image[80:160, 100:200] = (200, 100, 50, 255)
    came = undistorted(image, undistortion("k1 k2").places())
    seen = came[..., 3] > 8
    assert 6000 < seen.sum() < 10000 and np.abs(came[seen, :3].astype(int) - [200, 100, 50]).max() <= 2
    assert not came[came[..., 3] == 0].any()


@pytest.mark.parametrize("mask", [np.s_[0:40, 0:30], np.s_[250:256, 280:288], np.s_[0:256, 0:288]])
def test_only_the_masks_window_is_computed_and_that_changes_nothing(mask: tuple[slice, slice]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (SIZE[1], SIZE[0], 4)).astype(np.uint8)
    alpha = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    alpha[mask] = 255
    image[..., 3] = alpha
    places = undistortion("k1 k2").places()
    x, y = (places[..., i] - 0.5 for i in (0, 1))
    theirs = cv2.remap(alpha, x, y, cv2.INTER_LINEAR, borderValue=0).astype(int)
    assert np.abs(undistorted(image, places)[..., 3].astype(int) - theirs).max() <= 8


def test_a_mask_that_undistortion_moves_over_the_border_is_known() -> None:
    image, places = np.zeros((SIZE[1], SIZE[0], 4), np.uint8), undistortion("k1 k2").places()
    image[100:140, 120:180] = 255
    assert not leaves(image, undistorted(image, places))
    image[2:20, 2:20] = 255
    assert leaves(image, undistorted(image, places))
    image[0] = 255
    assert not leaves(image, undistorted(image, places))  # it was cut before


def test_beyond_where_a_polynomial_turns_back_there_is_nothing() -> None:
    strong = Undistortion(Lens("opencv", (-2.5, 0, 0, 0, 0, 0, 0, 0)), FXFYCXCY, SIZE)
    places = strong.places()
    shown = (places > 0).all(-1)
    y, x = np.nonzero(shown)
    distance = np.hypot((x + 0.5 - FXFYCXCY[2]) / FXFYCXCY[0], (y + 0.5 - FXFYCXCY[3]) / FXFYCXCY[1])
    assert distance.max() == pytest.approx((1 / 7.5) ** 0.5, abs=0.01)  # where 1 − 7.5 r² = 0


def test_a_lens_without_numbers_is_a_pinhole_and_a_fisheye_never_is() -> None:
    assert lens_of("here", None) == PINHOLE and lens_of("here", [[0.0] * 5]).is_pinhole
    assert not lens_of("here", [0.0] * 4, fisheye=True).is_pinhole
    assert lens_of("here", [-0.1, 0.2, 0, 0] + [0.0] * 10).coefficients == (-0.1, 0.2, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("coefficients", [[1.0], [0.1] * 12, [np.nan] * 4, "k1", [[1], [2, 3]], {"k1": 0.1}])
def test_other_distortion_is_refused_with_what_came(coefficients: object) -> None:
    with pytest.raises(
        DataError, match=r"cam: expected distortion k1 k2 p1 p2 k3 k4 k5 k6 of OpenCV's opencv model, got"
    ):
        lens_of("cam", coefficients)
