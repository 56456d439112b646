"""Calibration files of real rigs to `Cameras`: pickles (read without running anything in them), JSON and NPZ.

OpenCV with x_cam = R·X + T in millimetres. Calibrations put pixel centres at whole numbers, this house at +0.5, so
the principal point moves by half a pixel.
"""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy._core import multiarray, numeric

from pipeline import config
from pipeline.cameras import Cameras
from pipeline.data.gate.geometry import meeting_point
from pipeline.errors import DataError

SHAPES = {"K": ((3, 3),), "R": ((3, 3),), "T": ((3,), (3, 1))}
IGNORED = ("mapx", "mapy")
NEAREST_MM, FARTHEST_MM = 50.0, 5000.0
SMALLEST_SPREAD = 1e-4  # two cameras about 1° apart
PIXEL_CENTRE = 0.5

_log = logging.getLogger(__name__)


def read_calibration(path: Path, width: int, height: int) -> Cameras:
    """Cameras [V] in float64, world in mm, of images of width×height, from `.pkl`, `.json` or `.npz`.

    A pickle or JSON is a list of one {K: 3×3, R: 3×3, T: 3 or 3×1} per camera; an NPZ holds K, R [V, 3, 3] and
    T [V, 3]. Undistortion maps beside them are not used, and that is logged.
    Raises DataError: no such file, other contents, a skewed K, a principal point outside the image, a rotation that
    is none, axes that do not meet in view of every camera, other units than mm.
    """
    readers = {".pkl": read_pickle, ".json": _read_json, ".npz": _read_npz}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected a calibration of {', '.join(readers)}, got {path.suffix} — convert it.")
    entries = readers[path.suffix](path)
    if not isinstance(entries, list | tuple) or len(entries) < 2:
        raise DataError(f"{path}: expected a list of 2 or more cameras, got {_described(entries)} — store a list.")
    K, R, T = (np.stack([_matrix(path, i, entry, key) for i, entry in enumerate(entries)]) for key in SHAPES)
    if ignored := [key for key in IGNORED if key in entries[0]]:
        _log.warning("%s: %s ignored: the videos are undistorted already", path, ", ".join(ignored))
    cameras = Cameras(_c2w(R, T), _fxfycxcy(path, K), width, height)
    cameras.check(str(path))
    _check_rig(path, cameras)
    return cameras


def read_pickle(path: Path) -> Any:
    """Plain containers, numbers and numpy arrays from a pickle; nothing in it is run.

    Raises DataError for a pickle that asks for anything else, and for a file that is none.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except _Refused as error:
        raise DataError(
            f"{path}: expected plain numbers and numpy arrays, got a pickle that asks for {error} — "
            "it was not run; store the arrays alone, or as .npz."
        ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: expected a pickle, found none — restore it.") from None
    except _PICKLE_FAULTS as error:
        raise DataError(
            f"{path}: expected a whole pickle, got {config.one_line(error) or type(error).__name__} — restore the file."
        ) from None


# ---------------------------------------------------------------- files


class _Refused(Exception):  # noqa: N818  an answer, and never leaves this file
    """A pickle names something that is neither a container nor part of a numpy array."""


def _latin1(text: str, encoding: str) -> bytes:
    """`codecs.encode` as old pickles of bytes use it, and for nothing else."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Knows only what numpy arrays are made of, under their names in numpy 1 and 2."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): multiarray._reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): multiarray.scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): numeric._frombuffer for core in ("core", "_core")},  # type: ignore[attr-defined]
}

_PICKLE_FAULTS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    OSError,
)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON, got {config.one_line(error)} — restore the file.") from None


