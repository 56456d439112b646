"""The figures of each scene of a validation, kept beside the journal: what paired conclusions rest on.

A blob of JSON: {"scene": names, "frame": of the recording or null, then a list for each metric, null where a scene has
no such figure}. Input views are left out: no objective is measured on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sweeps.book.journal import Journal

SceneFigures = Mapping[str, float | str]  # of one scene: its `scene`, its `frame` where it has one, and its metrics
_DIGITS = 7
_SCENE, _FRAME = "scene", "frame"


@dataclass(frozen=True)
class Validated:
    """One metric of each scene. frames: of the recording; None where the scenes do not tell."""

    scenes: tuple[str, ...]
    frames: tuple[int, ...] | None
    values: Float[np.ndarray, " scene"]  # NaN where a scene has no such figure


def keep_scenes(journal: Journal, rows: Sequence[SceneFigures]) -> str:
    """Store the figures of a validation. Returns the blob's name. Raises NoRoomError when the disk has no room."""
    names = [name for name in rows[0] if name not in (_SCENE, _FRAME) and not name.startswith("input/")]
    columns = {_SCENE: [row[_SCENE] for row in rows], _FRAME: [_plain(row.get(_FRAME)) for row in rows]}
    columns |= {name: [_plain(row.get(name)) for row in rows] for name in names}
    return journal.keep("scenes.json", json.dumps(columns, separators=(",", ":")).encode())


def read_scenes(path: Path, metric: str) -> Validated | None:
    """One metric (`val/psnr`, say) of the scenes of a validation; None where it was not measured."""
    columns = json.loads(path.read_bytes())
    values = columns.get(metric.partition("/")[2])
    if values is None:
        return None
    frames = columns[_FRAME]
    told = None if None in frames else tuple(int(frame) for frame in frames)
    return Validated(tuple(columns[_SCENE]), told, np.array([math.nan if v is None else v for v in values], float))


def _plain(value: float | str | None) -> float | None:
    """A figure as JSON can hold it, in seven digits: float32 has no more."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
