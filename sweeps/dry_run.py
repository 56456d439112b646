"""Two real steps of a recipe in a process of its own: they run, and what they take in time, memory and disk.

The process trains, validates one scene, writes a checkpoint and loads it again; when it ends, no memory of it stays
with its parent, on the GPU or off it. What a crash leaves is taken away by the parent.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline import checkpoint
from pipeline.config import one_line
from pipeline.errors import PipelineError
from pipeline.recipe import LossConfig, Recipe, override
from pipeline.train import train
from sweeps.errors import StudyError

STEPS = 2
_LONGEST_SECONDS = 1800.0  # of one configuration, before it is called hung
_LOG_SHOWN = 300  # characters of a crash's last line


@dataclass(frozen=True)
class Job:
    """A configuration as a trial would meet it, but for its length."""

    recipe: Recipe
    cache: str
    threads: int
    gpu: bool


@dataclass(frozen=True)
class Measured:
    """What the steps of a configuration took. Bytes; memory_total is the device's, or None on the CPU."""

    step_seconds: float  # of the second step
    memory: int
    memory_total: int | None
    checkpoint: int
    release: int  # of the checkpoint without its training state
    figures: tuple[str, ...]  # names of what the validation reports


@dataclass(frozen=True)
class Fault:
    """Why a configuration did not come through, and what to do."""

    text: str


class DryRun:
    """The process, which takes jobs one after the other; started early, it imports while others work."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> DryRun:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, whatever it is doing, and take its files away."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._cleanup.close()

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._process is not None:
            return
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mouselift-")))
        context = multiprocessing.get_context("spawn")  # forked, CUDA and threads would be half there
        self._connection, other = context.Pipe()
        self._cleanup.callback(self._connection.close)
        self._process = context.Process(target=_serve, args=(other, str(self._folder)), name="dry-run", daemon=True)
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is for the parent to hear
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        other.close()

    def send(self, jobs: Iterable[Job]) -> None:
        """Have the jobs done, one after the other; none is waited for."""
        self.start()
        assert self._connection is not None
        with contextlib.suppress(ConnectionError):  # `receive` says what became of the process
            for job in jobs:
                self._connection.send(job)

    def receive(self, where: str) -> Measured:
        """The outcome of the next job that was sent. Raises StudyError, which begins with `where`."""
        assert self._connection is not None
        try:
            if not self._connection.poll(_LONGEST_SECONDS):
                raise StudyError(
                    f"{where}: expected {STEPS} steps within {_LONGEST_SECONDS / 60:g} min, got none — it hangs, or "
                    "is too large for this machine; make it smaller."
                )
            outcome: Measured | Fault = self._connection.recv()
        except (EOFError, ConnectionError):
            raise StudyError(f"{where}: {self._end_of_process()}") from None
        if isinstance(outcome, Fault):
            raise StudyError(f"{where}: {outcome.text}")
        return outcome

    def _end_of_process(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            killed = signal.Signals(-code).name
            return (
                f"expected {STEPS} steps, got a process that was ended by {killed} — memory may have run out; lower "
                "train.batch_size, data.num_views or data.image_size."
            )
        log = self._folder / "log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
        last = next((line for line in reversed(lines) if line), "nothing in its log")[:_LOG_SHOWN]
        return f"expected {STEPS} steps, got a process that ended with {code} — {last}"


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with two steps, a validation of one scene after them, and every loss term from the first on.

    One pass a step whatever train.accumulate says. The learning rate is too small to do harm: whether the recipe's
    own is too large is for a trial to find out.
    """
    changes: dict[str, Any] = {
        "train.max_steps": STEPS,
        "train.validate_every": STEPS,
        "train.report_every": 1,
        "train.max_val_scenes": 1,
        "train.accumulate": 1,
        "optim.lr": 1.0e-6,
        "optim.warmup_steps": 0,
    }
    if isinstance(recipe.loss, LossConfig):
        changes |= {"loss.warmup_steps": 0, "loss.pointsdist_warmup_steps": 0}
    return override(recipe, changes)


def measure(job: Job, folder: Path) -> Measured:
    """Do the steps here and now, with `folder` for the checkpoint."""
    device = torch.device("cuda" if job.gpu else "cpu")
    torch.set_num_threads(job.threads)
    with _watched_memory(device) as peak:
        *_, last = train(shortened(job.recipe), folder, device=device, cache=Path(job.cache))
        assert last.checkpoint is not None
        checkpoint.load(last.checkpoint, device)
        checkpoint.load_training(last.checkpoint)
    whole, state = _size(last.checkpoint), (last.checkpoint / checkpoint.TRAINING).stat().st_size
    return Measured(
        step_seconds=last.metrics["time/step_seconds"],
        memory=peak[0],
        memory_total=torch.cuda.get_device_properties(device).total_memory if job.gpu else None,
        checkpoint=whole,
        release=whole - state,
        figures=tuple(sorted(name for name in last.metrics if name.startswith("val/"))),
    )


def _serve(connection: Connection, folder: str) -> None:
    """The process's whole life: what it prints goes to a log, what it finds to the connection."""
    log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # its first use imports for seconds
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(job, Path(folder)))


def _attempt(job: Job, folder: Path) -> Measured | Fault:
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        try:
            return measure(job, Path(workdir))
        except PipelineError as error:
            return Fault(one_line(error))
        except torch.cuda.OutOfMemoryError as error:
            return Fault(
                f"expected {STEPS} steps to fit the GPU, got {one_line(error).partition('. ')[0]} — lower "
                "train.batch_size, data.num_views or data.image_size, or set model.checkpoint_layers."
            )
        except OSError as error:
            return Fault(
                f"expected files that can be read and written, got {one_line(error)} — mend that, or make room."
            )


@contextlib.contextmanager
def _watched_memory(device: torch.device) -> Iterator[list[int]]:
    """Gives a list that holds, once the block is left, the bytes that it needed at most."""
    found = [0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    yield found
    found[0] = _peak_bytes()


def _peak_bytes() -> int:
    """The process's own memory at its peak: without pages of files, which processes share and the system can drop."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return int(psutil.Process().memory_info().rss)
    kilobytes = {}
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssFile"):
            kilobytes[name] = int(value.split()[0])
    return 1024 * (kilobytes["VmHWM"] - kilobytes["RssFile"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
