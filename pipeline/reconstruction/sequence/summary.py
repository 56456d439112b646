"""What `sequence.json` says: every frame, the one world of them all, and figures of how steady the sequence is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.cameras import Cameras
from pipeline.machine.version import VERSION
from pipeline.reconstruction.sequence import temporal
from pipeline.reconstruction.sequence.folder import Record
from pipeline.reconstruction.sequence.footage import Footage
from pipeline.reconstruction.sequence.temporal import Flicker, Measured
from pipeline.reconstruction.sequence.track import Crop, centres, log_sides

Matrix = Float[np.ndarray, "4 4"]


def summary(
    footage: Footage,
    plan: Mapping[str, Any],
    records: Sequence[Record],
    reference: Cameras,
    found: Sequence[Crop | None] | None,
    flicker: Flicker | None,
) -> dict[str, Any]:
    """Everything in plain values. found: the framing before it was smoothed or made one, where there was any.

    reference: the camera that the framed pictures are taken to come from. flicker: of a finished sequence.
    """
    worlds = _worlds(records, reference)
    frames = [_frame(record, world) for record, world in zip(records, worlds, strict=True)]
    unit, meaning = _world_of(footage, plan["world"])
    return {
        "source": str(footage.source),
        "kind": footage.kind,
        "fps": footage.fps,
        "software": f"mouselift {VERSION}",
        "plan": dict(plan),
        "world": {"kind": plan["world"], "unit": unit, "to_world": meaning},
        "finished": flicker is not None,
        "wanted": len(footage.numbers),
        "done": len(records),
        "failed": [record.number for record in records if record.failure is not None],
        "figures": None if flicker is None else figures(records, worlds, found, flicker),
        "frames": frames,
    }


def figures(
    records: Sequence[Record], worlds: Sequence[Matrix | None], found: Sequence[Crop | None] | None, flicker: Flicker
) -> dict[str, Any]:
    """Flicker, jitter and variation, each with its n."""
    places = [
        None if world is None else _moved(world, record.centre) for world, record in zip(worlds, records, strict=True)
    ]
    times = [record.time for record in records]
    crops = [record.crop for record in records]
    steadied = {
        "centre_px": _plain(temporal.jitter(centres(crops), times)),
        "log_side": _plain(temporal.jitter(log_sides(crops), times)),
    }
    before = None
    if found is not None:
        before = {
            "centre_px": _plain(temporal.jitter(centres(found), times)),
            "log_side": _plain(temporal.jitter(log_sides(found), times)),
        }
    return {
        "flicker": {
            "what": "mean |ΔI| of neighbouring frames in 0…1, over the animal, from the source's own camera",
            "render": flicker.made,
            "source": flicker.source,
            "ratio": flicker.ratio,
            "pairs": flicker.pairs,
        },
        "jitter": {
            "what": "RMS second difference of the Gaussians' centre in the one world, and where the source shows it; "
            "beside it that of the animal's centre of mass in the source's pictures",
            "world": _plain(temporal.jitter(_rows(places, 3), times)),
            "px": _plain(temporal.jitter(_rows([record.centre_px for record in records], 2), times)),
            "source_px": _plain(temporal.jitter(_rows([record.animal_px for record in records], 2), times)),
        },
        "counts": {
            "what": "standard deviation of the number of Gaussians over their mean",
            "cv": _plain(temporal.variation([record.count for record in records if record.count is not None])),
        },
        "framing": {
            "what": "RMS second difference of the framed square's centre and logarithmic side",
            "used": steadied,
            "as_found": before,
        },
    }


def crop_to_world(crop: Crop, mean: Crop, reference: Cameras) -> Matrix:
    """From the world of one framed square to that of the mean one: where the source's camera shows a point is kept.

    Exact in the plane through the origin that faces the reference camera, and elsewhere as far as perspective does not
    change over the animal's depth: the object is taken to stay at one distance, and to be as large as it looks.
    """
    scale = crop[2] / mean[2]
    shift_px = np.array([crop[axis] + crop[2] / 2 - mean[axis] - mean[2] / 2 for axis in (0, 1)]) / mean[2]
    distance = float(reference.centres.norm())
    focal = reference.fxfycxcy[:2].double().numpy() / reference.width
    axes = reference.c2w[:3, :2].double().numpy()  # right and down, in the world
    matrix = np.eye(4)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = axes @ (shift_px * distance / focal)
    return matrix


def _worlds(records: Sequence[Record], reference: Cameras) -> list[Matrix | None]:
    """Of each frame, from the PLY's world to the one of all; None where a frame failed."""
    crops = [record.crop for record in records if record.crop is not None]
    if not crops:
        return [None if record.to_source is None else np.array(record.to_source) for record in records]
    middle = np.mean([(left + side / 2, top + side / 2, math.log(side)) for left, top, side in crops], axis=0)
    side = math.exp(middle[2])
    mean = (float(middle[0]) - side / 2, float(middle[1]) - side / 2, side)
    return [None if record.crop is None else crop_to_world(record.crop, mean, reference) for record in records]


def _world_of(footage: Footage, world: str) -> tuple[str, str]:
    if footage.kind == "scenes":
        return "of the recording", "4×4 from a PLY's world to that of the recording, by the scenes' own notes"
    if world == "fixed":
        return "of the model", "one framing for all frames: every PLY lies in the one world"
    return "of the model", (
        "4×4 from a PLY's world to that of the mean framing: what the source's camera shows where, is kept, with the "
        "animal taken to stay at one distance"
    )


def _frame(record: Record, world: Matrix | None) -> dict[str, Any]:
    values = asdict(record)
    del values["to_source"]
    return values | {
        "file": None if record.failure is not None else f"frames/{record.number:06d}.ply",
        "to_world": None if world is None else world.tolist(),
    }


def _moved(matrix: Matrix, point: tuple[float, float, float] | None) -> tuple[float, ...] | None:
    return None if point is None else tuple((matrix[:3, :3] @ np.array(point) + matrix[:3, 3]).tolist())


def _rows(points: Sequence[Sequence[float] | None], axes: int) -> Float[np.ndarray, "frame axis"]:
    return np.array([(math.nan,) * axes if point is None else tuple(point) for point in points]).reshape(-1, axes)


def _plain(measured: Measured) -> dict[str, float | int | None]:
    return {"value": measured.value, "n": measured.n}
