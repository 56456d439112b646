"""What the end-to-end tests share: the real command in processes of its own, and one sweep that many of them read."""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import mouselift
from sweeps.book.journal import Journal, Reported, RunOpened
from sweeps.book.ledger import Ledger, read
from sweeps.home import Home
from tests.conftest import hear
from tests.e2e.squares import client, dataset, home, ranked, registry, run_id, three, world

__all__ = ["client", "dataset", "home", "ranked", "registry", "run_id", "three", "world"]
COMMAND = Path(sys.executable).with_name("mouselift")
SECONDS = 300  # more than any command needs, even on a busy machine
SMALL = {
    "data.image_size": 32,
    "data.num_views": 5,
    "data.num_held_out_views": 1,
    "model.dim": 32,
    "model.head_dim": 16,
    "model.num_layers": 2,
    "model.scale_bias": -4.0,
    "loss.alpha": 1.0,
    "train.max_steps": 12,
    "train.validate_every": 4,
    "optim.warmup_steps": 2,
}
_OURS = ("MLFLOW", "MOUSELIFT", "RAY_", "OPTUNA")


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path, mice_folder):
    """Runs a command on a home that does not exist; the one line it says, its folders called TMP and MICE."""
    home = tmp_path / "home"
    for name in [
        name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "MLFLOW_RUN", "MOUSELIFT", "RAY_A"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOUSELIFT_HOME", str(home))
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> str:
        before = set(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["mouselift", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            mouselift.main()
        said = capsys.readouterr()
        assert (left.value.code, said.out) == (2, "")
        assert said.err.startswith("mouselift: ") and said.err.endswith("\n") and said.err.count("\n") == 1
        assert set(tmp_path.rglob("*")) == before, "something was written"
        text = said.err.removeprefix("mouselift: ").rstrip("\n")
        return text.replace(str(mice_folder), "MICE").replace(str(tmp_path), "TMP")

    return run


@dataclass(frozen=True)
class Seat:
    """Somebody at a terminal: a home, a current folder of their own, and nothing of ours in the environment."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
        path = f"{COMMAND.parent}{os.pathsep}{inherited['PATH']}"
        return inherited | {"PATH": path, "MOUSELIFT_HOME": str(self.root / "home")} | self.extra

    @property
    def home(self) -> Home:
        return Home.from_environment(self.environment)

    @property
    def folder(self) -> Path:
        """The current folder of every command."""
        folder = self.root / "here"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start a command, as the leader of a process group like any job of a shell."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return finish(self.start(*words))

    def mouselift(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(COMMAND, *words)

    def here(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """The same command within this process, which has the imports already: seconds less, where another process
        would tell nothing more. What libraries log goes to pytest.
        """
        out, err, code = io.StringIO(), io.StringIO(), None
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in os.environ.keys() - self.environment.keys():
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["mouselift", *map(str, words)])
            try:
                mouselift.main()
            except SystemExit as left:
                code = left.code
            finally:
                hear()
                gc.unfreeze()  # what `main` froze for the exit of its process
        assert isinstance(code, int | None)
        return subprocess.CompletedProcess(["mouselift", *words], code or 0, out.getvalue(), err.getvalue())

    def answer(self, *words: str | Path) -> Any:
        """What a `--json` command says, which must succeed and say nothing else."""
        return _json_of(self.mouselift(*words, "--json"))

    def answer_here(self, *words: str | Path) -> Any:
        """`answer` of a command within this process."""
        return _json_of(self.here(*words, "--json"))

    def ledger(self, sweep: str) -> Ledger:
        return read(Journal(self.home.journal(sweep)))

    def reports(self, sweep: str) -> list[Reported]:
        return [event for _, event in Journal(self.home.journal(sweep)).events() if isinstance(event, Reported)]

    def curve(self, sweep: str, trial: int) -> dict[int, float]:
        """The objective of a trial by step."""
        metrics = {report.step: report.metrics for report in self.reports(sweep) if report.trial == trial}
        return {step: found["val/psnr_fg"] for step, found in metrics.items() if "val/psnr_fg" in found}

    def runs(self, sweep: str) -> dict[int | None, str]:
        """MLflow's run of each trial, and of the sweep itself."""
        events = (event for _, event in Journal(self.home.journal(sweep)).events())
        return {event.trial: event.run_id for event in events if isinstance(event, RunOpened)}


def _json_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end and take what it said."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        stop(process)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def stop(process: subprocess.Popen[str]) -> None:
    """End what is left of a command and of everything it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def write_space(path: Path, **changes: Any) -> Path:
    """A space on a GS-LRM that trains in a second; `changes` replace its keys, `fixed` adds to it."""
    values: dict[str, Any] = {
        "recipe": "gslrm_tiny",
        "fixed": SMALL | changes.pop("fixed", {}),
        "space": {
            "optim.lr": {"float": [5.0e-4, 4.0e-3], "log": True},
            "data.num_input_views": {"choice": [2, 4]},
        },
        "scheduler": {"kind": "asha", "grace_steps": 4, "reduction_factor": 3},
        "trials": {"count": 4, "concurrent": 2},
        "gates": {"test/mask_iou": ">= 0.0"},
    }
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path


@dataclass(frozen=True)
class Spine:
    """A finished sweep: who ran it, its name, what the command said."""

    seat: Seat
    name: str
    done: subprocess.CompletedProcess[str]


class Promotion(NamedTuple):
    """A trial that completed and then the best one, put forward; what was said, and the registry afterwards."""

    first: subprocess.CompletedProcess[str]
    second: dict[str, Any]
    versions: dict[int, dict[str, Any]]

    @property
    def champion(self) -> dict[str, Any]:
        return next(version for version in self.versions.values() if "champion" in version["aliases"])


@pytest.fixture(scope="session")
def spine(tmp_path_factory: pytest.TempPathFactory, mice_folder: Path) -> Spine:
    """Four trials, two at a time, ASHA, by the real command in a fresh process."""
    return _sweep_once(tmp_path_factory.getbasetemp() / "spine", mice_folder)


@pytest.fixture(scope="session")
def promoted(spine: Spine) -> Promotion:
    return _promote_once(spine.seat.root)


# The browser's tests import these fixtures; cached, they still run once.
@functools.cache
def _sweep_once(root: Path, mice_folder: Path) -> Spine:
    root.mkdir()
    seat = Seat(root)
    done = seat.mouselift("sweep", "run", write_space(root / "small.yaml"), "--data", mice_folder, "--name", "spine")
    assert done.returncode == 0, done.stderr
    return Spine(seat, "spine", done)


@functools.cache
def _promote_once(root: Path) -> Promotion:
    seat = Seat(root)
    book = seat.ledger("spine")
    other = next(n for n, trial in book.trials.items() if trial.state == "COMPLETE" and n != book.best.number)
    first = seat.mouselift("model", "promote", "spine", "--trial", str(other))
    second = seat.answer_here("model", "promote", "spine")
    return Promotion(first, second, {item["version"]: item for item in seat.answer("model", "list")})


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    return Seat(tmp_path)
