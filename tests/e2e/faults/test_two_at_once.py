"""Several processes at one sweep, or at one home; and a sweep that is stopped from elsewhere."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.e2e.conftest import COMMAND, Seat, finish, stop, write_space
from tests.e2e.faults.conftest import Bench
from tests.e2e.faults.invariants import check
from tests.e2e.faults.patches import at_step, hold_at

STEPS = {"train.max_steps": 24, "train.validate_every": 8}
TWO = {"fixed": STEPS, "trials": {"count": 2, "concurrent": 1}}


@pytest.mark.faults
def test_two_drivers_resume_one_sweep(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **TWO)
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    hurt.kill()
    both = [hurt.seat.start(COMMAND, "sweep", "resume", "hurt") for _ in range(2)]
    done = sorted(map(finish, both), key=lambda one: one.returncode)
    assert [one.returncode for one in done] == [0, 2], [one.stderr for one in done]
    refused = [line for line in done[1].stderr.splitlines() if line.startswith("mouselift: ")]
    assert len(refused) == 1 and "Traceback" not in done[1].stderr
    assert "another process runs this sweep" in refused[0] or "expected a sweep that is not running" in refused[0]
    note("two drivers resume one sweep at once", hurt.check(), "one is refused in one line, exit 2; the other finishes")


@pytest.mark.faults
def test_two_sweeps_in_one_home(bench, note, tmp_path):
    hurt = bench(**TWO)
    hurt.start()
    space = write_space(tmp_path / "other.yaml", fixed=STEPS, trials={"count": 2, "concurrent": 1})
    other = hurt.seat.start(COMMAND, "sweep", "run", space, "--data", hurt.mice, "--name", "other", "--fresh")
    try:
        assert hurt.finish() == 0, hurt.said
        done = finish(other)
    finally:
        stop(other)
    assert done.returncode == 0, done.stderr
    assert check(hurt.seat, "other").wrong == []
    note("two sweeps at once in one new home", hurt.check(), "both finish")


@pytest.mark.faults
def test_a_sweep_stopped_by_another_process(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **TWO)
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    stopped = hurt.seat.mouselift("sweep", "stop", "hurt")
    assert (stopped.returncode, stopped.stdout) == (0, "hurt: KILLED\n"), stopped.stderr
    assert hurt.finish() == 130, hurt.said
    assert hurt.seat.ledger("hurt").reason == "stopped by `mouselift sweep stop`"
    assert hurt.check(ended=False).wrong == []
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("`mouselift sweep stop` from another process", hurt.check(), "KILLED with the reason; resumed to the end")


@pytest.mark.faults
def test_ctrl_c_twice(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), **TWO)
    process = hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    for _ in range(2):  # as a terminal sends it: to everything that the command started, too
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert hurt.finish() == 130, hurt.said
    assert "Traceback" not in hurt.said
    assert hurt.seat.ledger("hurt").reason == "interrupted by SIGINT"
    assert hurt.check(ended=False).wrong == []
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("Ctrl-C twice", hurt.check(), "KILLED with the reason; resumed to the end")


ASHA = {
    "fixed": STEPS,
    "space": {"optim.lr": {"choice": [1.0e-4, 5.0e-4, 1.0e-3, 2.0e-3, 3.0e-3, 4.0e-3]}},
    "sampler": {"kind": "grid", "seed": 3},
    "scheduler": {"kind": "asha", "grace_steps": 8, "reduction_factor": 2},
    "trials": {"count": 6, "concurrent": 1},
}


@pytest.mark.faults
def test_asha_killed_at_the_middle_prunes_the_same(bench, note, tmp_path, mice_folder):
    (tmp_path / "calm").mkdir()
    calm = Bench(Seat(tmp_path / "calm"), mice_folder, **ASHA)
    calm.start()
    assert calm.finish() == 0, calm.said
    expected = {number: (trial.state, trial.reason) for number, trial in calm.seat.ledger("hurt").trials.items()}
    hurt = bench(**ASHA)
    hurt.start()
    hurt.until(lambda: 3 in hurt.seat.ledger("hurt").trials, "the fourth trial starts")
    hurt.until_reports(1, trial=3)
    hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    found = {number: (trial.state, trial.reason) for number, trial in hurt.seat.ledger("hurt").trials.items()}
    assert found == expected
    assert {state for state, _ in found.values()} == {"COMPLETE", "PRUNED"}
    note("`kill -9` of the driver of an ASHA sweep at its middle", hurt.check(), "prunes the trials that it would have")
