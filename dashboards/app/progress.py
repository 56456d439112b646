"""How far a sweep is, and when it will have ended, by what its trials took so far. Pure."""

from __future__ import annotations

import statistics
from typing import Any

from sweeps.book.journal import State
from sweeps.book.record import SweepRecord, TrialRecord

MAX_STEPS = "train.max_steps"


def progress(record: SweepRecord, interrupted: bool) -> dict[str, Any]:
    """Counts of trials by state, the share that is done, and the seconds that are left with what they rest on."""
    ledger = record.ledger
    counts = {state.value: ledger.count(state) for state in State}
    planned = max(ledger.planned, len(ledger.trials))
    ended = [one for one in record.trials if one.trial.state.is_final]
    state = "INTERRUPTED" if interrupted else ledger.state.value
    begun = sum(number for name, number in counts.items() if name != State.WAITING)
    counts["WAITING"] = 0 if ledger.state == State.COMPLETE else max(0, planned - begun)
    shares = [1.0 if one.trial.state.is_final else share(one) for one in record.trials]
    left, rests = _left(record, ended, planned) if state == State.RUNNING else (None, "")
    return {
        "state": state,
        "counts": counts,
        "planned": planned,
        "ended": len(ended),
        "done": 1.0 if state == State.COMPLETE else min(1.0, sum(shares) / max(1, planned)),
        "seconds_left": left,
        "rests_on": rests,
    }


def share(one: TrialRecord) -> float:
    """How much of its steps a trial has done, up to 1."""
    steps = one.recipe_params.get(MAX_STEPS)
    if not isinstance(steps, int | float) or not steps:
        return 0.0
    return min(1.0, max(0, one.trial.last_step) / steps)


def _left(record: SweepRecord, ended: list[TrialRecord], planned: int) -> tuple[float | None, str]:
    """The mean time of a trial that has ended, for each that has not, shared among those that run."""
    took = [one.busy_seconds for one in ended if one.busy_seconds > 0]
    running = [one for one in record.trials if one.trial.state == State.RUNNING]
    if took:
        each, rests = statistics.fmean(took), f"the mean of {len(took)} trial{'s'[: len(took) != 1]} that ended"
    else:
        paced = [one.busy_seconds / share(one) for one in running if share(one) > 0 and one.busy_seconds > 0]
        if not paced:
            return None, ""
        each, rests = statistics.fmean(paced), f"the pace of {len(paced)} running trial{'s'[: len(paced) != 1]}"
    waiting = planned - len(ended) - len(running)
    begun = sum(max(0.0, each - one.busy_seconds) for one in running)
    return (begun + max(0, waiting) * each) / max(1, len(running)), rests
