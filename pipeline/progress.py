"""How far long work has come: what works tells it, and a command shows it on the standard error.

Library code takes a `Tell` and calls it; it neither draws nor prints. A command calls `shown`: in a terminal each part
of the work has a bar with the time that is left, anywhere else it has a line now and then.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar, cast

from pipeline.files import size_of

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 15.0  # between two lines, where there is no terminal
_LOOK_SECONDS = 0.5  # between two looks at a folder that fills
_GONE = (errno.EPIPE, errno.EIO)  # what a write to a closed pipe, and one to a terminal that was closed, gives
T = TypeVar("T")


class Tell(Protocol):
    """Takes how much of a part of the work is done. total: of the same unit; 1 for a share, 0 where nobody knows it."""

    def __call__(self, part: str, done: float, total: float) -> None: ...


def silent(part: str, done: float, total: float) -> None:
    """A `Tell` that nobody hears."""


def told(items: Iterable[T], part: str, total: int, tell: Tell) -> Iterator[T]:
    """The items, of which each counts as done when the next one is asked for."""
    tell(part, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        tell(part, done, total)


@contextlib.contextmanager
def filling(folder: Path, part: str, total: int, tell: Tell) -> Iterator[None]:
    """Tell how many of `total` bytes lie in a folder while the block fills it."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(OSError):  # a temporary file that has just got its name
                tell(part, min(size_of(folder), total), total)

    tell(part, 0, total)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    tell(part, total, total)


class LastingError:
    """The standard error for as long as somebody reads it; what is said to a closed pipe or terminal is lost.

    Work outlives its readers: Ctrl-C ends the `tee` behind a pipe first, and a closed window takes its terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def write(self, text: str) -> int:
        with self._whoever_reads():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._whoever_reads():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    @contextlib.contextmanager
    def _whoever_reads(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise


def console() -> Console:
    """The standard error as rich draws on it."""
    from rich.console import Console

    return Console(file=cast("TextIO", LastingError()))


@contextlib.contextmanager
def shown(on: Console | None = None, clock: Callable[[], float] = time.monotonic) -> Iterator[Tell]:
    """A `Tell` that is seen for as long as the block lasts, on the standard error unless another console is given."""
    on = on or console()
    if not on.is_terminal:
        yield _Lines(on, clock)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[count]}"))
    # Results go to the standard output at once: rich would send them to the standard error where that is a terminal.
    redirected = {"redirect_stdout": sys.stdout.isatty()}
    with Progress(*columns, TimeElapsedColumn(), Left(compact=True), console=on, **redirected) as progress:  # type: ignore[arg-type]
        yield _Bars(progress)


class _Bars:
    """A bar for each part; one that begins again has its bar begin again."""

    def __init__(self, progress: Any) -> None:
        self._progress, self._tasks = progress, dict[str, Any]()

    def __call__(self, part: str, done: float, total: float) -> None:
        count = counted(done, total) if total and total != 1 else ""
        if part not in self._tasks:
            self._tasks[part] = self._progress.add_task(part, total=total or None, completed=done, count=count)
            return
        task = self._tasks[part]
        if done < self._progress.tasks[task].completed:
            self._progress.reset(task, total=total or None)
        self._progress.update(task, completed=done, total=total or None, count=count)


class _Lines:
    """A line now and then: how much of a part is done, and the time that is left."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._part, self._first, self._began, self._said, self._done = "", 0.0, 0.0, 0.0, -1.0

    def __call__(self, part: str, done: float, total: float) -> None:
        now = self._clock()
        if part != self._part or done < self._done:
            if self._part == "":
                self._said = now
            self._part, self._first, self._began = part, done, now
        self._done = done
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        line = f"{part}: {counted(done, total)}" if total else part
        if total > done > self._first:
            line += f", {duration((total - done) * (now - self._began) / (done - self._first))} left"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def counted(done: float, total: float) -> str:
    """`12 of 50`; of millions, which are bytes, `1.2 of 2.0 GB`; of a share, `40 %`."""
    if total == 1 and 0 < done < 1:
        return f"{done:.0%}".replace("%", " %")
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if total >= size:
            return f"{done / size:.1f} of {total / size:.1f} {unit}"
    return f"{done:.0f} of {total:.0f}"


def duration(seconds: float) -> str:
    """A time in the two units that matter: `8 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            most, rest = divmod(round(whole / part), size // part)
            return f"{most} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"
