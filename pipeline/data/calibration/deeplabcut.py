"""DeepLabCut 3D's `stereo_params.pickle`: two cameras, read by the unpickler that runs nothing.

OpenCV's axes, pixels (the first one's centre at 0) and distortion (cv2.stereoCalibrate). The first camera is the
world: x₂ = R·x₁ + T. DeepLabCut gives its board squares of side 1, so lengths are in squares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.calibration.camera import MATRIX, CalibratedCamera, image_size, intrinsics, numbers, vector
from pipeline.data.calibration.lens import lens_of
from pipeline.errors import DataError

KEYS = ("cameraMatrix1", "cameraMatrix2", "distCoeffs1", "distCoeffs2", "R", "T")


def is_one(content: Any) -> bool:
    """Whether an unpickled object is a dict of pairs of cameras."""
    pairs = list(content.values()) if isinstance(content, dict) else []
    return any(isinstance(pair, dict) and "cameraMatrix1" in pair for pair in pairs)


def cameras_of(path: Path, content: dict[str, Any]) -> list[CalibratedCamera]:
    """The pair's cameras. Raises DataError: several pairs, or one without all of its matrices."""
    if len(content) != 1:
        raise DataError(
            f"{path}: expected one pair of cameras, as DeepLabCut calibrates them, got {len(content)}: "
            f"{', '.join(map(str, content))} — keep one."
        )
    (key, pair), *_ = content.items()
    where = f"{path}: {key}"
    if missing := [name for name in KEYS if name not in pair]:
        raise DataError(f"{where}: expected {', '.join(KEYS)}, got no {', '.join(missing)} — calibrate again.")
    names = str(key).split("-")
    poses = [(np.eye(3), np.zeros(3)), (numbers(where, "R", pair["R"], MATRIX), vector(where, "T", pair["T"]))]
    return [
        CalibratedCamera(
            intrinsics(where, f"cameraMatrix{i + 1}", pair[f"cameraMatrix{i + 1}"]),
            *pose,
            lens_of(f"{where}: camera {i + 1}", pair[f"distCoeffs{i + 1}"]),
            names[i] if len(names) == 2 else None,
            _size(where, pair.get("image_shape"), i),
        )
        for i, pose in enumerate(poses)
    ]


def _size(where: str, shapes: Any, camera: int) -> tuple[int, int] | None:
    try:
        return image_size(where, *shapes[camera])
    except (TypeError, IndexError, KeyError):
        return None
