"""The sampler and its folder: what FaceLift stored is read, sampled, written and read again; the rest is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableUnCLIPImg2ImgPipeline
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import CheckpointError, DataError, PipelineError, RecipeError
from pipeline.mvdiffusion import MVDiffusionPipeline
from pipeline.mvdiffusion.attention import read_config
from pipeline.mvdiffusion.sampler import sampling_dtype
from pipeline.recipes import load_recipe

PIPECKPTS = Path(__file__).parents[1] / "golden" / "mvdiffusion" / "pipeckpts"
VIEWS, SIZE, WIDTH = 6, 64, 32


def quiet(pipe: MVDiffusionPipeline) -> MVDiffusionPipeline:
    return pipe


@pytest.fixture(scope="module")
def pipe() -> MVDiffusionPipeline:
    return quiet(MVDiffusionPipeline.from_pretrained(PIPECKPTS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randn(VIEWS, 77, WIDTH, generator=seeded(1))


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def sample(pipe: MVDiffusionPipeline, image: object, text: Tensor, **options: object) -> Tensor:
    return pipe(image, text, **{"num_inference_steps": 3, "generator": seeded(), **options}).images


# ---------------------------------------------------------------- arithmetic


@torch.no_grad()
def by_the_book(pipe: MVDiffusionPipeline, image: Image.Image, text: Tensor, guidance: float, eta: float) -> Tensor:
    """FaceLift's sampler written out line by line: six copies of the image, and DDIM by its formula."""
    generator, rows = seeded(), [image] * VIEWS
    pixels = pipe.feature_extractor(images=rows, return_tensors="pt").pixel_values
    embeds = pipe.image_encoder(pixels).image_embeds
    noise = torch.randn(embeds.shape, generator=generator)  # the first draw
    labels = StableUnCLIPImg2ImgPipeline.noise_image_embeddings(pipe, embeds, 0, noise=noise)
    rgb = torch.stack([torch.from_numpy(np.asarray(row)).permute(2, 0, 1).float() / 255 for row in rows])
    reference = pipe.vae.encode(2 * rgb - 1).latent_dist.mode() * 0.18215
    latents = torch.randn(VIEWS, 4, 8, 8, generator=generator)  # the second
    alphas = pipe.scheduler.alphas_cumprod
    steps = [667, 334, 1]
    for t in steps:
        halves = []
        for condition in (0.0, 1.0):
            seen = torch.cat([latents, condition * reference], 1)
            halves.append(pipe.unet(seen, t, text, class_labels=condition * labels).sample)
        v = halves[1] if guidance == 1.0 else halves[0] + guidance * (halves[1] - halves[0])
        now, then = alphas[t], alphas[t - 333] if t - 333 >= 0 else alphas[0]
        clean, noisy = now.sqrt() * latents - (1 - now).sqrt() * v, now.sqrt() * v + (1 - now).sqrt() * latents
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        latents = then.sqrt() * clean + (1 - then - sigma**2).sqrt() * noisy
        if eta > 0:
            latents = latents + sigma * torch.randn(latents.shape, generator=generator)  # one a step
    return (pipe.vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("guidance", "eta"), [(3.0, 1.0), (1.0, 1.0), (3.0, 0.0)])
def test_it_samples_by_facelifts_arithmetic_in_its_order_of_random_numbers(pipe, text, guidance, eta) -> None:
    found = sample(pipe, picture(0), text, guidance_scale=guidance, eta=eta)
    torch.testing.assert_close(found, by_the_book(pipe, picture(0), text, guidance, eta), atol=2e-5, rtol=0)


def test_the_clip_vector_is_noised_as_in_stable_unclip(pipe) -> None:
    vectors = torch.randn(3, WIDTH)
    wanted = StableUnCLIPImg2ImgPipeline.noise_image_embeddings(pipe, vectors, 0, generator=seeded())
    torch.testing.assert_close(pipe.with_noise(vectors, 0, seeded()), wanted, atol=0, rtol=0)


