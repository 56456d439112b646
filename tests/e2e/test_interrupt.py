"""A sweep that is told to stop in the middle closes everything it opened, says so, and is gone."""

import os
import signal
import time
from dataclasses import dataclass

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from sweeps.book.optuna_copy import open_storage
from tests.e2e.conftest import COMMAND, SECONDS, Seat, stop, write_space

LONGEST_SECONDS = 30  # from the signal to the end of the process
SIGNALS = {"SIGINT": 2, "SIGTERM": 1, "SIGUSR1": 1}  # and how many trials run when it comes
ENDLESS = {"train.max_steps": 100_000, "train.validate_every": 10}


@dataclass(frozen=True)
class Interrupted:
    """A sweep after a signal in the middle of it."""

    seat: Seat
    returncode: int
    stdout: str
    stderr: str
    seconds: float
    left_over: list[psutil.Process]
    signal: str


@pytest.fixture(scope="module")
def all_three(tmp_path_factory, mice_folder):
    """Ctrl-C and SIGUSR1 go to every process of the job, SIGTERM to the one that was started; all run side by side."""
    seats = {name: Seat(tmp_path_factory.mktemp(name)) for name in SIGNALS}
    processes, deadline = {}, time.monotonic() + SECONDS
    try:
        for name, seat in seats.items():
            trials = {"count": 4, "concurrent": SIGNALS[name]}
            space = write_space(seat.root / "endless.yaml", fixed=ENDLESS, scheduler={"kind": "none"}, trials=trials)
            words = ("sweep", "run", space, "--data", mice_folder, "--name", "cut", "--json")
            processes[name] = seat.start(COMMAND, *words)
        found = {}
        while len(found) < len(seats):  # each as soon as it has a curve: the others need the processors
            for name in seats.keys() - found.keys():
                if _has_a_curve(seats[name], processes[name]):
                    found[name] = _interrupt(name, seats[name], processes[name])
            time.sleep(0.3)
            assert time.monotonic() < deadline
        return found
    finally:
        for process in processes.values():
            stop(process)


@pytest.fixture(params=SIGNALS)
def cut(request, all_three):
    return all_three[request.param]


def test_the_command_leaves_with_130_for_ctrl_c_and_else_1_in_good_time(cut):
    assert cut.returncode == (130 if cut.signal == "SIGINT" else 1)
    assert cut.seconds < LONGEST_SECONDS


def test_stderr_says_what_ended_the_sweep_and_shows_no_traceback(cut):
    assert cut.stderr.splitlines()[-1].endswith(f"sweep KILLED: interrupted by {cut.signal}")
    assert "Traceback" not in cut.stderr and "***" not in cut.stderr


def test_no_process_is_left(cut):
    assert cut.left_over == []


def test_every_mlflow_run_is_killed_and_none_runs(cut):
    client = MlflowClient(cut.seat.home.tracking_uri)
    runs = {trial: client.get_run(run_id) for trial, run_id in cut.seat.runs("cut").items()}
    assert len(runs) == 1 + SIGNALS[cut.signal]
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert all(run.info.end_time for run in runs.values())
    assert runs[None].data.tags["sweep.reason"] == runs[0].data.tags["trial.reason"] == f"interrupted by {cut.signal}"


def test_mlflow_has_the_figures_up_to_the_end(cut):
    client, last = MlflowClient(cut.seat.home.tracking_uri), cut.seat.reports("cut")[-1]
    history = client.get_metric_history(cut.seat.runs("cut")[last.trial], "train/loss")
    assert max(metric.step for metric in history) == last.step


def test_the_journal_is_closed(cut):
    ledger = cut.seat.ledger("cut")
    assert ledger.state == "KILLED"
    assert {trial.state for trial in ledger.trials.values()} == {"KILLED"}


def test_status_says_that_nothing_runs(cut):
    status = cut.seat.answer_here("sweep", "status", "cut")
    assert (status["state"], status["trials"]["running"], status["trials"]["waiting"]) == ("KILLED", 0, 4)


def test_the_study_has_no_running_trial_and_keeps_the_curves(cut):
    storage = open_storage(cut.seat.home)
    trials = optuna.load_study(storage=storage, study_name="cut").trials
    assert {trial.state.name for trial in trials} == {"WAITING"}
    for trial in trials:
        assert trial.intermediate_values == cut.seat.curve("cut", trial.number)


@pytest.mark.parametrize("first", ["gcs_server", "ray::"])  # Ray has begun to come up; it is nearly there
def test_sigterm_while_the_two_steps_run_beside_ray_ends_all_and_leaves_nothing(first, tmp_path, mice_folder):
    seat = Seat(tmp_path)
    large = {"model.dim": 512, "model.head_dim": 64, "model.num_layers": 24, "data.image_size": 64}  # seconds a step
    space = write_space(tmp_path / "large.yaml", fixed=large, scheduler={"kind": "none"})
    process = seat.start(COMMAND, "sweep", "run", space, "--data", mice_folder, "--name", "cut")
    try:
        _wait_for_child(process, first)
        cut = _interrupt("SIGTERM", seat, process)
    finally:
        stop(process)
    assert (cut.returncode, cut.left_over) == (1, [])
    assert cut.stderr.splitlines()[-1] == "mouselift: interrupted by SIGTERM"
    assert "Traceback" not in cut.stderr and "***" not in cut.stderr
    assert not seat.home.journals.exists()


def _wait_for_child(process, name):
    deadline = time.monotonic() + SECONDS
    while not any(name in title for title in map(_title, psutil.Process(process.pid).children(recursive=True))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _has_a_curve(seat, process):
    assert process.poll() is None, process.communicate()
    return seat.home.journal("cut").is_dir() and any(seat.curve("cut", trial) for trial in (0, 1))


def _interrupt(name, seat, process):
    number, everything = signal.Signals[name], psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    process.send_signal(number) if number == signal.SIGTERM else os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=SECONDS)
    seconds = time.monotonic() - started
    left_over = psutil.wait_procs(everything, timeout=10)[1]
    return Interrupted(seat, process.returncode, stdout, stderr, seconds, left_over, name)
