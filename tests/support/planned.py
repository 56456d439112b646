"""Sweeps that follow a plan and never ran: a journal whose scene figures have effects that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sweeps.book.journal import Journal, Reported, State, SweepOpened, TrialClosed, TrialOpened, TrialProposed
from sweeps.book.record import PROTOCOL, TARGETS, SweepRecord, record_of
from sweeps.book.scene_figures import keep_scenes
from sweeps.space.space import SearchSpace, load_space

METRIC = "val/psnr_fg"
SPACE: dict[str, Any] = {
    "recipe": "gslrm_tiny",
    "fixed": {"train.max_steps": 100},
    "plan": {"kind": "one_factor", "seeds": [0, 1, 2]},
    "space": {"loss.ssim": {"choice": [0.0, 0.1]}, "loss.masked": {"choice": [False, True]}},
    "objective": {"metric": METRIC, "mode": "max"},
}
Effect = Callable[[Mapping[str, Any]], float]


def planned_space(folder: Path, **changes: Any) -> SearchSpace:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "question.yaml"
    path.write_text(yaml.safe_dump(SPACE | changes, sort_keys=False))
    return load_space(path)


def planned_sweep(
    folder: Path,
    space: SearchSpace,
    effect: Effect,
    scenes: int = 12,
    noise: float = 0.1,
    seed: int = 0,
    frames: bool = False,
    fails: tuple[int, ...] = (),
    end: State = State.FAIL,
    targets: Effect = lambda _: 0.0,
) -> SweepRecord:
    """effect: of a setting, in dB, on every scene. noise: sd in dB of what a training's seed does, and of what a scene
    does beside it. fails: numbers of trials that ended early, in the state `end`. targets: tells what a setting is
    measured on.
    """
    chance = np.random.default_rng(seed)
    of_scenes, of_seeds = chance.normal(20.0, 2.0, scenes), dict.fromkeys(space.plan.seeds, 0.0)
    of_seeds |= {one: float(chance.normal(0.0, 0.5)) for one in of_seeds}
    with Journal(folder / "question") as journal:
        journal.append(SweepOpened("question", "gslrm_tiny", space.as_plain(), {}, space.base.params))
        for number, params in enumerate(space.enqueued):
            journal.append(TrialProposed(number, params, f"f{number}"))
            tags = {PROTOCOL: "p" * 12, TARGETS: str(targets(params))}
            recipe = space.base.params | params
            journal.append(TrialOpened(number, f"r{number}", 1, params, recipe, f"f{number}", tags))
            training = effect(params) + of_seeds[params["train.seed"]] + chance.normal(0.0, noise)
            values = of_scenes + training + chance.normal(0.0, noise, scenes)
            name = space.objective.metric.removeprefix("val/")
            rows = [{"scene": f"s{i:03d}", name: float(value)} for i, value in enumerate(values)]
            rows = [row | ({"frame": float(i)} if frames else {}) for i, row in enumerate(rows)]
            if number in fails:
                journal.append(TrialClosed(number, end, "out of memory"))
                continue
            metrics = {space.objective.metric: float(values.mean())}
            journal.append(Reported(number, 100, metrics, scenes=keep_scenes(journal, rows)))
            journal.append(TrialClosed(number, State.COMPLETE))
    return record_of(Journal(folder / "question"), 1e9)
