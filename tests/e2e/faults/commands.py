"""Real `mouselift` processes by the dozen: forked from one that has imported everything, and hurt where a test says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "mouselift",
        "pipeline.gslrm.evaluate",
        "sweeps.registry.promotion",
        "sweeps.registry.registry",
        "pipeline.gslrm.kind",
        "tests.e2e.squares",
    ]
)
SECONDS = 300
_OURS = ("MLFLOW", "MOUSELIFT", "RAY_", "OPTUNA")


@dataclass(frozen=True)
class Hurt:
    """A signal that a process sends itself right before or after the n-th call of a method of MlflowClient.

    Calls count whose key begins with `key`: locks are tags, too, and are renewed at their own pace.
    """

    method: str
    call: int = 1
    key: str = ""
    after: bool = False
    signal: int = signal.SIGKILL

    def __str__(self) -> str:
        place = "after" if self.after else "before"
        return f"{signal.Signals(self.signal).name} {place} {self.method} {self.call}"


def command(words: list[str], environment: dict[str, str], log: Path, **options: object) -> multiprocessing.Process:
    """A started `mouselift` with these words; what it says goes to `log`."""
    process = FORKING.Process(target=_run, args=(words, environment, log), kwargs=options)
    process.start()
    return process


def finish(*processes: multiprocessing.Process) -> list[int | None]:
    """Their exit codes, negative for a signal."""
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run(
    words: list[str],
    environment: dict[str, str],
    log: Path,
    hurt: Hurt | None = None,
    silence_seconds: float | None = None,
    gate: str | None = None,
) -> None:
    import torch

    import mouselift
    from sweeps.registry import lock

    torch.set_num_threads(1)
    for key in [key for key in os.environ if key.startswith(_OURS)]:
        del os.environ[key]
    os.environ.update(environment, MLFLOW_DISABLE_TELEMETRY="true")
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if silence_seconds is not None:
        lock.SILENCE_SECONDS = silence_seconds
    if hurt is not None:
        _arm(hurt)
    if gate is not None:
        _wait_for(Path(gate))
    sys.argv = ["mouselift", *words]
    mouselift.main()


def _arm(hurt: Hurt) -> None:
    from mlflow import MlflowClient

    real: Callable[..., object] = getattr(MlflowClient, hurt.method)
    calls = [0]

    def call(*arguments: object, **options: object) -> object:
        if hurt.key and not any(str(argument).startswith(hurt.key) for argument in arguments):
            return real(*arguments, **options)
        calls[0] += 1
        if calls[0] == hurt.call and not hurt.after:
            _suffer(hurt.signal)
        answer = real(*arguments, **options)
        if calls[0] == hurt.call and hurt.after:
            _suffer(hurt.signal)
        return answer

    setattr(MlflowClient, hurt.method, call)


def _suffer(number: int) -> None:
    os.kill(os.getpid(), number)
    if number != signal.SIGSTOP:
        signal.pause()


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.005)
