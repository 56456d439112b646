"""Parts of libraries that no documentation promises, and that a file here uses: what it relies on, per version.

tests/unit/test_house.py lists them. When one of these tests fails after an upgrade, the file it names has to change.
"""

import sqlite3
from importlib.metadata import version

import ray


def test_mlflow_makes_the_tables_of_a_new_database_file(tmp_path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{tmp_path}/new.db", (tmp_path / "artifacts").as_uri()).engine.dispose()
    tables = sqlite3.connect(tmp_path / "new.db").execute("SELECT name FROM sqlite_master").fetchall()
    assert {("alembic_version",), ("experiments",), ("runs",)} <= set(tables), f"mlflow {version('mlflow')}"


def test_ray_tune_keeps_a_trials_actor_in_its_temporary_state() -> None:
    from ray.tune.experiment import Trial

    state = Trial("trainable", stub=True).temporary_state
    assert state.ray_actor is None, f"ray {ray.__version__}"
