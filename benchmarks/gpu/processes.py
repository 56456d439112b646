"""Parts and tests in processes of their own: what fails, is killed or takes too long is a row that says so."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.parts import Part
from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).parents[2]
COMMIT = "COMMIT"  # the file of a packed folder that says which commit it is
LEFT_OUT = "left out"
_GRACE_S = 5.0
_MARK = "BENCHMARKS_GPU_PROCESS"
_LONGEST = 300  # characters of what a process said last
_COLUMNS = "500"  # of a line of pytest's summary, which it cuts off to fit a terminal's 80
_RESULT = re.compile(r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
_MISSING = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
_REASON = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?::.+?) - (.+)$")


@dataclass
class Running:
    """A command in a session of its own, its words in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    deadline: float  # of time.monotonic
    mark: bytes  # in the environment of the command and of all that it starts

    @property
    def said(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def end(self) -> str:
        """Wait for the end, and bring it about at the deadline; why it failed, or nothing."""
        try:
            code = self.process.wait(max(0.0, self.left))
        except subprocess.TimeoutExpired:
            return "took too long and was ended"
        finally:
            self.kill()  # what it has started, too
        if code == 0:
            return ""
        end = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{end}: {self.last}" if self.last else end

    @property
    def last(self) -> str:
        """The error that was said last, or what was said last: CUDA's errors have advice after them."""
        spoken = [line.strip() for line in self.said if line.strip()]
        errors = [line for line in spoken if _ERROR.match(line)]
        return next(iter([*errors[-1:], *spoken[-1:]]), "")[:_LONGEST]

    def kill(self) -> None:
        """End the command and all that it has started, in whatever session; a sweep and its Ray have their own."""
        until = time.monotonic() + _GRACE_S
        left = self._send(signal.SIGTERM)
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left = self._send(0)
        if left:
            self._send(signal.SIGKILL)
            self.process.wait()

    def _send(self, number: int) -> bool:
        """Send a signal to the session, and to each process that has the mark; whether any is left."""
        left = self.process.poll() is None
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if self.mark in file.read_bytes():
                    os.kill(int(file.parent.name), number)
                    left = True
        return left


def start(words: Sequence[str | Path], log: Path, seconds: float, extra: dict[str, str]) -> Running:
    """Start a Python command in the checkout; nothing is waited for."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    mark = f"{_MARK}={secrets.token_hex(16)}"
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", _MARK: mark.partition("=")[2]} | extra
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return Running(process, log, time.monotonic() + seconds, mark.encode())


# ---------------------------------------------------------------- parts


@dataclass
class PartRun:
    """A part in its process."""

    part: Part
    running: Running
    file: Path
    began: float = field(default_factory=time.time)
    seconds: float = 0.0
    problem: str = ""

    def finish(self) -> list[Row]:
        """Every row that was written, and one more if the process did not end well."""
        ended_before = self.running.process.poll() is not None  # in the background
        self.problem = self.running.end()
        self.seconds = self._last_written() - self.began if ended_before else time.time() - self.began
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        rows = [Row(**json.loads(line)) for line in lines if line.endswith("}")]
        return [*rows, *([Row(self.part.name, note=self.problem)] if self.problem else [])]

    def _last_written(self) -> float:
        return max(path.stat().st_mtime for path in (self.file, self.running.log) if path.is_file())


def start_part(part: Part, settings: Settings, folder: Path, seconds: float, extra: dict[str, str]) -> PartRun:
    """Start a part; its rows go to a file in `folder`, one a line."""
    file = folder / f"{part.name}.jsonl"
    words = ["-m", "benchmarks.gpu", "--part", part.name, "--rows", file, "--device", settings.device]
    words += ["--data", settings.data, *(["--small"] if settings.small else [])]
    return PartRun(part, start(words, folder / f"{part.name}.log", seconds, extra), file)


def write_rows(part: Part, settings: Settings, file: Path) -> None:
    """Do a part here, and write each row as soon as it is there."""
    with file.open("w") as out:
        for row in part.rows(settings):
            out.write(json.dumps(row.values, allow_nan=False) + "\n")
            out.flush()


# ---------------------------------------------------------------- tests


@dataclass(frozen=True)
class Result:
    """How one test ended, or all of a file, where a package is missing or the process came to its end before them."""

    test: str
    outcome: str
    reason: str = ""

    @property
    def bad(self) -> bool:
        return self.outcome not in ("passed", "skipped", "xfail", LEFT_OUT)


@dataclass
class TestRun:
    """The tests of one file in their process."""

    name: str
    running: Running
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def finish(self) -> list[Result]:
        """Each test's end, and why the process ended before all were run, if it did."""
        problem = self.running.end()
        self.seconds = time.monotonic() - self.began
        found = results(self.running.said)
        missing = next((match[1] for line in self.running.said if (match := _MISSING.search(line))), None)
        if problem and missing and not found:
            return [Result(self.name, LEFT_OUT, f"the package {missing} is not there")]
        told = any(result.bad or result.outcome == LEFT_OUT for result in found)  # why pytest ends with 1
        if not problem or (told and problem.startswith("exit code 1")):
            return found
        return [*found, Result(self.name, "error", problem)]


def start_tests(file: Path, folder: Path, seconds: float, extra: dict[str, str]) -> TestRun:
    """Start pytest on one file."""
    name = file.relative_to(ROOT).as_posix()
    options = ["-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "-v", "--tb=short", "-rfE"]
    words, log = ["-m", "pytest", name, *options], folder / f"{file.stem}.log"
    running = start(words, log, seconds, {"COLUMNS": _COLUMNS, **extra})
    return TestRun(name, running)


def results(lines: Sequence[str]) -> list[Result]:
    """The tests in pytest's words: each line that names an outcome, with its reason from the summary.

    One that failed for want of a package was left out.
    """
    reasons = {match[1]: match[2] for line in lines if (match := _REASON.match(line))}
    ends = {match[1]: match[2].lower() for line in lines if (match := _RESULT.match(line))}
    ends |= {test: LEFT_OUT for test, reason in reasons.items() if test in ends and _MISSING.match(reason)}
    return [Result(test, outcome, reasons.get(test, "")) for test, outcome in ends.items()]
