"""Where state is kept: what the environment says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from sweeps.errors import StudyError
from sweeps.home import Home, sqlite_uri, store_file


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def under_mlflow_run(tmp_path: Path, store: Path, called_from: Path) -> dict[str, str]:
    """What `mlflow run` tells the command that it starts."""
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "MLFLOW_RUN_ID": "4f", "PWD": str(called_from)}
    return own | {"MOUSELIFT_HOME": str(tmp_path / "100% mice")}


@pytest.mark.parametrize("called_from", ["clone", "."])
def test_mlflow_run_without_a_store_is_refused_with_the_homes(tmp_path: Path, clone: Path, called_from: str) -> None:
    folder = tmp_path / called_from
    with pytest.raises(StudyError) as refusal:
        Home.from_environment(under_mlflow_run(tmp_path, folder / "mlflow.db", folder))
    assert str(refusal.value) == (
        "MLFLOW_TRACKING_URI: expected the store of this home for `mlflow run`, got MLflow's own default, "
        f"sqlite:///{folder}/mlflow.db — export MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/100% mice/mlflow.db and "
        "run it again."
    )


def test_mlflow_run_on_a_store_of_the_users_is_taken(tmp_path: Path, clone: Path) -> None:
    told = under_mlflow_run(tmp_path, tmp_path / "store" / "mlflow.db", clone)
    assert Home.from_environment(told).tracking_uri == told["MLFLOW_TRACKING_URI"]


def test_a_store_in_the_working_folder_is_taken_where_the_user_names_it(clone: Path) -> None:
    told = {"MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db"}
    assert Home.from_environment(told).tracking_uri == told["MLFLOW_TRACKING_URI"]


@pytest.mark.parametrize("name", ["h %41 b", "50%2f"])
def test_a_new_home_in_which_mlflow_would_find_no_model_is_refused_and_nothing_is_made(tmp_path: Path, name: str):
    root = tmp_path / name / "home"
    with pytest.raises(StudyError) as refusal:
        Home.from_environment({"MOUSELIFT_HOME": str(root)})
    read = {"h %41 b": "%41 in it as 'A'", "50%2f": "%2f in it as '/'"}[name]
    assert str(refusal.value) == (
        f"MOUSELIFT_HOME: expected a path without % before two hexadecimal digits, got {root}: MLflow reads {read} and "
        "finds no model there — choose another folder."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_any_path_is_taken_where_a_server_keeps_its_models_or_it_is_no_new_one(tmp_path: Path) -> None:
    root = tmp_path / "h %41 b"
    served = {"MOUSELIFT_HOME": str(root), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    assert Home.from_environment(served).root == root
    (root / "journal").mkdir(parents=True)
    assert Home.from_environment({"MOUSELIFT_HOME": str(root)}).root == root


@pytest.mark.parametrize("name", ["mouse%20data", "why?", "a #1", "생쥐 ü", "100%", "%3F", "a?b%25", "%%41", "50%4"])
def test_a_store_lies_where_its_address_says_whatever_the_folders_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    assert store_file(sqlite_uri(file)) == file
    with sqlalchemy.create_engine(sqlite_uri(file)).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE probe (id INTEGER)"))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        f"{name}/mlflow.db"
    ]
