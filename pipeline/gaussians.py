"""Gaussians: what GS-LRM makes, the renderer draws and a PLY file holds.

Values are always activated; logs and logits exist only inside the PLY functions and the model's heads.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.files import write_whole
from pipeline.machine import contents

MAX_SH_DEGREE = 3
SH_C0 = 0.28209479177387814
_MIN_OPACITY = 1e-7  # keeps the logit finite: nearer to 0 or 1, float32 rounds to them
_PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_PLY_ORDERS: dict[str, Literal["<", ">", ""]] = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_PLY_HEADER = re.compile(rb"ply[ \t]*\r?\n(.*?)^end_header[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
_PLY_HEADER_BYTES = 1 << 20
_DIGITS = 18  # of a number of rows: more than any disk holds


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians, with any batch dimensions before N.

    means: world units; quats: wxyz, any length; scales: standard deviations in world units; opacities: 0…1;
    sh: [..., N, K, 3] with K = (degree + 1)², coefficient-major, RGB fastest (colour = 0.5 + SH_C0·sh[0] + …).
    Raises DataError when the shapes do not fit together.
    """

    means: Float[Tensor, "*batch n 3"]
    quats: Float[Tensor, "*batch n 4"]
    scales: Float[Tensor, "*batch n 3"]
    opacities: Float[Tensor, "*batch n"]
    sh: Float[Tensor, "*batch n k 3"]

    def __post_init__(self) -> None:
        lead = self.opacities.shape
        expected = {"means": (*lead, 3), "quats": (*lead, 4), "scales": (*lead, 3)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                came = tuple(getattr(self, name).shape)
                raise DataError(
                    f"gaussians: expected {name} {shape} beside opacities {tuple(lead)}, got {came} — give each "
                    "Gaussian one."
                )
        if self.sh.ndim != len(lead) + 2 or self.sh.shape[:-2] != lead or self.sh.shape[-2:] not in _SH_SHAPES:
            raise DataError(
                f"gaussians: expected sh {(*lead, 'K', 3)}, K of 1, 4, 9, 16; got {tuple(self.sh.shape)} — give all "
                "coefficients of a degree from 0 to 3."
            )

    @property
    def sh_degree(self) -> int:
        return int(self.sh.shape[-2] ** 0.5) - 1

    @property
    def count(self) -> int:
        return self.opacities.shape[-1]

    def __getitem__(self, index: object) -> Gaussians:
        """Index the leading dimensions, or, without a batch, the Gaussians themselves."""
        return Gaussians(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, *args: object) -> Gaussians:
        """The same Gaussians on another device or in another dtype."""
        return Gaussians(*(getattr(self, field.name).to(*args) for field in fields(self)))

    def detach(self) -> Gaussians:
        return Gaussians(*(getattr(self, field.name).detach() for field in fields(self)))

    def save_ply(self, path: str | Path, sh_degree: int | None = None) -> None:
        """Write one scene as a binary PLY in the standard 3DGS layout (x y z, normals, f_dc, f_rest, opacity, …).

        Floats are stored as they are; opacity as a logit and scales as logs, as every 3DGS viewer expects.
        sh_degree: of the file, up to 3 (default: the Gaussians' own); coefficients above their own are zeros. Loaders
        built on the first 3DGS code expect the 45 `f_rest` of degree 3. Raises DataError for a lower degree.
        """
        write_whole(Path(path), self.as_ply(sh_degree))

    def as_ply(self, sh_degree: int | None = None) -> bytes:
        """The content of the file that `save_ply` writes."""
        if self.opacities.ndim != 1:
            raise DataError(
                f"save_ply: expected one scene, got a batch {tuple(self.opacities.shape)} — index it first."
            )
        columns = _ply_columns(self._padded(sh_degree).detach().to("cpu").to(torch.float32))
        table = np.empty(self.count, dtype=[(name, "<f4") for name in columns])
        for name, column in columns.items():
            table[name] = column
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {self.count}"]
        header += [f"property float {name}" for name in columns] + ["end_header\n"]
        return "\n".join(header).encode() + table.tobytes()

    def _padded(self, sh_degree: int | None) -> Gaussians:
        if sh_degree is None or sh_degree == self.sh_degree:
            return self
        if not self.sh_degree < sh_degree <= MAX_SH_DEGREE:
            raise DataError(
                f"save_ply: expected a degree of {self.sh_degree} to {MAX_SH_DEGREE}, got {sh_degree} — the Gaussians "
                f"have degree {self.sh_degree}."
            )
        missing = (sh_degree + 1) ** 2 - self.sh.shape[-2]
        return replace(self, sh=F.pad(self.sh, (0, 0, 0, missing)))

    @staticmethod
    def load_ply(path: str | Path) -> Gaussians:
        """Read one scene: the standard 3DGS layout or FaceLift's (colours among the floats, no normals).

        The file is text or binary of either byte order, its columns and further elements in any order. Raises
        DataError when the file is missing, cut short, or lacks a property, and for a value that is not finite.
        """
        table = _read_vertices(Path(path))
        names = table.dtype.names or ()

        def stack(wanted: Sequence[str]) -> Tensor:
            with np.errstate(over="ignore"):  # too large a double is not finite in float32, and refused below
                return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in wanted], -1))

        count = sum(name.startswith("f_rest_") for name in names)
        rest = _numbered("f_rest", count)
        required = ["x", "y", "z", *_numbered("f_dc", 3), "opacity", *_numbered("scale", 3), *_numbered("rot", 4)]
        missing = [name for name in required if name not in names]
        if missing or count % 3 or (1 + count // 3, 3) not in _SH_SHAPES or not set(rest) <= set(names):
            raise DataError(
                f"{path}: expected a 3DGS PLY; missing {missing or 'a whole set of f_rest'} — {_remedy(names)}."
            )
        sh = stack(_numbered("f_dc", 3))[:, None]
        if rest:
            coefficients = stack(rest).unflatten(-1, (3, -1)).mT
            padded = "nx" not in names
            sh = torch.cat([sh, coefficients[:, : _used_coefficients(coefficients)] if padded else coefficients], 1)
        read = Gaussians(
            means=stack(["x", "y", "z"]),
            quats=stack(_numbered("rot", 4)),
            scales=stack(_numbered("scale", 3)).exp(),
            opacities=stack(["opacity"])[:, 0].sigmoid(),
            sh=sh,
        )
        _require_finite(Path(path), read)
        return read


_SH_SHAPES = {((degree + 1) ** 2, 3) for degree in range(MAX_SH_DEGREE + 1)}


def _numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}_{i}" for i in range(count)]


