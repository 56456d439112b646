"""Questions about sweeps, answered as small values.

`status` reads the journal of one sweep of this home; `sweeps` reads MLflow, which also has the sweeps of other homes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweeps.book.delivery import undelivered
from sweeps.book.journal import Journal, State
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.errors import StudyError
from sweeps.home import Home, is_made, store_file
from sweeps.tracking.mlflow_client import mlflow_client, runs_of
from sweeps.tracking.mlflow_layout import ui_path


@dataclass(frozen=True)
class Sweep:
    """A sweep as its run in MLflow describes it."""

    name: str
    recipe: str
    state: str
    ui_path: str  # goes behind the address of `mouselift ui`


def sweeps(uri: str) -> list[Sweep]:
    """Every sweep in the store, newest first."""
    if (file := store_file(uri)) is not None and not is_made(file):
        return []
    client = mlflow_client(uri)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    found = []
    for run in runs_of(client, list(names), "tags.`sweep.state` != ''"):
        name, experiment = run.data.tags["sweep.name"], run.info.experiment_id
        found.append(Sweep(name, names[experiment], run.data.tags["sweep.state"], ui_path(experiment, name)))
    return found


def latest(home: Home) -> str:
    """The sweep of this home to which something happened last. Raises StudyError where there is none."""
    journals = [Journal(folder).path for folder in home.journals.glob("*") if folder.is_dir()]
    written = [path for path in journals if path.is_file() and path.stat().st_size]
    if not written:
        raise StudyError(f"{home.root}: expected a sweep, got none — begin one: `mouselift sweep run SPACE`.")
    return max(written, key=lambda path: path.stat().st_mtime).parent.name


def status(home: Home, sweep: str) -> dict[str, Any]:
    """What `mouselift sweep status --json` prints. Raises StudyError when this home has no such sweep.

    A sweep that is not closed and has no driver is INTERRUPTED; its open trials wait, like those not begun.
    """
    journal = Journal(home.journal(sweep))
    book = ledger_of(home, sweep)
    interrupted = book.state == State.RUNNING and not journal.is_being_written
    counts = {state.lower(): book.count(state) for state in State if state.is_final}
    counts["running"] = 0 if interrupted else book.count(State.RUNNING)
    counts["waiting"] = 0 if book.state == State.COMPLETE else max(0, book.planned - sum(counts.values()))
    return {
        "name": book.name,
        "state": "INTERRUPTED" if interrupted else book.state,
        "trials": counts,
        "best": _best(book),
        "reason": book.reason,
        "undelivered": undelivered(journal),
    }


def _best(book: Ledger) -> dict[str, Any]:
    best = book.best
    if best is None or book.objective is None:
        return {}
    return {
        "trial": best.number,
        "state": best.state,
        "metric": book.objective.metric,
        "value": best.best_value,
        "step": best.best_step,
        "params": best.params,
        "run_id": best.run_id,
    }
