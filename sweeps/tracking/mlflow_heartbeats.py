"""Runs of sweeps of other homes in a shared MLflow: closed as KILLED when their heartbeat stays the same for too long.

How long is measured by our own clock between two looks, so that a clock which is wrong closes no run that lives.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import TypeAdapter, ValidationError

from pipeline.files import write_whole
from sweeps.book.journal import Event, Journal, RunOpened
from sweeps.errors import DamagedError, StudyError
from sweeps.home import Home
from sweeps.tracking.mlflow_client import mlflow_client, runs_of
from sweeps.tracking.mlflow_writer import HEARTBEAT

LONGEST_SILENCE_SECONDS = 900.0  # thirty heartbeats
_SEEN = "seen.json"


def close_silent(home: Home, clock: Callable[[], float] = time.time) -> list[str]:
    """Close as KILLED the RUNNING sweeps, with their trials, that have been silent too long; a line for each.

    Silent is a run whose heartbeat reads as it did when this home first looked, by `clock`.
    An MLflow that does not answer, or cannot be opened, is not waited for.
    """
    if not home.has_store:
        return []
    try:
        client = mlflow_client(home.tracking_uri)
        running = list(_running(client))
    except (MlflowException, StudyError):
        return []
    own = _own(home)
    strangers = [run for run in running if run.info.run_id not in own]
    now, before = clock(), _read(home)
    seen = {run.info.run_id: _first_seen(run, before, now) for run in strangers}
    _write(home, seen)
    return [_close(client, run) for run in strangers if now - seen[run.info.run_id][1] >= LONGEST_SILENCE_SECONDS]


def _running(client: MlflowClient) -> Iterator[Run]:
    """The sweeps' own runs, and trials whose sweep is over."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    where = "attributes.status = 'RUNNING' AND tags.`sweep.key` != ''"
    found = {run.info.run_id: run for run in runs_of(client, experiments, where)}
    for run in found.values():
        if run.data.tags.get("mlflow.parentRunId") not in found:
            yield run


def _close(client: MlflowClient, run: Run) -> str:
    reason = f"no heartbeat since {run.data.tags.get(HEARTBEAT, 'it began')}"
    where = f"attributes.status = 'RUNNING' AND tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    for trial in [*runs_of(client, [run.info.experiment_id], where), run]:
        word = "trial" if "trial.number" in trial.data.tags else "sweep"
        client.set_tag(trial.info.run_id, f"{word}.state", "KILLED")
        client.set_tag(trial.info.run_id, f"{word}.reason", reason)
        client.set_terminated(trial.info.run_id, "KILLED")
    return f"{run.data.tags.get('mlflow.runName', run.info.run_id)}: KILLED: {reason}"


def _own(home: Home) -> set[str]:
    """Runs of this home's sweeps: their journals say whether they live."""
    events = (event for folder in home.journals.glob("*") for event in _up_to_damage(Journal(folder)))
    return {event.run_id for event in events if isinstance(event, RunOpened)}


def _up_to_damage(journal: Journal) -> Iterator[Event]:
    """What can be read of a journal; that it is damaged is said of the sweep."""
    with contextlib.suppress(DamagedError):
        for _, event in journal.events():
            yield event


def _first_seen(run: Run, before: dict[str, tuple[str, float]], now: float) -> tuple[str, float]:
    beat = run.data.tags.get(HEARTBEAT, "")
    known = before.get(run.info.run_id)
    stands = known is not None and known[0] == beat and known[1] <= now  # a clock that was set back begins anew
    return known if known is not None and stands else (beat, now)


def _read(home: Home) -> dict[str, tuple[str, float]]:
    """Nothing where the file is missing or damaged: the silence is then measured from now."""
    try:
        return TypeAdapter(dict[str, tuple[str, float]]).validate_json((home.root / _SEEN).read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _write(home: Home, seen: dict[str, tuple[str, float]]) -> None:
    path: Path = home.root / _SEEN
    if not seen:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(seen))
