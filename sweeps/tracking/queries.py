"""Questions about sweeps, answered as small values.

`status` reads the journal of one sweep of this home; `sweeps` reads MLflow, which also has the sweeps of other homes;
`known_sweeps` reads both.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sweeps.book.delivery import undelivered
from sweeps.book.journal import Journal, State
from sweeps.book.ledger import Ledger, ledger_of, read
from sweeps.book.record import record_of
from sweeps.book.remaining import seconds_left_of
from sweeps.errors import StudyError, cause
from sweeps.home import Home, is_made, is_served, store_file
from sweeps.tracking.mlflow_client import environment, mlflow_client, runs_of, shown
from sweeps.tracking.mlflow_layout import HOME_TAG, PLANNED_TAG, home_text, ui_path, view_key
from sweeps.tracking.pages import Links

UI_ADDRESS = "http://127.0.0.1:5000"  # of `mouselift ui`, unless it is told another
INTERRUPTED = "INTERRUPTED"
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@dataclass(frozen=True)
class Sweep:
    """A sweep as its journal, or its run in MLflow alone, describes it."""

    name: str
    recipe: str
    state: str
    ui_path: str  # goes behind the address of `mouselift ui`; empty where MLflow has no run of it
    home: str = ""  # machine:folder; empty where its run does not say
    began: float = 0.0  # unix seconds
    done: int | None = None  # trials that ended for good; None where MLflow does not say
    planned: int | None = None
    metric: str = ""  # the objective
    best: float | None = None
    data: str = ""
    run_id: str = ""

    def as_plain(self) -> dict[str, Any]:
        """What `mouselift sweep list --json` prints of it."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where MLflow's UI shows a sweep: on its server, or where `mouselift ui` serves it once it is called."""

    address: str
    links: Links
    view_key: str
    is_up: bool  # a server keeps the store

    def run(self, run_id: str) -> str:
        """The address of a run's page."""
        return f"{self.address}/{self.links.run(run_id)}"

    @property
    def sweep(self) -> str:
        """The address of the sweep's saved view."""
        return f"{self.address}/{self.links.sweep(self.view_key)}"


def sweeps(uri: str) -> list[Sweep]:
    """Every sweep in the store, newest first; `done` is not asked for."""
    if (file := store_file(uri)) is not None and not is_made(file):
        return []
    client = mlflow_client(uri)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    found = runs_of(client, list(names), "tags.`sweep.state` != ''")
    return [_of_run(run, names[run.info.experiment_id]) for run in found]


def known_sweeps(home: Home) -> tuple[list[Sweep], str]:
    """The sweeps of this home, by their journals, and those of others that its MLflow has; newest first.

    Beside them, why those of MLflow are not among them, where it does not answer at once.
    """
    own, trouble = [], ""
    in_store: dict[str, Sweep] = {}
    try:
        with environment(_IMPATIENT):
            in_store = {found.run_id: found for found in sweeps(home.tracking_uri)}
    except (MlflowException, StudyError) as error:
        trouble = f"MLflow at {shown(home.tracking_uri)}: {cause(error)}"
    for folder in home.journals.glob("*"):
        journal = Journal(folder)
        if journal.path.is_file() and (book := read(journal)).name:
            known = in_store.pop(book.run_id or "", None)
            own.append(_of_journal(home, journal, book, known))
    others = [_with_done(home, found) for found in in_store.values()]
    return sorted(own + others, key=lambda found: -found.began), trouble


def place_of(home: Home, book: Ledger) -> Place | None:
    """Where a sweep is seen; None where MLflow has no run of it, or does not answer at once."""
    if book.run_id is None or not home.has_store:
        return None
    try:
        with environment(_IMPATIENT):
            experiment = mlflow_client(home.tracking_uri).get_run(book.run_id).info.experiment_id
    except (MlflowException, StudyError):
        return None
    served = is_served(home.tracking_uri)
    address = home.tracking_uri.rstrip("/") if served else UI_ADDRESS
    return Place(address, Links(experiment), view_key(book.name), served)


def _of_run(run: Run, recipe: str) -> Sweep:
    tags, experiment = run.data.tags, run.info.experiment_id
    metric = tags.get("objective.metric", "")
    planned = tags.get(PLANNED_TAG)
    return Sweep(
        name=tags["sweep.name"],
        recipe=recipe,
        state=tags["sweep.state"],
        ui_path=ui_path(experiment, tags["sweep.name"]),
        home=tags.get(HOME_TAG, ""),
        began=run.info.start_time / 1000,
        planned=None if planned is None else int(planned),
        metric=metric,
        best=run.data.metrics.get(f"best/{metric}"),
        data=tags.get("data.name", ""),
        run_id=run.info.run_id,
    )


def _with_done(home: Home, found: Sweep) -> Sweep:
    """The sweep of another home with how many of its trials ended: its best has been written at each one's end."""
    if found.best is None:
        return found
    history = mlflow_client(home.tracking_uri).get_metric_history(found.run_id, f"best/{found.metric}")
    return replace(found, done=max((point.step for point in history), default=None))


def _of_journal(home: Home, journal: Journal, book: Ledger, known: Sweep | None) -> Sweep:
    """A sweep of this home. known: as MLflow has it."""
    best = book.best
    return Sweep(
        name=book.name,
        recipe=book.recipe,
        state=_state(journal, book),
        ui_path="" if known is None else known.ui_path,
        home=home_text(home.root),
        began=book.opened,
        done=book.ended,
        planned=book.planned,
        metric="" if book.objective is None else book.objective.metric,
        best=None if best is None else best.best_value,
        data=book.tags.get("data.name", ""),
        run_id=book.run_id or "",
    )


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
    ledger_of(home, sweep)
    journal = Journal(home.journal(sweep))
    record = record_of(journal, time.time())
    book = record.ledger
    state = _state(journal, book)
    interrupted = state == INTERRUPTED
    counts = {state.lower(): book.count(state) for state in State if state.is_final}
    counts["running"] = 0 if interrupted else book.count(State.RUNNING)
    counts["waiting"] = 0 if book.state == State.COMPLETE else max(0, book.planned - sum(counts.values()))
    return {
        "name": book.name,
        "state": state,
        "trials": counts,
        "best": _best(book),
        "reason": book.reason,
        "undelivered": undelivered(journal),
        "seconds_left": None if interrupted else seconds_left_of(record),
    }


def _state(journal: Journal, book: Ledger) -> str:
    """The sweep's state, or INTERRUPTED where it is not closed and no driver writes its journal."""
    interrupted = book.state == State.RUNNING and not journal.is_being_written
    return INTERRUPTED if interrupted else book.state


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
