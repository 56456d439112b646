"""How steady a sequence is: flicker of a view, jitter of points, variation of counts. Pure figures, each with its n.

A figure alone says little, as an animal that moves changes every picture: what the source itself has stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

UNEVEN = 1.5  # times as long as another step in time: the frames before and after it are no neighbours
Picture = UInt8[np.ndarray, "height width 3"]


class Seen(NamedTuple):
    """One moment from one camera: the source's picture, what was made of it, and where either shows the animal."""

    source: Picture
    made: Picture
    animal: Bool[np.ndarray, "height width"]


class Flicker(NamedTuple):
    """Mean |ΔI| of neighbouring frames in 0…1, over where either shows the animal; None without a pair."""

    source: float | None
    made: float | None
    pairs: int

    @property
    def ratio(self) -> float | None:
        """Of what was made to the source; None where the source stands still."""
        return self.made / self.source if self.made is not None and self.source else None


class Measured(NamedTuple):
    """A figure and of how many it is; None where there are too few."""

    value: float | None
    n: int


def flicker(moments: Iterable[Seen | None], times: Sequence[float]) -> Flicker:
    """Of moments at ascending times; None is a frame that failed, and ends the pairs before it, as does a gap.

    The mean is over pixels and channels of all pairs together; two moments are held at a time.
    """
    steps = np.diff(times)
    follows = [False, *(steps < UNEVEN * np.median(steps) if len(steps) else ())]
    sums, pixels, pairs, before = np.zeros(2), 0, 0, None
    for now, is_next in zip(moments, follows, strict=True):
        if before is not None and now is not None and is_next:
            where = before.animal | now.animal
            pixels, pairs = pixels + int(where.sum()), pairs + 1
            sums += [_change(before.source, now.source, where), _change(before.made, now.made, where)]
        before = now
    if not pixels:
        return Flicker(None, None, pairs)
    source, made = sums / (255 * 3 * pixels)
    return Flicker(float(source), float(made), pairs)


def jitter(points: Float[np.ndarray, "frame axis"], times: Sequence[float]) -> Measured:
    """RMS length of the second difference of points at ascending times, in their unit; 0 for steady motion.

    A row with a NaN is a frame that failed, and every triple with it is left out; so is one that is not evenly spaced.
    """
    second = points[2:] - 2 * points[1:-1] + points[:-2]
    before, after = np.diff(times)[:-1], np.diff(times)[1:]
    even = np.maximum(before, after) < UNEVEN * np.minimum(before, after)
    whole = second[np.isfinite(second).all(-1) & even]
    return Measured(float(np.sqrt((whole**2).sum(-1).mean())) if len(whole) else None, len(whole))


def variation(counts: Sequence[int]) -> Measured:
    """Standard deviation of counts over their mean; None of fewer than two, and where the mean is 0."""
    values = np.array(counts, dtype=np.float64)
    known = len(values) > 1 and values.mean() > 0
    return Measured(float(values.std() / values.mean()) if known else None, len(values))


def _change(before: Picture, now: Picture, where: Bool[np.ndarray, "height width"]) -> float:
    return float(np.abs(now[where].astype(np.int32) - before[where].astype(np.int32)).sum())
