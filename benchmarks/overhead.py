"""What a sweep costs beside its training: ours, stock Ray Tune with its MLflow callback, and Optuna with processes.

The same trials in all three: a GS-LRM of two layers that trains for so many steps and validates three times, eight
learning rates, two at a time, one thread each, MLflow in SQLite. Ideal is what the trials themselves took, measured in
them, over the two slots. `python -m benchmarks.overhead` runs it on short trials, `--seconds 60` on longer ones,
`--alone 16` ours alone on so many, `--many 1000` ours alone on trials that do next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from pipeline.data.mice.mice import write_mice
from sweeps.book.journal import Journal, Reported, TrialClosed
from sweeps.home import Home

SLOTS, TRIALS = 2, 8
RECIPE = """
base: gslrm_tiny
data: {image_size: 32, num_views: 5, num_input_views: 4, num_held_out_views: 1}
model: {dim: 32, head_dim: 16, num_layers: 2}
optim: {warmup_steps: 1}
"""
_STEPS_A_SECOND = 60  # about, of one thread
_SHORT = 5.0


def rows() -> list[dict[str, object]]:
    """Short trials, each way once."""
    return compare(_SHORT)


def compare(seconds: float, alone: int = 0) -> list[dict[str, object]]:
    """Trials of about so many seconds, each way in turn; or so many of ours alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_mice(root / "mice", scenes=7, size=32, rig="mouse_centred")
        steps = max(3, round(seconds * _STEPS_A_SECOND / 3) * 3)
        recipe = _recipe(root, steps, validate_every=steps // 3)
        ways: dict[str, Callable[[Path, Path], list[float]]] = {
            "mouselift": partial(_ours, count=alone or TRIALS),
            "Ray Tune + OptunaSearch + MLflowLoggerCallback": _stock("benchmarks.stock_ray"),
            "Optuna + processes + MLflow": _stock("benchmarks.stock_optuna"),
        }
        taken = list(ways.items())[: 1 if alone else None]
        found = [_row(name, way, root / str(index), recipe) for index, (name, way) in enumerate(taken)]
        return [found[0] | {"idle slot at the end, s": _idle(root / "0")}] if alone else found


def many(count: int) -> list[dict[str, object]]:
    """Ours on `count` trials of two steps: whether the last hundred cost more than the first, in time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_mice(root / "mice", scenes=7, size=32, rig="mouse_centred")
        space = _space(root, _recipe(root, 2, validate_every=2), count)
        process = _start(root, "mouselift", "sweep", "run", space, "--name", "many", "--data", root / "mice")
        memory: dict[int, float] = {}
        while process.poll() is None:
            memory.setdefault(_trials(root), _resident(process.pid))  # after the last, the report has its own needs
            time.sleep(1)
        assert process.returncode == 0
        times = [event.time for event in _events(root, "many") if isinstance(event, TrialClosed)]
        part = count // 10
        ends = {"first": part, "last": count}
        spans = {"first": times[part] - times[0], "last": times[-1] - times[-1 - part]}
        return [
            {
                "trials": f"the {word} tenth",
                "seconds a trial": span / part,
                "driver MiB at its end": memory[min(memory, key=lambda n: abs(n - ends[word]))],
            }
            for word, span in spans.items()
        ]


def _row(name: str, way: Callable[[Path, Path], list[float]], root: Path, recipe: Path) -> dict[str, object]:
    root.mkdir()
    began = time.perf_counter()
    trials = way(root, recipe)
    wall, ideal = time.perf_counter() - began, sum(trials) / SLOTS
    return {
        "way": name,
        "a trial, s": median(trials),
        "wall, s": wall,
        "ideal, s": ideal,
        "over ideal, s": wall - ideal,
        "wall / ideal": wall / ideal,
    }


def _ours(root: Path, recipe: Path, count: int) -> list[float]:
    data = recipe.parent / "mice"
    process = _start(root, "mouselift", "sweep", "run", _space(root, recipe, count), "--name", "ours", "--data", data)
    assert process.wait() == 0
    reports = [event for event in _events(root, "ours") if isinstance(event, Reported)]
    return list({event.trial: event.metrics["time/trial_seconds"] for event in reports}.values())


def _idle(root: Path) -> float:
    """Seconds, as a mean over the slots, in which a slot had no trial left while the other's last trial ran."""
    ends = sorted(event.time for event in _events(root, "ours") if isinstance(event, TrialClosed))
    return sum(ends[-1] - end for end in ends[-SLOTS:]) / SLOTS


def _stock(module: str) -> Callable[[Path, Path], list[float]]:
    def way(root: Path, recipe: Path) -> list[float]:
        process = _start(root, sys.executable, "-m", module, recipe, root, stdout=subprocess.PIPE)
        said, _ = process.communicate()
        assert process.returncode == 0
        return list(json.loads(said.splitlines()[-1]))

    return way


def _recipe(root: Path, steps: int, validate_every: int) -> Path:
    values = yaml.safe_load(RECIPE)
    values["train"] = {"max_steps": steps, "validate_every": validate_every, "max_val_scenes": 1}
    values["data"]["root"] = str(root / "mice")
    path = root / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _space(root: Path, recipe: Path, count: int) -> Path:
    values = {
        "recipe": str(recipe),
        "space": {"optim.lr": {"float": [1.0e-5, 1.0e-3], "log": True}},
        "sampler": {"kind": "random"},
        "trials": {"count": count, "concurrent": SLOTS, "cpus": 1},
        "pruning": {},
    }
    path = root / "space.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _start(root: Path, *words: Any, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    beside = Path(sys.executable).parent
    environment = os.environ | {
        "MOUSELIFT_HOME": str(root / "home"),
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    return subprocess.Popen(list(map(str, words)), env=environment, cwd=root, stdout=stdout, stderr=subprocess.DEVNULL)


def _journal(root: Path, name: str) -> Journal:
    return Journal(Home.from_environment({"MOUSELIFT_HOME": str(root / "home")}).journal(name))


def _events(root: Path, name: str) -> list[Any]:
    return [event for _, event in _journal(root, name).events()]


def _trials(root: Path) -> int:
    path = _journal(root, "many").path
    return path.read_bytes().count(b'{"kind": "TrialClosed"') if path.is_file() else 0


def _resident(pid: int) -> float:
    try:
        return psutil.Process(pid).memory_info().rss / 2**20
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    from benchmarks.tables import table

    asked = argparse.ArgumentParser()
    asked.add_argument("--seconds", type=float, default=_SHORT)
    asked.add_argument("--alone", type=int, default=0)
    asked.add_argument("--many", type=int, default=0)
    words = asked.parse_args()
    print(table(many(words.many) if words.many else compare(words.seconds, words.alone)))
