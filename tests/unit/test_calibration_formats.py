"""The same rig in every format that laboratories have, each written by another hand than ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cameras import mouse_rig
from pipeline.data.calibration.calibration import Calibration, Wanted, read_calibration
from pipeline.data.calibration.lens import PINHOLE
from pipeline.errors import DataError
from tests.support.calibrations import FISHEYE_WRITERS, HEIGHT, PAIR_WRITERS, WIDTH, WRITERS, Filmed, filmed, rigid
from tests.support.mutations import mutations

MM = Wanted(mm=1.0)
VIDEOS = [str(i) for i in range(6)]
DISTORTION = (-0.3, 0.12, 0.002, -0.003, 0.04)
FISHEYE = (-0.02, 0.01, -0.004, 0.001)
ALL = {**WRITERS, **PAIR_WRITERS}


def read(path: Path, cameras: Sequence[Filmed]) -> Calibration:
    return read_calibration(path, WIDTH, HEIGHT, MM, VIDEOS[: len(cameras)])


def cameras_for(format: str, distortion: Sequence[float] = (0.0,) * 5, fisheye: bool = False) -> list[Filmed]:
    return filmed(distortion, fisheye)[: 2 if format in PAIR_WRITERS else 6]


# ---------------------------------------------------------------- one rig


@pytest.mark.parametrize("format", WRITERS)
def test_the_same_six_cameras_come_out_of_every_format(tmp_path: Path, format: str) -> None:
    came = read(WRITERS[format](tmp_path, filmed()), filmed())
    rig = rigid(mouse_rig())
    torch.testing.assert_close(came.cameras.c2w, rig.c2w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(came.cameras.fxfycxcy, rig.fxfycxcy, rtol=1e-9, atol=1e-9)
    assert all(lens.is_pinhole for lens in came.lenses)


@pytest.mark.parametrize("format", PAIR_WRITERS)
def test_a_pair_comes_out_of_formats_of_two_cameras_in_the_first_ones_world(tmp_path: Path, format: str) -> None:
    pair = cameras_for(format)
    came = read(PAIR_WRITERS[format](tmp_path, pair), pair)
    rig = rigid(mouse_rig())[:2]
    torch.testing.assert_close(came.cameras.c2w, rig.w2c[0] @ rig.c2w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(came.cameras.fxfycxcy, rig.fxfycxcy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("format", WRITERS)
def test_points_are_seen_half_a_pixel_from_where_opencv_projects_them(tmp_path: Path, format: str) -> None:
    points = np.random.default_rng(0).uniform(-40, 120, (50, 3))
    came = read(WRITERS[format](tmp_path, filmed()), filmed()).cameras
    pixels, _ = came.project(torch.from_numpy(points).expand(6, -1, 3))
    for ours, camera in zip(pixels.numpy(), filmed(), strict=True):
        np.testing.assert_allclose(ours, camera.project(points) + 0.5, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("format", ALL)
def test_distortion_comes_out_of_every_format_in_one_order(tmp_path: Path, format: str) -> None:
    bent = cameras_for(format, DISTORTION)
    came = read(ALL[format](tmp_path, bent), bent)
    np.testing.assert_allclose([lens.coefficients[:5] for lens in came.lenses], [c.distortion for c in bent])
    assert {lens.model for lens in came.lenses} == {"opencv"}


@pytest.mark.parametrize("format", [*FISHEYE_WRITERS, "nerfstudio"])
def test_a_fisheye_is_told_from_a_pinhole(tmp_path: Path, format: str) -> None:
    round_ = filmed(FISHEYE, fisheye=True)
    came = read(WRITERS[format](tmp_path, round_), round_)
    np.testing.assert_allclose([lens.coefficients for lens in came.lenses], [c.distortion for c in round_])
    assert {lens.model for lens in came.lenses} == {"fisheye"} and PINHOLE not in came.lenses


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("format", ALL)
def test_a_damaged_calibration_is_read_or_refused_in_one_line(tmp_path: Path, format: str, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    cameras = cameras_for(format, DISTORTION)
    path = ALL[format](tmp_path, cameras)
    files = [file for file in path.iterdir() if file.stem in PARTS] if path.is_dir() else [path]
    assert files
    for file in files:
        content = file.read_bytes()
        for damaged in mutations(content, seed=1, count=40):
            file.write_bytes(damaged)
            said = refusal(path, cameras)
            assert said == "" or (said.startswith(str(tmp_path)) and "\n" not in said)
        file.write_bytes(content)


PARTS = ("0", "intri", "extri", "intrinsics", "extrinsics", "cameras", "images", "hires_cam1_params")


def refusal(path: Path, cameras: Sequence[Filmed]) -> str:
    """Why a calibration is refused; nothing where finite cameras came of it."""
    try:
        came = read(path, cameras)
    except DataError as refused:
        return str(refused)
    assert torch.isfinite(came.cameras.c2w).all() and np.isfinite(came.lenses[0].coefficients).all()
    return ""
