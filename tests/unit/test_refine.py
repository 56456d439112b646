"""Refining: Gaussians that are optimised on the views they were made of, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.cameras import facelift_six
from pipeline.data.batch import Batch
from pipeline.errors import DataError, NonFiniteError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.refine import MEANS_RATE, RATES, refined
from pipeline.splatting.rendering import render

INPUTS, STEPS = 4, 12


def some(seed: int, count: int = 60) -> Gaussians:
    """Gaussians of all colours about the origin."""
    random = torch.Generator().manual_seed(seed)
    means = 0.5 * (torch.rand(1, count, 3, generator=random) - 0.5)
    quats, colours = torch.randn(1, count, 4, generator=random), torch.randn(1, count, 1, 3, generator=random)
    return Gaussians(means, quats, torch.full((1, count, 3), 0.05), torch.full((1, count), 0.6), colours)


def moved(truth: Gaussians) -> Gaussians:
    return replace(truth, means=truth.means + 0.02, sh=0.5 * truth.sh)


@pytest.fixture
def truth() -> Gaussians:
    return some(0)


@pytest.fixture
def batch(truth: Gaussians) -> Batch:
    """Six views of the truth, the last two held out."""
    cameras = facelift_six(32)[None].to(torch.float32)
    drawn = render(truth, cameras)
    return Batch(drawn.images.clamp(0, 1), drawn.alphas, cameras, INPUTS, ("a scene",))


def errors(gaussians: Gaussians, batch: Batch) -> tuple[float, float]:
    """Mean absolute differences of colour: of the input views, and of those held out."""
    apart = (render(gaussians, batch.cameras).images - batch.images).abs().mean((0, 2, 3, 4))
    return float(apart[:INPUTS].mean()), float(apart[INPUTS:].mean())


def test_the_views_given_are_drawn_better_and_with_them_those_of_the_same_object_that_are_held_out(truth, batch):
    before, after = errors(moved(truth), batch), errors(refined(moved(truth), batch, 60), batch)
    assert after[0] < 0.5 * before[0] and after[1] < 0.7 * before[1]


def test_what_is_right_stays_right(truth, batch):
    """Colours above white are clamped in the views, and would be drawn as such."""
    assert errors(refined(truth, batch, STEPS), batch)[1] < 0.1 * errors(moved(truth), batch)[1] + 0.01


def test_held_out_views_are_not_looked_at(truth, batch):
    blind = replace(batch, images=batch.images.clone(), masks=batch.masks.clone())
    blind.images[:, INPUTS:], blind.masks[:, INPUTS:] = 0.3, 1.0
    first, second = (refined(moved(truth), one, STEPS) for one in (batch, blind))
    assert torch.equal(first.means, second.means) and torch.equal(first.sh, second.sh)


def test_the_same_call_gives_the_same_gaussians_and_leaves_what_it_was_given(truth, batch):
    given = moved(truth)
    first, second = refined(given, batch, STEPS), refined(given, batch, STEPS)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("means", "opacities", "quats"))
    assert torch.equal(given.means, moved(truth).means) and not first.means.requires_grad


def test_the_first_step_goes_as_far_as_the_rates_say(truth, batch):
    """Adam's first step is its rate, whatever the gradient; of a schedule of one step it is the whole of it."""
    given = moved(truth)
    found = refined(given, batch, 1)
    assert float((found.means - given.means).abs().max()) == pytest.approx(MEANS_RATE * 0.05, rel=1e-3)
    assert float((found.sh - given.sh).abs().max()) == pytest.approx(RATES["sh"], rel=1e-3)
    assert float((found.scales / given.scales).log().abs().max()) == pytest.approx(RATES["log_scales"], rel=1e-3)
    assert float((found.quats - given.quats).abs().max()) == pytest.approx(RATES["quats"], rel=1e-3)
    logits = found.opacities.logit() - given.opacities.logit()
    assert float(logits.abs().max()) == pytest.approx(RATES["logits"], rel=1e-3)


