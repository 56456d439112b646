"""What is evaluated and used computes as the recipe's precision has it, and its protocol says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ImagePipelineOutput

from pipeline import kinds
from pipeline.data.scenes import Dataset, read_scene
from pipeline.gslrm.evaluate import evaluate
from pipeline.gslrm.model import GSLRM
from pipeline.kinds import LoadedCheckpoint, kind_of
from pipeline.recipe import PRECISIONS
from pipeline.reconstruction.models import load_gaussians
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.stages import Evaluation
from pipeline.training.loop import Report, train
from sweeps.errors import RegistryError
from sweeps.registry.verification import score, verify


@pytest.fixture(scope="module")
def figures(mice: Dataset, frames_cache: Path, tiny_recipe) -> dict[str, Evaluation]:
    """The same weights, scored as each precision has it."""
    torch.manual_seed(0)
    model = GSLRM(tiny_recipe("model.init_std=0.1").model)
    recipes = {precision: tiny_recipe(f"train.precision={precision}") for precision in PRECISIONS}
    return {name: evaluate(model, recipe, mice, "val", frames_cache) for name, recipe in recipes.items()}


def test_bf16_gives_figures_of_its_own_near_those_of_fp32(figures: dict[str, Evaluation]) -> None:
    half, full = (figures[name].metrics["val/psnr"] for name in ("bf16", "fp32"))
    assert half != full and half == pytest.approx(full, rel=1e-2)


def test_the_protocol_says_in_which_precision(figures: dict[str, Evaluation]) -> None:
    assert figures["bf16"].protocol.precision == "bf16"
    assert figures["bf16"].protocol.id != figures["fp32"].protocol.id


def test_float16_is_evaluated_in_float32_on_a_cpu_and_says_so(figures: dict[str, Evaluation]) -> None:
    assert figures["fp16"].metrics == figures["fp32"].metrics
    assert figures["fp16"].protocol == figures["fp32"].protocol


def test_rendering_stays_in_float32(figures: dict[str, Evaluation]) -> None:
    assert figures["bf16"].rendering.images.dtype == torch.float32  # type: ignore[attr-defined]
    assert len(torch.unique(figures["bf16"].rendering.images)) > 2**8  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, frames_cache: Path, tiny_recipe) -> Report:
    """Three steps in bf16, then a validation."""
    recipe = tiny_recipe("train.precision=bf16", "train.max_steps=3", "model.init_std=0.1")
    *_, last = train(recipe, tmp_path_factory.mktemp("bf16"), cache=frames_cache)
    return last


@pytest.fixture(scope="module")
def loaded(trained: Report) -> LoadedCheckpoint:
    assert trained.checkpoint is not None
    return kinds.load(trained.checkpoint)


def test_a_validation_is_in_the_precision_of_training(trained, loaded, mice, frames_cache) -> None:
    again = score(loaded, loaded.recipe.data, mice, "val", frames_cache)
    assert again.protocol.precision == "bf16"
    assert {name: trained.metrics[name] for name in again.metrics} == again.metrics


def test_a_reconstruction_is_in_the_precision_of_the_recipe(trained: Report, loaded, mice_folder: Path) -> None:
    assert trained.checkpoint is not None
    result = Reconstructor(load_gaussians(trained.checkpoint)).scene(read_scene(mice_folder / "scene_000006"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        gaussians = loaded.model(result.batch.input_images, result.batch.input_cameras)
    assert torch.equal(gaussians.means[0], result.gaussians.means)


def test_a_checkpoint_is_verified_by_figures_in_its_precision_and_by_those_of_before_in_fp32(
    trained: Report, loaded, mice, mice_folder, frames_cache
) -> None:
    assert trained.checkpoint is not None
    before = score(loaded, loaded.recipe.data, mice, "val", frames_cache, precision="fp32").metrics
    for logged in (trained.metrics, before):
        assert verify(trained.checkpoint, mice_folder, logged, frames_cache).precision == "bf16"
    with pytest.raises(RegistryError, match="expected val/psnr 99 as logged"):
        verify(trained.checkpoint, mice_folder, before | {"val/psnr": 99.0}, frames_cache)


@pytest.fixture(scope="module")
def views(tmp_path_factory, frames_cache: Path, views_recipe) -> Report:
    """Stage 1 after three steps in bf16, and a validation."""
    recipe = views_recipe("train.precision=bf16", "train.max_steps=3", "train.validate_every=3")
    *_, last = train(recipe, tmp_path_factory.mktemp("views"), cache=frames_cache)
    return last


@pytest.fixture(scope="module")
def generator(views: Report) -> LoadedCheckpoint:
    assert views.checkpoint is not None
    return kinds.load(views.checkpoint)


def test_views_are_generated_in_the_precision_of_the_recipe(generator: LoadedCheckpoint) -> None:
    model, images = generator.model, torch.rand(1, 3, 32, 32)
    own, half, full, float16 = (model(images, [0], precision=name) for name in (None, "bf16", "fp32", "fp16"))
    assert torch.equal(own, half) and not torch.equal(half, full) and own.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.1, rtol=0)
    assert torch.equal(float16, full)  # on a CPU


def test_the_precision_follows_the_models_device_wherever_its_pictures_are(generator, monkeypatch) -> None:
    model, asked = generator.model, []

    def noted(self: object, *_: object, precision: str, **__: object) -> ImagePipelineOutput:
        asked.append(precision)
        return ImagePipelineOutput(images=torch.zeros(model.num_views, 3, 32, 32))

    monkeypatch.setattr(type(model.pipe), "__call__", noted)
    model(torch.rand(1, 3, 32, 32, device="meta"), [0], precision="fp16")  # the device of the pictures is no CPU
    assert asked == ["fp32"]


def test_a_validation_of_stage_1_is_in_the_precision_of_training(views, generator, mice, frames_cache) -> None:
    recipe = generator.recipe
    again = kind_of(recipe).evaluate(generator.model, recipe, mice, "val", frames_cache)
    assert again.protocol.precision == "bf16"
    assert {name: views.metrics[name] for name in again.metrics} == pytest.approx(again.metrics, rel=1e-5, abs=1e-5)
    full = score(generator, recipe.data, mice, "val", frames_cache, precision="fp32")
    assert full.metrics["val/psnr"] != again.metrics["val/psnr"] and full.protocol.precision == "fp32"
