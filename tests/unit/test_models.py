"""Every form in which a user has a model: FaceLift's own files as they are, checkpoints, and pairs of the two."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import checkpoint, kinds
from pipeline.cameras import facelift_six
from pipeline.checkpoint import WEIGHTS
from pipeline.data.photo.framing import Framing
from pipeline.data.photo.photo import photo_of
from pipeline.errors import PipelineError
from pipeline.files import sha256_of
from pipeline.gslrm import facelift
from pipeline.gslrm.model import GSLRM
from pipeline.licence import FACELIFT_LICENCE, licence_of
from pipeline.mvdiffusion import MVDiffusionPipeline
from pipeline.mvdiffusion.views import framing_of, read_framing, write_framing
from pipeline.recipes import load_recipe
from pipeline.reconstruction.models import (
    ViewsModel,
    as_checkpoint,
    is_pair,
    load_gaussians,
    load_views,
    read_pair,
    write_pair,
)
from pipeline.reconstruction.reconstructor import Reconstructor
from tests.support.released import GSLRM_CONFIG, PIPECKPTS, PROMPTS_FILE, SIZE, released_gaussians, released_views

GOLDEN = Path(__file__).parents[1] / "golden" / "gslrm"
UNET_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both of FaceLift's models. Read only."""
    folder = tmp_path_factory.mktemp("release")
    released_views(folder)
    released_gaussians(folder)
    return folder


@pytest.fixture(scope="module")
def pipeckpts(release: Path) -> Path:
    return release / "pipeckpts"


@pytest.fixture(scope="module")
def file(release: Path) -> Path:
    return release / "ckpt_0000000000021125.pt"


@pytest.fixture(scope="module")
def views(pipeckpts: Path) -> ViewsModel:
    return load_views(pipeckpts)


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def animal() -> np.ndarray:
    """RGBA noise in a disc that fills a third of the frame, as FaceLift's sample does."""
    pixels = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    pixels[..., 3] = np.where(rows**2 + columns**2 < 0.34 * SIZE**2 / np.pi, 255, 0)
    return pixels


def refusal(action, *args: object) -> str:
    with pytest.raises(PipelineError) as caught:
        action(*args)
    return str(caught.value)


# ---------------------------------------------------------------- stage 1 as it is released


def test_pipeckpts_are_sampled_as_facelifts_inference_does(views: ViewsModel) -> None:
    sampling = views.generator.sampling
    assert (sampling.steps, sampling.guidance, sampling.eta, sampling.seed) == (50, 3.0, 1.0, 4)


