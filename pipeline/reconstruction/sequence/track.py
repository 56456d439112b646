"""Where the square that a model sees lies in each frame of a video: as found, smoothed over time, or one for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Crop = tuple[float, float, float]  # left, top, side, in pixels of the source; may reach beyond its border
FIXED_MARGIN = 1.06  # of the animal's box over all frames, on a fixed framing's side


@dataclass(frozen=True)
class Found:
    """What the first pass over a video keeps of a frame: the square of its own framing, and the animal in it.

    box: left, top, right, bottom; area: pixels of the animal. All in pixels of the source.
    """

    crop: Crop
    box: tuple[float, float, float, float]
    area: float


def smoothed(found: Sequence[Found | None], times: Sequence[float], seconds: float) -> list[Crop | None]:
    """The squares with centre and logarithm of the side smoothed over time; None where the animal was not found.

    seconds: standard deviation of the Gaussian weights. At each frame a straight line is fitted to its weighted
    neighbours: amid evenly spaced frames that is the Gaussian filter, and at the ends it does not lag behind.
    """
    places = [place for place, one in enumerate(found) if one is not None]
    crops = [one.crop for one in found if one is not None]
    if not places:
        return [None] * len(found)
    values = np.array([_centre_and_log_side(crop) for crop in crops])
    steady = _fitted(np.array([times[place] for place in places]), values, seconds)
    result: list[Crop | None] = [None] * len(found)
    for place, (x, y, log_side) in zip(places, steady.tolist(), strict=True):
        side = math.exp(log_side)
        result[place] = (x - side / 2, y - side / 2, side)
    return result


def one_framing(found: Sequence[Found | None], mean_share: float | None) -> Crop | None:
    """The square that holds the animal in every frame, no tighter than the mean share asks; None without an animal.

    mean_share: of the frame's area, which the animal is to fill on average; None: as tight as holds it.
    """
    known = [one for one in found if one is not None]
    if not known:
        return None
    boxes = np.array([one.box for one in known])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = FIXED_MARGIN * float((high - low).max())
    if mean_share is not None:
        side = max(side, math.sqrt(float(np.mean([one.area for one in known])) / mean_share))
    x, y = ((low + high) / 2).tolist()
    return x - side / 2, y - side / 2, side


def centres(crops: Sequence[Crop | None]) -> Float[np.ndarray, "frame 2"]:
    """Middles of squares, in pixels; NaN where there is none."""
    return np.array([(math.nan,) * 2 if crop is None else _centre_and_log_side(crop)[:2] for crop in crops])


def log_sides(crops: Sequence[Crop | None]) -> Float[np.ndarray, "frame 1"]:
    """Logarithms of the sides of squares; NaN where there is none."""
    return np.array([[math.nan if crop is None else math.log(crop[2])] for crop in crops])


def _centre_and_log_side(crop: Crop) -> tuple[float, float, float]:
    left, top, side = crop
    return left + side / 2, top + side / 2, math.log(side)


def _fitted(
    times: Float[np.ndarray, " n"], values: Float[np.ndarray, "n k"], seconds: float
) -> Float[np.ndarray, "n k"]:
    """At each time, the value there of a straight line through all values, weighted by their distance in time."""
    if seconds == 0 or len(times) < 2:
        return values
    fitted = []
    for time in times:
        apart = times - time
        weights = np.exp(-0.5 * (apart / seconds) ** 2)
        weights /= weights.sum()
        first, second = weights @ apart, weights @ apart**2
        spread = second - first**2
        if spread <= 1e-12 * seconds**2:  # no neighbour near enough to count
            fitted.append(weights @ values)
            continue
        slope = (weights * (apart - first)) @ values / spread
        fitted.append(weights @ values - first * slope)
    return np.array(fitted)
