"""What we use of MLflow beyond its documented face, seen to hold in MLflow 3.17."""

from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore


def test_the_class_behind_a_database_makes_a_store_with_a_place_for_files(tmp_path):
    """`prepare_store` makes a store aside and renames it: MLflow's client finds it whole, and adds nothing to it."""
    aside, file, artifacts = tmp_path / "aside.db", tmp_path / "mlflow.db", (tmp_path / "artifacts").as_uri()
    SqlAlchemyStore(f"sqlite:///{aside}", artifacts).engine.dispose()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside.db"]  # nothing of SQLite's is left beside it
    made = aside.read_bytes()
    aside.rename(file)
    (default,) = MlflowClient(f"sqlite:///{file}").search_experiments()
    assert (default.name, default.artifact_location) == ("Default", f"{artifacts}/0")
    assert file.read_bytes() == made