def test_pipeckpts_are_labelled_with_facelifts_inference_rig_in_slot_order(views: ViewsModel) -> None:
    rig = views.generator.rig
    x, y, z = rig.cameras.centres.unbind(-1)
    azimuths = torch.rad2deg(torch.atan2(y, x)) + 90  # the input looks from -y
    turned = (azimuths + 179.99).remainder(360) - 179.99
    torch.testing.assert_close(turned, torch.tensor([0.0, -45.0, -90.0, 180.0, 90.0, 45.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(rig.cameras.centres.norm(dim=-1), torch.full((6,), 2.7))
    assert z.abs().max() < 1e-6 and rig.cameras.width == SIZE


def test_pipeckpts_ask_for_photos_framed_as_facelifts_sample(views: ViewsModel) -> None:
    assert views.framing is not None and (views.framing.least, views.framing.most) == (0.30, 0.38)


def test_pipeckpts_have_the_name_hash_and_licence_of_their_files(pipeckpts: Path, views: ViewsModel) -> None:
    sha256 = sha256_of(pipeckpts / "unet" / UNET_FILE)
    assert (views.name, views.sha256, views.step, views.licence) == ("pipeckpts", sha256, 0, FACELIFT_LICENCE)


def test_a_photo_becomes_the_gaussians_of_both_models_called_by_hand(
    release: Path, pipeckpts: Path, file: Path, views: ViewsModel
) -> None:
    """Six of six views are inputs, none is held out, and none is masked."""
    photo = Image.fromarray(animal())
    on_white = Image.fromarray(np.where(animal()[..., 3:] == 255, animal()[..., :3], 255).astype(np.uint8))
    pipe = MVDiffusionPipeline.from_pretrained(pipeckpts)
    seeds = np.random.SeedSequence((4, 0)).generate_state(6, np.uint64)
    chance = [torch.Generator().manual_seed(int(seed >> 1)) for seed in seeds]
    text = torch.load(release / PROMPTS_FILE).float()
    six = pipe([on_white] * 6, text, 2, 3.0, 1.0, chance).images
    by_hand = GSLRM(GSLRM_CONFIG)
    core = {k: t for k, t in torch.load(file)["model"].items() if not k.startswith("loss_calculator.")}
    by_hand.load_state_dict(core)
    with torch.no_grad():
        expected = by_hand(six[None], facelift_six(SIZE)[None])[0]

    reconstructor = Reconstructor(load_gaussians(file, size=SIZE), views, steps=2)
    found = reconstructor.photo(photo_of(photo, "a photo", views.framing), render=False)
    assert torch.equal(found.views, six) and torch.equal(found.batch.images[0], six)
    assert (found.batch.num_input_views, found.left_out) == (6, ())
    assert found.gaussians.count == 2 + 6 * SIZE**2
    for part in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(found.gaussians, part), getattr(expected, part))


def test_a_rig_of_another_world_than_the_gaussians_is_refused(pipeckpts: Path, file: Path) -> None:
    """Its Gaussians would be fog, and nothing would say so."""
    views = load_views(pipeckpts, "cpu")
    views.generator.rig = replace(views.generator.rig, cameras=views.generator.rig.cameras.transform(100.0))
    photo = photo_of(Image.fromarray(animal()), "a photo", views.framing)
    reconstructor = Reconstructor(load_gaussians(file, size=SIZE), views, steps=1)
    assert "expected cameras about the world's origin" in refusal(reconstructor.photo, photo)


def test_mean_weights_beside_the_last_ones_are_preferred(pipeckpts: Path, release: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(pipeckpts, tmp_path / "pipeckpts"))
    shutil.copy(release / PROMPTS_FILE, tmp_path)
    shutil.copytree(both / "unet", both / "unet_ema")
    tensors = {name: tensor.half() for name, tensor in load_file(both / "unet" / UNET_FILE).items()}
    save_file(tensors | {"conv_in.bias": torch.ones(8).half()}, both / "unet_ema" / UNET_FILE)
    found = load_views(both)
    assert found.sha256 == sha256_of(both / "unet_ema" / UNET_FILE)
    bias = found.generator.pipe.unet.conv_in.bias
    assert bias.dtype == torch.float32 and bool((bias == 1).all())


def test_prompts_of_another_width_are_left_out_and_said(
    pipeckpts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = Path(shutil.copytree(pipeckpts, tmp_path / "pipeckpts"))
    torch.save(torch.randn(6, 77, 24), tmp_path / PROMPTS_FILE)
    message = refusal(load_views, alone)
    assert "expected prompt embeddings (6, 77, 32), got (6, 77, 24)" in caplog.text
    assert message.startswith(f"{alone}/text_encoder: expected another text for each view")  # which it has no words for


def test_a_checkpoint_of_facelifts_training_is_told_how_it_is_used(pipeckpts: Path, tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint-2000"
    shutil.copytree(pipeckpts / "unet", saved / "unet")
    for load in (load_views, lambda path: as_checkpoint(path, tmp_path / "made")):
        message = refusal(load, saved)
        assert message.startswith(f"{saved}: expected a pipeline folder with model_index.json, got a UNet alone, as")
        assert f"put {saved}/unet in it as unet_ema/" in message and "\n" not in message


def test_a_folder_that_holds_the_models_says_which(release: Path) -> None:
    for load in (load_views, load_gaussians):
        assert f"got a folder that holds {release}/ckpt_" in refusal(load, release)


# ---------------------------------------------------------------- stage 2 as it is released


def test_the_released_size_is_read_off_the_names_and_shapes_of_the_release() -> None:
    rows = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    core = {name: torch.empty(shape, device="meta") for name, shape, *_ in rows if not name.startswith("loss_")}
    released = load_recipe("gslrm").model
    assert facelift.read_off(Path("released.pt"), core, replace(released, head_dim=64, dim=2048)) == {
        "model.dim": 1024,
        "model.num_layers": 24,
        "model.patch_size": 8,
        "model.num_free_gaussians": 2,
        "model.sh_degree": 0,
        "model.reference_marker": False,
        "model.ray_encoding": "closest_point",
    }


@pytest.mark.parametrize(
    "other",
    [
        {"num_layers": 3, "patch_size": 4},
        {"sh_degree": 2, "num_free_gaussians": 5},
        {"dim": 128, "reference_marker": True, "ray_encoding": "both"},
    ],
)
def test_a_file_of_another_size_is_what_it_was(tmp_path: Path, other: dict[str, object]) -> None:
    config = replace(GSLRM_CONFIG, **other)
    found = load_gaussians(released_gaussians(tmp_path, config), size=SIZE)
    assert found.recipe.model == config


def test_a_file_takes_six_views_and_has_the_step_that_it_says(file: Path) -> None:
    found = load_gaussians(file)
    assert (found.recipe.data.num_input_views, found.recipe.data.image_size, found.step) == (6, 512, 21125)
    assert (found.name, found.sha256, found.licence) == (file.name, sha256_of(file), FACELIFT_LICENCE)


def test_heads_that_are_not_as_released_are_asked_for(tmp_path: Path) -> None:
    path = released_gaussians(tmp_path, replace(GSLRM_CONFIG, dim=48, head_dim=16))
    assert "a multiple of the 64 of an attention head, as released, got 48" in refusal(load_gaussians, path)
    made = as_checkpoint(path, tmp_path / "made", ["model.head_dim=16"])
    assert kinds.load(made).recipe.model == replace(GSLRM_CONFIG, dim=48, head_dim=16)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"conv_in.weight": (8, 8, 3, 3)}, "with a matrix patch_embedder.1.weight, got 1 tensors without"),
        ({"patch_embedder.1.weight": (64, 577)}, "of 9 or 12 values for each pixel of a square patch, got 577"),
        ({"gaussian_upsampler.linear.weight": (15, 64)}, "of 14, 23, 38 or 59 rows, got 15"),
    ],
)
def test_what_is_no_gslrm_is_refused_in_one_line(tmp_path: Path, tensors: dict[str, tuple[int]], problem: str) -> None:
    others = {name: torch.zeros(shape) for name, shape in tensors.items()}
    whole = {} if "conv_in.weight" in tensors else GSLRM(GSLRM_CONFIG).state_dict()
    torch.save({"model": {**whole, **others}}, tmp_path / "a.pt")
    message = refusal(load_gaussians, tmp_path / "a.pt")
    assert problem in message and "\n" not in message


