"""Pruning: what each rule fires on and what it says, what it leaves alone, that it can be replayed, what is refused."""

from __future__ import annotations

import math
import pickle
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import yaml

from pipeline.recipes import load_recipe
from sweeps.errors import SpaceError
from sweeps.space.objective import Objective
from sweeps.space.pruning import USUAL, GradNorm, MaskIoU, NoGain, Pruning, SkipRate, Watch, WhiteCollapse, usual
from sweeps.space.space import load_space
from tests.support.spaces import space_with

Curve = list[tuple[int, Mapping[str, float]]]
EVERY = Pruning(
    skip_rate=SkipRate(),
    white_collapse=WhiteCollapse(),
    mask_iou=MaskIoU(),
    grad_norm=GradNorm(p95_above=100.0),
    no_gain=NoGain(window_steps=400, min_gain=0.1),
)


def fed(pruning: Pruning, curve: Iterable[tuple[int, Mapping[str, float]]], mode: str = "max") -> Curve:
    """The (step, reason) of every report at which there is a reason."""
    watch = Watch(pruning, Objective(metric="val/psnr_fg", mode=mode))
    reasons = [(step, watch.feed(0, step, metrics)) for step, metrics in curve]
    return [(step, reason) for step, reason in reasons if reason is not None]


def series(name: str, values: Mapping[int, float]) -> Curve:
    return [(step, {name: value}) for step, value in values.items()]


def skipping(rate: float, since: int = 0, until: int = 1000, every: int = 20) -> Curve:
    """Reports of a trial that skips this share of its updates from a step on."""
    steps = [1, *range(every, until + 1, every)]
    return series("train/skipped_updates", {step: round(rate * max(0, step - since)) for step in steps})


