"""Tags of trials' runs that are there to be columns of MLflow's runs table, which shows a tag as it is.

A param is shown with all its digits and cut off where the column ends, and MLflow's status knows no PRUNED.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sweeps.book.journal import State
from sweeps.book.record import SweepRecord, TrialRecord

OUTCOME = "trial.outcome"  # the state, with a sign that is told apart at a glance, and why
STEPS = "trial.steps"  # the last step that it reported
SIGNS = {
    State.WAITING: "…",
    State.RUNNING: "▶",
    State.COMPLETE: "✔",
    State.PRUNED: "✂",
    State.FAIL: "✘",
    State.KILLED: "■",
}
_FEWEST_DIGITS, _MOST_DIGITS = 2, 4


def trial_tags(record: SweepRecord) -> dict[int, dict[str, str]]:
    """The tags of each trial, by its number."""
    short = setting_tags(record)
    return {
        one.trial.number: {OUTCOME: outcome(one), STEPS: str(max(one.trial.last_step, 0))}
        | {path: texts[one.trial.number] for path, texts in short.items() if one.trial.number in texts}
        for one in record.trials
    }


def outcome(one: TrialRecord) -> str:
    """The state of a trial and its reason, in one line."""
    state, confirms = one.trial.state, one.trial.confirms
    why = ("" if confirms is None else f"confirms t{confirms:04d} ") + " ".join(one.reason.split())
    return f"{SIGNS[state]} {state}" + (f" {why}".rstrip() if why else "")


def setting_tags(record: SweepRecord) -> dict[str, dict[int, str]]:
    """Searched settings by path and by trial; but for a path that is the name of another tag of the sweep."""
    found = {}
    for path in record.ledger.searched:
        if path not in record.ledger.tags:
            tried = {one.trial.number: one.trial.params[path] for one in record.trials if path in one.trial.params}
            found[path] = dict(zip(tried, short_texts(list(tried.values())), strict=True))
    return found


def short_texts(values: Sequence[Any]) -> list[str]:
    """Each value as text; numbers with as few digits, two to four, as tell those apart that differ."""
    distinct = {value for value in values if isinstance(value, float)}
    digits = _FEWEST_DIGITS
    while digits < _MOST_DIGITS and len({f"{value:.{digits}g}" for value in distinct}) < len(distinct):
        digits += 1
    return [_text(value, digits) for value in values]


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value)
