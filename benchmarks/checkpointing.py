"""What checkpoints add to the time of training: written by a thread, as they are, and waited for, as they once were."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from pipeline.data.mice.mice import write_mice
from pipeline.files import size_of
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe
from pipeline.training.loop import train
from pipeline.training.saving import Reports

REPEATS = 3
LARGER = ("model.dim=512", "model.head_dim=64", "model.num_layers=12", "data.image_size=32")


def rows() -> list[dict[str, object]]:
    """Medians of runs that alternate: a step, and the seconds that each checkpoint between two steps adds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))  # a core is left to the thread that writes, as beside a GPU
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = write_mice(Path(folder) / "mice", scenes=12, size=64, rig="mouse_centred")
            return [
                _row("gslrm_tiny", Path(folder), root, 40, 8),
                _row("GS-LRM of 38 M weights", Path(folder), root, 12, 4, *LARGER),
            ]
    finally:
        torch.set_num_threads(threads)


def _row(what: str, folder: Path, root: Path, steps: int, every: int, *overrides: str) -> dict[str, object]:
    """Runs of so many steps and a last one, which has a validation and a checkpoint in all of them."""
    never, often = (_recipe(root, steps + 1, between, *overrides) for between in (steps + 1, every))
    found: dict[str, list[float]] = {"never": [], "thread": [], "waited": []}
    for _ in range(REPEATS):
        found["never"].append(_seconds(never, folder)[0])
        found["thread"].append(_seconds(often, folder)[0])
        with mock.patch.object(Reports, "ready", Reports.rest):
            seconds, step, size = _seconds(often, folder)
        found["waited"].append(seconds)
    median = {name: statistics.median(times) for name, times in found.items()}
    count = steps // every
    return {
        "what": f"{what}, a checkpoint every {every} steps",
        "MB": size / 1e6,
        "a step": step,
        "added, waited for": (median["waited"] - median["never"]) / count,
        "added, by a thread": (median["thread"] - median["never"]) / count,
        "unit": "s",
    }


def _recipe(root: Path, steps: int, checkpoint_every: int, *overrides: str) -> Recipe:
    counts = [f"train.max_steps={steps}", f"train.validate_every={steps}", f"train.checkpoint_every={checkpoint_every}"]
    fixed = [f"data.root={root}", "data.image_size=64", "optim.warmup_steps=1", "train.max_val_scenes=1"]
    return load_recipe("gslrm_tiny", [*fixed, *counts, *overrides])


def _seconds(recipe: Recipe, folder: Path) -> tuple[float, float, int]:
    """From the first step's report to the end of a run; a step; the bytes of a checkpoint."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        reports = train(recipe, Path(workdir), cache=folder / "cache")
        next(reports)
        began = time.perf_counter()
        *_, last = reports
        assert last.checkpoint is not None
        return time.perf_counter() - began, last.metrics["time/step_seconds"], size_of(last.checkpoint)
