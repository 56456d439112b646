"""Paired intervals: held against formulas of textbooks, and against how often they miss what is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from sweeps.conclusions.paired_intervals import contrast_interval, independent_frames

ONE_LESS_ANOTHER = np.array([-1.0, 1.0])


def drawn(chance, settings=2, seeds=3, scenes=12, of_seed=0.1, of_scene=0.0, rest=0.0):
    """Figures without effects: scenes and seeds shift all settings alike, the rest is noise of each setting."""
    shared = chance.normal(0, 2, (1, 1, scenes)) + chance.normal(0, 0.3, (1, seeds, 1))
    own = chance.normal(0, of_seed, (settings, seeds, 1)) + chance.normal(0, of_scene, (settings, 1, scenes))
    return shared + own + chance.normal(0, rest, (settings, seeds, scenes))


def test_of_two_settings_whose_scenes_agree_it_is_the_paired_t_interval_over_seeds():
    values = drawn(np.random.default_rng(0), seeds=5)
    found = contrast_interval(values, ONE_LESS_ANOTHER, 0.95, 1)
    differences = (values[1] - values[0]).mean(1)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_of_seeds_that_agree_it_is_the_bootstrap_over_scenes():
    values = np.repeat(drawn(np.random.default_rng(0), of_seed=0, of_scene=0.3, seeds=1, scenes=40), 3, axis=1)
    found = contrast_interval(values, ONE_LESS_ANOTHER, 0.95, 1)
    error = (values[1, 0] - values[0, 0]).std(ddof=1) / math.sqrt(40)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 39) * error, rel=0.04)  # of 2,000 draws


def test_several_settings_share_what_chance_does_as_a_block_design_has_it():
    """The analysis of variance of statistics books with seeds as blocks, its degrees of freedom by Box's epsilon."""
    values = drawn(np.random.default_rng(3), settings=6, seeds=3)
    weights = np.array([-1.0, 1.0, 0, 0, 0, 0])
    means = values.mean(2)
    left = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    error = math.sqrt(max((left**2).sum() / 10 * 2, np.var(means[1] - means[0], ddof=1)) / 3)
    covariance = np.cov(left)
    epsilon = np.trace(covariance) ** 2 / (5 * (covariance**2).sum())
    found = contrast_interval(values, weights, 0.95, 5)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(1 - 0.05 / 10, 10 * epsilon) * error, rel=1e-3)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(("unsteady", "times"), [(1, 1.0), (1, 4.0), (0, 4.0), (0, 10.0)])
def test_in_at_most_one_study_of_twenty_a_setting_without_effect_is_told_apart(seeds, unsteady, times):
    """Also where one setting, the baseline (0) among them, trains less steadily than the others."""
    chance, studies, wrong = np.random.default_rng(7), 120, 0
    for _ in range(studies):
        values = drawn(chance, settings=6, seeds=seeds, of_scene=0.1, rest=0.1)
        values[unsteady] += chance.normal(0, 0.1 * math.sqrt(times**2 - 1), (seeds, 1))
        told = []
        for setting in range(1, 6):
            weights = np.zeros(6)
            weights[[0, setting]] = -1.0, 1.0
            interval = contrast_interval(values, weights, 0.95, 5)
            told.append(not interval.low <= 0.0 <= interval.high)
        wrong += any(told)
    assert wrong / studies <= 0.05 + math.sqrt(0.05 * 0.95 / studies)


def test_an_effect_of_eight_standard_deviations_is_found_in_nine_studies_of_ten():
    chance, found = np.random.default_rng(8), 0
    for _ in range(50):
        values = drawn(chance, settings=6, of_scene=0.1, rest=0.1)
        values[1] += 0.8
        found += contrast_interval(values, np.array([-1.0, 1, 0, 0, 0, 0]), 0.95, 5).low > 0
    assert found >= 45


@pytest.mark.parametrize(("frames", "alike"), [(24, 0.0), (64, 0.7), (200, 0.9)])
def test_frames_that_are_like_their_neighbours_are_told_apart_in_at_most_one_study_of_ten(frames, alike):
    """The nominal share is one of twenty; of few frames nobody knows well how alike they are."""
    chance, studies, wrong = np.random.default_rng(9), 150, 0
    for _ in range(studies):
        walk = lfilter([1.0], [1.0, -alike], chance.normal(size=frames + 50))[50:]
        values = np.stack([np.zeros((3, frames)), np.tile(walk, (3, 1))]) + chance.normal(0, 0.01, (2, 3, 1))
        interval = contrast_interval(values, ONE_LESS_ANOTHER, 0.95, 1, are_frames=True)
        wrong += not interval.low <= 0.0 <= interval.high
    assert wrong / studies <= 0.10


def test_frames_that_are_alike_count_for_fewer():
    chance = np.random.default_rng(9)
    assert independent_frames(chance.normal(size=400)) > 300
    assert independent_frames(lfilter([1.0], [1.0, -0.9], chance.normal(size=400))) < 60
    assert independent_frames(np.array([0.0, 1.0])) >= 1.5


def test_two_frames_have_a_spread():
    values = np.stack([np.zeros((3, 2)), np.tile([0.1, 0.5], (3, 1))])
    found = contrast_interval(values, ONE_LESS_ANOTHER, 0.95, 1, are_frames=True)
    assert found.low < 0.0 < found.high


def test_figures_without_any_spread_have_an_interval_of_no_width():
    values = np.stack([np.ones((2, 3)), np.full((2, 3), 1.5)])
    found = contrast_interval(values, ONE_LESS_ANOTHER, 0.95, 1)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 3, 1)])
def test_one_seed_or_one_scene_has_no_interval(shape):
    with pytest.raises(ValueError, match="two or more seeds and scenes"):
        contrast_interval(np.zeros(shape), ONE_LESS_ANOTHER, 0.95, 1)
