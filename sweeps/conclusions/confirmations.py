"""What became of the best of a search when they ran again with other seeds, in sentences with n and spread."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.book.confirmations import Confirmed
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord
from sweeps.errors import counted


def sentences(record: SweepRecord) -> list[str]:
    """Who won, and how sure that is; what is still to come; what is missing. None where nothing is to be confirmed."""
    ledger = record.ledger
    if not ledger.confirm.is_made or ledger.objective is None:
        return []
    found = ledger.confirmed
    said = [who_won(found, ledger.objective.metric)] if found else [_nobody_yet(ledger)]
    if unlike := measured_differently(record):
        said.append(f"{unlike}: not measured as the best was, and compared as the search compared them.")
    return [*said, *_missing(ledger, found)]


def measured_differently(record: SweepRecord) -> str:
    """The trials that were confirmed and not measured as the first of them, by name; empty where there are none."""
    found = [record.trial(one.trial) for one in record.ledger.confirmed]
    return ", ".join(f"t{one.trial.number:04d}" for one in found if one.protocol != found[0].protocol)


def who_won(found: list[Confirmed], metric: str) -> str:
    """Of trials that were confirmed, the best first."""
    winner, first = found[0], min(found, key=lambda one: one.place)
    if winner.mean is None:
        return "No run with another seed came to its end, so the search decides."
    if winner is first:
        said = f"t{winner.trial:04d} was ahead in the search with {metric} {winner.found:.4g}, and stays so with other "
        said += f"seeds: {winner.by_seeds}."
    else:
        said = (
            f"t{first.trial:04d} was ahead in the search with {metric} {first.found:.4g}, by luck of its seed as far "
        )
        said += f"as is known: with others it has {first.by_seeds}. t{winner.trial:04d} is the best: {winner}."
    return f"{said}{_close(found)}"


def overlaps(one: Confirmed, other: Confirmed) -> bool:
    """Whether what two trials reached with their seeds lies apart at no value."""
    if not (one.values and other.values):
        return False
    return min(one.values) <= max(other.values) and min(other.values) <= max(one.values)


def _close(found: list[Confirmed]) -> str:
    """Others whose figures lie among those of the winner."""
    near = [f"t{one.trial:04d}" for one in found[1:] if overlaps(found[0], one)]
    return f" The seeds of {' and '.join(near)} reach as far: more of them may change the order." if near else ""


def _nobody_yet(ledger: Ledger) -> str:
    begun = any(trial.confirms is not None for trial in ledger.trials.values())
    if begun:
        return "The best are being confirmed: before each has ended with one other seed, the search decides."
    if ledger.has_searched and not ledger.top:
        return f"No trial of the search came to its end{_within(ledger)}, so none is confirmed."
    runs = counted(ledger.confirm.seeds, "other seed")
    return f"When the search has ended, its best {ledger.confirm.top} run again, each with {runs}."


def _missing(ledger: Ledger, found: list[Confirmed]) -> Iterator[str]:
    if ledger.has_searched and 0 < len(ledger.top) < ledger.confirm.top:
        few = f"{len(ledger.top)} of the {ledger.confirm.top} to confirm"
        yield f"{few}: no other trial of the search came to its end{_within(ledger)}."
    if found and found[0].seeds < ledger.confirm.seeds:
        yield f"{found[0].seeds} of {counted(ledger.confirm.seeds, 'seed')} so far."
    for trial in ledger.trials.values():
        if trial.confirms is not None and trial.state in (State.PRUNED, State.FAIL):
            why = f": {' '.join(trial.reason.split())}" if trial.reason else ""
            yield f"t{trial.number:04d}, which was to confirm t{trial.confirms:04d}, is {trial.state}{why}."
        elif trial.confirms is not None and trial.state == State.COMPLETE and (unmet := ledger.unmet(trial)):
            why = "; ".join(result.reason for result in unmet)
            yield f"t{trial.number:04d}, which confirms t{trial.confirms:04d}, breaks a constraint: {why}."


def _within(ledger: Ledger) -> str:
    return " within the constraints" if ledger.is_bounded else ""
