"""Each signal by which a user, a closed terminal or a scheduler asks for an end, in each phase of a sweep's life.

One sweep for each signal, cut in every phase and taken up again until all its trials ended. How the signal comes
changes from phase to phase: to the driver alone or to every process of the job, once, twice, or with another behind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.own_process import ENDING
from tests.e2e.conftest import COMMAND, SECONDS, finish
from tests.e2e.faults.patches import DRIVER, patched

pytestmark = pytest.mark.faults
# The largest configuration takes seconds a step, so that the two steps of preflight can be met.
SPACE: dict[str, Any] = {
    "fixed": {"train.max_steps": 24, "train.validate_every": 8, "model.num_layers": 8, "model.dim": 64},
    "trials": {"count": 2, "concurrent": 1},
}
HOLD = """
{imported}
held = {where}.{what}
def hold(self, *words, **named):
    if once("{what}"):
        (HERE / "there").touch()
        for _ in range(600):
            time.sleep(0.1)
    return held(self, *words, **named)
{where}.{what} = hold
"""
AT_THE_END = HOLD.format(imported="from sweeps.run.driver import Driver", where="Driver", what="finish")
PROMOTING = HOLD.format(imported="from sweeps.registry.registry import Registry", where="Registry", what="promote")
WAYS = (("driver", 1), ("all", 2), ("driver", 2), ("all", 1), ("another", 2))  # to whom, and how often
EXIT = {signal.SIGINT: 130}  # any other: 1


@dataclass
class Cuts:
    """Sends one signal, in the next way each time, and sees that the command ends as it should."""

    number: signal.Signals
    ways: Any

    def __call__(self, process: Any) -> str:
        """The last line that the command said: which of the signals ended it."""
        everything = psutil.Process(process.pid).children(recursive=True)
        whom, times = next(self.ways)
        other = signal.SIGTERM if self.number != signal.SIGTERM else signal.SIGUSR1
        for sent in range(times):
            self._send(process.pid, other if sent and whom == "another" else self.number, whom == "all")
            time.sleep(0.3)
        began = time.monotonic()
        done = finish(process)
        assert done.returncode == EXIT.get(self.number, 1), done.stderr
        assert time.monotonic() - began < 60
        assert "Traceback" not in done.stderr and "***" not in done.stderr, done.stderr
        assert psutil.wait_procs(everything, timeout=20)[1] == []
        said = done.stderr.splitlines()[-1]
        # On a busy machine two signals may come before the first is heard; either may then be told.
        return said.replace(other.name, self.number.name) if whom == "another" else said

    def _send(self, pid: int, number: signal.Signals, everywhere: bool) -> None:
        try:
            os.killpg(pid, number) if everywhere else os.kill(pid, number)
        except ProcessLookupError:  # the first of two was enough
            return


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_in_every_phase(bench, note, tmp_path, number):
    hurt = bench(patched(tmp_path / "patch", AT_THE_END, DRIVER), **SPACE)
    starts = ENDING.index(number)
    turns = count(starts)
    cut = Cuts(number, (WAYS[turn % len(WAYS)] for turn in turns))
    line = f"mouselift: interrupted by {number.name}"

    def in_phase(begin: Callable[[], Any], holds: Callable[[], bool]) -> str:
        process = begin()
        hurt.until(holds)
        return cut(process)

    for phase in ("dry_run_process", "gcs_server"):  # preflight, and Ray coming up beside it
        said = in_phase(hurt.start, lambda word=phase: bool(hurt.named(word)))
        assert said == line and not hurt.seat.home.journals.exists()
    in_phase(hurt.start, lambda: hurt.reports() >= 1)
    expect_killed(hurt, number)
    said = in_phase(hurt.resume, lambda: bool(hurt.named("raylet")))
    assert said == line
    expect_killed(hurt, number)
    seen = hurt.reports()
    in_phase(hurt.resume, lambda: hurt.reports() > seen)
    expect_killed(hurt, number)
    in_phase(hurt.resume, (tmp_path / "patch" / "there").exists)
    expect_killed(hurt, number)
    assert set(hurt.check(ended=False).states.values()) == {"COMPLETE"}
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note(f"{number.name} in every phase of a sweep", hurt.check(), "one line or KILLED each time; resumed to the end")
    promoted_after_a_cut(hurt, cut, line, tmp_path / "promoting")


def expect_killed(hurt, number) -> None:
    ledger = hurt.seat.ledger("hurt")
    assert (ledger.state, ledger.reason) == ("KILLED", f"interrupted by {number.name}")
    assert hurt.check(ended=False).wrong == []


def promoted_after_a_cut(hurt, cut, line, folder: Path) -> None:
    """`model promote` is ended between the registration and the verdict; run again, it makes the champion."""
    environment = patched(folder, PROMOTING, DRIVER, module="sweeps.registry.promotion")
    process = replace(hurt.seat, extra=environment).start(COMMAND, "model", "promote", "hurt")
    deadline = time.monotonic() + SECONDS
    while not (folder / "there").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    assert cut(process) == line
    assert [one["aliases"] for one in hurt.seat.answer("model", "list")] == [[]]
    assert hurt.seat.answer("model", "promote", "hurt")["alias"] == "champion"
