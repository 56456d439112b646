"""How sure a difference between settings is that ran with the same seeds and were measured on the same scenes.

Two things could have come out otherwise: the training, by its seed, and the scenes that it was measured on. The
variance of a mean difference is the sum of both parts (its df by Satterthwaite 1946):

- between seeds: of the differences of scene means, or, where that is larger, of what all settings of the plan leave
  unexplained once each setting and each seed has its mean (a randomised complete block design with seeds as blocks).
  Three seeds alone would tell the variance too badly; a setting that trains less steadily keeps its own. The degrees
  of freedom are fewer the more unlike the settings are in that (Box 1954).
- between scenes: a circular block bootstrap of the differences of seed means (Politis and Romano 1992). Frames of one
  recording are drawn in blocks, because neighbours are alike, and count for as many as are independent.

Several comparisons share one risk of a wrong claim: each interval is widened for their number (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

_DRAWS, _SEED = 2000, 0  # of the bootstrap


@dataclass(frozen=True)
class Interval:
    """A mean difference and the two ends of its confidence interval, all in the metric's unit."""

    mean: float
    low: float
    high: float


def independent_frames(differences: Float[np.ndarray, " scene"]) -> float:
    """As many independent scenes as these frames are worth, if each is like the one before it by a fixed share (AR(1)).

    That share is estimated, and corrected for how few frames there are (Kendall 1954); at least 1.5.
    """
    n, centred = len(differences), differences - differences.mean()
    total = float(centred @ centred)
    alike = float(centred[1:] @ centred[:-1]) / total if total else 0.0
    alike = min(max(alike + (1 + 3 * alike) / n, 0.0), 0.98)
    return max(1.5, n * (1 - alike) / (1 + alike))


def contrast_interval(
    values: Float[np.ndarray, "setting seed scene"],
    weights: Float[np.ndarray, " setting"],
    confidence: float,
    comparisons: int,
    are_frames: bool = False,
) -> Interval:
    """The mean of the weighted sum of settings, with its interval. weights: sum to 0, such as 1 and -1.

    values: two or more seeds and scenes. comparisons: how many intervals share the risk 1 - `confidence`. are_frames:
    the scenes are frames of one recording, in the order of time. Raises ValueError for a single seed or scene.
    """
    if min(values.shape[1:]) < 2:
        raise ValueError(f"expected two or more seeds and scenes, got {values.shape[1:]}")
    differences = np.tensordot(weights, values, axes=1)
    of_seeds, df_seeds = _between_seeds(values, weights, differences)
    of_scenes, df_scenes = _between_scenes(differences.mean(0), are_frames)
    mean, variance = float(differences.mean()), of_seeds + of_scenes
    if variance == 0.0:
        return Interval(mean, mean, mean)
    df = variance**2 / (of_seeds**2 / df_seeds + of_scenes**2 / df_scenes)
    half = float(stats.t.ppf(1 - (1 - confidence) / (2 * comparisons), df)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def _between_seeds(
    values: Float[np.ndarray, "setting seed scene"],
    weights: Float[np.ndarray, " setting"],
    differences: Float[np.ndarray, "seed scene"],
) -> tuple[float, float]:
    """The part of the variance of the mean that seeds make, and its degrees of freedom."""
    num_settings, num_seeds = values.shape[:2]
    means = values.mean(2)
    unexplained = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    df: float = (num_settings - 1) * (num_seeds - 1)
    pooled = float((unexplained**2).sum()) / df * float((weights**2).sum())
    own = float(differences.mean(1).var(ddof=1))
    return max(own, pooled) / num_seeds, df * _alike_in_noise(unexplained)


def _alike_in_noise(unexplained: Float[np.ndarray, "setting seed"]) -> float:
    """Box's epsilon: 1 where all settings are equally steady, down to one over their number less one."""
    spread = np.linalg.eigvalsh(unexplained @ unexplained.T)
    most = len(unexplained) - 1
    squares = float((spread**2).sum())
    return min(1.0, max(1.0, float(spread.sum()) ** 2 / squares if squares else 1.0) / most)


def _between_scenes(differences: Float[np.ndarray, " scene"], are_frames: bool) -> tuple[float, float]:
    """The part that scenes make, and its degrees of freedom: as many as are independent, less one."""
    n = len(differences)
    independent = independent_frames(differences) if are_frames else float(n)
    block = min(math.ceil(n / independent), n // 2)
    starts = np.random.default_rng(_SEED).integers(0, n, (_DRAWS, math.ceil(n / block)))
    drawn = ((starts[..., None] + np.arange(block)) % n).reshape(_DRAWS, -1)[:, :n]
    variance = float(differences[drawn].mean(1).var())
    if are_frames:  # of few blocks a bootstrap tells less than what the likeness of neighbours implies
        variance = max(variance, float(differences.var()) / independent)
    return variance * independent / (independent - 1), independent - 1