def test_a_bias_is_no_part_of_a_gslrm(tmp_path: Path) -> None:
    path = released_gaussians(tmp_path, **{"patch_embedder.1.bias": torch.zeros(64)})
    assert "1 unexpected: patch_embedder.1.bias" in refusal(load_gaussians, path)


def test_stage_1_is_no_stage_2_and_the_other_way_round(pipeckpts: Path, file: Path) -> None:
    assert "got FaceLift's stage 1" in refusal(load_gaussians, pipeckpts)
    assert "got a file, a torch file" in refusal(load_views, file)


# ---------------------------------------------------------------- as checkpoints


def test_pipeckpts_are_the_same_model_as_a_checkpoint(pipeckpts: Path, views: ViewsModel, tmp_path: Path) -> None:
    folder = as_checkpoint(pipeckpts, tmp_path / "views")
    (tmp_path / "views").rename(tmp_path / "moved")  # nothing in it may point elsewhere
    found = load_views(tmp_path / "moved")
    assert folder == tmp_path / "views" and (found.sha256, found.framing) == (views.sha256, views.framing)
    assert found.generator.sampling == views.generator.sampling and found.licence == FACELIFT_LICENCE
    assert torch.equal(found.generator(picture(), [3], steps=1), views.generator(picture(), [3], steps=1))


