"""Sixteen processes find a home empty, and use it at once."""

from __future__ import annotations

import sqlite3

import optuna
import pytest
from mlflow import MlflowClient

from sweeps.book.optuna_copy import open_storage
from sweeps.home import Home
from sweeps.tracking.mlflow_client import prepare_store
from tests.e2e.conftest import COMMAND, finish, stop
from tests.e2e.faults import commands
from tests.e2e.faults.invariants import check

PROCESSES = 14


def use(root: str, number: int) -> None:
    """What the first moments of a sweep ask of its home: a store, and a study."""
    home = Home.from_environment({"MOUSELIFT_HOME": root})
    prepare_store(home.tracking_uri)
    MlflowClient(home.tracking_uri).search_experiments()
    optuna.create_study(storage=open_storage(home), study_name=f"study-{number}")


@pytest.mark.faults
def test_sixteen_processes_on_an_empty_home(bench, note):
    hurt = bench(trials={"count": 1, "concurrent": 1, "cpus": 1}, fixed={"train.max_steps": 32})
    seat, root = hurt.seat, str(hurt.seat.home.root)
    hurt.start()
    other = seat.start(COMMAND, "sweep", "run", hurt.space, "--data", hurt.mice, "--name", "other", "--fresh")
    try:
        hurt.until(lambda: seat.home.root.exists(), "the home is there")
        many = [commands.FORKING.Process(target=use, args=(root, number)) for number in range(PROCESSES)]
        for process in many:
            process.start()
        assert commands.finish(*many) == [0] * PROCESSES
        assert hurt.finish() == 0, hurt.said
        done = finish(other)
        assert done.returncode == 0, done.stderr
    finally:
        stop(other)
    with sqlite3.connect(seat.home.root / "mlflow.db") as database:
        assert len(database.execute("SELECT * FROM alembic_version").fetchall()) == 1
    assert len(optuna.get_all_study_names(open_storage(seat.home))) == PROCESSES + 2
    assert check(seat, "other").wrong == []
    note("16 processes, two of them sweeps, start on an empty home at once", hurt.check(), "one migration; none fails")
