"""How long a sweep still takes, about, and whether its budget holds that: from the steps that are left and the pace of
those that were made.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord, gpus_of
from sweeps.book.trial import Trial
from sweeps.errors import counted
from sweeps.space.budget import BY_BUDGET, Budget, Limit, Spent, options, words
from sweeps.space.words import follows_plan

# The tag with seconds of a step at the least, by a preflight; it counts until trials tell their own pace.
LEAST_STEP_SECONDS = "preflight.least_step_seconds"
_TELLING = 0.05  # of a trial's steps: before, the time is that of its beginning
_HOUR = 3600.0
_BUDGET = TypeAdapter(Budget)


def seconds_left_of(record: SweepRecord) -> float | None:
    """`seconds_left` of all that a record has."""
    busy = sum(one.busy_seconds for one in record.trials)
    return seconds_left(record.ledger, busy, sum(one.trial.steps_made for one in record.trials))


def seconds_left(ledger: Ledger, busy: float, steps: int) -> float | None:
    """Seconds until the sweep ends, about; None where it does not run, and before its pace is known.

    busy: seconds from the opening of each trial to its last report, summed over trials that together made `steps`.
    Trials that run, and those that are to confirm others, are taken to run to their end; other ones that are not
    proposed yet, to run as long as those that ended.
    """
    left, longest = steps_left(ledger), max_steps(ledger)
    if ledger.state != State.RUNNING or not left or longest is None or steps < _TELLING * longest or busy <= 0:
        return None
    trials = len(ledger.open) + _unproposed(ledger)
    concurrent = ledger.space.get("trials", {}).get("concurrent", 1)
    return left * busy / steps / max(1, min(trials, concurrent))


def budget_of(ledger: Ledger) -> Budget:
    """What its latest session was given; a sweep of before there were budgets has none."""
    budget: Budget = _BUDGET.validate_json(json.dumps(ledger.space.get("budget", {})))
    return budget


def spent_of(ledger: Ledger, now: float | None = None) -> Spent:
    """What is spent over all sessions at `now` (unix seconds), while it runs; None: at its last event."""
    sessions, trials = ledger.spending.at(now)
    return Spent(sessions / _HOUR, gpus_of(ledger) * trials / _HOUR)


def cost_of_trial(ledger: Ledger, busy_seconds: float) -> float | None:
    """What the GPUs of a trial cost that was busy for so long; None where no price is known."""
    money = budget_of(ledger).money
    return None if money is None else gpus_of(ledger) * busy_seconds / _HOUR * money.per_gpu_hour


class Pace(NamedTuple):
    """Seconds of a step, with validations and checkpoints; and of the beginning of a trial, before its steps."""

    step: float
    beginning: float = 0.0

    def hours(self, steps: float, beginnings: int = 1) -> float:
        return (steps * self.step + beginnings * self.beginning) / _HOUR


def pace(ledger: Ledger) -> Pace | None:
    """As its trials have it; before they tell, the least by the preflight; None where that is not known, either."""
    spending, longest = ledger.spending, max_steps(ledger)
    telling = math.inf if longest is None else max(1.0, _TELLING * longest)
    if spending.later.steps >= telling:
        step = spending.later.seconds / spending.later.steps
        first = spending.first
        return Pace(step, max(0.0, first.seconds - first.steps * step) / max(1, first.stretches))
    if LEAST_STEP_SECONDS in ledger.tags:
        return Pace(float(ledger.tags[LEAST_STEP_SECONDS]))
    ended = [trial for trial in ledger.trials.values() if trial.state in (State.COMPLETE, State.PRUNED)]
    steps = sum(trial.steps_made for trial in ended)  # reports are so rare that a trial has one
    return Pace(sum(spending.trials[trial.number] for trial in ended) / steps) if steps >= telling else None


@dataclass(frozen=True)
class Shortage:
    """A bound of the budget within which a trial cannot end. needed: of it, by the trial; 0 where nothing is left."""

    limit: Limit
    needed: float = 0.0


def short_of(ledger: Ledger, steps: int, now: float | None, beside: Collection[int] = ()) -> Shortage | None:
    """What keeps a trial of so many steps from ending within the budget; None where it fits, as far as is known.

    beside: numbers of trials that have begun or are about to, and are taken to run to their end.
    """
    budget, spent = budget_of(ledger), spent_of(ledger, now)
    if (over := budget.exhausted(spent)) is not None:
        return Shortage(over)
    longest, known = max_steps(ledger), pace(ledger)
    if longest is None or known is None:
        return None
    hours, gpus = known.hours(steps), gpus_of(ledger)
    others = [ledger.trials[number] for number in beside]
    waiting = sum(trial.state != State.RUNNING for trial in others)
    promised = known.hours(sum(_steps_left_of(trial, longest) for trial in others), waiting)
    found = budget.short(spent, Spent(hours, gpus * hours), Spent(0.0, gpus * promised))  # hours pass for all at once
    return None if found is None else Shortage(*found)


def held_back(ledger: Ledger) -> Shortage | None:
    """What keeps every trial of a sweep at rest from beginning or going on; None where one can, or none is left."""
    longest = max_steps(ledger)
    if longest is None:
        return None
    left = [_steps_left_of(trial, longest) for trial in _going(ledger)] + [longest] * bool(_unproposed(ledger))
    short = [short_of(ledger, steps, None) for steps in left if steps]
    return None if not short or None in short else short[0]


def why(ledger: Ledger, short: Shortage, now: float | None = None) -> str:
    """The reason of a sweep that its budget ends: which bound, how much of it is spent, and what goes on with it."""
    return f"{lacking(ledger, short)} — `{raising(ledger, now)}` goes on with it"


def lacking(ledger: Ledger, short: Shortage) -> str:
    """Which bound of the budget, how much of it is spent, and what was not done for that."""
    said = f"{BY_BUDGET}{short.limit} are spent"
    if short.needed:
        said += f" and another trial takes about {short.needed:.2g}"
    return f"{said}, {_undone(ledger)}"


def raising(ledger: Ledger, now: float | None = None) -> str:
    """The command that goes on with a sweep within bounds that hold the rest of it, about."""
    larger = options(budget_of(ledger), spent_of(ledger, now), _rest(ledger))
    return f"mouselift sweep resume {shlex.quote(ledger.name)}{larger}"


def going_on(ledger: Ledger) -> str:
    """The command that goes on with a sweep that has ended before its time."""
    return raising(ledger) if held_back(ledger) else f"mouselift sweep resume {shlex.quote(ledger.name)}"


def spending_of(ledger: Ledger, now: float | None) -> dict[str, Any]:
    """What is spent of what, for programs: hours, gpu_hours, and money where a price is known."""
    limits = budget_of(ledger).limits(spent_of(ledger, now))
    return {one.name.lower().replace("-", "_"): {"spent": one.spent, "of": one.most} for one in limits}


def spending_in_words(ledger: Ledger, now: float | None) -> str:
    """`0.52 of 2 hours, 1.04 of 8 GPU-hours`; empty for a sweep without budget and price."""
    budget = budget_of(ledger)
    return words(budget, spent_of(ledger, now)) if budget.is_bounded or budget.money is not None else ""


def seconds_of_budget(ledger: Ledger, now: float) -> float | None:
    """Seconds until the budget of a running sweep is spent, with as many trials at a time as now; None without end."""
    spent, a_second = spent_of(ledger, now), Spent(1 / _HOUR, gpus_of(ledger) * ledger.count(State.RUNNING) / _HOUR)
    budget = budget_of(ledger)
    ends = [
        max(0.0, one.most - one.spent) / more.spent
        for one, more in zip(budget.limits(spent), budget.limits(a_second), strict=True)
        if one.most is not None and more.spent
    ]
    return min(ends, default=None) if ledger.state == State.RUNNING else None


def _rest(ledger: Ledger) -> Spent | None:
    """What the rest of a sweep needs, about; None where no pace is known."""
    steps, known, going = steps_left(ledger), pace(ledger), _going(ledger)
    if steps is None or known is None:
        return None
    trials = len(going) + _unproposed(ledger)
    concurrent = max(1, min(ledger.space.get("trials", {}).get("concurrent", 1), trials))
    longest = max([_steps_left_of(trial, max_steps(ledger) or 0) for trial in going], default=0)
    if _unproposed(ledger):  # none of them begins that might not end
        longest = max_steps(ledger) or 0
    every, one = known.hours(steps, trials), known.hours(longest)
    return Spent(max(every / concurrent, one), gpus_of(ledger) * max(every, one))


def _undone(ledger: Ledger) -> str:
    """`3 of 8 trials not begun and 2 not ended`."""
    going = _going(ledger)
    begun, planned = sum(trial.begun for trial in going), counted(ledger.planned, "trial")
    idle = len(going) - begun + _unproposed(ledger)
    if not begun:
        return f"{idle} of {planned} not begun"
    return f"{idle} of {planned} not begun and {begun} not ended" if idle else f"{begun} of {planned} not ended"


def steps_left(ledger: Ledger) -> float | None:
    """Optimizer steps that are still to be made, about; None where the journal does not say how long a trial is."""
    longest = max_steps(ledger)
    if longest is None:
        return None
    ended = [trial.last_step for trial in ledger.searching if trial.state in (State.COMPLETE, State.PRUNED)]
    expected = sum(ended) / len(ended) if ended else longest
    running = sum(_steps_left_of(trial, longest) for trial in _going(ledger))
    whole = ledger.to_confirm  # ASHA ends none of these
    return running + whole * longest + (_unproposed(ledger) - whole) * expected


def max_steps(ledger: Ledger) -> int | None:
    """Optimizer steps of a trial that is not stopped early."""
    found = ledger.params.get("train.max_steps")
    return None if found is None else int(found)


def _going(ledger: Ledger) -> list[Trial]:
    """Trials that have no end of their own: a resumed sweep goes on with them."""
    return [trial for trial in ledger.trials.values() if not trial.state.is_final]


def _steps_left_of(trial: Trial, longest: int) -> int:
    return max(0, longest - max(0, trial.last_step))


def _unproposed(ledger: Ledger) -> int:
    if follows_plan(ledger.space) and ledger.next_number >= len(ledger.space["enqueue"]):
        return 0  # runs of a plan that repeat another are no trials
    return ledger.to_search + ledger.to_confirm
