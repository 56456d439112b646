"""Garbage, threads and signals of a process: set in commands, dry runs and workers, left alone in a script's own."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

# Threads that wait for each other sleep. OpenMP's spin by default: beside other work on the same cores a step then
# takes many times as long as with one thread. Read when torch is imported.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
_LOOKED_AT = 100_000, 20, 20  # objects made, and rounds, before Python looks through a generation of them
# By these a user, a closed terminal, a shutdown or a scheduler asks a process to end. SIGQUIT (Ctrl-\) is not among
# them: who sends it wants an end at once, and a core.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OF_OTHERS = ENDING[1:]  # all but Ctrl-C, of which Python itself makes an exception
_STOPPED, _ENDED = 130, 1
_PATIENCE_SECONDS = 30.0  # for an end in good order; a signal after that asks again
Handler = Callable[[int, FrameType | None], None]


class Interrupted(SystemExit):
    """A signal asked this process to end. What is not caught ends Python with the text as one line, and code 1."""

    def __init__(self, number: int) -> None:
        super().__init__(said(number))
        self.exit_code = exit_code(str(self))


def interruption_in(error: BaseException) -> Interrupted | None:
    """The Interrupted that an error is or was made of: compiled code gives a SystemError where one was raised in it."""
    while not isinstance(error, Interrupted):
        if (cause := error.__cause__ or error.__context__) is None:
            return None
        error = cause
    return error


def said(number: int) -> str:
    """How an end by this signal is told, as the reason of a sweep too."""
    return f"interrupted by {signal.Signals(number).name}"


def exit_code(reason: str) -> int:
    """Of a command that was interrupted for `reason`: 130 by Ctrl-C or `sweep stop`, 1 by any other signal."""
    return _ENDED if reason in map(said, OF_OTHERS) else _STOPPED


def set_up() -> None:
    """For a process of ours, before its imports. What the environment says of threads stands.

    Imports make half a million objects that stay. Looking through them on the way takes a third of their time.
    """
    gc.set_threshold(*_LOOKED_AT)
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)


def takes_signals() -> bool:
    """Whether this thread may say what a signal does; of a Python process only the main thread may."""
    return threading.current_thread() is threading.main_thread()


def interrupt(number: int, _: FrameType | None = None) -> None:
    """A handler that raises Interrupted, so that what was begun is ended in good order, which no later one disturbs.

    One that comes 30 s later raises again: the end hangs, or something caught the exception.
    """
    began = time.monotonic()

    def again(later: int, _: FrameType | None) -> None:
        if time.monotonic() - began > _PATIENCE_SECONDS:
            raise Interrupted(later)

    with contextlib.suppress(Interrupted), signals_blocked():  # another that came meanwhile is not the first
        for other in ENDING:
            if signal.getsignal(other) is interrupt:
                signal.signal(other, again)
    raise Interrupted(number)


def set_handler(handler: Handler, numbers: Sequence[signal.Signals] = ENDING) -> dict[signal.Signals, Any]:
    """Let these signals call `handler` from now on. Returns what those that this changes did before.

    One that is ignored stays so, as `nohup` wants it. In another thread than the main one nothing is changed.
    """
    if not takes_signals():
        return {}
    with signals_blocked():  # one that comes meanwhile would leave half of them changed
        before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
        changed = {number: earlier for number, earlier in before.items() if earlier not in (signal.SIG_IGN, handler)}
        for number in changed:
            signal.signal(number, handler)
    return changed


@contextlib.contextmanager
def handled(handler: Handler = interrupt, numbers: Sequence[signal.Signals] = ENDING) -> Iterator[None]:
    """As `set_handler`, for as long as the block lasts."""
    changed = set_handler(handler, numbers)
    try:
        yield
    finally:
        with signals_blocked():
            for number, earlier in changed.items():
                signal.signal(number, earlier)


def ignore_signals() -> None:
    """Ignore these signals from now on: the process is at its end, where Python takes its own handlers away."""
    for number in ENDING if takes_signals() else ():
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def signals_deferred() -> Iterator[list[int]]:
    """Put signals off while the block runs, which takes seconds and is the end of something. Gives those that came."""
    came: list[int] = []
    with handled(lambda number, _: came.append(number)):
        yield came


@contextlib.contextmanager
def signals_blocked(numbers: Sequence[signal.Signals] = ENDING) -> Iterator[None]:
    """Keep these signals from this thread, and for good from the processes that it starts within: a terminal or a
    scheduler sends them to all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Python may run the handler of an earlier signal in this call, once it has blocked them: what that raises must
        # not leave them blocked for good.
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
