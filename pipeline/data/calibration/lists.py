"""Lists of {K, R, T} (the published mouse rig's `new_cam.pkl`; MAMMAL), as pickle, JSON or NPZ.

OpenCV's axes and pixels (the first one's centre at 0), x_cam = R·X + T in millimetres. A fourth key, `D` or one that
begins with `dist`, holds OpenCV's distortion; undistortion maps (`mapx`, `mapy`) are not used, and that is said.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config
from pipeline.data.calibration.camera import MATRIX, CalibratedCamera, intrinsics, numbers, vector
from pipeline.data.calibration.lens import is_distortion, lens_of
from pipeline.errors import DataError

KEYS = ("K", "R", "T")
IGNORED = ("mapx", "mapy")

_log = logging.getLogger(__name__)


def cameras_of(path: Path, entries: Any) -> list[CalibratedCamera]:
    """A list of one {K: 3×3, R: 3×3, T: 3 or 3×1} per camera. Raises DataError for anything else."""
    if not isinstance(entries, list | tuple) or len(entries) < 2:
        raise DataError(f"{path}: expected a list of 2 or more cameras, got {_described(entries)} — store a list.")
    cameras = [_camera(f"{path}: camera {i}", entry) for i, entry in enumerate(entries)]
    if ignored := [key for key in IGNORED if key in entries[0]]:
        bent = any(not camera.lens.is_pinhole for camera in cameras)
        so = "; --distorted uses D alone" if bent else ": without D the videos are taken for undistorted"
        _log.warning("%s: %s ignored%s", path, ", ".join(ignored), so)
    return cameras


def read_npz(path: Path) -> list[CalibratedCamera]:
    """K, R [V, 3, 3] and T [V, 3]; D [V, 4, 5 or 8] where there is one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {key: arrays[key] for key in arrays if key in KEYS or is_distortion(key, arrays[key])}
            ignored = {key: None for key in IGNORED if key in arrays}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected an NPZ, got {config.one_line(error)} — restore the file.") from None
    lengths = {len(column) if column.ndim else 0 for column in columns.values()}
    if not columns.keys() >= set(KEYS) or len(lengths) != 1:
        came = ", ".join(f"{key} {column.shape}" for key, column in columns.items()) or "none of them"
        raise DataError(f"{path}: expected K [V, 3, 3], R [V, 3, 3], T [V, 3], got {came} — store all three.")
    return cameras_of(path, [{k: column[i] for k, column in columns.items()} | ignored for i in range(lengths.pop())])


def _camera(where: str, entry: Any) -> CalibratedCamera:
    for key in KEYS:
        if not isinstance(entry, dict) or key not in entry:
            came = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise DataError(f"{where}: expected K, R and T, got {came} — add {key}.")
    K, R = intrinsics(where, "K", entry["K"]), numbers(where, "R", entry["R"], MATRIX)
    found = [key for key, value in entry.items() if is_distortion(key, value)]
    if len(found) > 1:
        raise DataError(f"{where}: expected distortion once, got {' and '.join(found)} — keep one of the two.")
    lens = lens_of(where, entry[found[0]] if found else None)
    return CalibratedCamera(K, R, vector(where, "T", entry["T"]), lens)


def _described(entries: Any) -> str:
    if isinstance(entries, dict):
        return f"a dict of {', '.join(map(str, list(entries)[:4]))}"
    return f"a list of {len(entries)}" if isinstance(entries, list | tuple) else type(entries).__name__
