"""Samplers and schedulers on the grid that `benchmarks.search_table` recorded: `python -m benchmarks.search_replay`.

How many optimizer steps a sweep makes, over all its trials, until one of them is COMPLETE with a figure as good as the
best of the table, within a tolerance. A replayed sweep is a real one but for its training: its space comes by
`load_space`; driver, proposals, scheduler and journal are the product's. What a trial reports is read from the table,
at the nearest point of the grid. Trials run two at a time and report in turn, so that a seed always gives the same
sweep.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import search_table
from benchmarks.search_table import EVERY, FIXED, GRID, RECIPE, RUNGS, STEPS, Table
from benchmarks.tables import table
from pipeline.data.mice.mice import write_mice
from sweeps.book.journal import Journal, State, SweepOpened
from sweeps.home import Home
from sweeps.run.driver import Driver
from sweeps.run.scheduler import STOP
from sweeps.space.space import SearchSpace, load_space

SEEDS, CONCURRENT = 20, 2
MOST_STEPS = 100 * STEPS  # of a sweep; one that has not reached its goal by then counts with these
DRAWS = 10_000  # of the bootstrap over seeds
# Numbers that the committed spaces search as ranges. What those have as lists is a list here, too.
RANGES = ("optim.lr", "loss.alpha")
NO_ASHA: Mapping[str, Any] = {"kind": "none"}
ASHA: Mapping[str, Any] = {"kind": "asha", "grace_steps": EVERY, "reduction_factor": 3}
Grid = Mapping[str, tuple[float, ...]]
Point = tuple[float, ...]  # values in the order of the grid
Curve = tuple[float, ...]  # a figure at each of RUNGS


@dataclass(frozen=True)
class Search:
    """What a space says of its sampler, but for the seed, of its scheduler, and which paths it has as ranges."""

    sampler: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    ranges: tuple[str, ...] = RANGES


@dataclass(frozen=True)
class Rise:
    """The best figure of the COMPLETE trials is `value`, after so many steps and trials of the whole sweep."""

    value: float
    steps: int
    trials: int


SEARCHES = {
    f"{kind}{', ASHA' if scheduler is ASHA else ''}": Search({"kind": kind}, scheduler)
    for scheduler in (NO_ASHA, ASHA)
    for kind in ("random", "tpe", "gp")
}
TPE = {"kind": "tpe"}
# What else a space may say, beside random: how many draws come first, and where ASHA compares and how hard.
SETTINGS = {
    "random": SEARCHES["random"],
    **{f"tpe after {n} draws": Search(TPE | {"startup_trials": n}, NO_ASHA) for n in (5, 10, 20)},
    **{
        f"tpe, rungs from {grace}, one in {factor}": Search(
            TPE, ASHA | {"grace_steps": grace, "reduction_factor": factor}
        )
        for grace in (20, 40, 80)
        for factor in (2, 3, 4)
    },
}
# Lists alone: every proposal is a point of the grid, and one that repeats a point is not trained again.
LISTS = {name: Search({"kind": name}, NO_ASHA, ranges=()) for name in ("random", "tpe", "gp")}
TABLES = {"searches": SEARCHES, "settings": SETTINGS, "lists": LISTS}
DRAWN_FIRST = 10  # by tpe and gp, unless a space says otherwise
KNOWING = f"what knew the best after {DRAWN_FIRST} draws"


def main() -> None:
    asked, *metrics = sys.argv[1:] or ["searches"]
    recorded = search_table.read()
    if asked == "luck":
        print(table(luck(recorded)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for metric in metrics or search_table.METRICS:
            curves = curves_of(recorded, metric)
            goals = {name: goal(curves) for name, goal in GOALS.items()}
            found = {
                name: sweeps(search, metric, GRID, curves, range(SEEDS), max(goals.values()), Path(folder))
                for name, search in TABLES[asked].items()
            }
            for name, goal in goals.items():
                good = sum(max(curve) >= goal for curve in curves.values())
                print(f"\n{metric} of {goal:.4g}, {name}: {good} of {len(curves)} points have it\n")
                print(table(compared(found | {KNOWING: knowing(found["random"])}, goal)), flush=True)


def curves_of(recorded: Table, metric: str, seed: int = search_table.SEED) -> dict[Point, Curve]:
    """The figures of each point of the grid. Raises ValueError where the table lacks one: a hole would be a bias."""
    wanted = [search_table.key_of(setting, of) for setting, of in search_table.planned() if of == seed]
    lacking = sum(key not in recorded.curves for key in wanted)
    if lacking:
        raise ValueError(
            f"{search_table.TABLE}: expected {len(wanted)} points of seed {seed}, got {lacking} fewer — "
            "`python -m benchmarks.search_table WORK` goes on."
        )
    return {key[:-1]: recorded.curves[key][metric] for key in wanted}


def of_the_best(curves: Mapping[Point, Curve]) -> float:
    """99 % of the best figure of the table."""
    return 0.99 * max(map(max, curves.values()))


def of_the_best_tenth(curves: Mapping[Point, Curve]) -> float:
    """What one point in ten has: as hard for every figure, whatever its unit and whatever one lucky run reached."""
    ranked = sorted(map(max, curves.values()), reverse=True)
    return ranked[max(1, len(ranked) // 10) - 1]


GOALS = {"99 % of the best": of_the_best, "the best tenth": of_the_best_tenth}


def luck(recorded: Table) -> list[dict[str, object]]:
    """What figures of the table are worth. Of the points that both seeds trained: how far apart they lie, and the two
    figures of one point. Of all: how the order at a rung agrees with that of the best figures.
    """
    rows: list[dict[str, object]] = []
    for metric in search_table.METRICS:
        curves = np.array(list(curves_of(recorded, metric).values()))
        best = {key: max(found[metric]) for key, found in recorded.curves.items()}
        others = {key: (*key[:-1], float(search_table.OTHER_SEED)) for key in best if key[-1] == search_table.SEED}
        pairs = np.array([(best[key], best[other]) for key, other in others.items() if other in best])
        row = {"figure": metric, "points of both seeds": len(pairs)}
        row["SD over points"] = float(pairs.std(axis=0, ddof=1).mean())
        row["SD over seeds"] = float((pairs[:, 0] - pairs[:, 1]).std(ddof=1) / math.sqrt(2))
        row["order of both seeds"] = f"{spearmanr(pairs[:, 0], pairs[:, 1]).statistic:.2f}"
        for place, step in enumerate(RUNGS):
            row[f"order at {step}"] = f"{spearmanr(curves[:, place], curves.max(axis=1)).statistic:.2f}"
        rows.append(row)
    return rows


def sweeps(
    search: Search,
    metric: str,
    grid: Grid,
    curves: Mapping[Point, Curve],
    seeds: Sequence[int],
    goal: float,
    work: Path,
) -> list[list[Rise]]:
    """A sweep for each seed, until its goal is reached, in a home of its own below `work`."""
    mice = write_mice(work / "mice", scenes=4, size=32, rig="mouse_centred")  # nothing trains on them
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            home = Home.from_environment({"MOUSELIFT_HOME": folder})
            space = space_of(search, metric, grid, seed, Path(folder)).with_fixed({"data.root": str(mice)})
            found.append(replayed(space, home, lambda params: curves[nearest(params, grid, search.ranges)], goal))
    return found


def space_of(search: Search, metric: str, grid: Grid, seed: int, folder: Path) -> SearchSpace:
    """The space as a file says it. A range reaches beyond its outer points as far as they are the nearest."""
    written = {
        "recipe": RECIPE,
        "fixed": dict(FIXED),
        "space": {path: _range(at) if path in search.ranges else {"choice": at} for path, at in grid.items()},
        "objective": {"metric": metric, "mode": "max"},
        "sampler": {**search.sampler, "seed": seed},
        "scheduler": search.scheduler,
        "trials": {"count": MOST_STEPS // EVERY, "concurrent": CONCURRENT},
    }
    (folder / "space.yaml").write_text(json.dumps(written), encoding="utf-8")
    return load_space(folder / "space.yaml")


def nearest(params: Mapping[str, Any], grid: Grid, ranges: Sequence[str] = RANGES) -> Point:
    """The point of the grid that is nearest to a proposal, in the logarithm."""
    return tuple(
        min(values, key=lambda at: abs(math.log(at / params[path]))) if path in ranges else float(params[path])
        for path, values in grid.items()
    )


def replayed(space: SearchSpace, home: Home, curve_of: Callable[[Mapping[str, Any]], Curve], goal: float) -> list[Rise]:
    """One sweep until a COMPLETE trial reaches the goal, or MOST_STEPS are made, where the last of these stands."""
    rises = [Rise(-math.inf, 0, 0)]
    with Journal(home.journal(space.name)).claim() as journal:
        driver = Driver(journal, space, space.base, home, lambda _: None, _ended_early)
        driver.write(SweepOpened(space.name, space.recipe, space.as_plain(), {}, space.base.params))
        driver.take_up()
        for steps in _ends(driver, curve_of):
            best = driver.ledger.best
            done = best is not None and best.state == State.COMPLETE
            value = best.best_value if done else -math.inf
            rise = Rise(value, steps, len(driver.ledger.trials))
            if value > rises[-1].value:
                rises.append(rise)
            if value >= goal or steps >= MOST_STEPS:
                break
        driver.close(State.KILLED, "the replay has seen enough")
    return rises if rises[-1] == rise else [*rises, rise]


def _ends(driver: Driver, curve_of: Callable[[Mapping[str, Any]], Curve]) -> Iterator[int]:
    """Drive a sweep as Ray does; the optimizer steps of all its trials so far, whenever one of them has ended."""
    running: deque[tuple[SimpleNamespace, Iterator[tuple[int, float]]]] = deque()
    names = map(str, count())
    steps = 0
    while True:
        while len(running) < CONCURRENT and (config := driver.next_trial(name := next(names))) is not None:
            trial = SimpleNamespace(trial_id=name, config=config)
            driver.scheduler.on_trial_add(None, trial)
            driver.opened(name, config)
            running.append((trial, iter(zip(RUNGS, curve_of(config["params"]), strict=True))))
        if not running:
            return
        trial, reports = running.popleft()
        step, value = next(reports)
        steps += EVERY
        if _has_ended(driver, trial, step, value):
            yield steps
        else:
            running.append((trial, reports))


def _has_ended(driver: Driver, trial: Any, step: int, value: float) -> bool:
    """Whether a report is the trial's last, after the driver has heard it."""
    metric = driver.space.objective.metric
    result = {"step": step, metric: value}
    decision = driver.scheduler.on_trial_result(None, trial, result)
    driver.reported(trial.config["number"], step, {metric: value}, {}, {})
    if decision != STOP and step < RUNGS[-1]:
        return False
    driver.scheduler.on_trial_complete(None, trial, result)
    driver.ended(trial.trial_id, result, error=False)
    return True


