"""Gaussians: what GS-LRM makes, the renderer draws and a PLY file holds.

Values are always activated; logs and logits exist only inside the PLY functions and the model's heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.errors import DataError
from pipeline.files import write_whole

SH_C0 = 0.28209479177387814
_MIN_OPACITY = 1e-7  # keeps the logit finite: nearer to 0 or 1, float32 rounds to them
_PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4",
    "float": "<f4", "double": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2",
    "int32": "<i4", "uint32": "<u4", "float32": "<f4", "float64": "<f8",
}  # fmt: skip


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

    def pruned(
        self, min_opacity: float = 0.04, max_scale: float | None = None, bounds: Sequence[float] | None = None
    ) -> Gaussians:
        """Only the Gaussians worth keeping in one scene (no batch dimensions).

        min_opacity: more opaque than this; max_scale: largest standard deviation below this (world units);
        bounds: |x|, |y|, |z| at most these (world units). FaceLift writes PLYs with 0.04, 0.1, (0.91, 0.91, 1.0).
        """
        if self.opacities.ndim != 1:
            raise DataError(f"pruned: expected one scene, got a batch {tuple(self.opacities.shape)} — index it first.")
        keep: Bool[Tensor, " n"] = self.opacities > min_opacity
        if max_scale is not None:
            keep = keep & (self.scales.amax(-1) < max_scale)
        if bounds is not None:
            keep = keep & (self.means.abs() <= self.means.new_tensor(list(bounds))).all(-1)
        return self[keep]

    def save_ply(self, path: str | Path) -> None:
        """Write one scene as a binary PLY in the standard 3DGS layout (x y z, normals, f_dc, f_rest, opacity, …).

        Floats are stored as they are; opacity as a logit and scales as logs, as every 3DGS viewer expects.
        """
        if self.opacities.ndim != 1:
            raise DataError(
                f"save_ply: expected one scene, got a batch {tuple(self.opacities.shape)} — index it first."
            )
        columns = _ply_columns(self.detach().to("cpu").to(torch.float32))
        table = np.empty(self.count, dtype=[(name, "<f4") for name in columns])
        for name, column in columns.items():
            table[name] = column
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {self.count}"]
        header += [f"property float {name}" for name in columns] + ["end_header\n"]
        write_whole(Path(path), "\n".join(header).encode() + table.tobytes())

    @staticmethod
    def load_ply(path: str | Path) -> Gaussians:
        """Read one scene: the standard 3DGS layout or FaceLift's (colours among the floats, no normals).

        Raises DataError when the file is missing, cut short, or lacks a property.
        """
        table = _read_vertices(Path(path))
        names = table.dtype.names or ()

        def stack(wanted: Sequence[str]) -> Tensor:
            return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in wanted], -1))

        rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: int(name[7:]))
        required = ["x", "y", "z", *_numbered("f_dc", 3), "opacity", *_numbered("scale", 3), *_numbered("rot", 4)]
        missing = [name for name in required if name not in names]
        if missing or len(rest) % 3 or (1 + len(rest) // 3, 3) not in _SH_SHAPES:
            raise DataError(
                f"{path}: expected a 3DGS PLY; missing {missing or 'a whole set of f_rest'} — export it again."
            )
        sh = stack(_numbered("f_dc", 3))[:, None]
        if rest:
            coefficients = stack(rest).unflatten(-1, (3, -1)).mT
            padded = "nx" not in names
            sh = torch.cat([sh, coefficients[:, : _used_coefficients(coefficients)] if padded else coefficients], 1)
        return Gaussians(
            means=stack(["x", "y", "z"]),
            quats=stack(_numbered("rot", 4)),
            scales=stack(_numbered("scale", 3)).exp(),
            opacities=stack(["opacity"])[:, 0].sigmoid(),
            sh=sh,
        )


_SH_SHAPES = {((degree + 1) ** 2, 3) for degree in range(4)}


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


def _read_vertices(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: expected a PLY file, found none — check the path.")
    content = path.read_bytes()
    header, end, body = content.partition(b"end_header\n")
    lines = header.decode("ascii", errors="replace").split("\n")
    if not end or lines[0].strip() != "ply" or "format binary_little_endian 1.0" not in lines:
        raise DataError(f"{path}: expected a binary little-endian PLY — export it again.")
    elements = [line.split()[1:] for line in lines if line.startswith("element ")]
    properties = [line.split()[1:] for line in lines if line.startswith("property ")]
    if len(elements) != 1 or elements[0][0] != "vertex" or any(p[0] not in _PLY_TYPES for p in properties):
        raise DataError(f"{path}: expected one element, vertex, of plain numbers — export it as Gaussians, not a mesh.")
    dtype = np.dtype([(name, _PLY_TYPES[kind]) for kind, name in properties])
    count = int(elements[0][1])
    if len(body) < count * dtype.itemsize:
        raise DataError(
            f"{path}: expected {count * dtype.itemsize} bytes of vertices, got {len(body)} — it is cut short."
        )
    return np.frombuffer(body, dtype=dtype, count=count)