def test_the_rates_fall_so_that_two_steps_go_less_far_than_twice_one(truth, batch):
    given = moved(truth)
    far = float((refined(given, batch, 2).sh - given.sh).abs().max())
    assert far == pytest.approx(1.5 * RATES["sh"], rel=1e-2)


def test_means_go_by_the_size_of_the_gaussians_that_can_be_seen(truth, batch):
    """Those that cannot be seen are as large as they like."""
    hidden = torch.arange(truth.count) >= truth.count // 3
    given = replace(
        moved(truth),
        scales=torch.where(hidden[:, None], 3.0, truth.scales),
        opacities=torch.where(hidden, 0.001, truth.opacities),
    )
    assert float((refined(given, batch, 1).means - given.means).abs().max()) == pytest.approx(
        0.05 * MEANS_RATE, rel=1e-3
    )


def test_the_rates_hold_at_any_size_of_the_image(truth, batch):
    """Gradients of a mean over many pixels are small; Adam divides by their size, and by no more."""
    weak = replace(batch, images=batch.images.clone(), masks=None)
    weak.images[:] = render(moved(truth), batch.cameras).images + 1e-3
    weak.images[..., 1:, :] = render(moved(truth), batch.cameras).images[..., 1:, :]  # one row differs
    given = moved(truth)
    far = (refined(given, weak, 1).sh - given.sh).abs()
    assert float(far[far > 0].median()) == pytest.approx(RATES["sh"], rel=1e-2)


def test_no_steps_change_nothing(truth, batch):
    assert refined(truth, batch, 0) is truth


def test_views_without_masks_are_refined_by_their_colours_alone(truth, batch):
    bare = replace(batch, masks=None)
    assert errors(refined(moved(truth), bare, 60), batch)[0] < 0.5 * errors(moved(truth), batch)[0]


def test_masks_move_what_colours_cannot_tell_from_the_background(truth, batch):
    """White Gaussians on white."""
    white = replace(truth, sh=torch.full_like(truth.sh, 0.5 / 0.28209479177387814))
    empty = replace(batch, images=torch.ones_like(batch.images), masks=torch.zeros_like(batch.masks))
    assert refined(white, empty, STEPS).opacities.mean() < 0.9 * white.opacities.mean()


def test_a_number_that_is_not_finite_is_said_and_nothing_is_left_as_it_was_in_silence(truth, batch):
    broken = replace(truth, means=truth.means.clone())
    broken.means[0, 3, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"a scene: expected numbers in refining, got none at step 1"):
        refined(broken, batch, STEPS)


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_opacities_at_their_bounds_give_numbers(truth, batch, opacity: float):
    found = refined(replace(truth, opacities=torch.full_like(truth.opacities, opacity)), batch, 3)
    assert (found.opacities - opacity).abs().max() < 1e-4 and found.means.isfinite().all()


def test_what_is_opaque_can_fade(truth, batch):
    """The slope of a sigmoid that is 1 in float32 is 0."""
    empty = replace(batch, images=torch.ones_like(batch.images), masks=torch.zeros_like(batch.masks))
    found = refined(replace(truth, opacities=torch.ones_like(truth.opacities)), empty, 30)
    assert float((1 - found.opacities).median()) > 1.5e-6


def test_gaussians_from_inference_mode_are_refined_too(truth, batch):
    with torch.inference_mode():
        given = moved(truth)
        assert torch.equal(refined(given, batch, 3).means, refined(moved(truth), batch, 3).means)


def test_one_view_is_refused(truth, batch):
    with pytest.raises(DataError, match=r"a scene: --refine: expected two views or more, got one — leave --refine out"):
        refined(truth, replace(batch, num_input_views=1), STEPS)


def test_it_is_told_of_each_step(truth, batch):
    heard: list[float] = []
    refined(truth, batch, 3, lambda _, done, total: heard.append(done / total))
    assert heard[-1] == 1.0 and len(heard) == 4
