"""One camera as a calibration file has it, in the house's terms, and the checks that every format shares."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
        raise DataError(f"{where}: expected a width and a height, got {width} and {height} — write them in pixels.")
    return int(given[0]), int(given[1])


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts cam2 before cam10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", text) if part]
