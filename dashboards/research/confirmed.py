"""What a report says of the best of a search that ran again with other seeds."""

from __future__ import annotations

from collections.abc import Iterator

from dashboards.pages.markdown import code, table
from dashboards.research.texts import Texts
from dashboards.words import NONE, figure, trial_name
from sweeps.book.confirmations import Confirmed
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord
from sweeps.conclusions.confirmations import measured_differently, overlaps


def confirmed_lines(record: SweepRecord, told: Texts) -> Iterator[str]:
    """Who won by the means over other seeds, whether others come near, and what is missing."""
    ledger, found = record.ledger, record.ledger.confirmed
    if not found:
        ended = sum(trial.state.is_final for trial in ledger.trials.values() if trial.confirms is not None)
        yield told("confirmed_open", n=ended, all=ledger.planned - ledger.asked)
        return
    winner, first = found[0], min(found, key=lambda one: one.place)
    named = {"trial": trial_name(winner.trial), "found": figure(winner.found), "by_seeds": by_seeds(winner, told)}
    if winner.mean is None:
        yield told("confirmed_none")
    elif winner is first:
        yield told("confirmed_holds", **named)
    else:
        other = {"first": trial_name(first.trial), "first_found": figure(first.found)}
        yield told("confirmed_other", first_by_seeds=by_seeds(first, told), **other, **named)
    if near := [trial_name(one.trial) for one in found[1:] if overlaps(winner, one)]:
        yield told("confirmed_near", trials=", ".join(near))
    if unlike := measured_differently(record):
        yield told("confirmed_unlike", trials=unlike)
    if ledger.has_searched and len(ledger.top) < ledger.confirm.top:
        fewer = "confirmed_fewer_within" if ledger.is_bounded else "confirmed_fewer"
        yield told(fewer, n=len(ledger.top), all=ledger.confirm.top)


def by_seeds(one: Confirmed, told: Texts) -> str:
    """The mean with least, most and n, as far as they are known."""
    n = {"n": len(one.values), "seeds": one.seeds}
    if len(one.values) > 1:
        return told("by_seeds", mean=figure(one.mean), low=figure(min(one.values)), high=figure(max(one.values)), **n)
    return told("by_one_seed", mean=figure(one.mean), **n)


def confirmed_table(ledger: Ledger, told: Texts) -> str:
    """A row for each trial that was confirmed, the best mean first."""
    metric = "" if ledger.objective is None else ledger.objective.metric
    columns = [told("trial"), told("place"), told("there", metric=code(metric))]
    columns += [told(key) for key in ("mean", "least_most", "of_seeds")]
    rows = [
        [
            trial_name(one.trial),
            str(one.place),
            figure(one.found),
            figure(one.mean),
            _span(one),
            f"{len(one.values)} / {one.seeds}",
        ]
        for one in ledger.confirmed
    ]
    return table(columns, rows, numbers=(1, 2, 3, 4, 5), gap="")


def _span(one: Confirmed) -> str:
    return f"{figure(min(one.values))} – {figure(max(one.values))}" if len(one.values) > 1 else NONE
