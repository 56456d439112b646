"""What mattered in a sweep: the known order of a recorded grid, settings without effect, and what is not told."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.trial import Trial
from sweeps.conclusions.importance import LEAST_TRIALS, common_step, importance_of
from sweeps.space.distributions import Choice, FloatRange, IntRange
from sweeps.space.objective import Objective
from tests.support.grid import GRID
from tests.support.spaces import space_with

pytestmark = pytest.mark.filterwarnings("error")  # what Optuna doubts must not be lost
LR = FloatRange(ends=(1e-4, 1e-2), log=True)
SPACE = {"optim.lr": LR, "loss.alpha": FloatRange(ends=(0.0, 1.0)), "data.num_input_views": IntRange(ends=(1, 4))}
CONDITIONAL = {
    "optim.lr": LR,
    "loss.masked": Choice(ends=(True, False)),
    "loss.background": FloatRange(ends=(0.0, 0.5), when={"loss.masked": (True,)}),
}


def ledger_with(space, rows, metric="val/psnr"):
    """rows: of each trial its params, its state, and its objective by step."""
    made = space_with("grid", "gslrm_tiny", space=space, objective=Objective(metric, "max"))
    trials = {
        number: Trial(number, 1, State(state), params=params, curve=tuple(curve.items()))
        for number, (params, state, curve) in enumerate(rows)
    }
    ledger = Ledger("grid", "gslrm_tiny", space=made.as_plain(), params=made.base.params, searched=tuple(space))
    return replace(ledger, trials=trials)


def drawn(space, count, seed=0):
    """Params as a random sampler draws them."""
    chance = np.random.default_rng(seed)

    def value(one):
        if isinstance(one, Choice):
            return one.ends[chance.integers(len(one.ends))]
        if isinstance(one, IntRange):
            return int(chance.integers(one.ends[0], one.ends[1] + 1))
        return float(np.exp(chance.uniform(*np.log(one.ends))) if one.log else chance.uniform(*one.ends))

    for _ in range(count):
        params = {}
        for path, one in space.items():
            if all(params[parent] in allowed for parent, allowed in one.when.items()):
                params[path] = value(one)
        yield params


def by_lr_and_alpha(params):
    return 10 * (1 + math.log10(params["optim.lr"]) / 4) + 2 * params["loss.alpha"]


def recorded(rows=GRID["trials"]):
    trials = [(row["params"], "COMPLETE", {int(step): value for step, value in row["curve"].items()}) for row in rows]
    return ledger_with({path: Choice(ends=tuple(values)) for path, values in GRID["space"].items()}, trials)


def share_of_variance(path):
    """Of a full grid it needs no model: the variance of the means over all other settings, by the whole variance."""
    last = [(row["params"][path], row["curve"][str(GRID["steps"])]) for row in GRID["trials"]]
    means = [statistics.fmean(value for at, value in last if at == one) for one in GRID["space"][path]]
    return statistics.pvariance(means) / statistics.pvariance([value for _, value in last])


def test_importance_of_a_recorded_grid_has_the_order_that_its_variance_has():
    found = importance_of(recorded())
    known = {path: share_of_variance(path) for path in GRID["space"]}
    assert list(found.shares) == sorted(known, key=lambda path: -known[path])
    assert (found.trials, found.step) == (len(GRID["trials"]), GRID["steps"])
    for path, share in found.shares.items():
        low, high = found.spread[path]
        assert low <= share <= high
        assert low <= known[path] <= high


def test_a_recorded_setting_without_effect_is_not_told_from_chance():
    found = importance_of(recorded())
    told = {path: found.is_told(path) for path in found.shares}
    assert told == {"model.scale_bias": True, "optim.lr": True, "train.seed": False}
    assert found.spread["train.seed"][0] <= found.chance["train.seed"][1]


def test_importance_is_refused_below_its_least_number_of_trials_with_the_reason():
    found = importance_of(recorded(GRID["trials"][: LEAST_TRIALS - 1]))
    assert (found.shares, found.trials) == ({}, LEAST_TRIALS - 1)
    assert found.note == f"too few: 9 trials reached step {GRID['steps']}; from 10 on"


def test_pruned_trials_count_at_the_step_that_half_of_all_reached():
    curves = [{150: float(n), 300: n + 1.0} if n < 8 else {150: float(n)} for n in range(20)]
    rows = [
        (params, "COMPLETE" if len(curve) == 2 else "PRUNED", curve)
        for params, curve in zip(drawn(SPACE, 20), curves, strict=True)
    ]
    found = importance_of(ledger_with(SPACE, rows))
    assert (found.trials, found.step) == (20, 150)


def test_the_common_step_is_the_last_that_enough_trials_reported():
    def trial(number, *steps):
        return Trial(number, state=State.COMPLETE, curve=tuple((step, float(step)) for step in steps))

    deep = [trial(number, 10, 20, 30) for number in range(11)]
    short = [trial(number, 10, 20) for number in range(11, 21)]
    assert common_step([*deep, *short])[0] == 30
    assert common_step([*deep, *short, trial(21, 10), trial(22, 10)])[0] == 20
    assert common_step(deep[:3])[0] == 30
    assert common_step([trial(0)]) == (None, {})


def test_failed_and_running_trials_are_not_judged():
    rows = [(params, "COMPLETE", {10: by_lr_and_alpha(params)}) for params in drawn(SPACE, 12)]
    rows += [(params, state, {10: 99.0}) for params, state in zip(drawn(SPACE, 2, 1), ("FAIL", "RUNNING"), strict=True)]
    assert importance_of(ledger_with(SPACE, rows)).trials == 12


def test_a_logarithmic_range_counts_as_it_is_drawn():
    """Half of the trials lie below 1e-3, and decide half of the objective: evenly in lr itself it would be a tenth."""
    space = {"optim.lr": LR, "loss.alpha": FloatRange(ends=(0.0, 1.0))}
    rows = [
        (params, "COMPLETE", {10: float(params["optim.lr"] < 1e-3) + float(params["loss.alpha"] < 0.5)})
        for params in drawn(space, 80)
    ]
    shares = importance_of(ledger_with(space, rows)).shares
    assert shares["optim.lr"] == pytest.approx(shares["loss.alpha"], abs=0.15)


def test_a_setting_without_effect_is_not_told_and_the_others_are():
    rows = [(params, "COMPLETE", {10: by_lr_and_alpha(params)}) for params in drawn(SPACE, 40)]
    found = importance_of(ledger_with(SPACE, rows))
    told = [path for path in found.shares if found.is_told(path)]
    assert told == ["optim.lr", "loss.alpha"]
    assert importance_of(ledger_with(SPACE, rows)) == found


def test_a_setting_searched_under_conditions_is_judged_among_the_trials_that_have_it():
    rows = [
        (params, "COMPLETE", {10: math.log10(params["optim.lr"]) + 20 * params.get("loss.background", 0.25)})
        for params in drawn(CONDITIONAL, 40)
    ]
    found = importance_of(ledger_with(CONDITIONAL, rows))
    having = sum("loss.background" in params for params, _, _ in rows)
    assert found.partial == {"loss.background": having}
    assert found.is_told("loss.background")
    few = importance_of(ledger_with(CONDITIONAL, rows[:12]))
    assert set(few.shares) == {"optim.lr", "loss.masked"}
    assert few.note.startswith("loss.background: too few: ")


def test_a_setting_that_decides_how_trials_are_measured_is_named():
    rows = [(params, "COMPLETE", {10: by_lr_and_alpha(params)}) for params in drawn(SPACE, 12)]
    note = importance_of(ledger_with(SPACE, rows)).note
    assert note == "data.num_input_views: it also decides how trials are measured."


@pytest.mark.parametrize(
    ("space", "curve", "note"),
    [
        (SPACE, {10: 1.0}, "every trial has the same objective at step 10"),
        (SPACE, {}, "too few: 0 trials reported a figure; from 10 on"),
        ({}, {10: 1.0}, "nothing was searched"),
    ],
)
def test_where_nothing_can_be_told_the_note_says_why(space, curve, note):
    found = importance_of(ledger_with(space, [(params, "COMPLETE", curve) for params in drawn(space, 12)]))
    assert (found.shares, found.note) == ({}, note)


def test_a_space_that_this_version_does_not_know_is_no_error():
    rows = [(params, "COMPLETE", {10: by_lr_and_alpha(params)}) for params in drawn(SPACE, 12)]
    ledger = ledger_with(SPACE, rows)
    found = importance_of(replace(ledger, space={"space": {"optim.lr": {"gaussian": [0.0, 1.0]}}}))
    assert found.note.startswith("expected ranges and choices of this version, got ")


def test_a_range_of_one_value_has_no_share_and_hides_no_other():
    space = SPACE | {"optim.weight_decay": FloatRange(ends=(0.1, 0.1))}
    rows = [(params, "COMPLETE", {10: by_lr_and_alpha(params)}) for params in drawn(space, 20)]
    found = importance_of(ledger_with(space, rows))
    assert found.shares["optim.weight_decay"] == 0.0
    assert found.is_told("optim.lr")
    assert not found.is_told("optim.weight_decay")
