"""The best settings of a sweep, to be run again with several seeds: the first of many was also the luckiest."""

from __future__ import annotations

from typing import Any

from pipeline.recipe import LOCAL_PATHS
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.study import began_with
from sweeps.errors import SpaceError, counted
from sweeps.space.plan import SEED
from sweeps.space.space import SearchSpace
from sweeps.space.words import value as written


def with_the_best_of(space: SearchSpace, ledger: Ledger) -> SearchSpace:
    """The space with the best settings of a sweep as the runs of its plan, the best first.

    Raises SpaceError for a sweep over another recipe or objective, or over values that this space does not have, and
    for one with fewer finished trials than `plan.top`.
    """
    began, where = began_with(ledger), f"{space.name}: plan.of: {ledger.name}"
    if began.objective != space.objective:
        raise SpaceError(
            f"{where}: expected a sweep by {space.objective.metric}, got one by {began.objective.metric} — "
            "name another sweep, or its objective."
        )
    then, now = began.base.params, space.base.params
    for path in sorted(now.keys() - {*LOCAL_PATHS, *space.space, SEED}):
        if then.get(path) != now[path]:
            raise SpaceError(
                f"{where}: expected a sweep over {path} {written(now[path])}, got {written(then.get(path))} — "
                "name another sweep, or set that under fixed."
            )
    return space.running(_best(space, ledger, where))


def _best(space: SearchSpace, ledger: Ledger, where: str) -> list[dict[str, Any]]:
    """The settings of its best COMPLETE trials, each once."""
    found: list[dict[str, Any]] = []
    for trial in ledger.ranked:
        if trial.state == State.COMPLETE and trial.params not in found:
            found.append(trial.params)
    if len(found) < space.plan.top:
        raise SpaceError(
            f"{where}: expected {counted(space.plan.top, 'finished trial')}, got {len(found)} — lower plan.top, or let "
            "that sweep end."
        )
    best = found[: space.plan.top]
    for path, value in ((path, value) for one in best for path, value in one.items()):
        if path not in space.space or not space.space[path].contains(value):
            expected = space.space[path].described if path in space.space else "no such setting"
            raise SpaceError(
                f"{where}: expected {path} {expected}, got {written(value)} — give this sweep the same space."
            )
    return best
