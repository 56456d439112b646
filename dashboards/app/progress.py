"""How far a sweep is, and when it will have ended. Pure."""

from __future__ import annotations

from typing import Any

from pipeline.errors import counted
from sweeps.book.journal import State
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.book.remaining import seconds_left_of

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
    left = seconds_left_of(record) if state == State.RUNNING else None
    return {
        "state": state,
        "counts": counts,
        "planned": planned,
        "ended": len(ended),
        "done": 1.0 if state == State.COMPLETE else min(1.0, sum(shares) / max(1, planned)),
        "seconds_left": left,
        "rests_on": "" if left is None else f"the pace of {counted(begun, 'trial')}",
    }


def share(one: TrialRecord) -> float:
    """How much of its steps a trial has done, up to 1."""
    steps = one.recipe_params.get(MAX_STEPS)
    if not isinstance(steps, int | float) or not steps:
        return 0.0
    return min(1.0, max(0, one.trial.last_step) / steps)