def test_latents_are_drawn_as_diffusers_draws_them(pipe) -> None:
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected, own = ([torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2))
    with torch.no_grad():
        found = pipe.vae.encode(2 * images - 1).latent_dist.sample(expected) * pipe.vae.config.scaling_factor
        assert torch.equal(pipe.sampled_latents(images, own), found)


def test_it_returns_a_view_a_slot_in_0_to_1(pipe, text) -> None:
    images = sample(pipe, picture(0), text)
    assert images.shape == (VIEWS, 3, SIZE, SIZE)
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_six_copies_of_a_picture_are_the_picture_once(pipe, text) -> None:
    once, copies = sample(pipe, picture(0), text), sample(pipe, [picture(0)] * VIEWS, text)
    torch.testing.assert_close(once, copies, atol=1e-5, rtol=0)


def test_a_tensor_is_the_picture_it_was_made_from(pipe, text) -> None:
    tensor = torch.from_numpy(np.asarray(picture(0)).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(sample(pipe, tensor + 1e-4, text), sample(pipe, picture(0), text))


def test_transparency_is_white(pipe, text) -> None:
    clear = picture(0, "RGBA")
    clear.putalpha(0)
    assert torch.equal(sample(pipe, clear, text), sample(pipe, Image.new("RGB", (SIZE, SIZE), "white"), text))


def test_an_object_does_not_depend_on_the_others_of_its_batch(pipe, text) -> None:
    def generators(seed: int) -> list[torch.Generator]:
        return [seeded(10 * seed + view) for view in range(VIEWS)]

    alone = sample(pipe, [picture(1)] * VIEWS, text, generator=generators(1))
    images = [picture(0)] * VIEWS + [picture(1)] * VIEWS
    together = sample(pipe, images, text, generator=generators(0) + generators(1))
    torch.testing.assert_close(together[VIEWS:], alone, atol=1e-5, rtol=0)


def test_bfloat16_samples_too(text) -> None:
    pipe = quiet(MVDiffusionPipeline.from_pretrained(PIPECKPTS, torch_dtype=torch.bfloat16))
    assert torch.isfinite(sample(pipe, picture(0), text).float()).all()


def test_a_network_of_half_precision_leaves_latents_and_steps_in_float32(pipe, text) -> None:
    mixed = quiet(MVDiffusionPipeline.from_pretrained(PIPECKPTS))
    nn.Module.to(mixed.unet, torch.bfloat16)
    latents = [sample(each, picture(0), text, output_type="latent") for each in (pipe, mixed)]
    assert len(latents[1].unique()) > 1.5 * len(latents[1].bfloat16().unique())
    assert float((latents[1] - latents[0]).abs().mean() / latents[0].abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("bf16", "cuda", torch.bfloat16),
        ("bf16", "cpu", torch.float32),
        ("fp32", "cuda", torch.float32),
        ("fp16", "cuda:1", torch.float32),
    ],
)
def test_weights_sample_in_bfloat16_where_a_gpu_trained_in_it(precision: str, device: str, dtype: torch.dtype) -> None:
    recipe = load_recipe("mvdiffusion_mouse", [f"train.precision={precision}"])
    assert sampling_dtype(recipe, device) == dtype


# ---------------------------------------------------------------- the folder