def _ply_columns(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Columns in the order of the original 3DGS files: f_rest is channel-major."""
    opacity = gaussians.opacities.double().clamp(_MIN_OPACITY, 1 - _MIN_OPACITY).logit().float()
    rest = gaussians.sh[:, 1:].mT.flatten(1)
    blocks: list[tuple[list[str], Tensor]] = [
        (["x", "y", "z"], gaussians.means),
        (["nx", "ny", "nz"], torch.zeros_like(gaussians.means)),
        (_numbered("f_dc", 3), gaussians.sh[:, 0]),
        (_numbered("f_rest", rest.shape[1]), rest),
        (["opacity"], opacity[:, None]),
        (_numbered("scale", 3), gaussians.scales.log()),
        (_numbered("rot", 4), gaussians.quats),
    ]
    return {name: block[:, i].numpy() for names, block in blocks for i, name in enumerate(names)}


def _used_coefficients(coefficients: Float[Tensor, "n k 3"]) -> int:
    """FaceLift pads every file (they lack normals) to degree 3 with zeros: the smallest degree that loses nothing."""
    return next(count for count in (0, 3, 8, 15) if not bool(coefficients[:, count:].any()))


def _require_finite(path: Path, gaussians: Gaussians) -> None:
    values = [getattr(gaussians, field.name).flatten(1) for field in fields(gaussians) if field.name != "opacities"]
    wrong = int((~torch.cat([*values, gaussians.opacities[:, None]], 1).isfinite().all(1)).sum())
    if wrong:
        raise DataError(
            f"{path}: expected finite numbers, got inf or nan in {wrong} of {gaussians.count} Gaussians — leave them "
            "out, and export it again."
        )


def _remedy(names: Sequence[str]) -> str:
    if "packed_position" in names:
        return "it is SuperSplat's compressed PLY; export it there as an uncompressed one"
    has_splat = any(name.startswith(("f_dc_", "scale_", "rot_")) for name in names)
    return "export it again" if has_splat else "it is a mesh or a cloud of points; export it as Gaussians"


@dataclass
class _Element:
    """A table of a PLY: how many rows it promises, and its columns, name and NumPy's type."""

    name: str
    count: int
    columns: list[tuple[str, str]] = field(default_factory=list)
    has_lists: bool = False  # its rows have no one length, so that nothing is found behind them

    def dtype(self, order: Literal["<", ">"]) -> np.dtype:
        return np.dtype(self.columns).newbyteorder(order)


def _read_vertices(path: Path) -> np.ndarray:
    """The element `vertex`. Nothing is allocated that the file does not hold."""
    if not path.is_file():
        raise DataError(f"{path}: expected a PLY file, found none — check the path.")
    content = path.read_bytes()
    header = _PLY_HEADER.match(content[:_PLY_HEADER_BYTES])
    if header is None:
        found = contents.described(path).partition(";")[0]
        raise DataError(
            f"{path}: expected a PLY, got {found.replace('a PLY file', 'one without a whole header')} — name a PLY."
        )
    order, elements = _read_header(path, header[1].decode("ascii", errors="replace"))
    body, before = memoryview(content)[header.end() :], 0
    for element in elements:
        if element.has_lists:
            break
        is_last = element is elements[-1]
        if element.name == "vertex" and element.columns:
            if order == "":
                return _text_table(path, bytes(body), before, element)
            return _binary_table(path, body[min(before, len(body)) :], element.dtype(order), element.count, is_last)
        before += element.count * (element.dtype(order).itemsize if order else len(element.columns))
    raise DataError(
        f"{path}: expected an element vertex of plain numbers, got elements "
        f"{', '.join(element.name for element in elements) or 'of no kind'} — export it as Gaussians, not a mesh."
    )


def _read_header(path: Path, text: str) -> tuple[Literal["<", ">", ""], list[_Element]]:
    """The order of bytes (none for text), and the elements as they follow each other."""
    order, elements = None, list[_Element]()
    for line in text.splitlines():
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", form, "1.0"] if form in _PLY_ORDERS and order is None:
                order = _PLY_ORDERS[form]
            case ["element", name, count] if count.isascii() and count.isdecimal():
                elements.append(_Element(name, int(count[:_DIGITS])))
            case ["property", kind, name] if elements and kind in _PLY_TYPES:
                elements[-1].columns.append((name, _PLY_TYPES[kind]))
            case ["property", "list", _, _, _] if elements:
                elements[-1].has_lists = True
            case _:
                raise DataError(f"{path}: expected the header of a PLY, got {line[:60]!r} — export it again.")
    names = [[column[0] for column in element.columns] for element in elements]
    if order is None or any(len(set(one)) < len(one) for one in names):
        raise DataError(f"{path}: expected a format, and each property once, got another header — export it again.")
    return order, elements


def _binary_table(path: Path, body: memoryview, dtype: np.dtype, count: int, is_last: bool) -> np.ndarray:
    held = len(body) // dtype.itemsize
    if held < count:
        raise DataError(f"{path}: expected {count} vertices, got {held} — it is cut short.")
    if is_last and held > count:
        raise DataError(f"{path}: expected {count} vertices as its header says, got {held} — export it again.")
    return np.frombuffer(body, dtype, count) if count else np.empty(0, dtype)


def _text_table(path: Path, body: bytes, before: int, element: _Element) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns where it finds no number
        try:
            numbers = np.fromstring(body, dtype=np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            raise DataError(f"{path}: expected numbers below its header, got other text — export it again.") from None
    columns = len(element.columns)
    numbers = numbers[before : before + element.count * columns]
    if len(numbers) < element.count * columns:
        raise DataError(f"{path}: expected {element.count} vertices, got {len(numbers) // columns} — it is cut short.")
    table = np.empty(element.count, [(name, np.float64) for name, _ in element.columns])
    for place, (name, _) in enumerate(element.columns):
        table[name] = numbers.reshape(element.count, columns)[:, place]
    return table
