"""`python -m benchmarks.sequence VIEWS GAUSSIANS OUT [MICE]`: how steady the Gaussians of a walking mouse are.

VIEWS, GAUSSIANS: checkpoints of the two stages. OUT: a folder, where the films and videos stay, to be looked at. MICE:
the dataset that VIEWS was trained on, whose framing is measured where the checkpoint does not keep it.

A procedural mouse walks for 48 frames, filmed by the six cameras of the mouse rig. Its first camera's video is
reconstructed with another noise in every frame, as photos one by one would be; with the same noise; with the framing
smoothed; with one framing for all. The six cameras' scenes need no noise.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from pipeline.data.foreground import read_masks
from pipeline.data.mice.recording import write_walk
from pipeline.data.normalise.normalise import method_of, normalise
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.framing import Framing
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.recording import VIDEOS, convert, open_recording
from pipeline.data.scenes import open_dataset
from pipeline.pruning import Pruning
from pipeline.reconstruction.models import ViewsModel, load_gaussians, load_views
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.reconstruction.sequence.sequence import reconstruct_sequence
from pipeline.reconstruction.sequence.wanted import Wanted

FRAMES, SEED, WIDTH, SIZE = 48, 5, 288, 64
SMOOTH_SECONDS, MEASURED_ON = 0.12, 100

_WAYS: dict[str, tuple[str, Wanted]] = {
    "another noise in every frame": ("video", Wanted(fresh_noise=True)),
    "the same noise": ("video", Wanted()),
    f"the same noise, framing smoothed over {SMOOTH_SECONDS:g} s": ("video", Wanted(smooth=SMOOTH_SECONDS)),
    "the same noise, one framing": ("video", Wanted(world="fixed")),
    "six cameras, each frame's own world": ("scenes", Wanted()),
    "six cameras, one world": ("scenes", Wanted(world="fixed")),
}


def rows(views: ViewsModel, gaussians: Path, out: Path) -> list[dict[str, object]]:
    """A row for each way; what is in `out` already is not made again."""
    recording = out / "recording"
    if not recording.is_dir():
        write_walk(recording, FRAMES, WIDTH, SEED)
    sources = {"video": recording / VIDEOS / "0.mp4", "scenes": _scenes(recording, out)}
    reconstructor = Reconstructor(load_gaussians(gaussians), views)
    found = []
    for number, (name, (source, wanted)) in enumerate(_WAYS.items()):
        folder = out / f"{number}-{source}"
        for _ in reconstruct_sequence(sources[source], folder, reconstructor, wanted, Pruning(), Cutting()):
            pass
        found.append({"way": name} | _row(json.loads((folder / "sequence.json").read_text())["figures"]))
    return found


def _scenes(recording: Path, out: Path) -> Path:
    converted, scenes = out / "converted", out / "scenes"
    for _ in convert(open_recording(recording), converted, FramePlan(step=1, guard=0)):
        pass
    for _ in normalise(open_dataset(converted), scenes, method_of("zoom_exact", size=SIZE)):
        pass
    return scenes


def _row(figures: dict[str, Any]) -> dict[str, object]:
    flicker, jitter, framing = figures["flicker"], figures["jitter"], figures["framing"]
    before = framing["as_found"]
    return {
        "flicker": flicker["render"],
        "the source's": flicker["source"],
        "ratio": flicker["ratio"],
        "pairs": flicker["pairs"],
        "jitter, px": jitter["px"]["value"],
        "the source's, px": jitter["source_px"]["value"],
        "jitter, world": jitter["world"]["value"],
        "CV of counts": figures["counts"]["cv"]["value"],
        "framing's jitter, px": framing["used"]["centre_px"]["value"],
        "before smoothing": None if before is None else before["centre_px"]["value"],
    }


def _framed(views: ViewsModel, mice: Path | None) -> ViewsModel:
    """With the framing of its training set: its own, or measured."""
    if views.framing is not None or mice is None:
        return views
    scenes = open_dataset(mice, verify=False).split("train")[:MEASURED_ON]
    return replace(views, framing=Framing.measured(read_masks(scene)[0] for scene in scenes))


def main() -> None:
    views, gaussians, out, *mice = map(Path, sys.argv[1:])
    print(table(rows(_framed(load_views(views), mice[0] if mice else None), gaussians, out)))


if __name__ == "__main__":
    main()
