"""The training steps of both stages and the loader, on procedural mice.

`python -m benchmarks.training --against COMMIT` compares the steps with those of another commit: each side in a process
of its own, one after the other, the order changing from turn to turn, so that a busy neighbour slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.data.loader import Loader
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from pipeline.recipes import load_recipe
from pipeline.training.loop import train

STEPS, REPEATS, TURNS = 60, 3, 5
RECIPES = ("gslrm_tiny", "mvdiffusion_tiny")
ROOT = Path(__file__).parents[1]


def rows() -> list[dict[str, object]]:
    """Medians: one training step of gslrm_tiny, batches from a warm cache, and scenes decoded into a cold one."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_mice(Path(folder) / "mice", scenes=12, size=128, rig="mouse_centred")
        return [
            _step(root, Path(folder)),
            {"what": "loader, warm cache", "median": _batches(root, Path(folder)), "unit": "scenes/s"},
            {"what": "loader, cold cache (128 px PNG)", "median": _decode(root, Path(folder)), "unit": "scenes/s"},
        ]


def against(commit: str, turns: int = TURNS) -> list[dict[str, object]]:
    """A row per recipe: medians of the steps of `commit` and of this tree, and this tree's over the commit's.

    The ratio is the median of one ratio a turn, told with the least and the greatest of them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        (folder / "before").mkdir()
        subprocess.run(["tar", "-x"], cwd=folder / "before", input=archive, check=True)
        root = write_mice(folder / "mice", scenes=12, size=128, rig="mouse_centred")
        return [_compared(recipe, folder, root, turns) for recipe in RECIPES]


def _compared(recipe: str, folder: Path, root: Path, turns: int) -> dict[str, object]:
    trees = {"before": folder / "before", "after": ROOT}
    medians: dict[str, list[float]] = {side: [] for side in trees}
    for turn in range(turns):
        for side in sorted(trees, reverse=turn % 2 == 0):
            medians[side].append(statistics.median(_steps_of(trees[side], recipe, root, folder / side / "run")))
    ratios = [after / before for before, after in zip(medians["before"], medians["after"], strict=True)]
    return {
        "what": f"{recipe} training step, {torch.get_num_threads()} threads",
        "before_s": statistics.median(medians["before"]),
        "after_s": statistics.median(medians["after"]),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
        "turns": turns,
    }


def _steps_of(tree: Path, recipe: str, root: Path, folder: Path) -> list[float]:
    """Seconds a step, by the code of `tree`, in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("steps.py")), recipe, str(root), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [float(seconds) for seconds in json.loads(done.stdout)]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="compare the steps with those of this commit")
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    table = against(arguments.against, arguments.turns) if arguments.against else rows()
    sys.stdout.write(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
