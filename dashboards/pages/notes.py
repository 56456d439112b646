"""Descriptions of a sweep and of its trials, Markdown, as MLflow shows them above a run's figures."""

from __future__ import annotations

from sweeps.book.record import SweepRecord
from sweeps.tracking.pages import Links


def sweep_note(record: SweepRecord, links: Links) -> str:
    """The sweep: its leaderboard, with links to the trials' runs."""
    rows = [
        f"| [t{one.trial.number:04d}]({links.run(one.trial.run_id)}) | {one.trial.state} | {one.trial.best_value} |"
        for one in record.ranked
        if one.trial.run_id is not None
    ]
    return "\n".join(["| trial | state | best |", "|---|---|---|", *rows[:10]])


def trial_note(record: SweepRecord, number: int, links: Links) -> str:  # noqa: ARG001
    """A trial: its state and why."""
    trial = record.trial(number).trial
    return f"{trial.state} {trial.reason}".strip()
