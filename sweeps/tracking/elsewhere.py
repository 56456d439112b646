"""Trials of other homes, by what MLflow has of them: records as those of this home's journals, without pictures."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import PROTOCOL, Point, SweepRecord, TrialRecord
from sweeps.book.trial import Trial
from sweeps.home import is_made, store_file
from sweeps.space.objective import Objective
from sweeps.tracking.mlflow_client import mlflow_client, runs_of
from sweeps.tracking.mlflow_layout import HOME_TAG

MOST = 200  # of the newest trials
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class TrialElsewhere:
    """A trial of another home, in a list. opened: unix seconds."""

    run_id: str
    sweep: str
    number: int
    recipe: str
    state: str
    protocol: str | None
    best: dict[str, float]  # by metric: what its sweep judges by
    opened: float


def is_number(text: str) -> bool:
    """Whether a text is a number of a trial, of a step or of a place, as an address or a tag may give it."""
    return re.fullmatch("[0-9]{1,12}", text) is not None


def trials_elsewhere(uri: str, own: Collection[str]) -> list[TrialElsewhere]:
    """The newest trials in the store, less those whose run ids are `own`."""
    if (file := store_file(uri)) is not None and not is_made(file):
        return []
    client = mlflow_client(uri)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    found: list[TrialElsewhere] = []
    for run in runs_of(client, list(names), "tags.`trial.number` != '' AND tags.`sweep.name` != ''"):
        if run.info.run_id not in own and is_number(run.data.tags["trial.number"]):
            found.append(_listed(run, names[run.info.experiment_id]))
        if len(found) == MOST:
            break
    return found


def record_elsewhere(uri: str, run_id: str) -> tuple[SweepRecord, TrialRecord] | None:
    """A trial with its figures, and its sweep as far as the trial tells; None where the run is none, or not there."""
    client = mlflow_client(uri)
    run = _run(client, run_id)
    tags = {} if run is None else run.data.tags
    if run is None or not is_number(tags.get("trial.number", "")) or tags.get("trial.state") not in list(State):
        return None
    objective = _objective(client, tags.get(_PARENT))
    metrics = {
        name: tuple(Point(one.step, one.value, one.timestamp / 1000) for one in client.get_metric_history(run_id, name))
        for name in sorted(run.data.metrics)
        if not name.startswith("best/")
    }
    trial = _trial(run, objective, metrics)
    opened, ended = run.info.start_time / 1000, run.info.end_time and run.info.end_time / 1000
    last = max((points[-1].time for points in metrics.values()), default=opened)
    described = tags | ({"data.digest": digest} if (digest := _digest(run)) else {})
    record = TrialRecord(
        trial,
        {key: _value(text) for key, text in run.data.params.items()},
        described,
        metrics,
        opened=opened,
        ended=ended,
        reason=trial.reason,
        busy_seconds=max(0.0, last - opened),
    )
    recipe = client.get_experiment(run.info.experiment_id).name
    name = tags.get("sweep.name", "")
    state = State.COMPLETE if trial.state.is_final else State.RUNNING
    book = Ledger(name, recipe, opened, state, objective=objective, trials={trial.number: trial}, last_event_time=last)
    return SweepRecord(book, (record,), ended, last), record


def home_of_run(uri: str, run_id: str) -> str | None:
    """The home of a trial's or a sweep's run, machine:folder; empty where the run does not say, None where the store
    has no such run.
    """
    client = mlflow_client(uri)
    run = _run(client, run_id)
    if run is None:
        return None
    parent = run.data.tags.get(_PARENT)
    sweep = run if parent is None else _run(client, parent)
    return "" if sweep is None else sweep.data.tags.get(HOME_TAG, "")


def _run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != _ABSENT:
            raise
    return None


def _listed(run: Run, recipe: str) -> TrialElsewhere:
    tags = run.data.tags
    best = {name: value for name, value in run.data.metrics.items() if name.startswith("best/") and name != "best/step"}
    return TrialElsewhere(
        run.info.run_id,
        tags["sweep.name"],
        int(tags["trial.number"]),
        recipe,
        tags.get("trial.state", ""),
        tags.get(PROTOCOL),
        {name.removeprefix("best/"): value for name, value in best.items()},
        run.info.start_time / 1000,
    )


def _objective(client: MlflowClient, parent: str | None) -> Objective | None:
    tags = client.get_run(parent).data.tags if parent is not None else {}
    metric, mode = tags.get("objective.metric"), tags.get("objective.mode")
    return Objective(metric, mode) if metric and mode in ("min", "max") else None


def _trial(run: Run, objective: Objective | None, metrics: dict[str, tuple[Point, ...]]) -> Trial:
    tags, figures = run.data.tags, run.data.metrics
    judged = metrics.get(objective.metric, ()) if objective is not None else ()
    best = figures.get(f"best/{objective.metric}") if objective is not None else None
    return Trial(
        int(tags["trial.number"]),
        attempt=int(tags["trial.attempt"]) if is_number(tags.get("trial.attempt", "")) else 1,
        state=State(tags["trial.state"]),
        reason=tags.get("trial.reason", "") or tags.get("trial.fail_reason", ""),
        run_id=run.info.run_id,
        last_step=max((points[-1].step for points in metrics.values()), default=-1),
        best_value=best,
        best_step=None if best is None else int(figures.get("best/step", 0)),
        last_value=judged[-1].value if judged else None,
        curve=tuple((point.step, point.value) for point in judged if math.isfinite(point.value)),
    )


def _digest(run: Run) -> str:
    """The first digits of the dataset's digest, which MLflow has as an input."""
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    return inputs[0].dataset.digest if inputs else ""


def _value(text: str) -> Any:
    """A param as it was before it was text."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text
