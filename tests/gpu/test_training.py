"""Training on CUDA: a step is the CPU's, bf16 is near it, a resumed run goes on, the memory is what was foretold."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.settings import checkpoint_modes
from benchmarks.gpu.waits import Waits
from pipeline.training.loop import Report, train

with contextlib.suppress(ImportError):  # GS-LRM is tested without diffusers, too
    from pipeline.mvdiffusion.stage import MVDiffusionStage

pytestmark = pytest.mark.gpu
GSLRM = ("model.init_std=0.1", "model.scale_bias=-4.0", "loss.ssim=0.5", "loss.alpha=0.5", "train.batch_size=2")
# Where activations outweigh what libraries keep for themselves, cuBLAS's 32 MiB of workspace above all.
LARGER = ("model.dim=512", "model.num_layers=12", "data.image_size=256", "train.precision=bf16")
# Of small Gaussians, as a trained network draws them: of those of GSLRM above gsplat sorts 2 GB more at 256 px, which
# the estimate leaves out, as docs/gpu.md says.
SMALL = ("model.init_std=0.02", "model.scale_bias=-6.0")


@pytest.fixture
def first_step(tmp_path: Path, frames_cache: Path):
    """The metrics of a recipe's first step."""

    def take(recipe, device: torch.device | str, splits: int = 1) -> dict[str, float]:
        reports = train(recipe, tmp_path / "first", device=device, cache=frames_cache, splits=splits)
        return first_of(reports).metrics

    return take


def first_of(reports: Iterator[Report]) -> Report:
    """The first report; the run ends there."""
    try:
        return next(reports)
    finally:
        reports.close()  # type: ignore[attr-defined]


@pytest.fixture(params=["gslrm", "mvdiffusion"])
def recipe_of(request, tiny_recipe, views_recipe):
    """A small recipe of each stage; takes overrides."""
    return (lambda *more: tiny_recipe(*GSLRM, *more)) if request.param == "gslrm" else views_recipe


def test_a_step_in_fp32_is_that_of_the_cpu(device, recipe_of, first_step) -> None:
    expected, found = (first_step(recipe_of(), where) for where in ("cpu", device))
    for name in ("train/loss", "train/grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_step_in_bf16_is_near_that_in_fp32(device, recipe_of, first_step) -> None:
    expected, found = (first_step(recipe_of(f"train.precision={name}"), device) for name in ("fp32", "bf16"))
    assert found["train/loss"] != expected["train/loss"]
    for name, tolerance in (("train/loss", 0.02), ("train/grad_norm", 0.1)):
        assert math.isfinite(found[name]) and found[name] == pytest.approx(expected[name], rel=tolerance), name


def test_the_losses_of_stage_1_wait_for_nothing(device, views_recipe, mice, frames_cache) -> None:
    stage = MVDiffusionStage(views_recipe(), device, mice)
    batch = stage.loader(mice, "train", frames_cache).training_batch(0, 1).to(device)
    for mode in ("default", "error"):  # the first pass brings what lies on the host for good, such as noise levels
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)
        try:
            loss = stage.losses(batch, 1, [torch.Generator().manual_seed(0)])["denoising"]
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(loss.item())


def test_a_resumed_run_goes_on_where_the_unbroken_one_does(device, recipe_of, tmp_path, frames_cache) -> None:
    recipe = recipe_of("optim.lr=1.0e-3", "train.report_every=1")
    unbroken = list(train(recipe, tmp_path / "unbroken", device=device, cache=frames_cache))
    saved = next(report.checkpoint for report in unbroken if report.step == 4)
    resumed = list(train(recipe, tmp_path / "resumed", saved, device, frames_cache))
    wanted, came = ({r.step: r.metrics["train/loss"] for r in run if r.step > 4} for run in (unbroken, resumed))
    assert came == pytest.approx(wanted, rel=1e-3)  # on CUDA sums are not in order
    assert len(set(wanted.values())) == 4


def test_a_checkpoint_of_the_cpu_is_gone_on_with_as_the_cpu_would(device, recipe_of, tmp_path, frames_cache) -> None:
    recipe = recipe_of("optim.lr=1.0e-3", "train.report_every=1")
    unbroken = list(train(recipe, tmp_path / "unbroken", cache=frames_cache))
    saved = next(report.checkpoint for report in unbroken if report.step == 4)
    resumed = list(train(recipe, tmp_path / "resumed", saved, device, frames_cache))
    wanted, came = ({r.step: r.metrics["train/loss"] for r in run if r.step > 4} for run in (unbroken, resumed))
    assert came[5] == pytest.approx(wanted[5], rel=1e-4)  # by the weights
    assert came == pytest.approx(wanted, rel=5e-3)  # by what the optimizer remembers


def test_a_step_waits_for_the_gpu_once_beside_what_is_counted_to_draw(
    device, recipe_of, tmp_path, frames_cache
) -> None:
    recipe = recipe_of()
    with Waits(device) as waits:
        list(train(recipe, tmp_path, device=device, cache=frames_cache))
    own = sum(count for place, count in waits.places.items() if place.startswith("pipeline/training/"))
    assert own == (recipe.train.max_steps if device.type == "cuda" else 0), waits.places


@pytest.mark.parametrize("mode", checkpoint_modes())
def test_a_step_takes_the_memory_that_preflight_foretells(device, tiny_recipe, first_step, mode) -> None:
    from sweeps.preflight.footprint import footprint  # the other tests need no package of the memory

    size = LARGER if device.type == "cuda" else ()
    recipe = tiny_recipe(*GSLRM, *size, *SMALL, checkpoint_modes()[mode])
    peak = peak_bytes(device, lambda: first_step(recipe, device))
    if device.type == "cuda":
        assert 0.6 < peak / footprint(recipe) < 1.4


def test_a_batch_in_parts_takes_less_memory_and_makes_the_same_step(device, tiny_recipe, first_step) -> None:
    size = LARGER if device.type == "cuda" else ()
    recipe, found = tiny_recipe(*GSLRM, *size, checkpoint_modes()["none"]), {}
    peaks = [peak_bytes(device, lambda n=n: found.update({n: first_step(recipe, device, n)})) for n in (1, 2)]
    assert found[2]["train/loss"] == pytest.approx(found[1]["train/loss"], rel=1e-3)
    assert device.type == "cpu" or peaks[1] < 0.8 * peaks[0]


def peak_bytes(device: torch.device, work) -> int:
    """The most that tensors took on the device while the work ran; 0 on a CPU, which does not count."""
    if device.type != "cuda":
        work()
        return 0
    gc.collect()  # earlier runs
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
