"""The only reader: what the journal and MLflow know about sweeps, as small values.

`status` reads the journal, which is the truth about one sweep of this home; the others read MLflow, which has
the sweeps of everybody.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sweeps.book import ledger, mlflow_layout
from sweeps.book.delivery import delivered
from sweeps.book.journal import Journal
from sweeps.book.mlflow_client import mlflow_client
from sweeps.book.storage import open_storage
from sweeps.errors import StudyError
from sweeps.home import Home, is_made, store_file
from sweeps.run.resume import known
from sweeps.space.objective import Objective

_PAGE = 500


@dataclass(frozen=True)
class Sweep:
    """A sweep as its parent run tells it; `started` is unix seconds."""

    name: str
    recipe: str
    state: str
    started: float
    objective: Objective | None
    experiment_id: str
    run_id: str
    ui_path: str  # follows the address of `mouselift ui`


@dataclass(frozen=True)
class TrialRun:
    """A trial as its run tells it; `value` is the best objective, `step` where it was reached."""

    number: int
    state: str
    reason: str
    params: dict[str, Any]  # what the sampler chose
    value: float | None
    step: int | None
    metrics: dict[str, float]  # the last of each
    fingerprint: str
    run_id: str


def sweeps(uri: str) -> list[Sweep]:
    """Every sweep in the store, newest first."""
    if (file := store_file(uri)) is not None and not is_made(file):
        return []
    client = mlflow_client(uri)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    runs = _runs(client, list(names), "tags.`sweep.state` != ''")
    return [_sweep(run, names[run.info.experiment_id]) for run in runs]


def trials(uri: str, sweep: str) -> list[TrialRun]:
    """The trials of a sweep by number. Raises StudyError when the store has no such sweep."""
    return sorted(_trials(uri, sweep)[1], key=lambda trial: trial.number)


def leaderboard(uri: str, sweep: str) -> list[TrialRun]:
    """The trials of a sweep, the best objective first, those without one last. Raises StudyError."""
    objective, found = _trials(uri, sweep)
    sign = -1.0 if objective is not None and objective.mode == "max" else 1.0
    return sorted(found, key=lambda trial: (trial.value is None, sign * (trial.value or 0.0), trial.number))


def status(home: Home, sweep: str) -> dict[str, Any]:
    """What `mouselift sweep status --json` prints. Raises StudyError when this home has no such sweep.

    A sweep that nobody runs and nobody closed is INTERRUPTED; its open trials wait, like those not begun.
    """
    journal = Journal(home.journal(sweep))
    book = known(home, sweep)
    interrupted = book.state == "RUNNING" and not journal.is_being_written
    counts = {state.lower(): book.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
    counts["running"] = 0 if interrupted else book.count("RUNNING")
    counts["waiting"] = 0 if book.state == "COMPLETE" else max(0, book.planned - sum(counts.values()))
    return {
        "name": book.name,
        "state": "INTERRUPTED" if interrupted else book.state,
        "trials": counts,
        "best": _best(book),
        "reason": book.reason,
        "undelivered": sum(1 for _ in journal.events(delivered(journal))),
    }


def importance_of(home: Home, sweep: str) -> dict[str, float]:
    """`importance` in the study of a sweep of this home."""
    storage = open_storage(str(home.storage or home.optuna_journal))
    return importance(optuna.load_study(storage=storage, study_name=sweep))


def importance(study: optuna.Study) -> dict[str, float]:
    """How much each param decides the objective: sums to 1, largest first; empty while it is unclear."""
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return optuna.importance.get_param_importances(study)
        except UserWarning:  # too few trials: optuna would call all params equal
            return {}


def _best(book: ledger.Ledger) -> dict[str, Any]:
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


def _trials(uri: str, sweep: str) -> tuple[Objective | None, list[TrialRun]]:
    """The newest sweep of this name: its objective, and its trials in no particular order."""
    parent = next((found for found in sweeps(uri) if found.name == sweep), None)
    if parent is None:
        raise StudyError(f"{sweep}: expected a sweep in {uri}, got none — `mouselift sweep run` makes one.")
    client = mlflow_client(uri)
    children = _runs(client, [parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    return parent.objective, [_trial(child, parent.objective) for child in children]


def _runs(client: MlflowClient, experiments: list[str], where: str) -> Iterator[Run]:
    """Page by page, the newest first."""
    token: str | None = None
    while experiments:
        page = client.search_runs(experiments, where, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _sweep(run: Run, experiment: str) -> Sweep:
    tags = run.data.tags
    return Sweep(
        name=tags["sweep.name"],
        recipe=experiment,
        state=tags["sweep.state"],
        started=run.info.start_time / 1000,
        objective=mlflow_layout.objective_of(tags),
        experiment_id=run.info.experiment_id,
        run_id=run.info.run_id,
        ui_path=mlflow_layout.ui_path(run.info.experiment_id, tags["sweep.name"]),
    )


def _trial(run: Run, objective: Objective | None) -> TrialRun:
    tags, metrics = run.data.tags, run.data.metrics
    best = f"best/{objective.metric}" if objective is not None else ""
    return TrialRun(
        number=int(tags["trial.number"]),
        state=tags["trial.state"],
        reason=tags.get("trial.fail_reason" if tags["trial.state"] == "FAIL" else "trial.reason", ""),
        params=json.loads(tags["trial.params"]),
        value=metrics.get(best),
        step=int(metrics["best/step"]) if best in metrics else None,
        metrics=metrics,
        fingerprint=tags["fingerprint"],
        run_id=run.info.run_id,
    )
