"""The files that viewers open: names of formats, and Gaussians written as each.

`ply` and `compressed` (SuperSplat's PLY) and `splat` hold the world as it is, Z-up. `spz` says in its description which
way its axes point (x right, y up, z back), so that the world is turned to stand upright in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import whole
from pipeline.gaussians import Gaussians
from pipeline.splatting import export

SUFFIXES = {"ply": ".ply", "splat": ".splat", "compressed": ".compressed.ply", "spz": ".spz"}


def require_formats(formats: Sequence[str]) -> None:
    """Refuse, before any work, what could not be written. Raises DataError, and MachineError for a missing library."""
    for name in formats:
        if name not in SUFFIXES:
            raise DataError(f"format: expected one of {', '.join(SUFFIXES)}, got {name!r} — name one of them.")
    if "spz" in formats:
        export.require_gsply()


def write_format(gaussians: Gaussians, path: Path, format: str, sh_degree: int | None = None) -> Path:
    """Write one scene to `path` in a format of `SUFFIXES`; the file appears whole. Returns `path`.

    sh_degree: of a `ply`, as `Gaussians.save_ply`. Raises DataError for a batch, and as `require_formats`.
    """
    require_formats([format])
    if gaussians.opacities.ndim != 1:
        shape = tuple(gaussians.opacities.shape)
        raise DataError(f"{path}: expected one scene, got a batch {shape} — index it first.")
    if format == "ply":
        gaussians.save_ply(path, sh_degree)
        return path
    with whole(path) as temporary:
        export.WRITERS[format](gaussians, temporary)
    return path
