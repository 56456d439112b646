"""A grid of real training runs, on which samplers and schedulers are tried: `python -m benchmarks.search_table WORK`.

`gslrm_tiny` at 32 pixels for 160 steps on procedural mice, each point of the grid once, then again with another
training seed, which shows what is luck. A run's row is appended whole to `search_table.csv` beside this file; the same
command goes on where it was stopped. WORK: a folder for mice and checkpoints. `benchmarks.search_replay` reads it.
"""

from __future__ import annotations

import csv
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.data.mice.mice import write_mice
from pipeline.recipes import load_recipe
from pipeline.training.fit import fit
from sweeps.book.journal import append_whole

TABLE = Path(__file__).with_suffix(".csv")
RECIPE = "gslrm_tiny"
SEED, OTHER_SEED = 777, 778
Setting = Mapping[str, float]
# Values of the first two are the same factor apart.
GRID: Mapping[str, tuple[float, ...]] = {
    "optim.lr": (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3),
    "loss.alpha": (0.2, 1.0, 5.0),
    "loss.ssim": (0.0, 0.1, 0.3),
    "optim.warmup_steps": (5, 20, 80),
}
STEPS, EVERY = 160, 20
RUNGS = tuple(range(EVERY, STEPS + 1, EVERY))
METRICS = ("val/psnr_fg", "val/psnr", "val/mask_iou")
MICE = {"scenes": 80, "size": 32, "rig": "mouse_centred", "seed": 1}  # 64 to train on, 8 that figures are of
FIXED = {
    "data.image_size": MICE["size"],
    "train.max_steps": STEPS,
    "train.validate_every": EVERY,
    "train.checkpoint_every": STEPS,
}
COLUMNS = (*GRID, "train.seed", *(f"{metric}@{step}" for metric in METRICS for step in RUNGS), "cpu_seconds")
Key = tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """What was recorded. curves: by setting, in the order of GRID, and seed; metric -> value at each of RUNGS."""

    curves: Mapping[Key, Mapping[str, tuple[float, ...]]]
    cpu_seconds: tuple[float, ...]


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    mice = write_mice(folder / "mice", **MICE)  # type: ignore[arg-type]
    for setting, seed in missing(TABLE):
        began = time.process_time()
        curves = _run(setting, seed, mice, folder)
        append(TABLE, setting, seed, curves, time.process_time() - began)


def planned() -> Iterator[tuple[Setting, int]]:
    """Every run in the order in which it is made: the grid at random, then again with the other seed."""
    settings = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    draw = random.Random(0)
    for seed in (SEED, OTHER_SEED):
        for setting in draw.sample(settings, len(settings)):
            yield setting, seed


def key_of(setting: Setting, seed: int) -> Key:
    return (*(float(setting[path]) for path in GRID), float(seed))


def read(path: Path = TABLE) -> Table:
    """The recorded rows. Raises ValueError for a row that is not whole, and KeyError for other columns."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{column: float(row[column]) for column in COLUMNS} for row in csv.DictReader(file)]
    curves = {tuple(row[path] for path in (*GRID, "train.seed")): _curves(row) for row in rows}
    if len(curves) < len(rows):
        raise ValueError(f"{path}: expected each run once, got {len(rows) - len(curves)} twice — remove them.")
    return Table(curves, tuple(row["cpu_seconds"] for row in rows))


def _curves(row: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    return {metric: tuple(row[f"{metric}@{step}"] for step in RUNGS) for metric in METRICS}


def missing(path: Path) -> list[tuple[Setting, int]]:
    """What is planned and not recorded. A last row that a kill has cut off is removed."""
    if not path.is_file():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    done = read(path).curves
    return [one for one in planned() if key_of(*one) not in done]


def _run(setting: Setting, seed: int, mice: Path, folder: Path) -> dict[str, list[float]]:
    """The figures of one run at each of RUNGS."""
    changes = FIXED | setting | {"train.seed": seed, "data.root": mice}
    recipe = load_recipe(RECIPE, [f"{path}={value}" for path, value in changes.items()])
    curves: dict[str, list[float]] = {metric: [] for metric in METRICS}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        for report in fit(recipe, Path(out), "cpu", {}, folder / "cache"):
            for metric in METRICS:
                if metric in report.metrics:
                    curves[metric].append(report.metrics[metric])
    return curves


def append(path: Path, setting: Setting, seed: int, curves: Mapping[str, list[float]], seconds: float) -> None:
    figures = [f"{value:.4f}" for metric in METRICS for value in curves[metric]]
    row = [*(f"{setting[path]:g}" for path in GRID), str(seed), *figures, f"{seconds:.2f}"]
    assert len(row) == len(COLUMNS), "every rung has a figure of each metric"
    with path.open("ab", buffering=0) as file:
        append_whole(file, (",".join(row) + "\n").encode())


if __name__ == "__main__":
    main()