def test_a_file_is_the_same_model_as_a_checkpoint(file: Path, tmp_path: Path) -> None:
    found = load_gaussians(as_checkpoint(file, tmp_path / "made"))
    expected = load_gaussians(file)
    assert (found.recipe, found.step, found.licence) == (expected.recipe, expected.step, expected.licence)
    ours, theirs = found.model.state_dict(), expected.model.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_of_stage_1_with_a_part_that_is_broken_is_not_made(pipeckpts: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pipeckpts, tmp_path / "pipeckpts"))
    (broken / "vae" / UNET_FILE).write_bytes(b"cut off")
    assert refusal(as_checkpoint, broken, tmp_path / "made").startswith(f"{broken}/vae: expected a AutoencoderKL")
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_gets_another_licence_and_keeps_its_files(tiny_recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    own = checkpoint.save(tmp_path / "own", GSLRM(recipe.model), recipe, 3)
    assert as_checkpoint(own, tmp_path / "same") == own and licence_of(own) is None
    made = as_checkpoint(own, tmp_path / "made", licence="CC BY 4.0")
    assert load_gaussians(made).licence == "CC BY 4.0"
    assert (made / WEIGHTS).samefile(own / WEIGHTS) and licence_of(own) is None


@pytest.mark.parametrize("name", ["ckpt.ckpt", "WEIGHTS.PT", "unet/diffusion_pytorch_model.safetensors"])
def test_facelifts_licence_does_not_hang_on_a_files_name(
    pipeckpts: Path, file: Path, tmp_path: Path, name: str
) -> None:
    given = pipeckpts / name
    if not given.is_file():
        given = Path(shutil.copy(file, tmp_path / name))
    assert licence_of(given) == FACELIFT_LICENCE


def test_prompts_beside_a_folder_are_found_from_inside_it(
    pipeckpts: Path, views: ViewsModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeckpts / "unet")
    assert load_views(Path("..")).generator.prompts.sha256 == views.generator.prompts.sha256


# ---------------------------------------------------------------- what training keeps


def test_a_checkpoint_that_is_trained_from_facelifts_weights_inherits_their_licence(
    tiny_recipe, file: Path, tmp_path: Path
) -> None:
    from pipeline.gslrm.stage import GSLRMStage

    recipe = tiny_recipe(f"train.init_from={file}")
    stage = GSLRMStage(recipe, torch.device("cpu"))
    first = checkpoint.save(tmp_path / "first", stage.model, recipe, 1, attachments=stage.attachments())
    again = tiny_recipe(f"train.init_from={first}")
    second = GSLRMStage(again, torch.device("cpu"))
    folder = checkpoint.save(tmp_path / "second", second.model, again, 1, attachments=second.attachments())
    assert licence_of(folder) == FACELIFT_LICENCE


def test_stage_1_keeps_how_its_training_set_was_framed(views_recipe, mice, tmp_path: Path) -> None:
    from pipeline.mvdiffusion.stage import MVDiffusionStage

    recipe = views_recipe()
    stage = MVDiffusionStage(recipe, torch.device("cpu"), mice)
    folder = checkpoint.save(tmp_path / "a", stage.deployed_model(), recipe, 1, attachments=stage.attachments())
    alphas = [np.asarray(Image.open(scene.paths[0]).getchannel("A")) for scene in mice.split("train")]
    shares = [(alpha / 255).mean() for alpha in alphas]
    framing = load_views(folder).framing
    assert framing is not None and framing.views == len(shares) == 5
    assert framing.mean == pytest.approx(np.mean(shares)) and framing.most == pytest.approx(max(shares))
    assert kinds.kind_of(recipe).facts(checkpoint.inspect(folder))["framing.mean"] == f"{framing.mean:.3g}"


def test_a_framing_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "framing.json"
    write_framing(Framing(0.1, 0.05, 0.2, 5, "box", 0.25), path)
    assert read_framing(path) == Framing(0.1, 0.05, 0.2, 5, "box", 0.25)
    path.write_text('{"mean": "much", "least": 0.05, "most": 0.2, "views": 5}')
    message = refusal(read_framing, path)
    assert message.startswith(f"{path}: expected a model's framing, got") and "\n" not in message


def test_a_training_set_without_masks_says_nothing_of_its_framing(views_recipe, mice_copy: Path) -> None:
    from pipeline.data.scenes import open_dataset

    for path in mice_copy.glob("scene_*/images/*.png"):
        Image.open(path).convert("RGB").save(path)
    assert framing_of(open_dataset(mice_copy, verify=False), views_recipe().data) is None


# ---------------------------------------------------------------- pairs


@pytest.fixture(scope="module")
def pair(release: Path, pipeckpts: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "pair"
    write_pair(folder, pipeckpts, file, ("mouse-mvdiffusion", "mouse-gslrm"), (4, None))
    return folder


def test_a_pair_says_what_it_holds(pair: Path, views: ViewsModel) -> None:
    found = read_pair(pair)
    assert is_pair(pair) and not is_pair(pair / "views")
    assert (found.views.name, found.views.version, found.views.sha256) == ("mouse-mvdiffusion", 4, views.sha256)
    assert (found.gaussians.name, found.gaussians.version, found.gaussians.step) == ("mouse-gslrm", None, 21125)
    assert (found.rig, found.image_size, found.framing) == ("facelift_six", SIZE, views.framing)
    assert found.licence == FACELIFT_LICENCE


def test_a_pair_is_named_where_one_of_its_models_is_wanted(pair: Path, file: Path, views: ViewsModel) -> None:
    assert load_views(pair).sha256 == views.sha256
    assert load_gaussians(pair).recipe == load_gaussians(file).recipe


def test_a_pair_is_of_one_model_of_each_kind(pair: Path, tmp_path: Path) -> None:
    message = refusal(write_pair, tmp_path / "twice", pair / "gaussians", pair / "gaussians")
    assert message.startswith("gaussians: expected a checkpoint of mvdiffusion, got one of gslrm")
    assert not (tmp_path / "twice").exists()


def test_a_pair_whose_file_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pair.json").write_text('{"views": 3}')
    assert refusal(read_pair, tmp_path).startswith(f"{tmp_path}/pair.json: expected what a pair says of itself, got")


def test_the_release_is_left_as_it_was(release: Path, pair: Path) -> None:
    names = sorted(path.name for path in PIPECKPTS.rglob("*") if path.is_file())
    assert sorted(path.name for path in (release / "pipeckpts").rglob("*") if path.is_file()) == names
