"""A bench on which real processes are hurt, and the table that the suite makes of what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import COMMAND, SECONDS, Seat, finish, stop, write_space
from tests.e2e.faults.invariants import Books, check

TABLE = Path(__file__).parents[3] / "docs" / "reliability.md"
_MARKS = ("<!-- table -->", "<!-- end of table -->")
_ROWS: dict[str, list[str]] = {}
SHORT = {"train.max_steps": 96, "train.validate_every": 8}


class Bench:
    """One sweep at a seat, from its start over what is done to it to its end."""

    def __init__(self, seat: Seat, mice: Path, **space: Any) -> None:
        self.seat, self.mice = seat, mice
        fixed = SHORT | space.pop("fixed", {})
        self.space = write_space(seat.root / "space.yaml", **({"fixed": fixed, "scheduler": {"kind": "none"}} | space))
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> subprocess.Popen[str]:
        return self._start("run", self.space, "--data", self.mice, "--name", "hurt")

    def resume(self) -> subprocess.Popen[str]:
        return self._start("resume", "hurt")

    def _start(self, *words: Any) -> subprocess.Popen[str]:
        self.process = self.seat.start(COMMAND, "sweep", *words)
        return self.process

    def finish(self) -> int:
        """Wait for the end of the command; its exit code. What it said is in `said`."""
        assert self.process is not None
        done = finish(self.process)
        self.said = done.stderr
        return done.returncode

    def reports(self, trial: int | None = None) -> int:
        """Reports in the journal so far."""
        if not self.seat.home.journal("hurt").is_dir():
            return 0
        return sum(trial in (None, report.trial) for report in self.seat.reports("hurt"))

    def until(self, holds: Callable[[], bool], what: str = "it") -> None:
        """Wait until something holds while the command runs."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert self.process is None or self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            time.sleep(0.05)

    def until_reports(self, more: int, trial: int | None = None) -> None:
        wanted = self.reports(trial) + more
        self.until(lambda: self.reports(trial) >= wanted, f"{wanted} reports")

    def wait_for_reports(self, more: int) -> None:
        """So many more reports, or the end of the command."""
        wanted = self.reports() + more
        self.until_it_ends_or(lambda: self.reports() >= wanted)

    def until_it_ends_or(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while self.process is not None and self.process.poll() is None and not holds():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Hurt the driver itself, and wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(SECONDS)

    def workers(self) -> list[psutil.Process]:
        """The processes in which trials train now."""
        return [p for p in self.children() if _title(p).startswith("ray::ImplicitFunc.train")]

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, word: str) -> list[psutil.Process]:
        """Processes of the sweep with this word in their command: raylet, gcs_server."""
        return [p for p in self.children() if word in _title(p)]

    def check(self, ended: bool = True) -> Books:
        return check(self.seat, "hurt", ended)


@pytest.fixture
def bench(tmp_path: Path, mice_folder: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches; what they started is gone afterwards."""
    made: list[Bench] = []

    def make(environment: dict[str, str] | None = None, **space: Any) -> Bench:
        made.append(Bench(Seat(tmp_path, environment or {}), mice_folder, **space))
        return made[-1]

    yield make
    for item in made:
        if item.process is not None:
            stop(item.process)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write down what a fault came to, a line of docs/reliability.md, and hold it against what must be."""

    def write(fault: str, books: Books, outcome: str) -> None:
        assert books.wrong == []
        figures = [len(books.lost), len(books.doubled), len(books.running), len(books.missing), len(books.differing)]
        _ROWS[fault] = [fault, *map(str, figures), outcome]

    return write


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Put what passed into the table in the docs, when `make faults` runs; a line of another run of it stays."""
    if not os.environ.get("MOUSELIFT_RELIABILITY"):
        return
    before, _, rest = TABLE.read_text().partition(_MARKS[0])
    old, _, after = rest.partition(_MARKS[1])
    known = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in old.strip().splitlines()[2:]]
    rows = {cells[0]: cells for cells in known} | _ROWS
    head = ["fault", "trials lost", "doubled", "left RUNNING", "figures missing", "books that differ", "then"]
    lines = [_line(head), _line(["---"] * len(head)), *(_line(rows[fault]) for fault in sorted(rows))]
    TABLE.write_text("\n".join([before + _MARKS[0], *lines, _MARKS[1] + after]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""
