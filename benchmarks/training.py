"""GS-LRM's training step and the loader, on procedural mice."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from pipeline.data.loader import Loader
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from pipeline.recipes import load_recipe
from pipeline.training.loop import train

STEPS, REPEATS = 60, 3


def rows() -> list[dict[str, object]]:
    """Medians: one training step of gslrm_tiny, batches from a warm cache, and scenes decoded into a cold one."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_mice(Path(folder) / "mice", scenes=12, size=128, rig="mouse_centred")
        return [
            _step(root, Path(folder)),
            {"what": "loader, warm cache", "median": _batches(root, Path(folder)), "unit": "scenes/s"},
            {"what": "loader, cold cache (128 px PNG)", "median": _decode(root, Path(folder)), "unit": "scenes/s"},
        ]


def _step(root: Path, folder: Path) -> dict[str, object]:
    settings = [f"data.root={root}", f"train.max_steps={STEPS}", "train.report_every=20", "train.validate_every=60"]
    recipe = load_recipe("gslrm_tiny", settings)
    times = [
        report.metrics["time/step_seconds"]
        for _ in range(REPEATS)
        for report in train(recipe, folder / "work", cache=folder / "cache")
        if report.step > 1
    ]
    what = f"gslrm_tiny training step, {torch.get_num_threads()} threads"
    return {"what": what, "median": statistics.median(times), "unit": "s"}


def _batches(root: Path, folder: Path) -> float:
    recipe = load_recipe("gslrm_tiny")
    loader = Loader(open_dataset(root), "train", recipe.data, folder / "cache")
    return _rate(lambda: [loader.training_batch(step, 4).to("cpu") for step in range(25)], 100)


def _decode(root: Path, folder: Path) -> float:
    recipe = load_recipe("gslrm_tiny")
    dataset = open_dataset(root)
    caches = iter(range(REPEATS))
    return _rate(lambda: Loader(dataset, "train", recipe.data, folder / f"cold{next(caches)}"), len(dataset.scenes))


def _rate(work: object, scenes: int) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return scenes / statistics.median(times)
