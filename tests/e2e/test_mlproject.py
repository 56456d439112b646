"""`mlflow run .`: the entry points call the same commands, and the run that MLflow opens is the sweep's own."""

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from tests.e2e.conftest import COMMAND, SMALL, Seat

PROJECT = Path(__file__).resolve().parents[2]
MLFLOW = COMMAND.with_name("mlflow")


@pytest.fixture(scope="module")
def projected(tmp_path_factory, mice_folder):
    """One training by `mlflow run`, in an experiment that it names."""
    seat = Seat(tmp_path_factory.mktemp("projected"))
    seat.extra["MLFLOW_TRACKING_URI"] = f"sqlite:///{seat.root}/mlflow.db"
    settings = " ".join(f"{path}={value}" for path, value in {**SMALL, "data.root": mice_folder}.items())
    parameters = ("-P", "recipe=gslrm_tiny", "-P", f"overrides={settings}")
    before = _beside_the_code()
    done = seat.run(MLFLOW, "run", PROJECT, "--env-manager", "local", "-e", "train", *parameters)
    assert done.returncode == 0, done.stderr
    assert _beside_the_code() - before == set(), "something was written beside the code"
    return seat


def _beside_the_code():
    """What lies in the project's folder, less the caches that Python and pytest keep there."""
    return {path for path in PROJECT.iterdir() if path.name != "__pycache__" and not path.name.startswith(".")}


@pytest.fixture(scope="module")
def runs(projected):
    """The runs of the store by name; there must be no other."""
    client = MlflowClient(projected.extra["MLFLOW_TRACKING_URI"])
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (sweep,) = (folder.name for folder in (projected.home.root / "journal").iterdir())
    assert {run.info.run_name for run in found} == {sweep, f"t0000 · {sweep}"}
    return {("trial" if "·" in run.info.run_name else "sweep"): run for run in found}


def test_the_run_that_mlflow_opened_is_the_parent_and_finished(runs):
    assert runs["sweep"].data.tags["mlflow.project.entryPoint"] == "train"
    assert (runs["sweep"].info.status, runs["sweep"].data.tags["sweep.state"]) == ("FINISHED", "COMPLETE")


def test_its_trial_lies_below_it_in_the_same_experiment(runs):
    assert runs["trial"].data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
    assert runs["trial"].info.experiment_id == runs["sweep"].info.experiment_id
    assert runs["trial"].info.status == "FINISHED"
    assert runs["trial"].data.params["train.max_steps"] == "12"


def test_the_project_offers_every_command_of_the_spine():
    project = yaml.safe_load((PROJECT / "mlproject").read_text())
    wanted = {"train", "sweep", "evaluate", "promote", "pull", "reconstruct", "dashboard"}
    assert wanted <= project["entry_points"].keys()
