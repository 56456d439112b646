"""One camera as a calibration file has it, in the house's terms, and the checks that every format shares."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pipeline import config
from pipeline.data.calibration.lens import PINHOLE, Lens
from pipeline.errors import DataError

PIXEL_CENTRE = 0.5  # of the first pixel; OpenCV's is 0
MATRIX, VECTOR = ((3, 3),), ((3,), (3, 1), (1, 3))

Array = np.ndarray


@dataclass(frozen=True)
class CalibratedCamera:
    """A camera with x_cam = R·X + T, OpenCV axes (x right, y down, z forward), lengths in the file's unit.

    K: pixels, image corner at (0, 0) and pixel centres at +0.5. size: width, height of the calibrated image, where the
    file says it. name: as the file calls the camera, or its picture.
    """

    K: Float[Array, "3 3"]
    R: Float[Array, "3 3"]
    T: Float[Array, " 3"]
    lens: Lens = PINHOLE
    name: str | None = None
    size: tuple[int, int] | None = None


def numbers(where: str, name: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> Array:
    """`value` as finite float64 of one of the shapes. Raises DataError naming the place, the key and what came."""
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: expected numbers in {name}, got {config.one_line(error)} — calibrate it again."
        ) from None
    if matrix.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise DataError(f"{where}: expected {name} of shape {expected}, got {matrix.shape} — calibrate it again.")
    if not np.isfinite(matrix).all():
        raise DataError(f"{where}: expected finite numbers in {name}, got others — calibrate it again.")
    return matrix


def vector(where: str, name: str, value: Any) -> Float[Array, " 3"]:
    """Three numbers as a row, a column or a plain list."""
    return numbers(where, name, value, VECTOR).reshape(3)


def rotation(where: str, name: str, value: Any) -> Float[Array, "3 3"]:
    """A 3×3 matrix, or a rotation vector (axis times angle in radians) made into one."""
    given = numbers(where, name, value, MATRIX + VECTOR)
    return given if given.shape == (3, 3) else Rotation.from_rotvec(given.reshape(3)).as_matrix()


def intrinsics(where: str, name: str, value: Any, pixel_centre: float = 0.0) -> Float[Array, "3 3"]:
    """K of a file whose first pixel has its centre at `pixel_centre`, moved to the house's +0.5."""
    K = numbers(where, name, value, MATRIX).copy()
    K[:2, 2] += PIXEL_CENTRE - pixel_centre
    return K


def image_size(where: str, width: Any, height: Any) -> tuple[int, int]:
    """Width and height as whole numbers. Raises DataError."""
    given = numbers(where, "the image's size", [width, height], ((2,),))
    if not (given == given.round()).all() or given.min() < 1:
        raise DataError(f"{where}: expected an image's width and height, got {width} and {height} — mend them.")
    return int(given[0]), int(given[1])


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts cam2 before cam10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", text) if part]


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: expected a text file, got {error.strerror} — restore the file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a text in UTF-8, got {config.one_line(error)} — restore the file.") from None


def read_json(path: Path) -> Any:
    """JSON in which no object has a key twice. Raises DataError."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, got {config.one_line(error)} — restore the file.") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)} twice")
    return found
