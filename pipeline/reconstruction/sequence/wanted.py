"""Which frames of a sequence are reconstructed, in which world, and how their framing is smoothed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import DataError

World = Literal["object", "fixed"]
WORLDS: tuple[World, ...] = ("object", "fixed")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


@dataclass(frozen=True)
class Wanted:
    """What is made of a sequence.

    every: each so many-th of the frames that there are. start, end: the first frame, and the frame before which to
    stop: a number as the source counts, seconds (`1.5s`) or a clock's time (`0:01.5`), both from the source's first
    frame.
    world: `object`, every frame framed by itself, or `fixed`, one framing for all. smooth: seconds, the standard
    deviation of a Gaussian filter over the framing of neighbouring frames; 0 for none. fps: frames a second of a
    folder of frames, which has no clock. fresh_noise: another noise in every frame, as photos one by one get it.
    Raises DataError for values that cannot be.
    """

    every: int = 1
    start: str | None = None
    end: str | None = None
    world: World = "object"
    smooth: float = 0.0
    fps: float | None = None
    fresh_noise: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise DataError(f"--every {self.every}: expected 1 or more, got less — raise it.")
        if self.world not in WORLDS:
            raise DataError(f"--world {self.world}: expected one of {', '.join(WORLDS)}, got another — choose one.")
        if not 0 <= self.smooth < float("inf"):
            raise DataError(f"--smooth {self.smooth:g}: expected 0 seconds or more, got another value — change it.")
        if self.smooth and self.world == "fixed":
            raise DataError(
                f"--smooth {self.smooth:g}: expected --world object, got fixed, whose one framing moves never — leave "
                "one of them out."
            )
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise DataError(f"--fps {self.fps:g}: expected frames a second above 0, got another value — change it.")
        for option, value in self._ends():
            if value is not None:
                _moment(value, option)

    def chosen(self, numbers: tuple[int, ...], times: tuple[float, ...], where: str) -> tuple[int, ...]:
        """Places in a source's lists of frame numbers and times (ascending) that are wanted. Raises DataError."""
        first = 0 if self.start is None else _place(self.start, "--from", numbers, times)
        end = len(numbers) if self.end is None else _place(self.end, "--to", numbers, times)
        chosen = tuple(range(first, end, self.every))
        if not chosen:
            given = [f"{option} {value}" for option, value in self._ends() if value is not None]
            span = f"{numbers[0]} to {numbers[-1]}, {times[-1] - times[0]:g} s"
            raise DataError(
                f"{where}: expected frames by {' and '.join(given)}, got none of its {len(numbers)} (numbers {span}) — "
                f"change {'it' if len(given) == 1 else 'them'}."
            )
        return chosen

    def _ends(self) -> tuple[tuple[str, str | None], ...]:
        return ("--from", self.start), ("--to", self.end)


def _moment(value: str, option: str) -> int | float:
    """A frame's number, or seconds as a float."""
    if value.isascii() and value.isdecimal():
        return int(value)
    if found := _SECONDS.fullmatch(value):
        return float(found[1])
    if found := _CLOCK.fullmatch(value):
        return 3600.0 * int(found[1] or 0) + 60.0 * int(found[2]) + float(found[3])
    raise DataError(
        f"{option} {value}: expected a frame's number, seconds such as 1.5s or a time such as 0:01.5, got another "
        "text — write one of these."
    )


def _place(value: str, option: str, numbers: tuple[int, ...], times: tuple[float, ...]) -> int:
    """The first place at or after a moment; the number of frames where none is."""
    moment = _moment(value, option)
    if isinstance(moment, int):
        return next((place for place, number in enumerate(numbers) if number >= moment), len(numbers))
    return next((place for place, time in enumerate(times) if time - times[0] >= moment - 1e-9), len(numbers))
