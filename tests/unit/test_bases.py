"""The bases: whole, small, known by their hash, and a better start than none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.bases import deeper
from pipeline import GSLRM, bases, checkpoint, kinds
from pipeline.cameras import facelift_six
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from pipeline.errors import CheckpointError, RecipeError
from pipeline.gslrm.evaluate import RenderedEvaluation
from pipeline.gslrm.kind import GSLRMKind
from pipeline.recipe import LOCAL_PATHS
from pipeline.recipes import load_recipe, override
from pipeline.training.fit import fit
from sweeps.preflight.artefacts import artefacts_of

MOST_BYTES = 12e6
STAGE_1_IOU = 0.65
UNSEEN = 77  # seed of mice that no base was trained on


@pytest.mark.parametrize("name", bases.names())
def test_a_base_is_whole_small_and_says_its_licence_and_no_path_of_a_machine(name: str) -> None:
    folder = bases.FOLDER / name
    info = checkpoint.inspect(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    assert {tensor.dtype for tensor in checkpoint.read_tensors(folder).values()} == {torch.float16}
    assert "licence.txt" in info.hashes and not (folder / checkpoint.TRAINING).exists()
    assert all(info.recipe.params[path] is None for path in LOCAL_PATHS if path in info.recipe.params)


@pytest.mark.parametrize("name", bases.names())
def test_the_recipe_of_a_base_starts_from_it(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.train.init_from == str(bases.FOLDER / name)
    assert recipe.model == checkpoint.inspect(bases.FOLDER / name).recipe.model


def test_a_base_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        RecipeError,
        match=r"train\.init_from: expected base: and one of gslrm_small, mvdiffusion_small, got 'base:gslrm'",
    ):
        load_recipe("gslrm_small", ["train.init_from=base:gslrm"])


def test_a_base_that_was_cut_off_is_refused_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(bases.FOLDER / "gslrm_small", tmp_path / "gslrm_small")
    weights = tmp_path / "gslrm_small" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1000])
    monkeypatch.setattr(bases, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected sha256 [0-9a-f]{12}, got another"):
        artefacts_of([load_recipe("gslrm_small", [f"data.root={tmp_path}"])], tmp_path / "cache")


def test_the_base_of_stage_1_draws_mice_that_it_never_met(tmp_path: Path) -> None:
    """After two steps too small to change it."""
    mice = write_mice(tmp_path / "mice", scenes=30, size=64, rig="mouse_centred", seed=UNSEEN)
    small = ("optim.lr=1.0e-9", "optim.warmup_steps=1", "train.max_steps=2", "train.validate_every=2")
    recipe = load_recipe("mvdiffusion_small", [*small, f"data.root={mice}"])
    *_, last = fit(recipe, tmp_path / "out", "cpu", {})
    assert last.metrics["val/mask_iou"] > STAGE_1_IOU and last.metrics["val/hull_iou"] > 0.9


@pytest.mark.parametrize(
    ("body", "inputs", "mask_iou"), [("mouse", 5, 0.89), ("mouse", 1, 0.78), ("hamster", 5, 0.92), ("vole", 5, 0.91)]
)
def test_the_base_knows_animals_that_it_never_met_from_one_view_or_five(
    tmp_path: Path, body: str, inputs: int, mask_iou: float
) -> None:
    """Far above what its recipe reaches from nothing in the steps of a demo."""
    mice = write_mice(tmp_path / "mice", scenes=6, size=64, rig="mouse_centred", seed=UNSEEN, body=body)
    loaded = kinds.load(bases.FOLDER / "gslrm_small")
    recipe = override(loaded.recipe, {"train.precision": "fp32", "data.num_input_views": inputs})
    found = GSLRMKind().evaluate(loaded.model, recipe, open_dataset(mice), "train", tmp_path / "cache")
    assert found.metrics["train/mask_iou"] > mask_iou


def test_refined_gaussians_of_the_base_show_views_that_were_held_out_far_better(tmp_path: Path) -> None:
    mice = write_mice(tmp_path / "mice", scenes=6, size=64, rig="mouse_centred", seed=UNSEEN, coat="calico")
    loaded, dataset = kinds.load(bases.FOLDER / "gslrm_small"), open_dataset(mice)
    found = [
        GSLRMKind().evaluate(loaded.model, loaded.recipe, dataset, "train", tmp_path / "cache", refine_steps=steps)
        for steps in (0, 50)
    ]
    assert isinstance(found[1], RenderedEvaluation) and [one.protocol.refine_steps for one in found] == [0, 50]
    assert found[0].protocol.targets_id == found[1].protocol.targets_id
    before, after = (one.metrics for one in found)
    assert after["train/psnr_fg"] > before["train/psnr_fg"] + 2 and after["train/mask_iou"] > 0.94
    assert after["train/input/psnr_fg"] > before["train/input/psnr_fg"] + 6


def test_a_base_with_twice_the_layers_begins_as_the_one_that_it_is_grown_from(tmp_path: Path, tiny_recipe) -> None:
    torch.manual_seed(0)
    recipe = tiny_recipe("model.init_std=0.2")
    shallow = checkpoint.save(tmp_path / "shallow", GSLRM(recipe.model), recipe, step=5)
    deep = kinds.load(deeper(shallow, tmp_path / "deep"))
    assert len(deep.model.transformer_layers) == 2 * len(kinds.load(shallow).model.transformer_layers)
    images, cameras = torch.rand(1, 2, 3, 32, 32), facelift_six(32)[:2][None].to(torch.float32)
    with torch.inference_mode():
        made = [loaded.model(images, cameras) for loaded in (kinds.load(shallow), deep)]
    torch.testing.assert_close(made[0].means, made[1].means)
    torch.testing.assert_close(made[0].opacities, made[1].opacities)
    added = deep.model.transformer_layers[1]
    assert not added.attn.fc.weight.any() and added.attn.to_qkv.weight.any()
