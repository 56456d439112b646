"""nerfstudio's and instant-ngp's `transforms.json`: a frame per picture.

`transform_matrix` is camera-to-world with OpenGL's axes (x right, y up, z backward); `applied_transform` and
`applied_scale`, which say how nerfstudio moved the first reconstruction's world, are taken back. Intrinsics fl_x, fl_y,
cx, cy stand in a frame or before all frames; without fl_x, camera_angle_x (radians) spans the picture's width; without
cx, cy the middle is meant. Pixel centres at +0.5, as in this house. k1 k2 p1 p2 k3 are OpenCV's, k1 to k4 of its
fisheye model where camera_model is OPENCV_FISHEYE or is_fisheye is true. No unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.data.calibration.camera import PIXEL_CENTRE, CalibratedCamera, image_size, intrinsics, natural, numbers
from pipeline.data.calibration.lens import Lens, lens_of
from pipeline.errors import DataError

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
AFFINE = ((3, 4), (4, 4))


def cameras_of(path: Path, content: Mapping[str, Any], size: tuple[int, int]) -> list[CalibratedCamera]:
    """The frames in the order of their files' names. size: width, height where the file says none. Raises DataError."""
    frames = content["frames"]
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(f"{path}: expected frames as a list of objects, got others — restore the file.")
    back = _way_back(path, content)
    shared = {key: value for key, value in content.items() if key != "frames"}
    cameras = [_camera(f"{path}: frame {i}", shared | frame, back, size) for i, frame in enumerate(frames)]
    return (
        cameras if None in [c.name for c in cameras] else sorted(cameras, key=lambda camera: natural(camera.name or ""))
    )


def _camera(
    where: str, frame: Mapping[str, Any], back: Float[np.ndarray, "4 4"], size: tuple[int, int]
) -> CalibratedCamera:
    if "transform_matrix" not in frame:
        raise DataError(f"{where}: expected a transform_matrix, got {', '.join(map(str, frame))} — add it.")
    c2w = back @ _affine(where, "transform_matrix", frame["transform_matrix"]) @ TO_OPENCV
    c2w[:3, :3] /= np.cbrt(np.linalg.det(back[:3, :3]))
    known = image_size(where, frame["w"], frame["h"]) if {"w", "h"} <= frame.keys() else None
    R = c2w[:3, :3].T
    name = frame.get("file_path")
    return CalibratedCamera(
        _intrinsics(where, frame, known or size), R, -R @ c2w[:3, 3], _lens(where, frame), name and str(name), known
    )


def _way_back(path: Path, content: Mapping[str, Any]) -> Float[np.ndarray, "4 4"]:
    """From the file's world to the one before `applied_transform` and `applied_scale`."""
    applied = _affine(str(path), "applied_transform", content.get("applied_transform", np.eye(4)))
    scale = numbers(str(path), "applied_scale", content.get("applied_scale", 1.0), ((),))
    turn = applied[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0 or not scale > 0:
        raise DataError(
            f"{path}: expected an applied_transform that turns and moves and an applied_scale above 0, got others — "
            "write the original poses."
        )
    applied[:3] *= scale
    return np.linalg.inv(applied)


def _affine(where: str, name: str, value: Any) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    given = numbers(where, name, value, AFFINE)
    matrix[: len(given)] = given
    return matrix


def _intrinsics(where: str, frame: Mapping[str, Any], size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    fx = _focal(where, frame, "x", size[0], None)
    fy = _focal(where, frame, "y", size[1], fx)
    cx, cy = frame.get("cx", size[0] / 2), frame.get("cy", size[1] / 2)
    return intrinsics(where, "fl_x, fl_y, cx, cy", [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], PIXEL_CENTRE)


def _focal(where: str, frame: Mapping[str, Any], axis: str, side: int, default: float | None) -> float:
    """Fl_x or fl_y in pixels; else from the angle that the picture's side spans; else the default."""
    if f"fl_{axis}" in frame:
        return float(numbers(where, f"fl_{axis}", frame[f"fl_{axis}"], ((),)))
    key = f"camera_angle_{axis}"
    if key in frame:
        angle = float(numbers(where, key, frame[key], ((),)))
        if not 0 < angle < math.pi:
            raise DataError(f"{where}: expected {key} between 0 and π radians, got {angle:g} — write it in radians.")
        return side / 2 / math.tan(angle / 2)
    if default is None:
        raise DataError(f"{where}: expected fl_x or camera_angle_x, got neither — add one.")
    return default


def _lens(where: str, frame: Mapping[str, Any]) -> Lens:
    model = frame.get("camera_model", "OPENCV")
    if model not in MODELS:
        raise DataError(f"{where}: expected a camera_model of {', '.join(MODELS)}, got {model} — use another.")
    k1, k2, k3, k4, k5, k6, p1, p2 = (frame.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"))
    fisheye = model == "OPENCV_FISHEYE" or bool(frame.get("is_fisheye", False))
    unused = {"p1": p1, "p2": p2, "k5": k5, "k6": k6} if fisheye else {"k4": k4, "k5": k5, "k6": k6}
    if beyond := [key for key, value in unused.items() if value]:
        raise DataError(f"{where}: expected no {', '.join(beyond)} of this camera_model, got some — undistort first.")
    return lens_of(where, [k1, k2, k3, k4] if fisheye else [k1, k2, p1, p2, k3], fisheye)