def _read_npz(path: Path) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {key: arrays[key] for key in SHAPES if key in arrays}
            ignored = {key: None for key in IGNORED if key in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected an NPZ, got {config.one_line(error)} — restore the file.") from None
    lengths = {len(column) if column.ndim else 0 for column in columns.values()}
    if len(columns) != len(SHAPES) or len(lengths) != 1:
        came = ", ".join(f"{key} {column.shape}" for key, column in columns.items()) or "none of them"
        raise DataError(f"{path}: expected K [V, 3, 3], R [V, 3, 3], T [V, 3], got {came} — store all three.")
    return [{key: column[i] for key, column in columns.items()} | ignored for i in range(lengths.pop())]


# ---------------------------------------------------------------- numbers


def _matrix(path: Path, camera: int, entry: Any, key: str) -> np.ndarray:
    """K, R or T of one camera as float64; T always (3,)."""
    if not isinstance(entry, dict) or key not in entry:
        came = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{path}: camera {camera}: expected K, R and T, got {came} — add {key}.")
    try:
        matrix = np.asarray(entry[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: camera {camera}: expected numbers in {key}, got {config.one_line(error)} — calibrate it again."
        ) from None
    if matrix.shape not in SHAPES[key]:
        expected = " or ".join(map(str, SHAPES[key]))
        raise DataError(
            f"{path}: camera {camera}: expected {key} of shape {expected}, got {matrix.shape} — calibrate it again."
        )
    if not np.isfinite(matrix).all():
        raise DataError(f"{path}: camera {camera}: expected finite numbers in {key}, got others — calibrate it again.")
    return matrix.reshape(3) if key == "T" else matrix


def _c2w(R: Float[np.ndarray, "view 3 3"], T: Float[np.ndarray, "view 3"]) -> Float[torch.Tensor, "view 4 4"]:
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(R), 1, 1)
    c2w[:, :3, :3] = torch.from_numpy(R).mT
    c2w[:, :3, 3] = torch.from_numpy(-np.einsum("vji,vj->vi", R, T))
    return c2w


def _fxfycxcy(path: Path, K: Float[np.ndarray, "view 3 3"]) -> Float[torch.Tensor, "view 4"]:
    for i, matrix in enumerate(K):
        rest = matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
        if not np.allclose(rest, [0, 0, 0, 0, 1], rtol=0, atol=1e-6):
            raise DataError(
                f"{path}: camera {i}: expected K = fx 0 cx, 0 fy cy, 0 0 1, got {matrix.round(4).tolist()} — "
                "store it untransposed and without skew."
            )
    return torch.from_numpy(K[:, [0, 1, 0, 1], [0, 1, 2, 2]] + [0.0, 0.0, PIXEL_CENTRE, PIXEL_CENTRE])


def _check_rig(path: Path, cameras: Cameras) -> None:
    """Principal points lie in the image; the axes meet where every camera looks, at a distance in mm."""
    for i, (_, _, cx, cy) in enumerate(cameras.fxfycxcy.tolist()):
        if not (0 < cx < cameras.width and 0 < cy < cameras.height):
            raise DataError(
                f"{path}: camera {i}: expected a principal point inside {cameras.width}×{cameras.height}, got "
                f"({cx:.1f}, {cy:.1f}) — use the calibration of these videos' size."
            )
    if _spread(cameras) < SMALLEST_SPREAD:
        raise DataError(f"{path}: expected cameras that look from several sides, got parallel axes — check R.")
    middle = meeting_point(cameras)
    distances = (cameras.centres - middle).norm(dim=-1)
    if not NEAREST_MM <= float(distances.min()) <= float(distances.max()) <= FARTHEST_MM:
        raise DataError(
            f"{path}: expected cameras {NEAREST_MM:g} to {FARTHEST_MM:g} mm from where their axes meet, got "
            f"{float(distances.min()):.3g} to {float(distances.max()):.3g} — store T in millimetres."
        )
    pixels, depth = cameras.project(middle.expand(len(distances), 1, 3))
    inside = (pixels > 0) & (pixels < torch.tensor([cameras.width, cameras.height]))
    if not bool((seen := inside.all(-1) & (depth > 0)).all()):
        raise DataError(
            f"{path}: camera {int((~seen).nonzero()[0, 0])}: expected to see where the axes meet, got it out of view — "
            "store R and T so that x_cam = R·X + T."
        )


def _spread(cameras: Cameras) -> float:
    """0 when all axes are parallel, up to 2/3; the mean squared sine to the direction they share most."""
    shared = torch.einsum("vi,vj->ij", cameras.forward, cameras.forward) / len(cameras.forward)
    return 1 - float(torch.linalg.eigvalsh(shared)[-1])


def _described(entries: Any) -> str:
    if isinstance(entries, dict):
        return f"a dict of {', '.join(map(str, list(entries)[:4]))}"
    return f"a list of {len(entries)}" if isinstance(entries, list | tuple) else type(entries).__name__
