"""The loop: what it reports, that it resumes to the bit, and what stops it."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline import checkpoint, kinds, losses, metrics
from pipeline.data.loader import Loader
from pipeline.data.scenes import Dataset
from pipeline.errors import CheckpointError, DataError, NonFiniteError, RecipeError
from pipeline.gslrm.evaluate import evaluate
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import OptimConfig, Recipe
from pipeline.recipes import load_recipe
from pipeline.training.loop import train
from pipeline.training.saving import Report
from pipeline.training.update import NonFiniteUpdates, learning_rate, parameter_groups, percentile_95
from sweeps.reuse.taking import rewritten
from sweeps.space.objective import Objective
from sweeps.space.pruning import Pruning, SkipRate, Watch, WhiteCollapse
from tests.conftest import TINY

AT_ONCE = "optim.max_nonfinite_updates=0"  # the first loss that is no number ends the run
SKIPPING = ("optim.grad_clip_norm=1.0e-9", "optim.skip_factor=1.0")  # every update is skipped
BUSY = ("loss.ssim=0.5", "data.brightness=[0.8, 1.2]")  # views and jitter are drawn anew each step


@pytest.fixture
def run(tmp_path: Path, frames_cache: Path):
    """Train a recipe to its end in a folder of its own and return every report."""

    def go(recipe: Recipe, name: str = "run", resume: Path | None = None) -> list[Report]:
        return list(train(recipe, tmp_path / name, resume, cache=frames_cache))

    return go


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, frames_cache: Path, tiny_recipe) -> list[Report]:
    """Eight steps, never stopped."""
    return list(train(tiny_recipe(*BUSY), tmp_path_factory.mktemp("finished"), cache=frames_cache))


@pytest.fixture
def own_mse(monkeypatch: pytest.MonkeyPatch):
    """Make `mse` return something of its own from its n-th call on."""

    def install(broken, after: int) -> None:
        whole, calls = losses.mse, []

        def mse(*args: Tensor | None) -> Tensor:
            calls.append(args)
            return broken(args[0]) if len(calls) > after else whole(*args)

        monkeypatch.setattr(losses, "mse", mse)

    return install


def weights(report: Report) -> dict[str, Tensor]:
    assert report.checkpoint is not None
    return load_file(report.checkpoint / checkpoint.WEIGHTS)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def models() -> int:
    return sum(type(thing) is GSLRM for thing in gc.get_objects())


def working_ahead() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def interrupted(reports: Generator[Report, None, None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        reports.throw(KeyboardInterrupt())


def refusal(reports: Iterator[Report], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        next(reports)
    return str(caught.value)


# ---------------------------------------------------------------- reports


def test_reports_come_at_the_first_step_and_at_every_interval(finished: list[Report]) -> None:
    assert [report.step for report in finished] == [1, 2, 4, 6, 8]


def test_a_checkpoint_comes_with_every_validation_and_the_last_step(finished: list[Report]) -> None:
    assert [report.step for report in finished if report.checkpoint] == [4, 8]


def test_every_report_says_how_training_goes(finished: list[Report]) -> None:
    expected = {"train/loss", "train/mse", "train/ssim", "train/lr", "train/grad_norm", "train/grad_norm_p95"}
    expected |= {"train/skipped_updates", "train/nonfinite_updates"}
    expected |= {"time/step_seconds", "time/scenes_per_second", "time/train_seconds", "system/process_memory_gb"}
    assert set(finished[0].metrics) == expected


def test_a_validation_scores_held_out_views_and_inputs_apart_beside_the_white_baseline(finished: list[Report]) -> None:
    names = {name for name in finished[-1].metrics if name.startswith("val/") and "lpips" not in name}
    plain = {"psnr", "psnr_fg", "ssim", "mask_iou", "white_psnr", "foreground_mean", "target_foreground_mean"}
    assert names == {f"val/{name}" for name in plain} | {f"val/input/{name}" for name in plain}


def test_every_figure_is_finite(finished: list[Report]) -> None:
    assert all(math.isfinite(value) for report in finished for value in report.metrics.values())


def test_the_preview_is_a_uint8_picture(finished: list[Report]) -> None:
    picture = finished[-1].images["val/preview"]
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3


def test_the_loss_is_the_weighted_sum_of_its_terms(finished: list[Report]) -> None:
    last = finished[-1].metrics
    assert last["train/loss"] == pytest.approx(last["train/mse"] + 0.5 * last["train/ssim"], rel=1e-5)


def test_the_p95_of_gradient_norms_is_of_every_step_since_the_last_report(run, tiny_recipe, monkeypatch) -> None:
    norms: list[float] = []
    whole = torch.nn.utils.get_total_norm

    def total(*args: object) -> Tensor:
        norms.append(float(whole(*args)))  # type: ignore[arg-type]
        return torch.tensor(norms[-1])

    monkeypatch.setattr("torch.nn.utils.get_total_norm", total)
    reports = run(tiny_recipe())
    wanted = [max(norms[first:last]) for first, last in ((0, 1), (1, 2), (2, 4), (4, 6), (6, 8))]
    assert [report.metrics["train/grad_norm_p95"] for report in reports] == wanted


def test_a_percentile_counts_ranks_and_leaves_overflows_out() -> None:
    norms = [float(n) for n in range(100, 0, -1)]
    assert [percentile_95(found) for found in (norms, norms[:20], [7.0], [math.inf, 2.0])] == [95.0, 99.0, 7.0, 2.0]


def test_a_terms_mean_counts_only_the_steps_it_was_computed_at(own_mse, run, tiny_recipe) -> None:
    own_mse(lambda rendered: 0.25 + 0 * rendered.sum(), after=0)
    reports = run(tiny_recipe("loss.pointsdist_warmup_steps=3"))
    assert reports[2].metrics["train/mse"] == 0.25  # of steps 3 and 4, of which only 4 has it


def test_a_checkpoint_scores_what_its_report_says(finished: list[Report], mice: Dataset, frames_cache: Path) -> None:
    loaded = kinds.load(finished[-1].checkpoint)  # type: ignore[arg-type]
    again = evaluate(loaded.model, loaded.recipe, mice, "val", frames_cache)
    assert {name: finished[-1].metrics[name] for name in again.metrics} == again.metrics
    assert {bool(one.protocol) for one in finished if "val/psnr" not in one.metrics} == {False}
    assert finished[-1].protocol == again.protocol.id


def test_held_out_figures_count_no_input_view_and_input_figures_no_other(
    mice: Dataset, frames_cache: Path, tiny_recipe
) -> None:
    result = evaluate(GSLRM(tiny_recipe().model), tiny_recipe(), mice, "val", frames_cache)
    views = metrics.psnr(result.rendering.images[0], result.batch.images[0])
    figures = result.metrics["val/psnr"], result.metrics["val/input/psnr"]
    assert figures == pytest.approx((float(views[4:].mean()), float(views[:4].mean())))


def test_the_foregrounds_means_are_those_of_the_pixels_inside_the_masks_of_held_out_views(
    finished: list[Report], mice: Dataset, frames_cache: Path
) -> None:
    loaded = kinds.load(finished[-1].checkpoint)  # type: ignore[arg-type]
    found = evaluate(loaded.model, loaded.recipe, mice, "val", frames_cache)
    assert found.batch.masks is not None
    rendered, target, masks = (
        views[0, 4:].numpy() for views in (found.rendering.images, found.batch.images, found.batch.masks)
    )
    for name, views in {"val/foreground_mean": rendered, "val/target_foreground_mean": target}.items():
        by_hand = [view[:, mask[0] > 0.5].clip(0, 1).mean() for view, mask in zip(views, masks, strict=True)]
        assert finished[-1].metrics[name] == pytest.approx(float(np.mean(by_hand)), abs=1e-5)


def test_a_model_that_draws_nothing_is_white_where_the_animal_is(finished: list[Report], run, tiny_recipe) -> None:
    collapsed = run(tiny_recipe("model.opacity_bias=-20.0"))[-1].metrics
    assert collapsed["val/foreground_mean"] > 0.98 > finished[-1].metrics["val/foreground_mean"]
    assert collapsed["val/target_foreground_mean"] == finished[-1].metrics["val/target_foreground_mean"] < 0.5
    assert collapsed["val/mask_iou"] == 0


def test_the_rules_of_pruning_see_it_in_its_reports_and_nothing_in_those_of_a_sound_one(
    finished: list[Report], run, tiny_recipe
) -> None:
    rules = Pruning(skip_rate=SkipRate(window_steps=4), white_collapse=WhiteCollapse(after_steps=4))
    watch = Watch(rules, Objective())
    collapsed = run(tiny_recipe("model.opacity_bias=-20.0"))
    assert [watch.feed(0, report.step, report.metrics) for report in finished] == [None] * 5
    *before, at_validation, _, _ = (watch.feed(1, report.step, report.metrics) for report in collapsed)
    assert before == [None, None]
    assert str(at_validation).startswith("white_collapse: the rendered foreground is 1 at step 4, limit 0.98")


def test_the_rules_of_pruning_see_that_updates_are_skipped(run, tiny_recipe) -> None:
    watch = Watch(Pruning(skip_rate=SkipRate(window_steps=4)), Objective())
    reasons = [watch.feed(0, report.step, report.metrics) for report in run(tiny_recipe(*SKIPPING))]
    assert reasons == [None, None] + ["skip_rate: 100 % of updates skipped in steps 1-4, limit 30 %"] * 3


def test_evaluating_leaves_the_model_in_training(mice: Dataset, frames_cache: Path, tiny_recipe) -> None:
    model = GSLRM(tiny_recipe().model).train()
    evaluate(model, tiny_recipe(), mice, "val", frames_cache)
    assert model.training


def test_figures_of_other_inputs_share_no_protocol(mice: Dataset, frames_cache: Path, tiny_recipe) -> None:
    recipes = [tiny_recipe(), tiny_recipe("data.num_input_views=2"), tiny_recipe("optim.lr=0.5")]
    ids = [evaluate(GSLRM(r.model), r, mice, "val", frames_cache).protocol.id for r in recipes]
    assert ids[0] == ids[2] != ids[1]


# ---------------------------------------------------------------- resume


def test_a_resumed_run_is_the_unbroken_one_to_the_bit(finished: list[Report], run, tiny_recipe) -> None:
    resumed = run(tiny_recipe(*BUSY), resume=finished[2].checkpoint)
    assert equal(weights(resumed[-1]), weights(finished[-1]))


def test_a_resumed_run_reports_what_the_unbroken_one_reports(finished: list[Report], run, tiny_recipe) -> None:
    resumed = run(tiny_recipe(*BUSY), resume=finished[2].checkpoint)
    later = [report for report in finished if report.step > finished[2].step]
    assert [told(report) for report in resumed] == [told(report) for report in later] != []


def test_a_longer_run_goes_on_from_a_shorter_one_to_the_bit_where_the_rate_does_not_know_its_end(
    run, tiny_recipe, tmp_path: Path
) -> None:
    short, long = (tiny_recipe(*BUSY, "optim.schedule=constant", f"train.max_steps={steps}") for steps in (4, 8))
    info = checkpoint.inspect(run(short, "short")[-1].checkpoint)
    half = rewritten(info, long, tmp_path / "half")
    resumed, whole = run(long, "resumed", half), run(long, "whole")
    assert [told(report) for report in resumed] == [told(report) for report in whole if report.step > 4] != []
    assert equal(weights(resumed[-1]), weights(whole[-1]))


def told(report: Report) -> tuple[int, dict[str, float]]:
    return report.step, {n: value for n, value in report.metrics.items() if n.startswith(("train/", "val/"))}


def test_a_resumed_run_goes_on_counting_skipped_updates(run, tiny_recipe) -> None:
    half = run(tiny_recipe(*SKIPPING))[2].checkpoint
    assert run(tiny_recipe(*SKIPPING), "resumed", half)[-1].metrics["train/skipped_updates"] == 8


def test_a_run_can_be_repeated_to_the_bit(finished: list[Report], run, tiny_recipe) -> None:
    assert equal(weights(run(tiny_recipe(*BUSY))[-1]), weights(finished[-1]))


def test_training_changes_every_weight(finished: list[Report]) -> None:
    before, after = weights(finished[2]), weights(finished[-1])
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_another_recipe_is_not_resumed(finished: list[Report], tmp_path: Path, tiny_recipe) -> None:
    other, mine = tiny_recipe(*BUSY).fingerprint, tiny_recipe("optim.lr=0.5")
    folder = finished[2].checkpoint
    assert refusal(train(mine, tmp_path, folder), CheckpointError) == (
        f"{folder}: expected a checkpoint of recipe {mine.fingerprint}, got one of {other} — set train.init_from to "
        "start a new run from its weights."
    )


def test_a_finished_run_is_not_resumed(finished: list[Report], tmp_path: Path, tiny_recipe) -> None:
    folder = finished[-1].checkpoint
    expected = f"{folder}: expected a step below train.max_steps 8, got 8 — it is finished."
    assert refusal(train(tiny_recipe(*BUSY), tmp_path, folder), CheckpointError) == expected


def test_a_run_starts_from_the_weights_of_another(finished: list[Report], run, tiny_recipe) -> None:
    started = run(tiny_recipe(f"train.init_from={finished[-1].checkpoint}", *SKIPPING))
    assert equal(weights(started[-1]), weights(finished[-1]))


def test_a_missing_tensor_of_the_weights_to_start_from_is_named(
    finished: list[Report], tmp_path: Path, tiny_recipe
) -> None:
    tensors = weights(finished[-1])
    del tensors["transformer_layers.1.attn.fc.weight"]
    save_file(tensors, tmp_path / "most.safetensors")
    recipe = tiny_recipe(f"train.init_from={tmp_path}/most.safetensors")
    assert refusal(train(recipe, tmp_path / "run"), CheckpointError) == (
        f"{tmp_path}/most.safetensors: expected the 19 tensors of the model; 1 missing: "
        "transformer_layers.1.attn.fc.weight — name weights of this network, or set the recipe's model as theirs."
    )


def test_weights_that_are_not_there_stop_the_run_before_it_starts(tmp_path: Path, tiny_recipe) -> None:
    message = refusal(train(tiny_recipe("train.init_from=/nowhere.pt"), tmp_path), RecipeError)
    expected = "tiny: train.init_from: expected a file or folder, found none at /nowhere.pt — correct the path."
    assert message == expected and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- schedule and groups


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(0, 0.0), (250, 5e-5), (500, 1e-4), (5000, 8.743e-5), (10_250, 5e-5), (15_000, 1.536e-5), (20_000, 0.0)],
)
def test_the_learning_rate_is_facelifts_cosine_after_a_warm_up(updates: int, expected: float) -> None:
    config = OptimConfig(lr=1e-4, warmup_steps=500)
    assert learning_rate(config, updates, 20_000) == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_the_learning_rate_starts_at_its_peak_without_a_warm_up() -> None:
    assert learning_rate(OptimConfig(lr=1e-4, warmup_steps=0), 0, 100) == 1e-4


def test_the_first_update_is_made_at_learning_rate_0_and_each_later_one_a_step_further(
    finished: list[Report], tiny_recipe
) -> None:
    rates = [report.metrics["train/lr"] for report in finished]
    assert rates == [learning_rate(tiny_recipe().optim, report.step - 1, 8) for report in finished] and rates[0] == 0


def test_the_released_size_decays_100_tensors_and_leaves_51() -> None:
    with torch.device("meta"):
        groups = parameter_groups(GSLRM(load_recipe("gslrm").model), 0.05)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(100, 0.05), (51, 0.0)]


def test_the_released_size_decays_303_513_600_values() -> None:
    with torch.device("meta"):
        groups = parameter_groups(GSLRM(load_recipe("gslrm").model), 0.05)
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [303_513_600, 52_224]


def test_frozen_weights_never_move(run, tiny_recipe) -> None:
    reports = run(tiny_recipe("optim.freeze={num_layers: 1, patch_embedder: true}", "optim.weight_decay=0.5"))
    before, after = weights(reports[2]), weights(reports[-1])
    still = {name for name in before if torch.equal(before[name], after[name])}
    prefixes = ("patch_embedder", "input_layer_norm", "transformer_layers.0.")
    assert still == {name for name in before if name.startswith(prefixes)}


# ---------------------------------------------------------------- updates


def test_skipped_updates_are_counted(run, tiny_recipe) -> None:
    reports = run(tiny_recipe(*SKIPPING))
    assert [report.metrics["train/skipped_updates"] for report in reports] == [1, 2, 4, 6, 8]


def test_a_skipped_update_leaves_the_weights(run, tiny_recipe) -> None:
    reports = run(tiny_recipe(*SKIPPING))
    assert equal(weights(reports[2]), weights(reports[-1]))


def test_two_accumulated_batches_of_one_have_the_gradients_of_one_batch_of_two(run, tiny_recipe) -> None:
    gradients: list[list[Tensor]] = []

    def record(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    once = ("train.max_steps=1", "optim.warmup_steps=0", "optim.grad_clip_norm=100.0")
    handle = register_optimizer_step_pre_hook(record)
    run(tiny_recipe(*once, "train.batch_size=2"), "batch")
    run(tiny_recipe(*once, "train.accumulate=2"), "accumulate")
    handle.remove()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_finite_figures(run, tiny_recipe, precision: str) -> None:
    reports = run(tiny_recipe(f"train.precision={precision}", "train.max_steps=3", "train.validate_every=3"))
    assert all(math.isfinite(value) for report in reports for value in report.metrics.values())


def test_the_pointsdist_warm_up_takes_the_place_of_mse_for_so_many_steps(run, tiny_recipe) -> None:
    reports = run(tiny_recipe("loss.pointsdist_warmup_steps=2"))
    terms = [{"train/mse", "train/pointsdist"} & set(report.metrics) for report in reports[:3]]
    assert terms == [{"train/pointsdist"}, {"train/pointsdist"}, {"train/mse"}]


# ---------------------------------------------------------------- numbers that are none


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_term(own_mse, tmp_path: Path, tiny_recipe) -> None:
    own_mse(lambda rendered: rendered.sum() * math.nan, after=2)
    with pytest.raises(NonFiniteError) as caught:
        list(train(tiny_recipe(AT_ONCE), tmp_path))
    expected = r"step 3: expected a finite loss, got nan from mse nan; the gradient norm was \S+ a step before\."
    assert re.fullmatch(expected, str(caught.value))


def test_a_loss_that_is_not_finite_leaves_no_checkpoint(own_mse, tmp_path: Path, tiny_recipe) -> None:
    own_mse(lambda rendered: rendered.sum() * math.inf, after=3)
    with pytest.raises(NonFiniteError):
        list(train(tiny_recipe(AT_ONCE), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("broken", [lambda rendered: rendered.sum() * math.nan, lambda rendered: 0 * rendered + 1e39])
def test_three_losses_in_a_row_that_are_not_finite_stop_the_run(own_mse, tmp_path, tiny_recipe, broken) -> None:
    own_mse(lambda rendered: broken(rendered).sum(), after=2)
    with pytest.raises(NonFiniteError) as caught:
        list(train(tiny_recipe("train.validate_every=8"), tmp_path))
    assert re.fullmatch(
        r"step 5: expected a finite loss, got (nan|inf) from mse (nan|inf); the gradient norm was \S+, 3 steps before; "
        r"the updates of steps 3, 4 were left out for the same reason\.",
        str(caught.value),
    )


@pytest.fixture
def with_one_nan(own_mse, run, tiny_recipe) -> list[Report]:
    """Eight steps, of which the third has a loss that is no number."""
    calls: list[int] = []

    def broken(rendered: Tensor) -> Tensor:
        calls.append(1)
        return rendered.square().mean() * (math.nan if len(calls) == 3 else 1.0)

    own_mse(broken, after=0)
    return run(tiny_recipe("train.report_every=1"), "nan")


def test_one_update_without_a_finite_loss_is_left_out_and_counted(with_one_nan: list[Report]) -> None:
    assert [report.metrics["train/nonfinite_updates"] for report in with_one_nan] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert with_one_nan[-1].metrics["train/skipped_updates"] == 0


def test_a_report_of_no_finite_step_has_no_means_and_the_others_finite_ones(with_one_nan: list[Report]) -> None:
    assert not {"train/loss", "train/mse", "train/grad_norm"} & set(with_one_nan[2].metrics)
    assert all(math.isfinite(value) for report in with_one_nan for value in report.metrics.values())
    assert "train/loss" in with_one_nan[3].metrics


def test_a_resumed_run_goes_on_counting_non_finite_updates(with_one_nan, own_mse, tmp_path, tiny_recipe) -> None:
    own_mse(lambda rendered: rendered.sum() * math.nan, after=0)
    reports = train(tiny_recipe("train.report_every=1"), tmp_path / "resumed", with_one_nan[3].checkpoint)
    assert next(reports).metrics["train/nonfinite_updates"] == 2
    with pytest.raises(NonFiniteError, match=r"step 6: .*; the updates of steps 3, 5 were left out"):
        list(reports)


def test_a_checkpoint_that_counts_no_non_finite_updates_is_resumed(
    finished: list[Report], tmp_path, tiny_recipe
) -> None:
    folder = tmp_path / "older"
    info = checkpoint.inspect(finished[2].checkpoint)  # type: ignore[arg-type]
    training = checkpoint.load_training(info)
    del training["nonfinite"]
    checkpoint.save(folder, kinds.load(info).model, info.recipe, info.step, training=training)
    (first, *_) = train(tiny_recipe(*BUSY), tmp_path / "on", folder)
    assert first.metrics["train/nonfinite_updates"] == 0


def test_an_update_left_out_leaves_the_weights(own_mse, run, tiny_recipe) -> None:
    own_mse(lambda rendered: rendered.sum() * math.nan, after=6)
    reports = run(tiny_recipe("train.validate_every=2"))
    assert equal(weights(reports[-1]), weights(reports[-2])) and not equal(weights(reports[-2]), weights(reports[-3]))


def test_the_window_of_non_finite_updates_is_a_hundred_steps() -> None:
    found = NonFiniteUpdates(limit=2)
    assert [found.add(step) for step in (1, 50, 101, 150, 151)] == [True, True, True, True, False]
    assert found.total == 5 and not NonFiniteUpdates(limit=0).add(1)


def test_without_a_skip_factor_no_update_is_skipped(run, tiny_recipe) -> None:
    reports = run(tiny_recipe("optim.grad_clip_norm=1.0e-9", "optim.skip_factor=null"))
    assert reports[-1].metrics["train/skipped_updates"] == 0
    assert not equal(weights(reports[2]), weights(reports[-1]))


def test_the_decay_of_all_leaves_no_weight_out() -> None:
    with torch.device("meta"):
        (group,) = parameter_groups(GSLRM(load_recipe("gslrm").model), 0.01, "all")
    assert len(group["params"]) == 151 and group["weight_decay"] == 0.01


def test_facelifts_stage_1_decays_every_weight_and_its_stage_2_matrices_alone() -> None:
    found = {name: load_recipe(name).optim.decay for name in ("gslrm_mouse", "mvdiffusion_mouse")}
    assert found == {"gslrm_mouse": "matrices", "mvdiffusion_mouse": "all"}


def test_a_batch_in_parts_makes_the_same_step(tmp_path: Path, tiny_recipe) -> None:
    recipe = tiny_recipe("train.batch_size=2", "train.max_steps=3", "train.validate_every=3", "loss.perceptual=0.0")
    whole, parts = (list(train(recipe, tmp_path / str(n), splits=n))[-1] for n in (1, 2))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, atol=2e-5, rtol=1e-3)
    assert parts.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=1e-5)


def test_a_checkpoint_for_which_there_is_no_room_is_left_out_and_the_run_goes_on(tmp_path: Path, tiny_recipe) -> None:
    answers = iter(["1 GB free, the floor is 2 GB", ""])
    first, last = (r for r in train(tiny_recipe(), tmp_path, lacks_room=lambda: next(answers)) if r.step % 4 == 0)
    assert (first.checkpoint, first.unsaved) == (None, "1 GB free, the floor is 2 GB")
    assert last.checkpoint is not None and last.unsaved == "" and "val/psnr" in first.metrics


def test_a_gradient_that_is_not_finite_stops_the_run(own_mse, tmp_path: Path, tiny_recipe) -> None:
    own_mse(lambda rendered: (rendered * 0).sum().sqrt(), after=0)
    with pytest.raises(NonFiniteError) as caught:
        list(train(tiny_recipe(AT_ONCE), tmp_path))
    assert str(caught.value) == "step 1: expected a finite gradient, got norm nan with a finite loss."


def test_the_run_sees_the_batches_of_its_loader(run, tiny_recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    whole = Loader.training_batch
    monkeypatch.setattr(
        Loader, "training_batch", lambda self, step, *of: seen.append((step, *of)) or whole(self, step, *of)
    )
    run(tiny_recipe("train.accumulate=2", "train.max_steps=3"))
    assert seen == [(index, 1, 1) for index in range(6)]


def test_a_scene_that_breaks_stops_the_run_at_the_step_that_takes_it(
    tmp_path: Path, frames_cache: Path, tiny_recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, taken = Loader.training_batch, []

    def breaking(self: Loader, index: int, *of: int):
        if index == 2:
            raise DataError("scene_000003: broken")
        return whole(self, index, *of)

    monkeypatch.setattr(Loader, "training_batch", breaking)
    with pytest.raises(DataError, match="scene_000003: broken"):
        taken += (report.step for report in train(tiny_recipe("train.report_every=1"), tmp_path, cache=frames_cache))
    assert taken == [1, 2] and not working_ahead()


@pytest.mark.parametrize("end", [list, Generator.close, interrupted], ids=["finished", "left early", "interrupted"])
def test_no_thread_and_no_weights_outlive_a_run(end, tmp_path: Path, frames_cache: Path, tiny_recipe) -> None:
    gc.collect()
    others = models()
    gc.disable()
    try:
        reports = train(tiny_recipe("train.max_steps=3"), tmp_path, cache=frames_cache)
        next(reports)
        assert (working_ahead(), models()) == (1, others + 1)
        end(reports)
        assert (working_ahead(), models()) == (0, others)
    finally:
        gc.enable()


def test_nothing_is_imported_behind_a_run_that_was_left_after_its_first_step(mice_folder, tmp_path: Path) -> None:
    """Stage 1, imported next, would see half of transformers, which torchmetrics imports as well."""
    script = """
import sys, threading
from pathlib import Path
from pipeline.recipes import load_recipe
from pipeline.training.loop import train
reports = train(load_recipe(Path(sys.argv[1]), ["train.report_every=1", f"data.root={sys.argv[2]}"]), Path(sys.argv[3]))
next(reports)
reports.close()
print([thread.name for thread in threading.enumerate()], "torchmetrics.functional.segmentation" in sys.modules)
"""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    words = [sys.executable, "-c", script, recipe, mice_folder, tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["['MainThread'] True"], done.stderr
