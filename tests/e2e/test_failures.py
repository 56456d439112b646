"""A trial that diverges is written down as that, and breaks nothing else."""

import re

import optuna
import pytest
from mlflow import MlflowClient

from sweeps.book.optuna_copy import open_storage
from tests.e2e.conftest import COMMAND, SMALL, Seat, finish, write_space

TOO_LARGE = 1.0e30  # a learning rate after which no weight is finite
REASON = r"diverged: .*NonFiniteError: step \d: .*expected .*the gradient norm was \S+( a step|, \d steps) before"


@pytest.fixture(scope="module")
def both(tmp_path_factory, mice_folder):
    """Side by side: a sweep of a sound learning rate after an impossible one, and a training with that alone."""
    seats = [Seat(tmp_path_factory.mktemp(name)) for name in ("two", "nan")]
    grid = {"space": {"optim.lr": {"choice": [TOO_LARGE, 1.0e-3]}}, "sampler": {"kind": "grid"}}
    space = write_space(seats[0].root / "two.yaml", **grid, trials={"count": 2, "concurrent": 1})
    settings = [f"{path}={value}" for path, value in {**SMALL, "optim.lr": f"{TOO_LARGE:.1e}"}.items()]
    commands = [("sweep", "run", space), ("train", "gslrm_tiny", "--set", " ".join(settings))]
    processes = [
        seat.start(COMMAND, *words, "--data", mice_folder, "--name", seat.root.name[:3])
        for seat, words in zip(seats, commands, strict=True)
    ]
    return [(seat, finish(process)) for seat, process in zip(seats, processes, strict=True)]


@pytest.fixture
def broken(both):
    return both[0]


@pytest.fixture
def hopeless(both):
    return both[1]


def test_the_sweep_goes_on_after_a_trial_that_diverged(broken):
    seat, done = broken
    assert done.returncode == 0
    states = {trial.params["optim.lr"]: trial.state for trial in seat.ledger("two").trials.values()}
    assert states == {TOO_LARGE: "PRUNED", 1.0e-3: "COMPLETE"}


def test_its_run_says_why_and_keeps_the_traceback(broken):
    seat, _ = broken
    diverged = next(trial for trial in seat.ledger("two").trials.values() if trial.state == "PRUNED")
    client = MlflowClient(seat.home.tracking_uri)
    run = client.get_run(diverged.run_id)
    assert (run.info.status, run.data.tags["trial.state"]) == ("FINISHED", "PRUNED")
    assert run.data.tags["trial.reason"] == diverged.reason
    assert run.data.tags["trial.fault.1"].startswith("diverged (prune): ")
    assert re.match(REASON, diverged.reason)
    assert [item.path for item in client.list_artifacts(diverged.run_id, "faults")] == ["faults/1.txt"]


def test_the_study_pruned_that_trial_and_only_that(broken):
    seat, _ = broken
    study = optuna.load_study(storage=open_storage(seat.home), study_name="two")
    assert {trial.number: trial.state.name for trial in study.trials} == {
        number: trial.state for number, trial in seat.ledger("two").trials.items()
    }


def test_the_sweep_itself_is_complete_and_status_counts_the_pruned(broken):
    seat, _ = broken
    status = seat.answer_here("sweep", "status", "two")
    assert (status["state"], status["trials"]["pruned"], status["trials"]["complete"]) == ("COMPLETE", 1, 1)
    assert status["best"]["params"] == {"optim.lr": 1.0e-3}


def test_no_traceback_reaches_the_terminal(broken):
    _, done = broken
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(rf" PRUNED: {REASON}", done.stderr)


def test_a_sweep_none_of_whose_trials_finished_exits_with_1(hopeless):
    seat, done = hopeless
    assert done.returncode == 1
    assert done.stderr.count("\n") < 10 and "Traceback" not in done.stderr
    ledger = seat.ledger("nan")
    assert (ledger.state, ledger.trials[0].state) == ("COMPLETE", "PRUNED")
    client = MlflowClient(seat.home.tracking_uri)
    states = {trial: client.get_run(run_id).info.status for trial, run_id in seat.runs("nan").items()}
    assert states == {None: "FINISHED", 0: "FINISHED"}