def knowing(drawn: list[list[Rise]]) -> list[list[Rise]]:
    """No sampler that draws first can be faster: after its draws, the next trial has the best there is."""
    steps = (DRAWN_FIRST + 1) * STEPS
    best = Rise(math.inf, steps, DRAWN_FIRST + 1)
    return [[*(rise for rise in one if rise.steps < steps), best] for one in drawn]


def compared(found: Mapping[str, list[list[Rise]]], goal: float) -> list[dict[str, object]]:
    """A row a search: steps and trials until the goal, and how many times fewer steps than the first search's.

    Means over seeds; intervals of 95 % by a bootstrap of the seeds, the same ones for all searches.
    """
    first = next(iter(found.values()))
    return [_row(name, some, first, goal) for name, some in found.items()]


def _row(name: str, some: list[list[Rise]], first: list[list[Rise]], goal: float) -> dict[str, object]:
    steps, of_first = (np.array([_until(one, goal).steps for one in sweeps]) for sweeps in (some, first))
    drawn = np.random.default_rng(0).integers(len(steps), size=(DRAWS, len(steps)))
    means, ratios = steps[drawn].mean(1), of_first[drawn].mean(1) / steps[drawn].mean(1)
    return {
        "search": name,
        "reached": f"{sum(_until(one, goal).value >= goal for one in some)} of {len(some)}",
        "trials": f"{np.mean([_until(one, goal).trials for one in some]):.0f}",
        "steps": f"{steps.mean():,.0f} ({_interval(means, ',.0f')})",
        "times fewer": f"{of_first.mean() / steps.mean():.2f} ({_interval(ratios, '.2f')})",
    }


def _until(rises: Sequence[Rise], goal: float) -> Rise:
    """Where the goal was reached, or else the end of the sweep."""
    return next((rise for rise in rises if rise.value >= goal), rises[-1])


def _interval(values: np.ndarray, form: str) -> str:
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{low:{form}} to {high:{form}}"


def _range(values: Sequence[float]) -> dict[str, object]:
    half = math.sqrt(values[1] / values[0])
    return {"float": [values[0] / half, values[-1] * half], "log": True}


def _ended_early(state: State, reason: str) -> None:
    raise RuntimeError(f"expected a sweep to go on, got {state}: {reason}")


if __name__ == "__main__":
    main()
