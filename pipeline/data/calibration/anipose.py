"""anipose's `calibration.toml` (also sleap-anipose's and Pose2Sim's): one table per camera.

OpenCV's axes and pixels (the first one's centre at 0). `rotation` is a rotation vector, x_cam = R·X + translation in
the unit that the board's squares were given in, which the file does not say. `distortions` are OpenCV's, of its
fisheye model where `fisheye` is true. The world is the first camera's, or the board's.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.data.calibration.camera import (
    CalibratedCamera,
    image_size,
    intrinsics,
    natural,
    rotation,
    vector,
)
from pipeline.data.calibration.lens import lens_of
from pipeline.errors import DataError
from pipeline.text.encoding import read_text

KEYS = ("matrix", "rotation", "translation", "distortions")


def read(path: Path) -> list[CalibratedCamera]:
    """The cameras in the order of their tables: cam_2 comes before cam_10. Raises DataError."""
    try:
        tables = tomllib.loads(read_text(path, DataError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{path}: expected TOML, got {config.one_line(error)} — restore the file.") from None
    cameras = {key: table for key, table in tables.items() if isinstance(table, dict) and key != "metadata"}
    if not cameras:
        raise DataError(f"{path}: expected a table [cam_0] and so on, as anipose writes them, got none — calibrate.")
    return [_camera(f"{path}: {key}", key, cameras[key]) for key in sorted(cameras, key=natural)]


def _camera(where: str, key: str, table: dict[str, Any]) -> CalibratedCamera:
    if missing := [name for name in KEYS if name not in table]:
        raise DataError(f"{where}: expected {', '.join(KEYS)}, got no {', '.join(missing)} — calibrate again.")
    size = table.get("size")
    return CalibratedCamera(
        intrinsics(where, "matrix", table["matrix"]),
        rotation(where, "rotation", table["rotation"]),
        vector(where, "translation", table["translation"]),
        lens_of(where, table["distortions"], fisheye=bool(table.get("fisheye", False))),
        str(table.get("name", key)),
        image_size(where, *size) if isinstance(size, list) and len(size) == 2 else None,
    )
