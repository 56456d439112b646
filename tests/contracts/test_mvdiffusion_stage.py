"""Stage 1 in the loop: FaceLift's loss, what is trained, what is released, and that it resumes to the bit."""

from __future__ import annotations

import copy
import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import checkpoint, kinds
from pipeline.data.scenes import Dataset
from pipeline.errors import CheckpointError, DataError, PipelineError, RecipeError
from pipeline.files import sha256_of, write_whole
from pipeline.kinds import kind_of
from pipeline.mvdiffusion import MultiViewUNet, MVDiffusionPipeline
from pipeline.mvdiffusion.evaluate import generated_masks, hull_iou
from pipeline.mvdiffusion.folder import write_components
from pipeline.mvdiffusion.stage import (
    MVDiffusionStage,
    chosen_modules,
    dropout,
    modules_with_weights,
    snr_weights,
    starting_pipeline,
)
from pipeline.recipe import DenoisingConfig, Recipe
from pipeline.recipes import load_recipe
from pipeline.training.loop import train
from pipeline.training.processes import ALONE
from pipeline.training.running_mean import RunningMean, RunningMeanBeside
from pipeline.training.saving import Report
from pipeline.training.trainer import generator_of
from pipeline.training.update import match_layout

CPU = torch.device("cpu")


@pytest.fixture
def stage(views_recipe, mice):
    return lambda *overrides: MVDiffusionStage(views_recipe(*overrides), CPU, mice)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, frames_cache, views_recipe) -> list[Report]:
    """Eight steps, never stopped."""
    return list(train(views_recipe(), tmp_path_factory.mktemp("finished"), cache=frames_cache))


def host_batch_of(stage: MVDiffusionStage, mice: Dataset, cache: Path, objects: int = 2):
    return stage.loader(mice, "train", cache).training_batch(0, objects)


def batch_of(stage: MVDiffusionStage, mice: Dataset, cache: Path, objects: int = 2):
    return host_batch_of(stage, mice, cache, objects).to("cpu")


def chance(objects: int = 2) -> list[torch.Generator]:
    """Of the first objects of a run."""
    return [generator_of(0, index) for index in range(objects)]


def refusal(error: type[PipelineError], call, *args: object) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- the loss


@torch.no_grad()
def by_the_book(stage: MVDiffusionStage, images: Tensor, chance: list[torch.Generator], prediction: str) -> Tensor:
    """FaceLift's loss written out, object by object, without dropout; the codec's latents are exact."""
    pipe, views = stage.pipe, images.shape[1]
    vae = pipe.vae
    small = F.interpolate(images[:, 0], (32, 32), mode="bicubic", antialias=True)
    mean, deviation = (
        torch.tensor(n)[:, None, None] for n in (pipe.feature_extractor.image_mean, pipe.feature_extractor.image_std)
    )
    vectors = pipe.image_encoder((small - mean) / deviation).image_embeds
    total = []
    for pictures, vector, generator in zip(images, vectors, chance, strict=True):
        labels = pipe.with_noise(vector.expand(views, -1), 0, generator)
        t = torch.randint(1000, (1,), generator=generator)
        clean = vae.encode(2 * pictures - 1).latent_dist.mode()
        noise = torch.randn(clean.shape, generator=generator)
        alpha = pipe.scheduler.alphas_cumprod[t]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        reference = clean[:1].expand_as(clean)
        wanted = {
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
            "epsilon": noise,
            "sample": clean,
        }[prediction]
        seen = torch.cat([noisy, reference], 1)
        found = stage.model(seen, t, stage.prompts.embeddings.float(), class_labels=labels).sample
        snr = alpha / (1 - alpha)
        total.append(min(float(snr), 5.0) / float(snr) * (found - wanted).square().mean())
    return torch.stack(total).mean()


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_the_loss_is_facelifts(stage, mice, frames_cache, prediction) -> None:
    built = stage(f"loss.prediction={prediction}", "loss.drop_rate=0.0")
    batch = batch_of(built, mice, frames_cache)
    found = built.losses(batch, 1, chance())["denoising"]
    torch.testing.assert_close(found, by_the_book(built, batch.images, chance(), prediction), rtol=1e-5, atol=0)


def test_a_twentieth_each_lose_clip_both_or_the_latents() -> None:
    no_clip, no_latents = dropout(torch.rand(200_000, generator=generator_of(0, 0)), 0.05)
    shares = [(no_clip & ~no_latents), (no_clip & no_latents), (no_latents & ~no_clip), ~(no_clip | no_latents)]
    assert [round(float(share.float().mean()), 2) for share in shares] == [0.05, 0.05, 0.05, 0.85]


