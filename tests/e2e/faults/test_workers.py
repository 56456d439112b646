"""The process of a trial dies or stands still; the trial goes on from its checkpoint, or fails alone."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from mlflow import MlflowClient

from sweeps.book.journal import Journal, TrialOpened
from tests.e2e.faults.patches import at_step, hold_at

STEPS = {"train.max_steps": 24, "train.validate_every": 8, "train.report_every": 4}
RATES = {"space": {"optim.lr": {"choice": [1.0e-3, 2.0e-3]}}, "sampler": {"kind": "grid"}}
TWO = RATES | {"fixed": STEPS, "trials": {"count": 2, "concurrent": 1}}
ONE = {"fixed": STEPS, "trials": {"count": 1, "concurrent": 1}}


def tags_of(hurt, trial: int) -> dict[str, str]:
    ledger = hurt.seat.ledger("hurt")
    return MlflowClient(hurt.seat.home.tracking_uri).get_run(ledger.trials[trial].run_id).data.tags


def hold(hurt, tmp_path) -> psutil.Process:
    """Start the sweep; the process of its first trial, which stands at step 13."""
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    [worker] = hurt.workers()
    return worker


def check_it_went_on(hurt, cause: str) -> None:
    """The trial that was hurt is the same trial and the same run, and went on at its checkpoint."""
    tags = tags_of(hurt, 0)
    assert (tags["trial.attempt"], tags["trial.state"]) == ("2", "COMPLETE")
    assert tags["trial.fault.1"].startswith(f"{cause} (retry): ")
    assert tags["trial.resumed_from"] == "step-000008"
    assert len(set(hurt.seat.runs("hurt").values())) == 1 + len(hurt.seat.ledger("hurt").trials)
    steps = [report.step for report in hurt.seat.reports("hurt") if report.trial == 0]
    assert sorted(set(steps)) == [1, 4, 8, 12, 16, 20, 24]  # as of one that was never stopped
    opened = [event for _, event in Journal(hurt.seat.home.journal("hurt")).events() if isinstance(event, TrialOpened)]
    assert [event.attempt for event in opened if event.trial == 0] == [1, 2]


@pytest.mark.parametrize(
    ("number", "name", "space"),
    [
        (signal.SIGKILL, "`kill -9` of", TWO),
        pytest.param(signal.SIGTERM, "SIGTERM to", ONE, marks=pytest.mark.faults),
    ],
    ids=["SIGKILL", "SIGTERM"],
)
def test_a_worker_that_is_killed_goes_on_from_its_checkpoint(bench, note, tmp_path, number, name, space):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **space)
    hold(hurt, tmp_path).send_signal(number)
    assert hurt.finish() == 0, hurt.said
    check_it_went_on(hurt, "worker_lost")
    note(f"{name} a trial's process", hurt.check(), "second attempt in the same run, from its checkpoint")


@pytest.mark.faults
def test_a_worker_that_stands_still(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **ONE, faults={"hang_minutes": 0.5})
    worker = hold(hurt, tmp_path)
    worker.send_signal(signal.SIGSTOP)
    assert hurt.finish() == 0, hurt.said
    check_it_went_on(hurt, "hang")
    assert not worker.is_running()
    note("SIGSTOP of a trial's process", hurt.check(), "killed as a hang, gone; second attempt from its checkpoint")


@pytest.mark.faults
def test_kill_9_of_a_worker_in_every_attempt(bench, note, tmp_path):
    code = f"if number == 13 and self.recipe.optim.lr == 1.0e-3: os.kill(os.getpid(), {signal.SIGKILL})"
    hurt = bench(at_step(tmp_path / "patch", code), **TWO, faults={"retries": 1})
    hurt.start()
    assert hurt.finish() == 0, hurt.said
    trials = {trial.params["optim.lr"]: trial for trial in hurt.seat.ledger("hurt").trials.values()}
    assert {rate: trial.state for rate, trial in trials.items()} == {1.0e-3: "FAIL", 2.0e-3: "COMPLETE"}
    lost = trials[1.0e-3]
    assert lost.reason.startswith("worker_lost after 1 retries: ")
    assert tags_of(hurt, lost.number)["trial.fail_reason"] == lost.reason
    books = hurt.check()
    assert books.best == trials[2.0e-3].number
    note("`kill -9` of a trial's process in every attempt", books, "FAIL with the cause; the sweep finishes the others")


FORK = """
if number == 2 and once("forked"):
    child = os.fork()
    if child == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", "600"])
    (HERE / f"child-{child}").touch()
"""


@pytest.mark.faults
@pytest.mark.parametrize("killed", [False, True])
def test_a_child_that_a_trial_leaves_behind(bench, note, tmp_path, killed):
    hurt = bench(at_step(tmp_path / "patch", FORK + hold_at(13)), **ONE)
    worker = hold(hurt, tmp_path)
    [child] = [int(path.name.removeprefix("child-")) for path in (tmp_path / "patch").glob("child-*")]
    assert psutil.pid_exists(child)
    if killed:
        worker.send_signal(signal.SIGKILL)
    else:
        (tmp_path / "patch" / "go-on-13").touch()
    assert hurt.finish() == 0, hurt.said
    left = psutil.pid_exists(child)
    if left:
        os.kill(child, signal.SIGKILL)
    assert not left
    how = "is killed" if killed else "ends"
    note(f"a child in a session of its own, left by a trial that {how}", hurt.check(), "gone when the sweep ends")


@pytest.mark.faults
def test_decoded_frames_cut_off_under_a_trial(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **ONE)
    hold(hurt, tmp_path)
    [frames] = hurt.seat.home.cache.glob("planes-*.npy")
    os.truncate(frames, frames.stat().st_size // 2)  # the trial has it mapped: its next batch is a bus error
    (tmp_path / "patch" / "go-on-13").touch()
    assert hurt.finish() == 0, hurt.said
    check_it_went_on(hurt, "worker_lost")
    note("decoded frames cut off on the disk", hurt.check(), "the process is lost; decoded anew, second attempt")
