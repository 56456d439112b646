"""A sweep that never ran, as its journal would have it: many trials, ASHA's rungs, every state; the same each time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipes import load_recipe
from sweeps.book.journal import (
    Event,
    Reported,
    RunOpened,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
    TrialProposed,
)
from sweeps.book.record import PROTOCOL, Recorder, SweepRecord

OPENED = 1_700_000_000.0
METRIC, MAX_STEPS, RUNGS, FACTOR = "val/psnr_fg", 1800, (200, 600, 1800), 3
SPACE = {
    "optim.lr": {"float": [1e-5, 1e-2], "log": True, "step": None, "when": {}},
    "optim.weight_decay": {"float": [0.0, 0.1], "log": False, "step": None, "when": {}},
    "loss.masked": {"choice": [True, False], "when": {}},
    "loss.background": {"float": [0.2, 1.0], "log": False, "step": None, "when": {"loss.masked": [True]}},
    "loss.ssim": {"choice": [0.0, 0.1, 0.2], "when": {}},
    "model.num_layers": {"int": [2, 12], "log": False, "step": None, "when": {}},
}


def recorded(trials: int = 1000, reports: int = 20, name: str = "recorded", **changed: Any) -> SweepRecord:
    """The record of such a sweep. changed: what `events` takes."""
    recorder = Recorder(Path("nowhere"))
    recorder.add(events(trials, reports, name, **changed))
    return recorder.record(OPENED + 86_400.0)


def write(folder: Path, trials: int = 1000, reports: int = 20, name: str = "recorded", **changed: Any) -> Path:
    """The same as a journal in `folder`, written at once: a `Journal` would sync each event to the disk."""
    folder.mkdir(parents=True)
    lines = (
        json.dumps({"kind": type(event).__name__, **asdict(event)})
        for event in events(trials, reports, name, **changed)
    )
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def events(
    trials: int, reports: int, name: str, image_sizes: tuple[int, ...] = (256,), is_closed: bool = True
) -> Iterator[Event]:
    """Events in time. Each trial reports `reports` times. image_sizes: two or more give as many protocols."""
    chance, clock = np.random.default_rng(0), OPENED
    base = dict(load_recipe("gslrm_tiny").params) | {"train.max_steps": MAX_STEPS, "train.validate_every": 100}
    scheduler = {"kind": "asha", "grace_steps": RUNGS[0], "reduction_factor": FACTOR}
    space = {
        "recipe": "gslrm_tiny", "fixed": {}, "space": SPACE, "objective": {"metric": METRIC, "mode": "max"},
        "sampler": {"kind": "tpe", "seed": 1, "startup_trials": 10}, "scheduler": scheduler,
        "trials": {"count": trials, "concurrent": 4, "gpus": 1.0}, "gates": {"test/psnr_fg": ">= 20"},
    }  # fmt: skip
    yield SweepOpened(name, "gslrm_tiny", space, {"data.name": "mice", "data.geometry": "exact"}, base, time=clock)
    yield RunOpened(None, f"{0:032x}", time=clock)
    rungs: dict[int, list[float]] = {step: [] for step in RUNGS}
    for number in range(trials):
        for event in _trial(
            number, reports, base | {"data.image_size": image_sizes[number % len(image_sizes)]}, rungs, chance
        ):
            clock += 1.0
            yield replace(event, time=clock)
    if is_closed:
        yield SweepClosed(State.COMPLETE, time=clock)


def _trial(
    number: int, reports: int, base: dict[str, Any], rungs: dict[int, list[float]], chance: np.random.Generator
) -> Iterator[Event]:
    params = _params(chance)
    tags = {PROTOCOL: f"{base['data.image_size']:012x}"}
    yield TrialProposed(number, params, f"print{number}")
    yield TrialOpened(number, f"ray{number}", 1, params, base | params, f"print{number}", tags)
    yield RunOpened(number, f"{number + 1:032x}")
    height = _height(params) + chance.normal(0, 0.15)
    end, state, reason = _end(number, height, rungs)
    for i in range(1, reports + 1):
        step = round(end * i / reports)
        yield Reported(number, step, _metrics(step, height, chance))
    yield TrialClosed(number, state, reason)


def _params(chance: np.random.Generator) -> dict[str, Any]:
    params: dict[str, Any] = {
        "optim.lr": float(10 ** chance.uniform(-5, -2)),
        "optim.weight_decay": float(chance.uniform(0, 0.1)),
        "loss.masked": bool(chance.integers(2)),
        "loss.ssim": [0.0, 0.1, 0.2][chance.integers(3)],
        "model.num_layers": int(chance.integers(2, 13)),
    }
    return params | ({"loss.background": float(chance.uniform(0.2, 1))} if params["loss.masked"] else {})


def _height(params: dict[str, Any]) -> float:
    """The objective that a trial would come to: the learning rate decides most, the weight decay nothing."""
    rate = math.log10(params["optim.lr"]) + 3.4
    return (
        22 - 1.2 * rate**2 + 1.6 * params["loss.masked"] + 0.12 * params["model.num_layers"] - 2 * params["loss.ssim"]
    )


def _end(number: int, height: float, rungs: dict[int, list[float]]) -> tuple[int, State, str]:
    if number % 37 == 5:
        return RUNGS[0], State.FAIL, "NonFiniteError: the loss is nan"
    for step in RUNGS[:-1]:
        value = _value(step, height)
        rungs[step].append(value)
        if value < np.quantile(rungs[step], 1 - 1 / FACTOR):
            return step, State.PRUNED, f"asha: {METRIC} {value:.4g} is among the weaker, at step {step} of {MAX_STEPS}"
    return MAX_STEPS, State.COMPLETE, ""


def _value(step: int, height: float) -> float:
    return 8 + (height - 8) * (1 - math.exp(-step / 300))


def _metrics(step: int, height: float, chance: np.random.Generator) -> dict[str, float]:
    value = _value(step, height) + float(chance.normal(0, 0.02))
    return {
        METRIC: value,
        "train/loss": 2.5 * math.exp(-value / 8) + float(chance.uniform(0, 0.02)),
        "train/grad_norm": float(chance.lognormal(-1, 0.4)),
        "time/step_seconds": float(chance.uniform(0.09, 0.12)),
    }
