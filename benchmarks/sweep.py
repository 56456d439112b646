"""A whole sweep by its real command: time to the first report, and wall time over the steps it bought."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.data.mice.mice import write_mice
from sweeps.book.journal import Journal, Reported, SweepClosed, SweepOpened

REPEATS, SLOTS = 3, 2
SPACE = """
recipe: gslrm_tiny
fixed: {train.max_steps: 150, train.validate_every: 75, optim.warmup_steps: 10}
space: {optim.lr: {float: [1.0e-3, 2.0e-3]}}
sampler: {kind: random, seed: 0}
trials: {count: 4, concurrent: 2}
"""


def rows() -> list[dict[str, object]]:
    """Medians over whole sweeps of four trials, two at a time."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_mice(Path(folder) / "mice", scenes=12, size=64, rig="mouse_centred")
        (Path(folder) / "bench.yaml").write_text(SPACE)
        runs = [_run(Path(folder), root, number) for number in range(REPEATS)]
    units = {"to the first report": "s", "over its steps": "ratio", "of tracking after the last trial": "s"}
    return [
        {"what": f"sweep, {what}", "median": statistics.median(run[i] for run in runs), "unit": unit}
        for i, (what, unit) in enumerate(units.items())
    ]


def _run(folder: Path, root: Path, number: int) -> tuple[float, float, float]:
    home, name = folder / f"home{number}", f"bench{number}"
    command = [sys.executable, "-m", "mouselift", "sweep", "run", str(folder / "bench.yaml"), "--data", str(root)]
    started = time.time()
    environment = os.environ | {"MOUSELIFT_HOME": str(home)}
    subprocess.run([*command, "--name", name], check=True, env=environment, capture_output=True)
    ended = time.time()
    events = [event for _, event in Journal(home / "journal" / name).events()]
    reports = [event for event in events if isinstance(event, Reported)]
    opened = next(event for event in events if isinstance(event, SweepOpened))
    closed = next(event for event in events if isinstance(event, SweepClosed))
    last = {event.trial: event.metrics["time/train_seconds"] for event in reports}
    return reports[0].time - started, (closed.time - opened.time) / (sum(last.values()) / SLOTS), ended - closed.time
