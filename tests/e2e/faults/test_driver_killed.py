"""The driver dies, in every way and at any moment; `resume` goes on as if it had not."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

from sweeps.book.journal import Journal
from sweeps.book.remaining import spent_of
from tests.e2e.conftest import COMMAND, finish
from tests.e2e.faults.patches import DRIVER, at_step, hold_at, patched

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


def test_kill_9_of_the_driver_of_a_plan_at_random_instants(bench, note):
    """Each run of the plan is made once, and what it tells rests on all of them."""
    plan = {"kind": "one_factor", "seeds": [0, 1, 2]}
    hurt = bench(plan=plan, space={"loss.ssim": {"choice": [0.0, 0.2]}}, trials={"concurrent": 2})
    chance = random.Random(5)
    hurt.start()
    for _ in range(3):
        hurt.wait_for_reports(chance.randint(1, 4))
        time.sleep(chance.random())
        if hurt.process.poll() is None:
            hurt.kill()
            hurt.resume()
    assert hurt.finish() == 0, hurt.said
    books = hurt.check()
    settings = [(0.0, 0), (0.2, 0), (0.0, 1), (0.2, 1), (0.0, 2), (0.2, 2)]
    assert [tuple(one.params.values()) for _, one in sorted(hurt.seat.ledger("hurt").trials.items())] == settings
    (told,) = json.loads(hurt.seat.run(COMMAND, "sweep", "compare", "hurt", "--json").stdout)["comparisons"]
    assert told["seeds"] == [0, 1, 2]
    note("`kill -9` of the driver of a plan, three times", books, "each run of the plan once; compared over all seeds")


def test_kill_9_of_the_driver_while_the_best_are_confirmed(bench, note):
    """Each run that confirms is made once, and the same trial wins as if nothing had happened."""
    hurt = bench(trials={"count": 3, "concurrent": 2}, confirm={"seeds": 2, "top": 2})
    hurt.start()
    for more in (1, 2):
        hurt.until(lambda more=more: _confirming(hurt) >= more, "the best run again")
        hurt.kill()
        hurt.resume()
    assert hurt.finish() == 0, hurt.said
    books = hurt.check()
    ledger = hurt.seat.ledger("hurt")
    search = [trial.number for trial in ledger.ranked if trial.confirms is None]
    runs = [
        (trial.confirms, trial.params["train.seed"]) for trial in ledger.trials.values() if trial.confirms is not None
    ]
    assert runs == [(number, seed) for seed in (778, 779) for number in search[:2]]
    assert [one.seeds for one in ledger.confirmed] == [2, 2] and ledger.best.number == ledger.confirmed[0].trial
    note("`kill -9` of the driver while the best are confirmed, twice", books, "each run once; one of the search wins")


def _confirming(hurt) -> int:
    """Reports of runs that confirm others."""
    ledger = hurt.seat.ledger("hurt")
    return sum(ledger.trials[report.trial].confirms is not None for report in hurt.seat.reports("hurt"))


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


def test_ctrl_c_at_random_instants(bench, note):
    """Thirty interruptions of one sweep, each resumed: while Ray comes up, within trials, and at their ends."""
    hurt = bench(trials={"count": 12, "concurrent": 2}, scheduler={"kind": "asha", "grace_steps": 8})
    chance, cuts = random.Random(11), 0
    hurt.start()
    while cuts < 30:
        if chance.random() < 0.3:
            time.sleep(12 * chance.random())
        else:
            hurt.wait_for_reports(chance.randint(1, 3))
            time.sleep(0.4 * chance.random())
        if hurt.process.poll() is not None:
            break
        hurt.kill(signal.SIGINT)
        cuts += 1
        assert "Traceback" not in hurt.process.communicate()[1]
        if hurt.seat.ledger("hurt").name:
            hurt.resume()
        else:
            hurt.start()
    assert hurt.finish() == 0, hurt.said
    assert cuts >= 15
    note(
        f"Ctrl-C at random instants, {cuts} times in one sweep",
        hurt.check(),
        "resumed each time; every trial to its end",
    )


BETWEEN = """
from sweeps.run.driver import Driver
ended_ = Driver.ended
def ended(self, *words, **named):
    if once("ended"):
        (HERE / "last-report").touch()
        for _ in range(600):
            time.sleep(0.1)
    return ended_(self, *words, **named)
Driver.ended = ended
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interruption_between_a_trials_last_report_and_its_closing(bench, note, tmp_path, number):
    hurt = bench(patched(tmp_path / "patch", BETWEEN, DRIVER), trials={"count": 3, "concurrent": 2})
    process = hurt.start()
    hurt.until((tmp_path / "patch" / "last-report").exists, "a trial has made its last report")
    for _ in range(2):
        process.send_signal(number)
        time.sleep(0.5)
    process.wait(60)
    assert "Traceback" not in process.communicate()[1]
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note(f"{number.name} between a trial's last report and its closing", hurt.check(), "resumed; it ends as it had")


def test_two_look_at_a_dead_sweep_at_once(bench, note):
    hurt = bench(trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    hurt.kill()
    looks = [hurt.seat.start(COMMAND, "sweep", "status", "hurt", "--json") for _ in range(4)]
    done = [finish(look) for look in looks]
    assert [look.returncode for look in done] == [0] * 4, [look.stderr for look in done]
    assert sum("its driver died" in look.stderr for look in done) == 1
    note(
        "four `sweep status` at once on a sweep whose driver died", hurt.check(ended=False), "one closes it; none fails"
    )


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


def test_kill_9_of_the_driver_of_a_sweep_with_a_budget(bench, note):
    """What was spent before counts afterwards."""
    hurt = bench(budget={"hours": 1.0}, trials={"count": 3, "concurrent": 2})
    hurt.start()
    hurt.until_reports(4)
    hurt.kill()
    before = spent_of(hurt.seat.ledger("hurt")).hours
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    assert 0.0 < before < spent_of(hurt.seat.ledger("hurt")).hours
    note("`kill -9` of the driver of a sweep with a budget", hurt.check(), "what was spent counts; to its end")


def test_kill_9_of_the_driver_while_it_takes_results_of_another_sweep(bench, note):
    hurt = bench(trials={"count": 3, "concurrent": 2})
    first = hurt.seat.run(COMMAND, "sweep", "run", hurt.space, "--data", hurt.mice, "--name", "first")
    assert first.returncode == 0, first.stderr
    hurt.start()
    hurt.until(lambda: b'"TrialClosed"' in _journal(hurt), "a result is taken")
    hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    trials = hurt.seat.ledger("hurt").trials
    assert [one.reason for _, one in sorted(trials.items())] == [f"taken from first t{n:04d}" for n in range(3)]
    note("`kill -9` of the driver while it takes results of another sweep", hurt.check(), "the rest is taken, too")
