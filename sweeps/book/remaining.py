"""How long a running sweep still takes, about: from the steps that are left and the pace of those that were made."""

from __future__ import annotations

from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord

_TELLING = 0.05  # of a trial's steps: before, the time is that of its beginning


def seconds_left_of(record: SweepRecord) -> float | None:
    """`seconds_left` of all that a record has."""
    trained = [one for one in record.trials if not one.trial.taken_from]
    busy = sum(one.busy_seconds for one in trained)
    return seconds_left(record.ledger, busy, sum(max(0, one.trial.last_step) for one in trained))


def seconds_left(ledger: Ledger, busy: float, steps: int) -> float | None:
    """Seconds until the sweep ends, about; None where it does not run, and before its pace is known.

    busy: seconds from the opening of each trial to its last report, summed over trials that together made `steps`.
    Trials that run are taken to run to their end; those that are not proposed yet, to run as long as those that ended.
    """
    left, longest = steps_left(ledger), max_steps(ledger)
    if ledger.state != State.RUNNING or not left or longest is None or steps < _TELLING * longest or busy <= 0:
        return None
    trials = len(ledger.open) + _unproposed(ledger)
    concurrent = ledger.space.get("trials", {}).get("concurrent", 1)
    return left * busy / steps / max(1, min(trials, concurrent))


def steps_left(ledger: Ledger) -> float | None:
    """Optimizer steps that are still to be made, about; None where the journal does not say how long a trial is."""
    longest = max_steps(ledger)
    if longest is None:
        return None
    ended = [trial.last_step for trial in ledger.trials.values() if trial.state in (State.COMPLETE, State.PRUNED)]
    expected = sum(ended) / len(ended) if ended else longest
    running = sum(max(0, longest - max(0, ledger.trials[number].last_step)) for number in ledger.open)
    return running + _unproposed(ledger) * expected


def max_steps(ledger: Ledger) -> int | None:
    """Optimizer steps of a trial that is not stopped early."""
    found = ledger.params.get("train.max_steps")
    return None if found is None else int(found)


def _unproposed(ledger: Ledger) -> int:
    return max(0, ledger.planned - len(ledger.trials))
