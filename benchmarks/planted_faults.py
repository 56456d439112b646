"""`python -m benchmarks.planted_faults [FOLDER]`: the gate on good sets and on sets with planted faults of ten sorts.

The sets stay in FOLDER, where one is named. They hold procedural mice, so that masks and cameras are exact.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.tables import table
from tests.support.planted_faults import FAULTS, MOUSE_RIG, RIGS, Shot, judged, photographed

SIZE = {MOUSE_RIG: 288}  # px; the animal is small in the real rig's pictures
USUAL = 160
FAULTY = (MOUSE_RIG, "FaceLift's ring")  # the rigs that faults are planted in
GOOD: dict[str, tuple[int, float, float]] = {  # scenes, share of the usual picture's size, of the usual animal's
    "four scenes": (4, 1.0, 1.0),
    "one scene": (1, 1.0, 1.0),
    "small animals": (3, 1.0, 0.4),
    "small pictures": (3, 0.5, 1.0),
    "large animals, cut off": (2, 1.0, 1.6),
}


def rows(keep: Path | None = None) -> list[dict[str, object]]:
    """A row a set. keep: the folder in which the sets stay."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        return [_row(*one, folder / f"{number:02d}") for number, one in enumerate(_sets())]


def _sets() -> Iterator[tuple[str, str, list[Shot]]]:
    """Each set's rig, what it is, and its scenes."""
    for rig in RIGS:
        for what, (scenes, size, scale) in GOOD.items():
            yield rig, f"good: {what}", photographed(rig, scenes, round(size * SIZE.get(rig, USUAL)), scale)
    for rig in FAULTY:
        shots = photographed(rig, 3, SIZE.get(rig, USUAL))
        for what, fault in FAULTS.items():
            yield rig, what, [fault(shot) for shot in shots]


def _row(rig: str, what: str, shots: Sequence[Shot], folder: Path) -> dict[str, object]:
    said = judged(shots, folder, rig)
    row: dict[str, object] = {"set": folder.name, "rig": rig, "what": what, "verdict": said.verdict}
    if said.geometry is None:
        return row | {"named": said.why.replace(f"{folder}/", "").partition(" — ")[0]}
    found = said.geometry
    views = found.views or tuple(one.view for one in found.unmeasured)
    row |= {"px, p95": found.reprojection_px_p95, "IoU": found.silhouette_iou}
    return row | {"views": found.measured_views, "tangents": found.tangents, "named": ", ".join(map(str, views))}


if __name__ == "__main__":
    print(table(rows(*map(Path, sys.argv[1:2]))))