def test_without_a_picture_the_class_vector_and_the_latents_are_zero(stage, mice, frames_cache, monkeypatch) -> None:
    built = stage("loss.drop_rate=0.3333")
    monkeypatch.setattr("pipeline.mvdiffusion.stage.dropout", lambda draws, rate: torch.ones(2, len(draws)) > 0)
    seen = {}

    def watch(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.update(kwargs | {"sample": args[0]})

    built.model.register_forward_pre_hook(watch, with_kwargs=True)
    built.losses(batch_of(built, mice, frames_cache), 1, chance())
    channels = built.model.config.out_channels
    assert not seen["class_labels"].any() and not seen["sample"][:, channels:].any()
    assert seen["sample"][:, :channels].any() and seen["encoder_hidden_states"].any()


def test_the_weights_are_min_snr_in_facelifts_form(stage) -> None:
    scheduler, t = stage().pipe.scheduler, torch.arange(0, 1000, 50)
    snr, alphas = compute_snr(scheduler, t), scheduler.alphas_cumprod[t]
    torch.testing.assert_close(snr_weights(alphas, DenoisingConfig()), snr.clamp(max=5) / snr)
    torch.testing.assert_close(snr_weights(alphas, DenoisingConfig(snr_form="v")), snr.clamp(max=5) / (snr + 1))
    assert bool((snr_weights(alphas, DenoisingConfig(snr_gamma=None)) == 1).all())


def test_the_running_mean_is_diffusers_own(views_recipe) -> None:
    parameter = torch.nn.Parameter(torch.randn(5, generator=generator_of(0, 0)))
    theirs = EMAModel([parameter], decay=0.9)
    ours = RunningMean([parameter], views_recipe().model)
    for step in range(20):
        with torch.no_grad():
            parameter.add_(torch.randn(5, generator=generator_of(0, step)))
        theirs.step([parameter])
        ours.update([parameter])
        torch.testing.assert_close(ours.values[0], theirs.shadow_params[0])


def test_a_mean_that_a_thread_follows_is_the_same_to_the_bit(views_recipe) -> None:
    weights, config = [torch.randn(50, 40, generator=generator_of(0, 0)), torch.zeros(())], views_recipe().model
    waiting, beside = RunningMean(weights, config), RunningMeanBeside(weights, config)
    for step in range(20):
        for weight in weights:
            weight.add_(torch.randn(weight.shape, generator=generator_of(0, step)))
        for mean in (waiting, beside):
            mean.update(weights)  # and the next step changes them at once
    assert all(torch.equal(a, b) for a, b in zip(waiting.values, beside.values, strict=True))
    again = RunningMeanBeside(weights, config)
    again.restore(beside.state())
    assert all(torch.equal(a, b) for a, b in zip(waiting.values, again.values, strict=True))


def networks() -> set[int]:
    gc.collect()
    return {id(found) for found in gc.get_objects() if isinstance(found, MultiViewUNet)}


def test_no_copy_of_the_weights_outlives_a_validation(stage, mice, frames_cache) -> None:
    built = stage("model.sampling.steps=1", "model.sampling.guidance=1.0")
    before = networks()
    built.validate(mice, frames_cache, 1, ALONE)
    assert networks() == before


def test_what_is_deployed_shares_the_weights_of_training_and_is_no_copy(stage) -> None:
    built = stage("model.ema_decay=0.0")
    trained = {p.untyped_storage().data_ptr() for p in built.model.parameters()}
    assert {p.untyped_storage().data_ptr() for p in built.deployed_model().parameters()} == trained


def test_an_objects_chance_does_not_depend_on_its_batch(stage, mice, frames_cache) -> None:
    built = stage()
    batch = host_batch_of(built, mice, frames_cache)
    parts = [part.to("cpu") for part in batch.split(2)]
    apart = [built.losses(part, 1, chance()[i : i + 1])["denoising"] for i, part in enumerate(parts)]
    torch.testing.assert_close(built.losses(batch.to("cpu"), 1, chance())["denoising"], torch.stack(apart).mean())


# ---------------------------------------------------------------- what is trained


def gradients(stage: MVDiffusionStage, mice: Dataset, cache: Path) -> set[str]:
    stage.losses(batch_of(stage, mice, cache), 1, chance())["denoising"].backward()
    return {name for name, p in stage.model.named_parameters() if p.grad is not None and p.grad.any()}


def test_a_gradient_reaches_every_weight(stage, mice, frames_cache) -> None:
    built = stage("loss.drop_rate=0.0")
    assert gradients(built, mice, frames_cache) == {name for name, _ in built.model.named_parameters()}


def test_named_modules_alone_are_trained(stage, mice, frames_cache) -> None:
    built = stage("model.trainable=[attn1, class_embedding]")
    reached = gradients(built, mice, frames_cache)
    assert reached and all(".attn1." in name or name.startswith("class_embedding") for name in reached)


def test_a_module_nobody_has_is_refused(stage) -> None:
    message = refusal(RecipeError, stage, "model.trainable=[class_embeding]")
    assert message == (
        "model.trainable: expected the names of the network's modules, or their ends, such as attn1, got "
        "'class_embeding', which none ends in — did you mean class_embedding?"
    )


@pytest.mark.parametrize("name", ["ttn1", "", "dropout", "conv_in.weight"])
def test_no_module_with_weights_is_meant_by(name) -> None:
    network = nn.ModuleDict({"conv_in": nn.Conv2d(1, 1, 1), "attn1": nn.Linear(1, 1), "dropout": nn.Dropout()})
    assert f"got {name!r}" in refusal(RecipeError, chosen_modules, modules_with_weights(network), ["attn1", name])


def test_a_module_nobody_has_is_refused_before_a_trial_starts(views_recipe, mice, tmp_path) -> None:
    recipe = views_recipe("model.trainable=[attn1, to_qq]")
    assert "did you mean to_q?" in refusal(RecipeError, lambda: list(kind_of(recipe).check(recipe, mice, tmp_path)))


def test_of_adapters_only_the_adapters_are_trained_and_they_are_merged_for_release(stage, mice, frames_cache) -> None:
    built = stage("model.lora_rank=2", "model.ema_decay=0.0")
    trained = {name for name, p in built.model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1, generator=generator_of(0, 0))
    released = built.deployed_model()
    assert list(released.state_dict()) == list(starting_pipeline(built.recipe).unet.state_dict())
    rows = torch.randn(6, 96, 8, 8), torch.tensor(5), torch.randn(6, 77, 16)
    labels = torch.ones(6, released.config.projection_class_embeddings_input_dim)
    with torch.no_grad():
        adapted, merged = (unet.eval()(*rows, class_labels=labels).sample for unet in (built.model, released))
    torch.testing.assert_close(adapted, merged, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_leaves_the_loss(stage, mice, frames_cache) -> None:
    plain, saving = stage(), stage("model.gradient_checkpointing=true")
    losses = [s.losses(batch_of(s, mice, frames_cache), 1, chance())["denoising"] for s in (plain, saving)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("from_layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_from_a_checkpoint_is_the_same_however_weights_lie_in_memory(stage, from_layout) -> None:
    """A GPU has the channels of convolutions last; a checkpoint that is resumed elsewhere was written there."""
    to_layout = torch.channels_last if from_layout == torch.contiguous_format else torch.contiguous_format
    networks = [stage().model.to(memory_format=layout) for layout in (from_layout, from_layout, to_layout)]
    own, same, other = (torch.optim.AdamW(n.parameters(), lr=1e-2, fused=True) for n in networks)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        for p in network.parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator_of(seed, 0)))
        optimizer.step()

    step(networks[0], own, 0)
    for network, optimizer in zip(networks[1:], (same, other), strict=True):
        network.load_state_dict(networks[0].state_dict())
        optimizer.load_state_dict(copy.deepcopy(own.state_dict()))
        match_layout(optimizer)
        step(network, optimizer, 1)
    pairs = zip(networks[1].parameters(), networks[2].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_with_channels_last_in_memory_the_loss_and_its_gradients_are_the_same(stage, mice, frames_cache) -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        built = stage()
        built.model.to(memory_format=layout)
        loss = built.losses(batch_of(built, mice, frames_cache), 1, chance())["denoising"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in built.model.parameters())])
    for plain, last in zip(*found, strict=True):
        torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_one_batch_can_be_learnt(stage, mice, frames_cache) -> None:
    built = stage("loss.drop_rate=0.0")
    batch, optimizer = batch_of(built, mice, frames_cache), torch.optim.AdamW(built.model.parameters(), lr=2e-3)
    found = []
    for _ in range(150):
        loss = built.losses(batch, 1, chance())["denoising"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.25 * found[0]


# ---------------------------------------------------------------- the loop


def test_reports_and_checkpoints_come_as_from_gslrm(finished) -> None:
    assert [report.step for report in finished] == [1, 2, 4, 6, 8]
    assert [report.step for report in finished if report.checkpoint is not None] == [4, 8]
    assert finished[-1].images["val/preview"].dtype == np.uint8


def test_validation_tells_every_slot_and_whether_the_views_agree(finished) -> None:
    names = {name for name in finished[-1].metrics if name.startswith("val/")}
    figures = {"psnr", "ssim", "psnr_fg", "mask_iou"}
    assert {f"val/{role}{name}" for role in ("", "input/", "slot_1/", "slot_5/") for name in figures} <= names
    assert {"val/hull_iou", "val/consistent_psnr_fg"} <= names


def test_further_guidances_are_reported_beside_the_models_own(views_recipe, mice, finished, frames_cache) -> None:
    loaded = kinds.load(finished[-1].checkpoint)
    recipe = views_recipe("model.sampling.compared=[1.0]")
    loaded.model.sampling = recipe.model.sampling
    found = kind_of(recipe).evaluate(loaded.model, recipe, mice, "val", frames_cache).metrics
    assert found["val/guidance_1/psnr"] != found["val/psnr"]


def test_a_resumed_run_is_the_same_to_the_bit(finished, views_recipe, tmp_path, frames_cache) -> None:
    half = next(report.checkpoint for report in finished if report.step == 4)
    again = list(train(views_recipe(), tmp_path, half, cache=frames_cache))
    first, second = (load_file(reports[-1].checkpoint / checkpoint.WEIGHTS) for reports in (finished, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again[-1].metrics["train/denoising"] == finished[-1].metrics["train/denoising"]


def test_adapters_resume_to_the_bit_too(views_recipe, tmp_path, frames_cache) -> None:
    recipe = views_recipe("model.lora_rank=2")
    whole = list(train(recipe, tmp_path / "whole", cache=frames_cache))
    again = list(
        train(recipe, tmp_path / "again", next(r.checkpoint for r in whole if r.step == 4), cache=frames_cache)
    )
    assert again[-1].metrics["train/denoising"] == whole[-1].metrics["train/denoising"]


def test_a_checkpoint_gives_the_validated_figures_again(finished, mice, frames_cache) -> None:
    loaded = kinds.load(finished[-1].checkpoint)
    again = kind_of(loaded.recipe).evaluate(loaded.model, loaded.recipe, mice, "val", frames_cache)
    for name, value in again.metrics.items():
        assert math.isclose(value, finished[-1].metrics[name], rel_tol=1e-5, abs_tol=1e-5), name


def test_a_checkpoint_tells_the_rig_its_views_are_labelled_with(finished) -> None:
    loaded = kinds.load(finished[-1].checkpoint)
    assert loaded.model.rig.name == "mouse_centred"
    facts = kind_of(loaded.recipe).facts(loaded.info)
    assert facts["rig.name"] == "mouse_centred"
    assert facts["rig.sha256"] == sha256_of(finished[-1].checkpoint / "rig.json")


def test_a_damaged_part_of_the_pipeline_is_named(finished, tmp_path) -> None:
    folder = checkpoint.strip_training(finished[-1].checkpoint, tmp_path / "released")
    write_whole(folder / "pipeline/image_encoder/config.json", "{}")  # the old file is the original's, too
    assert "pipeline/image_encoder/config.json: expected sha256" in refusal(CheckpointError, kinds.load, folder)


def test_gslrm_alone_is_taken_where_gaussians_are_wanted(finished) -> None:
    message = refusal(CheckpointError, kinds.load, finished[-1].checkpoint, "cpu", "gslrm")
    assert "expected a checkpoint of gslrm, got one of mvdiffusion" in message


def test_its_unet_is_a_folder_that_facelift_reads(finished, tmp_path) -> None:
    loaded = kinds.load(finished[-1].checkpoint)
    loaded.model.pipe.save_pretrained(tmp_path / "pipeckpts")
    again = MVDiffusionPipeline.from_pretrained(tmp_path / "pipeckpts")
    first, second = loaded.model.pipe.unet.state_dict(), again.unet.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- a base


@pytest.fixture(scope="module")
def base(tmp_path_factory, views_recipe) -> Path:
    pipe = starting_pipeline(views_recipe("model.scratch.seed=3"))
    return write_components(tmp_path_factory.mktemp("base") / "pipeckpts", pipe.components)


def test_training_starts_from_the_base_and_keeps_its_frozen_files(base, views_recipe, tmp_path, frames_cache) -> None:
    recipe = views_recipe(f"model.base={base}", "train.max_steps=3", "model.ema_decay=0.0", "optim.lr=1.0e-12")
    folder = list(train(recipe, tmp_path, cache=frames_cache))[-1].checkpoint
    kept, own = (path / "unet/config.json" for path in (base, folder / "pipeline"))
    assert own.read_text() == kept.read_text()
    for name in ("image_encoder/model.safetensors", "tokenizer/vocab.json", "scheduler/scheduler_config.json"):
        assert (folder / "pipeline" / name).read_bytes() == (base / name).read_bytes()
    trained, start = load_file(folder / checkpoint.WEIGHTS), MultiViewUNet.from_pretrained(base / "unet").state_dict()
    assert all(torch.allclose(trained[name], tensor, atol=1e-6) for name, tensor in start.items())


def test_training_starts_from_another_runs_weights(finished, views_recipe, mice) -> None:
    built = MVDiffusionStage(views_recipe(f"train.init_from={finished[-1].checkpoint}"), CPU, mice)
    start = load_file(finished[-1].checkpoint / checkpoint.WEIGHTS)
    assert all(torch.equal(built.model.state_dict()[name], tensor) for name, tensor in start.items())


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.num_views=6 loss.prediction=epsilon", RecipeError, "expected v_prediction as"),
        ("data.image_size=36", RecipeError, "data.image_size: expected a multiple of 8, got 36"),
        ("model.prompts=PROMPTS", DataError, "they are of another text encoder"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(base, views_recipe, mice, tmp_path, override, error, message) -> None:
    torch.save(torch.randn(6, 77, 768), tmp_path / "prompts.pt")
    words = override.replace("PROMPTS", str(tmp_path / "prompts.pt")).split()
    recipe = views_recipe(f"model.base={base}", *words)
    assert message in refusal(error, MVDiffusionStage, recipe, CPU, mice)


def test_a_base_that_is_not_there_is_refused_before_anything_starts(views_recipe, tmp_path, frames_cache) -> None:
    recipe = views_recipe(f"model.base={tmp_path / 'absent'}")
    assert "model.base: expected a file or folder, found none" in refusal(
        RecipeError, lambda: next(train(recipe, tmp_path, cache=frames_cache))
    )


def test_half_precision_on_a_cpu_is_refused(stage) -> None:
    assert "got float16" in refusal(RecipeError, stage, "train.precision=fp16")


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.num_views=5", "data.num_held_out_views=4"], "data.num_views: expected 6 views, 1 of them input"),
        (["data.view_sampling=random"], "expected one of fixed, ring, ring_random"),
        (["data.mirror=true"], "data.mirror: expected false, or left and right change slots"),
        (["model.lora_rank=2", "model.trainable=[attn1]"], "model.lora_rank: expected 0 with model.trainable"),
        (["loss.kind=noising"], "loss.kind: expected 'rendering', 'denoising', got 'noising'"),
        (["optim.freeze.num_layers=1"], "optim.freeze: expected nothing, it is for GS-LRM"),
        (
            ["model.scratch.channels=[24, 32]", "model.scratch.head_dim=16"],
            "expected multiples of head_dim 16, got [24]",
        ),
        (["data.image_size=36"], "expected a multiple of 8, model.scratch's patches"),
        (["model.dim=3"], "unknown key model.dim — it belongs to another kind; remove it"),
    ],
)
def test_recipes_that_cannot_be_are_refused(views_recipe, overrides, message) -> None:
    assert message in refusal(RecipeError, views_recipe, *overrides)


def test_gslrm_has_no_ring_and_no_other_background() -> None:
    for override in ("data.view_sampling=ring", "data.background=random"):
        assert "expected" in refusal(RecipeError, load_recipe, "gslrm_tiny", [override])


def test_facelifts_recipe_is_facelifts(views_recipe) -> None:
    recipe: Recipe = load_recipe("mvdiffusion")
    assert (recipe.optim.lr, recipe.optim.betas, recipe.optim.weight_decay) == (1e-4, (0.9, 0.999), 1e-2)
    assert recipe.loss == DenoisingConfig()
    assert recipe.train.batch_size * recipe.train.accumulate == 16


# ---------------------------------------------------------------- do the views agree?


def test_photographs_of_one_animal_agree_and_of_two_do_not(mice, frames_cache, stage) -> None:
    loader = stage().loader(mice, "train", frames_cache)
    one, two = loader.evaluation_batch(0).to("cpu"), loader.evaluation_batch(1).to("cpu")
    mixed = torch.where(torch.arange(6)[:, None, None, None] % 2 == 0, one.images[0], two.images[0])
    together, apart = (hull_iou(generated_masks(views), one.cameras[0]) for views in (one.images[0], mixed))
    assert together > 0.9 and apart < together


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_views_without_a_silhouette_agree_on_nothing(mice, frames_cache, stage, colour) -> None:
    cameras = stage().loader(mice, "train", frames_cache).evaluation_batch(0).to("cpu").cameras[0]
    assert hull_iou(generated_masks(torch.full((6, 3, 32, 32), colour)), cameras) == 0.0