def healthy(until: int = 2000) -> Curve:
    """A trial that skips one update in ten and gets better and better."""
    curve: Curve = []
    for step in [1, *range(20, until + 1, 20)]:
        metrics = {"train/skipped_updates": step // 10, "train/grad_norm_p95": 3.0 + step % 7, "train/lr": 1e-4}
        if step % 100 == 0:
            metrics |= {"val/psnr_fg": 15 + step / 200, "val/mask_iou": 0.5 + step / 5000}
            metrics |= {"val/foreground_mean": 0.5, "val/target_foreground_mean": 0.4}
        curve.append((step, metrics))
    return curve


def test_a_healthy_trial_is_left_alone_by_every_rule() -> None:
    assert fed(EVERY, healthy()) == []


def test_no_rule_no_reason() -> None:
    assert fed(Pruning(), skipping(1.0)) == []


# ---------------------------------------------------------------- skip_rate

SKIPS = Pruning(skip_rate=SkipRate(above=0.3, window_steps=200))


def test_a_trial_that_skips_from_the_start_is_ended_at_the_first_full_window() -> None:
    assert fed(SKIPS, skipping(0.56))[0] == (200, "skip_rate: 56 % of updates skipped in steps 1-200, limit 30 %")


def test_only_the_window_counts_and_not_what_went_well_before() -> None:
    first = fed(SKIPS, skipping(0.5, since=400))[0]
    assert first == (540, "skip_rate: 35 % of updates skipped in steps 341-540, limit 30 %")


def test_what_went_badly_before_the_window_is_forgiven() -> None:
    early = {step: float(min(step, 60)) for step in range(20, 1001, 20)}  # 60 of the first 200
    assert fed(SKIPS, series("train/skipped_updates", early)) == []


def test_the_limit_itself_is_allowed_and_one_more_is_not() -> None:
    assert fed(SKIPS, series("train/skipped_updates", {200: 60.0})) == []
    assert fed(SKIPS, series("train/skipped_updates", {200: 61.0})) == [
        (200, "skip_rate: 30.5 % of updates skipped in steps 1-200, limit 30 %")
    ]


def test_a_window_is_full_at_its_last_step_and_not_one_earlier() -> None:
    assert fed(SKIPS, series("train/skipped_updates", {199: 199.0})) == []
    assert [step for step, _ in fed(SKIPS, series("train/skipped_updates", {199: 199.0, 200: 200.0}))] == [200]


def test_a_report_at_the_windows_edge_is_where_it_is_counted_from() -> None:
    skipped = {99: 0.0, 100: 1.0, 101: 90.0, 300: 90.0}
    reason = "skip_rate: 44.5 % of updates skipped in steps 101-300, limit 30 %"
    assert fed(SKIPS, series("train/skipped_updates", skipped)) == [(300, reason)]


def test_reports_rarer_than_the_window_are_counted_from_one_to_the_next() -> None:
    reason = "skip_rate: 40 % of updates skipped in steps 501-1000, limit 30 %"
    assert fed(SKIPS, series("train/skipped_updates", {500: 100.0, 1000: 300.0})) == [(1000, reason)]


def test_with_a_report_at_every_step_it_is_the_share_of_the_last_two_hundred() -> None:
    chance = random.Random(7)
    skips = [chance.random() < 0.22 for _ in range(3000)]
    counted = [step for step in range(200, 3001) if sum(skips[step - 200 : step]) > 60]
    found = fed(SKIPS, [(n + 1, {"train/skipped_updates": float(sum(skips[: n + 1]))}) for n in range(3000)])
    assert found[0][0] == counted[0] > 200


# ---------------------------------------------------------------- white_collapse, mask_iou

WHITE = Pruning(white_collapse=WhiteCollapse(above=0.98, after_steps=500))
EMPTY = Pruning(mask_iou=MaskIoU(at_most=0.0, after_steps=500))


def test_a_white_foreground_ends_a_trial_and_is_told_beside_the_animals_own() -> None:
    white = {"val/foreground_mean": 0.9912, "val/target_foreground_mean": 0.417}
    assert fed(WHITE, [(600, white)]) == [
        (600, "white_collapse: the rendered foreground is 0.991 at step 600, limit 0.98, the animal's own is 0.417")
    ]


def test_a_white_animal_may_be_rendered_white() -> None:
    assert fed(WHITE, [(600, {"val/foreground_mean": 0.99, "val/target_foreground_mean": 0.985})]) == []


@pytest.mark.parametrize(
    ("pruning", "name", "bad"), [(WHITE, "val/foreground_mean", 1.0), (EMPTY, "val/mask_iou", 0.0)]
)
def test_validations_are_looked_at_from_after_steps_on(pruning: Pruning, name: str, bad: float) -> None:
    found = fed(pruning, series(name, {100: bad, 499: bad, 500: bad}))
    assert [step for step, _ in found] == [500]


def test_a_foreground_at_the_limit_is_allowed() -> None:
    assert fed(WHITE, [(600, {"val/foreground_mean": 0.98})]) == []


def test_a_silhouette_that_is_missed_altogether_ends_a_trial() -> None:
    assert fed(EMPTY, series("val/mask_iou", {600: 0.0})) == [(600, "mask_iou: 0 at step 600, limit 0")]


def test_a_silhouette_that_is_met_at_all_is_left_alone() -> None:
    assert fed(EMPTY, series("val/mask_iou", {600: 0.001})) == []


def test_a_higher_limit_is_told_with_the_figure() -> None:
    low = Pruning(mask_iou=MaskIoU(at_most=0.2, after_steps=0))
    assert fed(low, series("val/mask_iou", {100: 0.1534})) == [(100, "mask_iou: 0.153 at step 100, limit 0.2")]


# ---------------------------------------------------------------- grad_norm

NORMS = Pruning(grad_norm=GradNorm(p95_above=100.0, window_steps=200))


def norms(values: Mapping[int, float]) -> Curve:
    return series("train/grad_norm_p95", values)


def test_gradients_that_stay_large_end_a_trial_at_the_first_full_window() -> None:
    first = fed(NORMS, norms(dict.fromkeys(range(20, 401, 20), 152.0)))[0]
    assert first == (200, "grad_norm: p95 is 152 in steps 1-200, limit 100")


def test_gradients_that_became_large_end_it_when_most_of_the_window_is_large() -> None:
    values = {step: 5.0 if step <= 400 else 500.0 for step in range(20, 1001, 20)}
    assert fed(NORMS, norms(values))[0] == (500, "grad_norm: p95 is 252.5 in steps 301-500, limit 100")


def test_a_spike_is_no_reason() -> None:
    assert fed(NORMS, norms({step: 1e6 if step % 100 == 0 else 5.0 for step in range(20, 1001, 20)})) == []


def test_a_p95_at_the_limit_is_allowed() -> None:
    assert fed(NORMS, norms(dict.fromkeys(range(20, 1001, 20), 100.0))) == []


# ---------------------------------------------------------------- no_gain

STILL = Pruning(no_gain=NoGain(window_steps=300, min_gain=0.1))


def psnr(values: Mapping[int, float]) -> Curve:
    return series("val/psnr_fg", values)


def test_an_objective_that_stands_still_ends_a_trial() -> None:
    found = fed(STILL, psnr({100: 20.0, 200: 21.0, 300: 21.05, 400: 20.5, 500: 21.02}))
    assert found == [(500, "no_gain: val/psnr_fg gained 0.05 over 21 in steps 201-500, limit 0.1")]


def test_one_step_less_than_the_window_is_not_yet_still() -> None:
    assert fed(STILL, psnr({100: 20.0, 399: 20.0})) == []
    assert [step for step, _ in fed(STILL, psnr({100: 20.0, 399: 20.0, 400: 20.0}))] == [400]


def test_small_gains_add_up() -> None:
    assert fed(STILL, psnr({step: 20 + 0.06 * step / 100 for step in range(100, 2001, 100)})) == []


def test_a_gain_of_just_the_least_is_none() -> None:
    still = Pruning(no_gain=NoGain(window_steps=100, min_gain=0.5))
    assert [step for step, _ in fed(still, psnr({100: 20.0, 200: 20.5}))] == [200]


def test_where_less_is_better_a_fall_is_a_gain() -> None:
    assert fed(STILL, psnr({100: 0.9, 400: 0.7, 700: 0.5}), mode="min") == []
    rising = fed(STILL, psnr({100: 0.5, 400: 0.7}), mode="min")
    assert rising == [(400, "no_gain: val/psnr_fg gained 0 over 0.5 in steps 101-400, limit 0.1")]


def test_reports_without_the_objective_end_nothing() -> None:
    curve = [*psnr({100: 20.0}), *skipping(0.0, until=5000)[5:]]
    assert fed(STILL, curve) == []


# ---------------------------------------------------------------- numbers that are none, and absent ones


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_numbers_are_passed_over(number: float) -> None:
    broken = dict.fromkeys(
        ("train/skipped_updates", "train/grad_norm_p95", "val/psnr_fg", "val/mask_iou", "val/foreground_mean"), number
    )
    curve = [(step, broken if step % 200 == 60 else metrics) for step, metrics in healthy()]
    assert fed(EVERY, curve) == []


def test_a_number_among_those_that_are_none_still_counts() -> None:
    curve = [(step, {"train/skipped_updates": math.nan if step % 40 else step}) for step in range(20, 401, 20)]
    assert fed(SKIPS, curve)[0] == (200, "skip_rate: 100 % of updates skipped in steps 1-200, limit 30 %")


def test_reports_without_any_figure_end_nothing() -> None:
    assert fed(EVERY, [(step, {}) for step in range(100, 5001, 100)]) == []


# ---------------------------------------------------------------- the watch


def dying() -> Curve:
    """A trial that skips every update from step 1000 on and stands still."""
    return [
        (step, {**metrics, "train/skipped_updates": max(step // 10, step - 900)} if step > 1000 else metrics)
        for step, metrics in healthy()
    ]


def test_of_several_reasons_the_first_rule_is_named() -> None:
    curve = [(600, {"val/foreground_mean": 1.0, "val/mask_iou": 0.0})]
    assert fed(EVERY, curve)[0][1].startswith("white_collapse: ")


@pytest.mark.parametrize("killed_after", [1, 30, 53, 54, 90])
def test_the_reports_fed_again_after_a_restart_decide_the_same(killed_after: int) -> None:
    unbroken, curve = fed(EVERY, dying()), dying()
    resumed = Watch(EVERY, Objective())
    for step, metrics in curve[:killed_after]:
        resumed.feed(0, step, metrics)
    reasons = {step: resumed.feed(0, step, metrics) for step, metrics in curve[killed_after:]}
    assert {step: reason for step, reason in reasons.items() if reason} == {
        step: reason for step, reason in unbroken if step in reasons
    }
    assert unbroken[0] == (1060, "skip_rate: 37 % of updates skipped in steps 861-1060, limit 30 %")


def test_steps_that_a_resumed_trial_repeats_count_once() -> None:
    curve = dying()
    repeated = [*curve[:40], *[(step + 1, metrics) for step, metrics in curve[20:22]], *curve[20:]]
    assert dict(fed(EVERY, repeated)) == dict(fed(EVERY, curve))


def test_trials_are_judged_apart() -> None:
    watch = Watch(SKIPS, Objective())
    assert [watch.feed(trial, 200, {"train/skipped_updates": 100.0 * trial}) for trial in (0, 1)] == [
        None,
        "skip_rate: 50 % of updates skipped in steps 1-200, limit 30 %",
    ]


def test_a_reason_stands_until_the_trial_is_forgotten() -> None:
    watch = Watch(EMPTY, Objective())
    reason = watch.feed(0, 600, {"val/mask_iou": 0.0})
    assert watch.feed(0, 600, {}) == watch.feed(0, 700, {"val/mask_iou": 0.9}) == reason != None  # noqa: E711
    watch.forget(0)
    watch.forget(0)
    assert watch.feed(0, 800, {"val/mask_iou": 0.9}) is None


def test_what_is_held_of_a_trial_does_not_grow_with_its_steps() -> None:
    watch, sizes = Watch(EVERY, Objective()), []
    for step in range(1, 20_001):
        watch.feed(0, step, {"train/skipped_updates": 0.0, "train/grad_norm_p95": 1.0, "val/psnr_fg": float(step)})
        if step % 1000 == 0:
            sizes.append(len(pickle.dumps(watch)))
    assert max(sizes) < 1.1 * sizes[0]


def test_a_watch_can_be_kept_with_what_it_knows() -> None:
    watch = Watch(EVERY, Objective())
    for step, metrics in dying()[:53]:
        watch.feed(0, step, metrics)
    again = pickle.loads(pickle.dumps(watch))
    assert [again.feed(0, *report) for report in dying()[53:]] == [watch.feed(0, *report) for report in dying()[53:]]


def test_the_rules_need_no_ray_no_optuna_and_no_mlflow() -> None:
    code = "import sys, sweeps.space.pruning; sys.exit(bool({'ray', 'optuna', 'mlflow', 'torch'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ---------------------------------------------------------------- in a space


def space_at(folder: Path, text: str, recipe: str = "gslrm_tiny", **parts: object) -> Path:
    """A space whose `pruning` reads as the text does; nothing where the text is empty."""
    path = folder / "mine.yaml"
    values = {"recipe": recipe, "space": {"optim.lr": {"float": [1e-4, 1e-3]}}, **parts, **(yaml.safe_load(text) or {})}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_space_reads_its_rules(tmp_path: Path) -> None:
    text = "pruning: {skip_rate: {above: 0.5}, grad_norm: {p95_above: 40}, no_gain: {window_steps: 300}}"
    assert load_space(space_at(tmp_path, text)).pruning == Pruning(
        skip_rate=SkipRate(above=0.5, window_steps=200),
        grad_norm=GradNorm(p95_above=40.0, window_steps=200),
        no_gain=NoGain(window_steps=300, min_gain=0.0),
    )


def test_where_a_space_says_nothing_the_usual_rules_hold(tmp_path: Path) -> None:
    assert load_space(space_at(tmp_path, "")).pruning == USUAL


def test_an_empty_mapping_is_no_rule(tmp_path: Path) -> None:
    assert load_space(space_at(tmp_path, "pruning: {}")).pruning == Pruning()


def test_a_training_of_its_own_is_not_pruned() -> None:
    assert space_with(name="one", recipe="gslrm_tiny").pruning == Pruning()


def test_the_usual_rules_are_those_that_can_act_on_the_recipe() -> None:
    def rules(recipe: str, *overrides: str) -> list[str]:
        return list(usual(load_recipe(recipe, overrides)).rules)

    assert rules("gslrm_mouse") == ["skip_rate", "white_collapse", "mask_iou"]
    assert rules("mvdiffusion_mouse") == ["skip_rate", "mask_iou"]
    assert rules("gslrm_tiny", "train.max_steps=550") == ["skip_rate"]  # validated at 150, 300, 450
    assert rules("gslrm_tiny", "train.max_steps=200") == []


@pytest.mark.parametrize("recipe", ["gslrm_tiny", "mvdiffusion_tiny"])
@pytest.mark.parametrize("steps", [100, 550, 1050])
def test_the_plain_form_of_the_usual_rules_loads_as_the_same_space(tmp_path: Path, recipe: str, steps: int) -> None:
    space = load_space(space_at(tmp_path, "", recipe, fixed={"train.max_steps": steps}))
    assert load_space(space_at(tmp_path, yaml.safe_dump(space.as_plain()))) == space


def test_rules_may_be_changed_while_a_study_goes_on(tmp_path: Path) -> None:
    loose, tight = (load_space(space_at(tmp_path, f"pruning: {{skip_rate: {{above: {n}}}}}")) for n in (0.9, 0.1))
    assert loose.fingerprint == tight.fingerprint


def test_an_override_reaches_a_rule(tmp_path: Path) -> None:
    space = load_space(space_at(tmp_path, "pruning: {skip_rate: {}, mask_iou: {}}"), ["pruning.mask_iou=null"])
    assert list(space.pruning.rules) == ["skip_rate"]


REFUSALS = {
    "a misspelled rule": (
        "pruning: {skip_rat: {above: 0.3}}",
        "mine.yaml: unknown key pruning.skip_rat — did you mean pruning.skip_rate?",
    ),
    "a misspelled setting": (
        "pruning: {skip_rate: {abov: 0.3}}",
        "mine.yaml: unknown key pruning.skip_rate.abov — did you mean pruning.skip_rate.above?",
    ),
    "percents": (
        "pruning: {skip_rate: {above: 30}}",
        "mine.yaml: pruning.skip_rate.above: expected less than 1, got 30 — lower it.",
    ),
    "a number as a rule": (
        "pruning: {skip_rate: 0.3}",
        "mine.yaml: pruning.skip_rate: expected a mapping of keys, got 0.3 — indent its keys below it.",
    ),
    "a list of rules": (
        "pruning: [skip_rate]",
        "mine.yaml: pruning: expected a mapping of keys, got ['skip_rate'] — indent its keys below it.",
    ),
    "nothing": (
        "pruning:",
        "mine.yaml: pruning: expected a mapping of keys, got None — indent its keys below it.",
    ),
    "text as a number": (
        "pruning: {grad_norm: {p95_above: 1e2}}",
        "mine.yaml: pruning.grad_norm.p95_above: expected a valid number, got '1e2' — YAML reads 1e2 as text, "
        "because a number with an exponent needs a dot and a sign: write 1.0e+2.",
    ),
    "a norm's limit that nobody can guess": (
        "pruning: {grad_norm: {}}",
        "mine.yaml: pruning.grad_norm.p95_above: expected a value, got none — add it.",
    ),
    "a window of nothing": (
        "pruning: {no_gain: {window_steps: 0}}",
        "mine.yaml: pruning.no_gain.window_steps: expected greater than 0, got 0 — raise it.",
    ),
    "a window longer than the training": (
        "pruning: {skip_rate: {window_steps: 2000}}",
        "mine.yaml: pruning.skip_rate: expected to act before train.max_steps 1050, got step 2000 at the earliest — "
        "lower window_steps or train.report_every, or drop the rule.",
    ),
    "validations that come too late": (
        "pruning: {mask_iou: {after_steps: 901}}",
        "mine.yaml: pruning.mask_iou: expected to act before train.max_steps 1050, got step 1050 at the earliest — "
        "lower after_steps or train.validate_every, or drop the rule.",
    ),
    "a gain that is asked for too late": (
        "pruning: {no_gain: {window_steps: 800}}",
        "mine.yaml: pruning.no_gain: expected to act before train.max_steps 1050, got step 1050 at the earliest — "
        "lower window_steps or train.validate_every, or drop the rule.",
    ),
    "a rule for the other kind of model": (
        "{recipe: mvdiffusion_tiny, pruning: {white_collapse: {}}}",
        "mine.yaml: pruning.white_collapse: expected a rule for mvdiffusion, got one for gslrm — drop it.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_rules_are_refused_in_one_line_that_says_where_and_what_to_do(case: str, tmp_path: Path) -> None:
    text, message = REFUSALS[case]
    path = space_at(tmp_path, text)
    with pytest.raises(SpaceError) as refusal:
        load_space(path)
    assert str(refusal.value).replace(f"{tmp_path}/", "") == message
