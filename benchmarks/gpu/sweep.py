"""A sweep of six small trials, two to a GPU: what it takes from end to end, and how busy the GPU is meanwhile."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings
from sweeps.book.journal import Journal, Reported
from sweeps.book.ledger import read
from sweeps.home import Home

NAME = "utilisation"
FIXED = {
    "data.image_size": 128,
    "model.dim": 384,
    "model.num_layers": 6,
    "train.max_steps": 90,
    "train.validate_every": 30,
    "train.batch_size": 4,
    "optim.warmup_steps": 5,
    "train.precision": "bf16",
}
TOY = {
    "data.image_size": 32,
    "model.dim": 32,
    "model.head_dim": 16,
    "model.num_layers": 2,
    "train.precision": "fp32",
    "train.batch_size": 1,
}
EVERY_S = 0.25  # between two readings of the GPU's load


def utilisation(settings: Settings) -> Iterator[Row]:
    """Wall seconds of the command, the seconds of the trials that two slots shared, the GPU's mean load."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home.from_environment({"MOUSELIFT_HOME": str(Path(folder) / "home")})
        space = _space(settings, Path(folder) / "six.yaml")
        load = Load(settings.cuda)
        started = time.perf_counter()
        with load:
            done = _run(space, settings.data, home.root)
        wall = time.perf_counter() - started
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["nothing was said"]
            yield Row("the sweep", note=f"exit {done.returncode}: {said[-1]}")
            return
        journal = Journal(home.journal(NAME))
        states = [str(trial.state) for trial in read(journal).trials.values()]
        of_trials = _seconds(journal)
    yield Row(f"{len(states)} trials, from command to end", wall, "s", note=", ".join(sorted(states)))
    yield Row("trials themselves, by slot", of_trials / 2, "s")
    if load.trouble:
        yield Row("mean load of the GPU", note=load.trouble)
    elif load.readings:
        yield Row("mean load of the GPU", statistics.mean(load.readings), "%", len(load.readings), reference=27.0)


class Load:
    """Reads the GPU's load in a thread while a block of code runs."""

    def __init__(self, cuda: bool) -> None:
        self.readings: list[float] = []
        self.trouble = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read if cuda else self._ended.wait, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            from pynvml import NVMLError
        except ImportError:
            self.trouble = "not read: the package nvidia-ml-py is not there"
            return
        try:
            while not self._ended.wait(EVERY_S):
                self.readings.append(float(torch.cuda.utilization()))
        except (NVMLError, RuntimeError) as error:
            self.trouble = f"not read: {error}"


def _space(settings: Settings, path: Path) -> Path:
    count = 2 if settings.small else 6
    values = {
        "recipe": "gslrm_tiny",
        "fixed": FIXED | (TOY | {"train.max_steps": 6, "train.validate_every": 3} if settings.small else {}),
        "space": {"optim.lr": {"float": [2.0e-4, 1.0e-3], "log": True}},
        "scheduler": {"kind": "asha", "grace_steps": 3 if settings.small else 30, "reduction_factor": 3},
        "trials": {"count": count, "concurrent": 2, "gpus": 0.5 if settings.cuda else 0.0},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def _run(space: Path, data: Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MOUSELIFT_HOME": str(home)}
    words = ["sweep", "run", str(space), "--data", str(data), "--name", NAME]
    command = [sys.executable, "-m", "mouselift", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _seconds(journal: Journal) -> float:
    """The seconds of all trials together, each as its last report has them."""
    reports = [event for _, event in journal.events() if isinstance(event, Reported)]
    return sum({report.trial: report.metrics["time/trial_seconds"] for report in reports}.values())
