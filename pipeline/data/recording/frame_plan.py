"""Which frames of a recording become scenes, and which of them train, validate and test.

Frames a moment apart are nearly the same picture, so splits are blocks of time with a guard gap between them.
A recording may be joined from several takes: frames on two sides of a join are no neighbours.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.data.scenes import SPLITS
from pipeline.errors import DataError

DEFAULT_COUNT = 2000
JOINS = (5900, 11800, 17700)  # of markerless_mouse_1, the published recording
SHARE = 10  # one in ten scenes validates, one in ten tests

Frames = tuple[int, ...]


@dataclass(frozen=True)
class FramePlan:
    """A choice of frames; numbers count from 0.

    count: so many, evenly spread; step: every step-th; frames: these. At most one of the three; without any,
    2000, or all of a recording that has fewer.
    start, end: only frames from `start` and before `end`.
    joins: first frames of further takes; they are never chosen, and those beyond the recording do not matter.
    guard: seconds that lie at least between frames of two splits in one take; what is too near the next block is
    left out at the end of the earlier one. For blocks only.
    split: `blocks` of time, or `random`, which puts near-duplicates into train and test (see `leakage`).
    skip_empty: leave out frames in which a view's mask is empty, instead of refusing them.
    Raises DataError for values that cannot be or exclude one another.
    """

    count: int | None = None
    step: int | None = None
    frames: Frames | None = None
    start: int = 0
    end: int | None = None
    joins: Frames = JOINS
    guard: float = 1.0
    split: str = "blocks"
    seed: int = 0
    skip_empty: bool = False

    def __post_init__(self) -> None:
        ways = {"--count": self.count, "--step": self.step, "--frames": self.frames}
        if len(given := [way for way, value in ways.items() if value is not None]) > 1:
            raise DataError(f"frames: expected one of {', '.join(ways)}, got {' and '.join(given)} — choose one.")
        if any(value is not None and value < 1 for value in (self.count, self.step)):
            raise DataError(f"frames: expected 1 or more, got {given[0]} {ways[given[0]]} — raise it.")
        if self.split not in ("blocks", "random"):
            raise DataError(f"frames: expected --split blocks or random, got {self.split!r} — choose one.")
        if not 0 <= self.guard < math.inf:
            raise DataError(f"frames: expected --guard of 0 seconds or more, got {self.guard} — raise it.")
        if self.frames is not None and len(set(self.frames)) != len(self.frames):
            raise DataError("frames: expected each frame once in --frames, got some twice — leave them out.")

    def choose(self, num_frames: int, fps: float, where: str) -> dict[str, Frames]:
        """The frames of each split, ascending, of a recording of `num_frames` at `fps`.

        where: the recording, for messages. Raises DataError, with flags that work, when a split would be empty.
        """
        candidates = self._candidates(num_frames, where)
        if len(candidates) < len(SPLITS):
            raise DataError(f"{where}: expected at least {len(SPLITS)} frames, got {len(candidates)} — choose more.")
        if self.split == "random":
            return self._random(_evenly(candidates, self._wanted(len(candidates), where)))
        blocks = self._blocks(candidates, math.ceil(self.guard * fps - 1e-9))
        if not all(blocks):
            widest = bisect(range(num_frames), 0, key=lambda gap: not all(self._blocks(candidates, gap))) - 1
            raise DataError(
                f"{where}: expected {', '.join(SPLITS)} {self.guard:g} s apart, got too few frames "
                f"({len(candidates)}, {(candidates[-1] - candidates[0] + 1) / fps:g} s) — pass --guard 0, or at most "
                f"--guard {math.floor(1e6 * widest / fps) / 1e6:g}."
            )
        total = sum(map(len, blocks))
        wanted = self._wanted(total, where)
        val, test = (max(1, round(wanted * len(block) / total)) for block in blocks[1:])
        sizes = (max(1, min(wanted - val - test, len(blocks[0]))), val, test)
        return {name: _evenly(block, size) for name, block, size in zip(SPLITS, blocks, sizes, strict=True)}

    def total(self, num_frames: int, fps: float, where: str) -> int:
        """How many frames `choose` chooses."""
        return sum(map(len, self.choose(num_frames, fps, where).values()))

    def leakage(self, splits: dict[str, Frames]) -> dict[str, int | None]:
        """For val and test: frames from the nearest training frame of the same take; None where there is none."""
        return {name: self._nearest(splits["train"], splits[name]) for name in SPLITS[1:]}

    def _candidates(self, num_frames: int, where: str) -> Frames:
        end = num_frames if self.end is None else self.end
        if not 0 <= self.start < end <= num_frames:
            raise DataError(
                f"{where}: expected 0 ≤ --start < --end ≤ {num_frames}, got {self.start} and {end} — change them."
            )
        if self.frames is None:
            return tuple(frame for frame in range(self.start, end, self.step or 1) if frame not in self.joins)
        for frame in self.frames:
            if not self.start <= frame < end:
                raise DataError(f"{where}: expected frames {self.start} to {end - 1}, got {frame} — leave it out.")
            if frame in self.joins:
                raise DataError(f"{where}: expected frames that are no joins, got {frame} — leave it out.")
        return tuple(sorted(self.frames))

    def _wanted(self, available: int, where: str) -> int:
        if self.count is not None and self.count > available:
            raise DataError(
                f"{where}: expected --count of at most {available} usable frames, got {self.count} — lower it."
            )
        if self.count is not None and self.count < len(SPLITS):
            raise DataError(f"{where}: expected --count of at least {len(SPLITS)}, got {self.count} — raise it.")
        every = self.step is not None or self.frames is not None
        return self.count or (available if every else min(DEFAULT_COUNT, available))

    def _blocks(self, candidates: Frames, guard: int) -> list[Frames]:
        """Train, val and test in this order of time, at least `guard` frames apart within a take."""
        tenth = max(1, len(candidates) // SHARE)
        bounds = (0, len(candidates) - 2 * tenth, len(candidates) - tenth, len(candidates))
        blocks = [candidates[i:j] for i, j in pairwise(bounds)]
        for earlier, later in ((1, 2), (0, 1)):
            if blocks[later]:
                first = blocks[later][0]
                blocks[earlier] = tuple(
                    frame
                    for frame in blocks[earlier]
                    if first - frame >= guard or self._take(frame) != self._take(first)
                )
        return blocks

    def _random(self, frames: Frames) -> dict[str, Frames]:
        order = np.random.default_rng(self.seed).permutation(len(frames)).tolist()
        tenth = max(1, len(frames) // SHARE)
        parts = {"train": order[2 * tenth :], "val": order[:tenth], "test": order[tenth : 2 * tenth]}
        return {name: tuple(sorted(frames[i] for i in part)) for name, part in parts.items()}

    def _nearest(self, train: Frames, frames: Frames) -> int | None:
        known, gaps = np.array(train), []
        for frame in frames:
            at = int(np.searchsorted(known, frame))
            neighbours = known[max(at - 1, 0) : at + 1].tolist()
            gaps += [abs(frame - other) for other in neighbours if self._take(other) == self._take(frame)]
        return min(gaps, default=None)

    def _take(self, frame: int) -> int:
        return sum(join <= frame for join in self.joins)


def parse_frames(text: str) -> Frames:
    """Frames as the command line takes them: `1,2,3`. Raises DataError."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not word.isdecimal():
            raise DataError(f"frames: expected numbers as in --frames 1,2,3, got {word!r} — write numbers.")
    return tuple(map(int, words))


def _evenly(frames: Sequence[int], count: int) -> Frames:
    """`count` of the frames, evenly spread, from the first on."""
    return tuple(frames[i * len(frames) // count] for i in range(count))