def test_facelifts_folder_loads_samples_saves_and_loads_again_identically(pipe, text, tmp_path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    again = quiet(MVDiffusionPipeline.from_pretrained(tmp_path / "saved"))
    assert torch.equal(sample(again, picture(0), text), sample(pipe, picture(0), text))
    assert again.tokenizer("tok1").input_ids == pipe.tokenizer("tok1").input_ids


def test_what_is_saved_has_the_files_that_facelifts_code_reads(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    theirs, ours = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (PIPECKPTS, tmp_path / "saved")
    )
    assert {path.name for path in theirs - ours} == {"special_tokens_map.json"}  # tokenizer_config.json says the same
    assert json.loads((tmp_path / "saved/tokenizer/vocab.json").read_text()) == json.loads(
        (PIPECKPTS / "tokenizer/vocab.json").read_text()
    )


def test_diffusers_own_loader_refuses_our_folder(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises((ValueError, AttributeError)):
        DiffusionPipeline.from_pretrained(str(tmp_path / "saved"))


def test_saving_over_other_files_is_refused(pipe, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="expected a pipeline folder or none, got other files"):
        pipe.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_mean_weights_are_taken_where_there_are_any_unless_told_otherwise(tmp_path) -> None:
    folder = broken(tmp_path)
    mean = MVDiffusionPipeline.from_pretrained(folder).unet
    with torch.no_grad():
        mean.conv_out.bias.fill_(7.0)
    mean.save_pretrained(folder / "unet_ema")
    assert float(MVDiffusionPipeline.from_pretrained(folder).unet.conv_out.bias[0]) == 7.0
    assert float(MVDiffusionPipeline.from_pretrained(folder, ema=False).unet.conv_out.bias[0]) != 7.0


# ---------------------------------------------------------------- refusals


def broken(tmp_path: Path, remove: str = "", **index: object) -> Path:
    """FaceLift's folder without a part, or with another index."""
    folder = Path(shutil.copytree(PIPECKPTS, tmp_path / "pipeckpts"))
    if remove:
        shutil.rmtree(folder / remove)
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


def refusal(error: type[PipelineError], call, *args: object, **options: object) -> str:
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_vae_is_refused(tmp_path) -> None:
    message = refusal(CheckpointError, MVDiffusionPipeline.from_pretrained, broken(tmp_path, remove="vae"))
    assert "found no vae" in message


@pytest.mark.parametrize(
    "index", [{"_class_name": "StableDiffusionPipeline"}, {"unet": ["diffusers", "UNet2DConditionModel"]}]
)
def test_a_folder_of_another_class_is_refused(tmp_path, index) -> None:
    message = refusal(CheckpointError, MVDiffusionPipeline.from_pretrained, broken(tmp_path, **index))
    assert "expected a multi-view pipeline" in message


def test_a_stock_unet_in_the_folder_is_refused(tmp_path) -> None:
    folder = broken(tmp_path)
    config = folder / "unet/config.json"
    config.write_text(json.dumps(read_config(folder / "unet") | {"_class_name": "UNet2DConditionModel"}))
    assert "expected a multi-view UNet" in refusal(CheckpointError, MVDiffusionPipeline.from_pretrained, folder)


def test_a_path_that_is_not_there_is_refused(tmp_path) -> None:
    assert "found none" in refusal(CheckpointError, MVDiffusionPipeline.from_pretrained, tmp_path / "absent")


def test_a_damaged_component_is_refused_by_name(tmp_path) -> None:
    folder = broken(tmp_path)
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"no")
    assert "vae: expected a AutoencoderKL" in refusal(CheckpointError, MVDiffusionPipeline.from_pretrained, folder)


def test_half_precision_on_a_cpu_is_refused(text) -> None:
    pipe = MVDiffusionPipeline.from_pretrained(PIPECKPTS, torch_dtype=torch.float16)
    assert "got float16" in refusal(RecipeError, sample, pipe, picture(0), text)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((VIEWS, 77, 768), "they are of another text encoder"),
        ((5, 77, WIDTH), "the model has 6 views"),
        ((VIEWS, WIDTH), "make them with"),
    ],
)
def test_prompts_of_another_shape_are_refused(pipe, shape, message) -> None:
    assert message in refusal(DataError, sample, pipe, picture(0), torch.ones(shape))


def test_zeros_for_prompts_are_refused(pipe, text) -> None:
    assert "got zeros" in refusal(DataError, sample, pipe, picture(0), torch.zeros_like(text))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([picture(0)] * 5, "expected one picture, or 6 for every object, got 5"),
        (picture(0).resize((32, 64)), "expected 64×64 pixels, which the model was trained on, got 32×64"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pipe, text, image, message) -> None:
    assert message in refusal(DataError, sample, pipe, image, text)
