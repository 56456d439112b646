"""The driver dies, in every way and at any moment; `resume` goes on as if it had not."""

from __future__ import annotations

import random
import signal
import time

import pytest

from sweeps.book.journal import Journal
from tests.e2e.faults.patches import at_step, hold_at

pytestmark = pytest.mark.faults


def test_kill_9_of_the_driver_at_random_instants(bench, note):
    hurt = bench(trials={"count": 5, "concurrent": 2}, scheduler={"kind": "asha", "grace_steps": 8})
    chance, kills = random.Random(7), 0
    hurt.start()
    while kills < 4:
        hurt.until_reports(chance.randint(1, 5))
        time.sleep(chance.random())
        if hurt.process.poll() is not None:
            break
        hurt.kill()
        kills += 1
        hurt.resume()
    assert hurt.finish() == 0, hurt.said
    assert kills >= 3
    books = hurt.check()
    note("`kill -9` of the driver at random instants, four times", books, "resumed each time; every trial to its end")


def test_kill_9_of_the_driver_before_its_first_report(bench, note):
    hurt = bench(trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until(lambda: b'"TrialProposed"' in _journal(hurt), "a trial is proposed")
    hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("`kill -9` of the driver right after a trial was asked for", hurt.check(), "the trial asked for is the first")


def test_kill_9_of_the_driver_during_a_resume(bench, note):
    hurt = bench(trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    hurt.kill()
    for _ in range(2):
        hurt.resume()
        hurt.until(lambda: hurt.seat.ledger("hurt").state == "RUNNING", "the sweep is opened again")
        hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("`kill -9` of the driver, twice more while it resumes", hurt.check(), "resumed; every trial to its end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_driver_and_then_resume(bench, note, number):
    hurt = bench(trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(4)
    hurt.kill(number)
    assert hurt.check(ended=False).wrong == []
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note(f"{number.name} to the driver", hurt.check(), "KILLED with the signal's name at once; resumed to the end")


def test_a_driver_that_died_is_closed_by_status_and_a_living_one_is_not(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), trials={"count": 2, "concurrent": 1})
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    assert hurt.seat.answer("sweep", "status", "hurt")["state"] == "RUNNING"
    assert hurt.seat.ledger("hurt").state == "RUNNING"
    hurt.kill()
    status = hurt.seat.answer("sweep", "status", "hurt")
    assert status["state"] == "KILLED" and status["reason"].startswith("its driver died; last heard of at ")
    note("`kill -9` of the driver, never resumed", hurt.check(ended=False), "closed as KILLED by `sweep status`")


def _journal(hurt) -> bytes:
    path = Journal(hurt.seat.home.journal("hurt")).path
    return path.read_bytes() if path.is_file() else b""
