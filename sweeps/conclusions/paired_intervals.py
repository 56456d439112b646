"""How sure a difference between settings is that ran with the same seeds and were measured on the same scenes.

Two things could have come out otherwise: the training, by its seed, and the scenes that it was measured on. The
variance of a mean difference is the sum of both parts (its df by Satterthwaite 1946):

- between seeds: of the differences of scene means, or, where that is larger, of what all settings of the plan leave
  unexplained once each setting and each seed has its mean (a randomised complete block design with seeds as blocks).
  Three seeds alone would tell the variance too badly; a setting that trains less steadily keeps its own.
- between scenes: a circular block bootstrap of the differences of seed means (Politis and Romano 1992). Frames of one
  recording are drawn in blocks, because neighbours are alike; other scenes one by one.

Several comparisons share one risk of a wrong claim: each interval is widened for their number (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def block_length(frames: Sequence[int] | None, num_scenes: int) -> int:
    """Scenes of a block: about the cube root of their number for frames of a recording, 1 for other scenes."""
    return 1 if frames is None else math.ceil(num_scenes ** (1 / 3))


def contrast_interval(
    values: Float[np.ndarray, "setting seed scene"],
    weights: Float[np.ndarray, " setting"],
    block: int,
    confidence: float,
    comparisons: int,
) -> Interval:
    """The mean of the weighted sum of settings, with its interval. weights: sum to 0, such as 1 and -1.

    values: two or more seeds and scenes, scenes in the order of time. comparisons: how many intervals share the risk
    1 - `confidence`. Raises ValueError for a single seed or scene.
    """
    if min(values.shape[1:]) < 2:
        raise ValueError(f"expected two or more seeds and scenes, got {values.shape[1:]}")
    differences = np.tensordot(weights, values, axes=1)
    of_seeds, df_seeds = _between_seeds(values, weights, differences)
    of_scenes, df_scenes = _between_scenes(differences.mean(0), block)
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
    df = (num_settings - 1) * (num_seeds - 1)
    pooled = float((unexplained**2).sum()) / df * float((weights**2).sum())
    own = float(differences.mean(1).var(ddof=1))
    return max(own, pooled) / num_seeds, df


def _between_scenes(differences: Float[np.ndarray, " scene"], block: int) -> tuple[float, float]:
    """The part that scenes make, and its degrees of freedom: as many as there are blocks, less one."""
    n = len(differences)
    blocks = max(2.0, n / block)
    starts = np.random.default_rng(_SEED).integers(0, n, (_DRAWS, math.ceil(n / block)))
    drawn = ((starts[..., None] + np.arange(block)) % n).reshape(_DRAWS, -1)[:, :n]
    variance = float(differences[drawn].mean(1).var())
    return variance * blocks / (blocks - 1), blocks - 1  # a bootstrap takes its few blocks for all there are
