"""`make gpu`, `python -m benchmarks.gpu`: the tests that need a GPU, then its figures, in about six minutes.

gsplat's kernels are built and data is written in the background while what needs neither is measured. Every part and
every file of tests is a process of its own with a time limit, so that none takes another with it. Writes
`gpu-report.md` and `gpu-report.json`, anew after each; exits with 1 when a test failed or no GPU was found. What is
imported here is Python's own, so that a package that is missing costs the parts that need it.

`--pack FOLDER` writes a folder that can be copied to a machine without network, see `benchmarks.gpu.pack`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu import environment, parts
from benchmarks.gpu.parts import Part
from benchmarks.gpu.processes import COMMIT, ROOT, PartRun, Running, start_part, start_tests, write_rows
from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings

SECONDS = 420.0  # of the whole, on a GPU: what runs then is ended
PATIENCE = 6.0  # times as long on a CPU
TEST_SECONDS = 150.0  # of one file of tests
LEAST_SECONDS = 5.0  # that a part is given, or it is left out


def main() -> int:
    """What the command line asks for."""
    asked = _arguments()
    if asked.pack is not None:
        from benchmarks.gpu import pack

        if asked.pack.exists():
            sys.exit(f"{asked.pack}: expected a folder that is not there yet, got one — remove it, or name another.")
        pack.pack(asked.pack, pack.names_in(asked.has))
        return 0
    settings = Settings(asked.device, asked.small, asked.data)
    if asked.part:
        write_rows(next(part for part in parts.ALL if part.name == asked.part), settings, asked.rows)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing that was started stays
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mouselift-gpu-", ignore_cleanup_errors=True) as folder:
        if asked.data == Path():
            settings = Settings(asked.device, asked.small, Path(folder) / "mice")
        run = Run(settings, Path(folder), set(asked.only), asked.out)
        try:
            run.everything()
        finally:
            run.stop()
            run.write()
    print(run.report.markdown(parts.ALL))
    return 1 if run.report.failed or parts.MACHINE.name in run.failed else 0


class Run:
    """The parts and the tests, in their order, until the time is over."""

    def __init__(self, settings: Settings, folder: Path, only: set[str], out: Path) -> None:
        self.settings, self.folder, self.only, self.out = settings, folder, only, out
        self.patience = 1.0 if settings.cuda else PATIENCE
        self.began = time.monotonic()
        self.end = self.began + self.patience * SECONDS
        self.extra = environment.of_processes(settings)
        words = f"--device {settings.device}{' --small: toy sizes, no figures to be quoted' if settings.small else ''}"
        self.report = Report(words, commit())
        self.failed: set[str] = set()
        self.processes: list[Running] = []

    def everything(self) -> None:
        """Kernels and data in the background, what needs neither; then the tests, then the rest."""
        background = [self._started(part) for part in (parts.MACHINE, parts.KERNELS, parts.DATA)]
        for part in parts.FIRST:
            self._done(self._started(part))
        for run in background:
            self._done(run)
        if not self.only or "tests" in self.only:
            self._tests(sorted((ROOT / "tests/gpu").glob("test_*.py")))
        for part in parts.THEN:
            self._done(self._started(part))

    def write(self) -> None:
        """What is known so far: whatever ends this process, it lies there."""
        self.report.seconds["all"] = time.monotonic() - self.began
        (self.out / "gpu-report.md").write_text(self.report.markdown(parts.ALL))
        (self.out / "gpu-report.json").write_text(json.dumps(self.report.json(), indent=1, allow_nan=False))

    def stop(self) -> None:
        """End what still runs: after Ctrl-C, or an error of ours."""
        for running in self.processes:
            if running.process.poll() is None:
                running.kill()

    def _started(self, part: Part) -> PartRun | None:
        """The part in its process; None where it is not asked for or cannot be: then a row says why."""
        if not self._is_wanted(part):
            return None
        missing = [name for name in part.needs if name in self.failed]
        left = min(self.patience * part.seconds, self.end - time.monotonic())
        if missing or left < LEAST_SECONDS:
            reason = f"left out: {' and '.join(missing)} failed" if missing else "left out: the time was over"
            self.report.tables[part.name] = [Row(part.name, note=reason)]
            return None
        _say(f"{part.name} …")
        run = start_part(part, self.settings, self.folder, left, self.extra)
        self.processes.append(run.running)
        return run

    def _is_wanted(self, part: Part) -> bool:
        """Whether a part was asked for, or what was asked for needs it."""
        asked = [other for other in parts.ALL if other.name in self.only]
        needed = {parts.MACHINE.name, *(name for other in asked for name in other.needs)}
        needed |= {parts.KERNELS.name} if "tests" in self.only else set()
        return not self.only or part.name in self.only | needed

    def _done(self, run: PartRun | None) -> None:
        if run is None:
            return
        rows = run.finish()
        if run.problem:
            self.failed.add(run.part.name)
        self.report.tables[run.part.name] = rows
        self.report.seconds[run.part.name] = run.seconds
        self.write()
        _say(f"{run.part.name}: {run.seconds:.0f} s{f', {run.problem}' if run.problem else ''}")

    def _tests(self, files: Iterable[Path]) -> None:
        """All files at once where there are cores enough, for tests need little of a GPU; else one by one."""
        waiting, running = list(files), []
        while waiting or running:
            while waiting and len(running) < environment.at_once():
                seconds = max(LEAST_SECONDS, min(self.patience * TEST_SECONDS, self.end - time.monotonic()))
                running.append(start_tests(waiting.pop(0), self.folder, seconds, environment.of_tests(self.settings)))
                self.processes.append(running[-1].running)
                _say(f"{running[-1].name} …")
            for run in [one for one in running if one.running.process.poll() is not None or one.running.left <= 0]:
                running.remove(run)
                found = run.finish()
                self.report.tests += found
                self.report.seconds[run.name] = run.seconds
                self.write()
                bad = sum(result.bad for result in found)
                _say(f"{run.name}: {run.seconds:.0f} s, {len(found)} tests, {bad} failed")
            time.sleep(0.1)


def commit() -> str:
    """Which code this is: as git says, or the file that was packed with the folder."""
    file = ROOT / COMMIT
    if file.is_file():
        return file.read_text().strip()
    if shutil.which("git") is None:
        return "unknown"
    found = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the code")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="some parts; tests is one")
    parser.add_argument("--out", type=Path, default=Path(), help="where the reports go")
    parser.add_argument("--data", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write a folder to copy to a machine")
    parser.add_argument(
        "--has", type=Path, metavar="FILE", help="with --pack: packages that the machine has, one a line"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
