"""Plans: which runs they make, and every refusal word for word."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from sweeps.errors import SpaceError
from sweeps.space import words
from sweeps.space.plan import mixed_with_pairs, moving_together
from sweeps.space.pruning import Pruning
from sweeps.space.space import load_space, space_of
from tests.support.planned import planned_space

TWO = {"choice": [0.0, 0.1]}
FOUR = {"loss.ssim": TWO, "loss.masked": {"choice": [False, True]}, "loss.alpha": {"choice": [1.0, 2.0]}}
FOUR |= {"data.mirror": {"choice": [True, False]}}


def test_one_factor_changes_one_path_at_a_time_and_every_setting_has_every_seed(tmp_path):
    space = planned_space(tmp_path)
    base = {"loss.ssim": 0.0, "loss.masked": False}
    settings = [base, base | {"loss.ssim": 0.1}, base | {"loss.masked": True}]
    assert space.enqueued == [one | {"train.seed": seed} for seed in (0, 1, 2) for one in settings]
    assert space.trials.count == 9


def test_the_baseline_is_the_recipes_own_but_for_what_the_plan_names(tmp_path):
    plan = {"kind": "one_factor", "seeds": [0, 1], "baseline": {"loss.ssim": 0.1}}
    assert planned_space(tmp_path, plan=plan).enqueued[0] == {"loss.ssim": 0.1, "loss.masked": False, "train.seed": 0}


def test_a_path_that_an_alternative_brings_along_stands_at_the_recipes_own_value(tmp_path):
    plan = {"kind": "one_factor", "seeds": [0, 1], "baseline": {"loss.masked": True, "loss.background": 0.4}}
    background = {"float": [0.2, 0.4], "step": 0.2, "when": {"loss.masked": True}}
    space = planned_space(
        tmp_path, plan=plan, space={"loss.masked": {"choice": [True, False]}, "loss.background": background}
    )
    settings = [
        {"loss.masked": True, "loss.background": 0.4},
        {"loss.masked": False},
        {"loss.masked": True, "loss.background": 0.2},
    ]
    assert [{k: v for k, v in one.items() if k != "train.seed"} for one in space.enqueued[:3]] == settings


def test_a_factorial_plan_runs_every_combination(tmp_path):
    space = planned_space(tmp_path, space=FOUR, plan={"kind": "factorial", "seeds": [0, 1]})
    first = [tuple(one[path] for path in FOUR) for one in space.enqueued[:16]]
    assert set(first) == set(itertools.product(*(found["choice"] for found in FOUR.values())))


def test_in_a_half_each_pair_of_paths_is_balanced(tmp_path):
    """So that the mean over one path says nothing of another: the definition of an orthogonal design."""
    space = planned_space(tmp_path, space=FOUR, plan={"kind": "factorial", "seeds": [0, 1], "fraction": 2})
    design = [tuple(one[path] for path in FOUR) for one in space.enqueued[:8]]
    for i, j in itertools.combinations(range(4), 2):
        pairs = [(row[i], row[j]) for row in design]
        assert sorted(map(pairs.count, set(pairs))) == [2] * 4


def test_paths_that_change_together_are_named():
    together = [{"a": 1, "b": "x", "c": 0}, {"a": 2, "b": "y", "c": 0}, {"a": 1, "b": "x", "c": 1}]
    assert moving_together(together) == [("a", "b")]
    assert moving_together([{"a": 1, "b": True}, {"a": 2, "b": True}, {"a": 1, "b": 1}]) == []  # true is not 1


def test_a_half_of_three_paths_mixes_each_with_the_pair_of_the_others_and_a_half_of_four_does_not():
    half_of_three = np.array([row for row in itertools.product((-1, 1), repeat=3) if np.prod(row) == 1]).T
    half_of_four = np.array([row for row in itertools.product((-1, 1), repeat=4) if np.prod(row) == 1]).T
    assert mixed_with_pairs(half_of_three)
    assert not mixed_with_pairs(half_of_four)


def test_a_plan_comes_back_from_the_journal_as_it_was(tmp_path):
    space = planned_space(tmp_path)
    plain = json.loads(json.dumps(space.as_plain()))
    assert space_of(plain, space.name, space.base) == space


def test_the_usual_rules_stop_no_run_of_a_plan(tmp_path):
    assert load_space("gslrm_remedies", ["fixed.train.max_steps=4000"]).pruning == Pruning()


def test_a_plan_is_said_in_place_of_a_sampler(tmp_path):
    said = words.plan(planned_space(tmp_path).as_plain())
    assert said["plan"] == "one_factor: 3 settings × 3 seeds"
    assert "sampler" not in said
    assert "enqueue" not in said


MORE = {f"optim.{name}": {"choice": [0.1, 0.2]} for name in ("weight_decay", "grad_clip_norm", "lr")}
MORE |= {"loss.mse": {"choice": [0.5, 1.0]}}
ONE = {"kind": "one_factor", "seeds": [0, 1]}
REFUSALS = {
    "one seed": (
        {"plan": ONE | {"seeds": [0]}},
        "plan.seeds: expected two or more seeds, got [0] — name more: one tells no effect from chance.",
    ),
    "a seed twice": (
        {"plan": ONE | {"seeds": [0, 1, 0]}},
        "plan.seeds: expected different seeds, got [0, 1, 0] — name each once.",
    ),
    "seeds in the space": (
        {"space": {"loss.ssim": TWO, "train.seed": {"choice": [1, 2]}}},
        "space.train.seed: expected it under plan.seeds, got it in the space — move it.",
    ),
    "a scheduler that stops trials": (
        {"scheduler": {"kind": "asha", "grace_steps": 10}},
        "scheduler.kind: expected none: a plan compares trials at their last step — write none, or remove it.",
    ),
    "settings to try first": (
        {"enqueue": [{}]},
        "enqueue: expected none beside a plan, which says every run and compares their last steps — remove it.",
    ),
    "a number of trials": (
        {"trials": {"count": 3}},
        "trials.count: expected it left out: the plan says how many there are — remove it.",
    ),
    "a range": (
        {"space": {"optim.lr": {"float": [1e-4, 1e-3]}}},
        "space.optim.lr: expected values to compare, got a number from 0.0001 to 0.001 — write a choice, or add a "
        "step.",
    ),
    "a recipe's own value that is not compared": (
        {"space": {"loss.ssim": {"choice": [0.1, 0.2]}}},
        "plan.baseline.loss.ssim: expected one of 0.1, 0.2, got 0.0, the recipe's own — name one of them.",
    ),
    "a baseline of an unknown path": (
        {"plan": ONE | {"baseline": {"loss": {"ssm": 0.1}}}},
        "plan.baseline.loss.ssm: expected a path of this space, got another — did you mean loss.ssim?",
    ),
    "a path that the baseline does not have": (
        {
            "space": {
                "loss.masked": {"choice": [True, False]},
                "loss.background": {"choice": [0.1, 0.2], "when": {"loss.masked": True}},
            }
        },
        "space.loss.background: expected it in the baseline, got it only where loss.masked is true — add that to "
        "plan.baseline.",
    ),
    "a fraction of one_factor": (
        {"plan": ONE | {"fraction": 2}},
        "plan.fraction: expected it with kind: factorial alone, got kind: one_factor — remove it.",
    ),
    "a replicate of nothing": (
        {"plan": {"kind": "replicate", "seeds": [0, 1]}},
        "plan.of: expected the sweep whose best settings are run again, got none — name it.",
    ),
    "another sweep for one_factor": (
        {"plan": ONE | {"of": "lr"}},
        "plan.of: expected it with kind: replicate alone, got kind: one_factor — remove it.",
    ),
    "a baseline of a factorial plan": (
        {"plan": {"kind": "factorial", "baseline": {"loss.ssim": 0.1}}},
        "plan.baseline: expected it with kind: one_factor alone, got kind: factorial — remove it.",
    ),
    "three values in a factorial plan": (
        {"plan": {"kind": "factorial"}, "space": {"loss.ssim": {"choice": [0.0, 0.1, 0.2]}}},
        "space.loss.ssim: expected two values, got one of 0.0, 0.1, 0.2 — leave two.",
    ),
    "a fraction in which paths move together": (
        {"plan": {"kind": "factorial", "fraction": 2}},
        "plan.fraction: expected settings that tell loss.ssim from loss.masked, got the two changed together in every "
        "run — run a larger fraction, or leave one of them out.",
    ),
    "a fraction of less than two runs": (
        {"plan": {"kind": "factorial", "fraction": 4}},
        "plan.fraction: expected at least two runs, got 4 combinations of which one in 4 is run — lower it.",
    ),
    "a rule that stops trials": (
        {"pruning": {"skip_rate": {}}, "fixed": {"train.max_steps": 1000}},
        "pruning: expected none beside a plan, which says every run and compares their last steps — remove it.",
    ),
    "a sampler": (
        {"sampler": {"kind": "grid"}},
        "sampler: expected none beside a plan, which says every run and compares their last steps — remove it.",
    ),
    "how many of the best, of one_factor": (
        {"plan": ONE | {"top": 4}},
        "plan.top: expected it with kind: replicate alone, got kind: one_factor — remove it.",
    ),
    "a fraction that there is not": (
        {"plan": {"kind": "factorial", "fraction": 3}},
        "plan.fraction: expected 1, 2, 4 or 8, got 3 — write one of these.",
    ),
    "a fixed seed": (
        {"fixed": {"train.seed": 4}},
        "fixed.train.seed: expected it under plan.seeds, got it fixed — move it.",
    ),
    "a setting that changes what is measured": (
        {"space": {"train.max_val_scenes": {"choice": [6, 12]}}},
        "space.train.max_val_scenes: expected a setting that leaves what is measured as it is, got one that changes it "
        "— set it under fixed, in a sweep of its own for each value.",
    ),
    "more paths than a fraction is found for": (
        {"plan": {"kind": "factorial", "fraction": 2}, "space": FOUR | MORE},
        "plan.fraction: expected up to 7 paths of a fraction, got 8 — leave some out.",
    ),
    "a path that a later check refuses": (
        {"space": {"loss.ssim": TWO, "data.num_held_out_views": {"choice": [1, 2]}}},
        "space.data.num_held_out_views: expected one value, or trials cannot be compared — move it to fixed.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_plan_that_cannot_be_concluded_from_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(SpaceError) as error:
        planned_space(tmp_path, **changes)
    assert str(error.value).removeprefix(f"{tmp_path}/question.yaml: ") == message
