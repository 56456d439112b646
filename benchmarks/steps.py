"""Seconds of a recipe's training steps, by the code of whatever tree is on the path; `benchmarks.training` runs it.

A file of its own, so that it can be run on a commit that has none of it: `python steps.py RECIPE DATASET FOLDER`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

WARM_UP, WINDOW, STEPS = 10, 10, 50


def seconds(name: str, root: Path, folder: Path) -> Iterator[float]:
    """Means of WINDOW steps each, behind the first WARM_UP, in which kernels are compiled and frames decoded."""
    train = _loop().train
    settings = [
        f"data.root={root}",
        f"train.report_every={WINDOW}",
        "train.max_steps=1000",
        "train.validate_every=1000",
    ]
    recipe = importlib.import_module("pipeline.recipes").load_recipe(name, settings)
    for report in train(recipe, folder / "work", cache=folder / "cache"):
        if report.step > WARM_UP:
            yield report.metrics["time/step_seconds"]
        if report.step >= STEPS:
            return


def _loop() -> ModuleType:
    try:
        return importlib.import_module("pipeline.training.loop")
    except ModuleNotFoundError:
        return importlib.import_module("pipeline.train")  # its name until 2026-11-26


if __name__ == "__main__":
    sys.stdout.write(json.dumps(list(seconds(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))))
