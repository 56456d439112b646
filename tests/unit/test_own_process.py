"""What a signal does to a command: one line, an exit code, and nothing half-written; and what it does not disturb."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.data.mice.mice import write_mice
from pipeline.machine.cpus import usable_cpus
from sweeps.own_process import (
    ENDING,
    OF_OTHERS,
    Interrupted,
    exit_code,
    handled,
    interrupt,
    said,
    set_handler,
    set_up,
    signals_deferred,
)

ALL = pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:  # the suite itself may run under `nohup`, or in the background
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@ALL
def test_a_signal_is_an_exit_that_says_which(number):
    with pytest.raises(SystemExit, match=f"interrupted by {number.name}") as caught, handled():
        signal.raise_signal(number)
    assert isinstance(caught.value, Interrupted)
    assert caught.value.exit_code == (130 if number == signal.SIGINT else 1)


@ALL
def test_a_second_signal_does_not_disturb_the_end_that_the_first_began(number):
    ended = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            for other in ENDING:
                signal.raise_signal(other)
            ended.append(number)

    with handled(), pytest.raises(Interrupted):
        work()
    assert ended == [number]


def test_of_two_signals_that_come_at_once_the_first_that_is_handled_is_told():
    def both():
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    with handled(), pytest.raises(Interrupted, match="SIGUSR1"):
        both()


def test_two_signals_that_come_through_another_thread_leave_none_blocked(monkeypatch):
    """The system may give a process's signals to any of its threads. Python then runs the second one's handler within
    that of the first, in the call that blocks them. What stays blocked is so in every process started later, too.
    """
    sigmask, free = signal.pthread_sigmask, signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def with_a_second(how, numbers):
        before = sigmask(how, numbers)
        if how == signal.SIG_BLOCK and numbers:
            monkeypatch.setattr(signal, "pthread_sigmask", sigmask)
            interrupt(signal.SIGTERM)
        return before

    def first():
        monkeypatch.setattr(signal, "pthread_sigmask", with_a_second)
        interrupt(signal.SIGUSR1)

    with handled(), pytest.raises(Interrupted, match="SIGUSR1"):
        first()
    assert sigmask(signal.SIG_SETMASK, free) == free


@ALL
def test_a_signal_that_is_ignored_stays_so(number):
    signal.signal(number, signal.SIG_IGN)
    with handled():
        signal.raise_signal(number)
    assert signal.getsignal(number) == signal.SIG_IGN


def test_handlers_of_a_script_come_back():
    def mine(*_):
        """Does nothing."""

    signal.signal(signal.SIGUSR2, mine)
    with handled(numbers=OF_OTHERS):
        assert signal.getsignal(signal.SIGUSR2) is interrupt
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGUSR2) is mine


@ALL
def test_what_is_the_end_is_not_disturbed(number):
    with handled(), signals_deferred() as came:
        signal.raise_signal(number)
    assert came == [number]


def test_a_signal_long_after_the_first_asks_again(monkeypatch):
    with handled():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the end has begun
        later = time.monotonic() + 31.0
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(Interrupted, match="SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)


def test_in_another_thread_nothing_is_changed():
    changed = []
    thread = threading.Thread(target=lambda: changed.append(set_handler(interrupt)))
    thread.start()
    thread.join()
    assert changed == [{}]


def test_the_exit_code_tells_a_user_from_a_scheduler():
    assert {number.name: exit_code(said(number)) for number in ENDING} == {
        "SIGINT": 130, "SIGTERM": 1, "SIGHUP": 1, "SIGUSR1": 1, "SIGUSR2": 1,
    }  # fmt: skip
    assert exit_code("stopped by `mouselift sweep stop`") == 130


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", 2), ("150000 100000", 1), ("50000 100000", 1), (None, 2)])
def test_the_usable_cpus_are_those_of_the_affinity_and_the_quota(tmp_path, monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cpus(tmp_path / "cpu.max") == cpus


def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    set_up()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    set_up()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.fixture(scope="module")
def mice(tmp_path_factory):
    return write_mice(tmp_path_factory.mktemp("mice") / "mice", scenes=16, size=16)


def started(mice: Path, out: Path) -> subprocess.Popen[str]:
    words = [Path(sys.executable).with_name("mouselift"), "data", "normalise", mice, out, "--size", "1024"]
    return subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2], ids=lambda number: number.name)
def test_a_command_ends_with_one_line_and_leaves_only_what_is_whole(mice, tmp_path, number):
    process = started(mice, tmp_path / "out")
    deadline = time.monotonic() + 100
    while not any((tmp_path / "out").glob("scene_*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(0.2)
    stderr = process.communicate(timeout=100)[1]
    assert (process.returncode, stderr.splitlines()[-1]) == (1, f"mouselift: {said(number)}")
    assert "Traceback" not in stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names < {".normalise.json", *(f"scene_{n:06d}" for n in range(16))}
