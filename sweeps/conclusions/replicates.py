"""The best settings of a sweep, to be run again with several seeds: the first of many was also the luckiest."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from pipeline.recipe import LOCAL_PATHS
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.study import began_with
from sweeps.book.trial import Trial
from sweeps.errors import SpaceError
from sweeps.space.plan import SEED
from sweeps.space.space import SearchSpace
from sweeps.space.words import value as written


def with_the_best_of(space: SearchSpace, ledger: Ledger) -> SearchSpace:
    """The space with the best settings of a sweep as the runs of its plan, the best first.

    Raises SpaceError for a sweep over another recipe, space or objective, and for one with fewer settings that came to
    their end than `plan.top`.
    """
    began, where = began_with(ledger), f"{space.name}: plan.of: {ledger.name}"
    if began.objective != space.objective:
        raise SpaceError(
            f"{where}: expected a sweep by {space.objective.metric}, got one by {began.objective.metric} — "
            "name another sweep, or its objective."
        )
    then, now = _asked(began), _asked(space)
    for path in sorted(then.keys() | now.keys(), key=lambda path: (not path.startswith("space."), path)):
        if then.get(path) != now.get(path):
            raise SpaceError(
                f"{where}: expected a sweep over {path} {written(now.get(path))}, got {written(then.get(path))} — "
                "name another sweep, or give this one the same space."
            )
    return space.running(_best(ledger, space, where))


def _asked(space: SearchSpace) -> dict[str, Any]:
    """What decides which settings a space has, by path: its recipe's values, and what is searched; seeds are left out.

    A file is compared by its content when trials run.
    """
    plain = space.as_plain()["space"]
    searched = {f"space.{path}": one for path, one in plain.items() if path != SEED}
    skipped = {*LOCAL_PATHS, *space.space, SEED}
    return searched | {path: value for path, value in space.base.params.items() if path not in skipped}


def _best(ledger: Ledger, space: SearchSpace, where: str) -> list[dict[str, Any]]:
    """The settings of its best COMPLETE trials within its constraints, each once: first those that it confirmed, in
    that order; then by what they reached, and of those that ran with several seeds by their mean.
    """
    values: dict[str, list[float]] = {}
    confirmed = [_key(ledger.trials[one.trial]) for one in ledger.confirmed if one.mean is not None]
    for trial in ledger.searching:
        if trial.state == State.COMPLETE and trial.best_value is not None and not ledger.unmet(trial):
            values.setdefault(_key(trial), []).append(trial.best_value)
    ranked = sorted(values, key=lambda key: fmean(values[key]), reverse=space.objective.mode == "max")
    best = list(dict.fromkeys([*confirmed, *ranked]))
    if len(best) < space.plan.top:
        within = " within its constraints" if ledger.is_bounded else ""
        raise SpaceError(
            f"{where}: expected {space.plan.top} settings with a finished trial{within}, got {len(best)} — lower "
            "plan.top, or let that sweep end."
        )
    return [json.loads(key) for key in best[: space.plan.top]]


def _key(trial: Trial) -> str:
    """Its settings without the seed, as JSON."""
    return json.dumps({path: value for path, value in trial.params.items() if path != SEED}, sort_keys=True)
