"""A store that takes seconds for each copy: the driver hears its other trials meanwhile."""

from __future__ import annotations

import time

import pytest

from sweeps.book.journal import CheckpointReleased, Reported, TrialClosed
from sweeps.book.journal import Journal as Book
from tests.e2e.faults.patches import patched_both

SECONDS, LATE = 5.0, 0.5
SENT = """
from sweeps.run import trial
system_ = trial._system
def system(process, device):
    time.sleep(0.2)  # trials long enough to meet each other
    return system_(process, device) | {"system/sent": time.time()}
trial._system = system
"""
SLOW = """
from sweeps.run.checkpoints import Checkpoints
release_ = Checkpoints.release
def release(self, objective, target):
    time.sleep(5)
    return release_(self, objective, target)
Checkpoints.release = release
"""


@pytest.mark.faults
def test_no_report_is_late_while_a_checkpoint_is_copied(bench, note, tmp_path):
    hurt = bench(patched_both(tmp_path / "patch", SENT, SLOW), trials={"count": 3, "concurrent": 2})
    hurt.start()
    assert hurt.finish() == 0, hurt.said
    events = [event for _, event in Book(hurt.seat.home.journal("hurt")).events()]
    ends = {event.trial: event.time for event in events if isinstance(event, TrialClosed)}
    released = {event.trial: event.time for event in events if isinstance(event, CheckpointReleased)}
    assert released.keys() == ends.keys() == {0, 1, 2}
    assert all(released[trial] - ends[trial] >= SECONDS for trial in ends)
    meanwhile = [
        event
        for event in events
        if isinstance(event, Reported) and any(ends[t] <= event.time <= released[t] for t in ends if t != event.trial)
    ]
    assert len(meanwhile) >= 5
    assert max(event.time - event.metrics["system/sent"] for event in meanwhile) < LATE
    note("a store that takes 5 s for each copy", hurt.check(), "no other trial's report is late by more than 0.5 s")


@pytest.mark.faults
def test_an_interruption_does_not_wait_for_a_slow_copy(bench, note, tmp_path):
    slow = SLOW.replace("sleep(5)", "sleep(600)")
    hurt = bench(
        patched_both(tmp_path / "patch", SENT, slow + "\nif not once('slow'):\n    Checkpoints.release = release_")
    )
    hurt.start()
    hurt.until(lambda: any(t.state == "COMPLETE" for t in hurt.seat.ledger("hurt").trials.values()), "a trial ended")
    began = time.monotonic()
    hurt.kill(number=2)
    assert time.monotonic() - began < 60
    assert hurt.seat.ledger("hurt").state == "KILLED"
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    assert all(trial.released for trial in hurt.seat.ledger("hurt").trials.values() if trial.state == "COMPLETE")
    note("SIGINT while a checkpoint is copied", hurt.check(), "KILLED within seconds; the next session copies it")
