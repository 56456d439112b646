"""DANNCE's and SDANNCE's calibrations: `*_dannce.mat` of Label3D (`params`, `camnames`), or a folder of
`hires_cam1_params.mat` and so on.

MATLAB's convention: points are rows, x_cam = X·r + t in millimetres, pixel = x_cam·K, so that K and r are the
transposes of OpenCV's, and the first pixel has its centre at (1, 1) (MathWorks, cameraIntrinsicsToOpenCV). `RDistort`
is k1 k2 (k3), `TDistort` p1 p2 of OpenCV's model.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config
from pipeline.data.calibration.camera import MATRIX, CalibratedCamera, intrinsics, natural, numbers, vector
from pipeline.data.calibration.lens import Lens, lens_of
from pipeline.errors import DataError

PER_CAMERA = "*_params.mat"
MATLAB_PIXEL_CENTRE = 1.0
KEYS = ("K", "t", "RDistort", "TDistort")
VARIABLES = ["params", "camnames", *KEYS, "r", "R"]


def read(path: Path) -> list[CalibratedCamera]:
    """One .mat with `params` of every camera. Raises DataError."""
    content = _load(path)
    if "params" not in content:
        came = ", ".join(content) or "other variables"
        raise DataError(
            f"{path}: expected params of every camera, as Label3D writes them, got {came} — give the *_dannce.mat, or "
            f"the folder of {PER_CAMERA}."
        )
    cameras = _as_list(content["params"])
    names = _as_list(content.get("camnames", []))
    named = [str(name) for name in names] if len(names) == len(cameras) else [None] * len(cameras)
    return [
        _camera(f"{path}: params {i + 1}", camera, name)
        for i, (camera, name) in enumerate(zip(cameras, named, strict=True))
    ]


def read_folder(folder: Path) -> list[CalibratedCamera]:
    """One .mat per camera, hires_cam2 before hires_cam10. Raises DataError."""
    paths = sorted(folder.glob(PER_CAMERA), key=lambda path: natural(path.name))
    return [_camera(str(path), _load(path), path.stem.removesuffix("_params")) for path in paths]


def _camera(where: str, given: Any, name: str | None) -> CalibratedCamera:
    keys = given.keys() if isinstance(given, dict) else set()
    missing = [key for key in KEYS if key not in keys] + ([] if {"r", "R"} & keys else ["r"])
    if missing:
        raise DataError(f"{where}: expected K, r, t, RDistort, TDistort, got no {', '.join(missing)} — add them.")
    K = numbers(where, "K", given["K"], MATRIX).T
    r = numbers(where, "r", given["r" if "r" in keys else "R"], MATRIX)
    lens = _lens(where, given["RDistort"], given["TDistort"])
    return CalibratedCamera(
        intrinsics(where, "K", K, MATLAB_PIXEL_CENTRE), r.T, vector(where, "t", given["t"]), lens, name
    )


def _lens(where: str, radial: Any, tangential: Any) -> Lens:
    k = numbers(where, "RDistort", np.atleast_1d(np.squeeze(radial)), ((2,), (3,)))
    p = numbers(where, "TDistort", np.atleast_1d(np.squeeze(tangential)), ((2,),))
    return lens_of(where, [*k[:2], *p, *k[2:]])


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# ---------------------------------------------------------------- files


def _load(path: Path) -> dict[str, Any]:
    """The variables of a .mat (MATLAB's version 5 to 7.2) that a calibration may have: numbers as arrays, text, cells
    as lists, structs as dicts.

    SciPy is the test's independent writer and no reader here: a damaged file ends its reader, and with it the whole
    process, by a segmentation fault.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a .mat, got {error.strerror} — restore it.") from None
    if content[:10] == b"MATLAB 7.3":
        raise DataError(
            f"{path}: expected a .mat of MATLAB's version 7, got one of version 7.3 — load it in MATLAB and save it "
            "again with -v7."
        )
    try:
        return _variables(content)
    except _MAT_FAULTS as error:
        raise DataError(
            f"{path}: expected a whole .mat, got {config.one_line(error) or type(error).__name__} — restore the file."
        ) from None


def _variables(content: bytes) -> dict[str, Any]:
    if content[126:128] not in ORDERS:
        raise ValueError("another beginning")
    order, found = ORDERS[content[126:128]], {}
    for kind, data in _elements(content[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(_decompressed(data), order)
        if kind == MATRIX_ELEMENT:
            name, value = _matrix(data, order)
            if name in VARIABLES:
                found[name] = value
    return found


def _decompressed(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, LARGEST_BYTES)
    if not inflater.eof:
        raise ValueError("a variable without an end, or one of more than half a gibibyte")
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of one element after another. Raises ValueError where one reaches beyond the end."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: both numbers in four bytes, the content in the next four
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + length > len(data):
            raise ValueError("an element that goes beyond the end")
        yield kind, data[start : start + length]
        at = start + length if kind == COMPRESSED else at + 8 + (-(-length // 8) * 8 if start == at + 8 else 0)


def _matrix(data: bytes, order: str) -> tuple[str, Any]:
    """A matrix's name and content; None for classes that no calibration has."""
    if not data:
        return "", np.zeros((0, 0))  # an empty cell
    parts = _elements(data, order)
    flags, shape, name = (_numbers(*next(parts), order) for _ in range(3))
    kind, count = int(flags[0]) & 0xFF, math.prod(map(int, shape))
    if kind in NUMBERS:
        value: Any = _numbers(*next(parts), order).reshape(shape, order="F")
    elif kind == TEXT:
        value = "".join(map(chr, _numbers(*next(parts), order)))
    elif kind == CELL:
        value = [_matrix(each, order)[1] for _, each in parts]
    elif kind == STRUCT:
        width = int(_numbers(*next(parts), order)[0])
        names = next(parts)[1]
        keys = [names[i : i + width].split(b"\0")[0].decode() for i in range(0, len(names), width)]
        values = [_matrix(each, order)[1] for _, each in parts]
        rows = [values[i : i + len(keys)] for i in range(0, len(values), len(keys))]
        structs = [dict(zip(keys, row, strict=True)) for row in rows]
        value = structs[0] if count == 1 else structs
    else:
        value = None
    return bytes(name.astype(np.uint8)).decode(errors="replace"), value


def _numbers(kind: int, data: bytes, order: str) -> np.ndarray:
    return np.frombuffer(data, f"{order}{DTYPES[kind]}")


ORDERS = {b"IM": "<", b"MI": ">"}
HEADER_BYTES = 128
LARGEST_BYTES = 2**29  # of one variable
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"} | {
    16: "u1",  # UTF-8
    17: "u2",  # UTF-16
    18: "u4",  # UTF-32
}
MATRIX_ELEMENT, COMPRESSED = 14, 15
CELL, STRUCT, TEXT, NUMBERS = 1, 2, 4, range(6, 16)  # classes of matrices

_MAT_FAULTS = (
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)
