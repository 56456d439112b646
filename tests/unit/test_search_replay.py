"""The recorded grid of training runs, and the replay of sweeps on it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from benchmarks import search_replay, search_table
from benchmarks.search_replay import (
    ASHA,
    NO_ASHA,
    Rise,
    Search,
    compared,
    curves_of,
    knowing,
    nearest,
    of_the_best,
    of_the_best_tenth,
    sweeps,
)
from benchmarks.search_table import GRID, METRICS, RUNGS, SEED, STEPS, append, key_of, missing, planned, read

MOST_BYTES = 300_000
SMALL = {"optim.lr": (1e-4, 1e-3), "loss.ssim": (0.0, 0.1)}
RANDOM = {"kind": "random"}
NOTHING = Rise(-math.inf, 0, 0)


def flat(value):
    return (value,) * len(RUNGS)


def curves(good, bad=1.0):
    """Of the points of SMALL, those of `good` have the value 2."""
    return {point: flat(2.0 if point in good else bad) for point in itertools.product(*SMALL.values())}


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory):
    work = tmp_path_factory.mktemp("replays")
    return lambda search, table, seeds=(0,), goal=2.0: sweeps(search, METRICS[0], SMALL, table, seeds, goal, work)


def test_the_committed_table_has_every_point_of_its_grid_once_and_finite():
    table = read()
    grid = {key_of(setting, seed) for setting, seed in planned() if seed == SEED}
    assert len(grid) == math.prod(map(len, GRID.values()))
    assert grid <= table.curves.keys() <= {key_of(*one) for one in planned()}
    figures = [value for run in table.curves.values() for curve in run.values() for value in curve]
    assert all(map(math.isfinite, figures)) and len(figures) == len(table.curves) * len(METRICS) * len(RUNGS)
    assert search_table.TABLE.stat().st_size <= MOST_BYTES


def test_a_table_goes_on_where_it_was_cut_off(tmp_path: Path):
    path = tmp_path / "table.csv"
    first, second, *_ = missing(path)
    for setting, seed in (first, second):
        append(path, setting, seed, {metric: [1.0] * len(RUNGS) for metric in METRICS}, 3.0)
    path.write_bytes(path.read_bytes()[:-5])  # a kill
    assert missing(path)[0] == second
    assert list(read(path).curves) == [key_of(*first)]


def test_a_table_with_a_hole_is_refused(tmp_path: Path):
    path = tmp_path / "table.csv"
    missing(path)
    with pytest.raises(ValueError, match=r"expected 162 points of seed 777, got 162 fewer — "):
        curves_of(read(path), METRICS[0])


def test_a_proposal_is_its_nearest_point_in_the_logarithm():
    assert nearest({"optim.lr": 3.1e-4, "loss.ssim": 0.1}, SMALL) == (1e-4, 0.1)
    assert nearest({"optim.lr": 3.2e-4, "loss.ssim": 0}, SMALL) == (1e-3, 0.0)


def test_steps_are_those_of_all_trials_until_a_complete_one_has_the_figure(replay):
    everywhere = curves(set(itertools.product(*SMALL.values())))
    two_in_turn = 2 * STEPS - 20  # the first trial ends one report before the second
    assert replay(Search(RANDOM, NO_ASHA), everywhere) == [[NOTHING, Rise(2.0, two_in_turn, 2)]]


def test_a_figure_of_a_trial_that_asha_stops_does_not_count(replay, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_replay, "MOST_STEPS", 5 * STEPS)
    # One point is the best at one report, and the weakest at the first rung: it is stopped before that report.
    table = curves(set(), bad=1.0) | {(1e-3, 0.1): (0.5, *flat(3.0)[1:])}
    free, stopped = (replay(Search(RANDOM, kind), table, goal=3.0)[0] for kind in (NO_ASHA, ASHA))
    assert free[-1].value == 3.0
    assert {rise.value for rise in stopped} == {NOTHING.value, 1.0}


def test_tpe_begins_with_the_draws_of_random(replay):
    table = curves({(1e-3, 0.1)})
    assert replay(Search(RANDOM, NO_ASHA), table) == replay(Search({"kind": "tpe"}, NO_ASHA), table)


def test_a_seed_is_a_sweep(replay):
    table = curves({(1e-4, 0.0)})
    found, again = (replay(Search(RANDOM, ASHA), table, seeds=range(5)) for _ in "ab")
    assert found == again
    assert len({tuple(one) for one in found}) > 1


def test_a_search_is_compared_with_the_first_by_steps_over_the_same_seeds():
    slow = [[Rise(1.0, 10, 1), Rise(2.0, steps, 5)] for steps in (400, 800, 1200)]
    fast = [[Rise(2.0, steps, 3)] for steps in (200, 400, 600)]
    first, second = compared({"slow": slow, "fast": fast}, goal=2.0)
    assert (first["trials"], first["times fewer"]) == ("5", "1.00 (1.00 to 1.00)")
    assert (second["trials"], second["times fewer"]) == ("3", "2.00 (2.00 to 2.00)")
    assert second["steps"] == "400 (200 to 600)"


def test_a_search_that_does_not_reach_the_goal_counts_with_all_its_steps():
    row = compared({"one": [[Rise(1.0, 10, 1), Rise(1.0, 900, 7)]]}, goal=2.0)[0]
    assert (row["reached"], row["trials"], row["steps"]) == ("0 of 1", "7", "900 (900 to 900)")


def test_what_knows_the_best_is_held_up_by_its_draws_alone():
    early, late = [Rise(2.0, 300, 2)], [Rise(1.0, 300, 2), Rise(2.0, 9000, 60)]
    found = compared({"random": [early, late], "knowing": knowing([early, late])}, goal=2.0)
    assert [row["steps"].partition(" ")[0] for row in found] == ["4,650", "1,030"]


def test_goals_are_a_hundredth_below_the_best_and_what_one_point_in_ten_has():
    table = {(float(i),): (0.0, float(i)) for i in range(101)}
    assert (of_the_best(table), of_the_best_tenth(table)) == (99.0, 91.0)
    assert of_the_best_tenth(table | {(100.0,): (1e9,)}) == 91.0
