"""What we use of MLflow beyond its documented face, seen to hold in MLflow 3.17."""

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
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


def test_a_model_below_a_folder_whose_name_looks_escaped_is_not_found(tmp_path):
    """Why `Home` refuses such a path for a new home; where this fails, MLflow has mended it and the refusal may go."""
    for name, found in (("50% b", True), ("h %41 b", False)):
        (tmp_path / name).mkdir()
        Model().save(str(tmp_path / name / "MLmodel"))
        if found:
            assert Model.load(str(tmp_path / name)).flavors == {}
        else:
            with pytest.raises(MlflowException, match="No such artifact: 'MLmodel'"):
                Model.load(str(tmp_path / name))
