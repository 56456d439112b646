"""Batches: which views, what compositing and jitter leave alone, the cache that trials share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cameras import facelift_ring
from pipeline.data import loader as loader_module
from pipeline.data.batch import Batch
from pipeline.data.loader import OVERLAP_COSINE, Loader, held_out_views
from pipeline.data.pictures import prepare_view
from pipeline.data.scenes import CAMERAS_FILE, Dataset, Manifest, open_dataset, write_manifest, write_scene
from pipeline.errors import DataError
from pipeline.gslrm.stage import check_dataset
from pipeline.recipe import DataConfig, LossConfig

SCENE = "scene_000001"
DECODE = """
import sys
from pathlib import Path
from pipeline.data.loader import decoded_frames
from pipeline.data.scenes import open_dataset
dataset = open_dataset(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(decoded_frames(dataset, 32, Path(sys.argv[2])).array.sum())
"""


def config(**values: object) -> DataConfig:
    return DataConfig(**{"image_size": 32, "num_views": 6, "num_input_views": 4, **values})  # type: ignore[arg-type]


@pytest.fixture
def make(mice: Dataset, frames_cache: Path):
    """A loader of the mice; keywords are those of DataConfig."""
    return lambda split="train", seed=0, **values: Loader(mice, split, config(**values), frames_cache, seed)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One empty scene seen by FaceLift's ring of 32."""
    root = tmp_path_factory.mktemp("ring")
    write_scene(root / "a", np.zeros((32, 8, 8, 4), dtype=np.uint8), facelift_ring(8))
    return write_manifest(root, Manifest(name="ring", splits={"train": ("a",)}))


@pytest.fixture
def opaque_mice(mice_copy: Path) -> Dataset:
    """The mice without their masks."""
    for path in mice_copy.glob("*/images/*.png"):
        Image.open(path).convert("RGB").save(path)
    return open_dataset(mice_copy, verify=False)


def refusal(dataset: Dataset, cache: Path, **values: object) -> str:
    with pytest.raises(DataError) as caught:
        Loader(dataset, "train", config(**values), cache)
    return str(caught.value).replace(str(dataset.root), "mice")


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first.images, second.images) and torch.equal(first.cameras.c2w, second.cameras.c2w)


def centres_towards(batch: Batch) -> torch.Tensor:
    return torch.nn.functional.normalize(batch.cameras.centres[0], dim=-1)


# ---------------------------------------------------------------- images


def test_a_batch_has_the_shapes_it_promises(make) -> None:
    batch = make().training_batch(0, 2).to("cpu")
    shapes = batch.images.shape, batch.masks.shape, batch.cameras.batch_shape, batch.input_images.shape
    assert shapes == ((2, 6, 3, 32, 32), (2, 6, 1, 32, 32), (2, 6), (2, 4, 3, 32, 32))


def test_the_background_is_white_wherever_the_mask_is_empty(make) -> None:
    batch = make().training_batch(0, 2).to("cpu")
    empty = (batch.masks == 0).expand_as(batch.images)
    assert bool(empty.any()) and bool((batch.images[empty] == 1).all())


def test_images_stay_between_0_and_1_however_they_are_jittered(make) -> None:
    images = make(image_size=24, brightness=(2.0, 2.0), contrast=(3.0, 3.0)).training_batch(0, 2).to("cpu").images
    assert float(images.min()) >= 0 and float(images.max()) <= 1 + 1e-6


def test_masks_are_the_alpha_of_the_files(make, mice: Dataset) -> None:
    batch = make("test").evaluation_batch(0).to("cpu")
    scene, view = mice.split("test")[0], make().inputs[0]
    alpha = np.asarray(Image.open(scene.paths[view]))[..., 3] / np.float32(255)
    np.testing.assert_array_equal(batch.masks[0, 0, 0], alpha)


def test_resizing_images_scales_the_intrinsics(make) -> None:
    full, half = (make(image_size=size).evaluation_batch(0).to("cpu").cameras for size in (32, 16))
    torch.testing.assert_close(half.fxfycxcy, full.fxfycxcy / 2)


def test_resizing_images_leaves_the_cameras_where_they_are(make) -> None:
    full, half = (make(image_size=size).evaluation_batch(0).to("cpu").cameras for size in (32, 16))
    assert torch.equal(half.c2w, full.c2w) and (half.width, half.height) == (16, 16)


def test_colour_hidden_under_alpha_0_cannot_bleed_into_the_edge() -> None:
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[..., :3] = (255, 0, 0)  # red, wherever nobody can see it
    pixels[16:48, 16:48] = (0, 0, 255, 255)
    assert int(prepare_view(Image.fromarray(pixels), 24)[..., 0].max()) == 0


def test_images_are_composited_on_white(make, mice: Dataset) -> None:
    image = Image.open(mice.split("test")[0].paths[make().inputs[0]])
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    expected = torch.from_numpy(np.asarray(flat) / np.float32(255)).movedim(-1, 0)
    torch.testing.assert_close(
        make("test").evaluation_batch(0).to("cpu").images[0, 0], expected, rtol=0, atol=1.5 / 255
    )


def test_premultiplied_colour_never_exceeds_its_alpha() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    frame = prepare_view(Image.fromarray(pixels), 24)
    assert bool((frame[..., :3] <= frame[..., 3:]).all())


def test_a_batch_leaves_the_host_as_the_bytes_of_its_frames_and_a_few_numbers(make) -> None:
    batch = make(brightness=(0.5, 1.5), mirror=True).training_batch(0, 2)
    sent = [batch.frames, batch.jitter, batch.cameras.c2w, batch.cameras.fxfycxcy]
    assert sum(tensor.nbytes for tensor in sent) < 2 * 6 * (4 * 32 * 32 + 100)


# ---------------------------------------------------------------- jitter


def test_jitter_leaves_the_mask(make) -> None:
    plain, jittered = (make(brightness=b).training_batch(0, 2).to("cpu") for b in ((1.0, 1.0), (0.5, 0.5)))
    assert torch.equal(plain.masks, jittered.masks)


def test_jitter_leaves_the_background_white(make) -> None:
    batch = make(brightness=(0.5, 1.5), contrast=(0.5, 1.5)).training_batch(0, 2).to("cpu")
    assert bool((batch.images[(batch.masks == 0).expand_as(batch.images)] == 1).all())


def test_brightness_is_a_factor_on_the_foreground(make) -> None:
    plain, dark = (make(brightness=b).training_batch(0, 2).to("cpu") for b in ((1.0, 1.0), (0.5, 0.5)))
    inside = (plain.masks == 1).expand_as(plain.images)
    torch.testing.assert_close(dark.images[inside], plain.images[inside] / 2)


def test_contrast_keeps_the_mean_colour_of_the_foreground(make) -> None:
    plain, flat = (make(contrast=c).training_batch(0, 1).to("cpu") for c in ((1.0, 1.0), (0.5, 0.5)))
    means = [(b.images - (1 - b.masks)).sum((0, 1, 3, 4)) / b.masks.sum() for b in (plain, flat)]
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-4)


def test_all_views_of_a_scene_get_one_draw(make) -> None:
    plain, jittered = (make(brightness=b).training_batch(0, 1).to("cpu") for b in ((1.0, 1.0), (0.3, 0.9)))
    inside = (plain.masks == 1).expand_as(plain.images) & (plain.images > 0)
    ratios = jittered.images[inside] / plain.images[inside]
    torch.testing.assert_close(ratios, ratios[0].expand_as(ratios))


def test_jitter_is_refused_where_there_is_no_mask_to_keep_it_off_the_background(
    opaque_mice: Dataset, tmp_path: Path
) -> None:
    assert refusal(opaque_mice, tmp_path, brightness=(0.9, 1.1)) == (
        "mice/scene_000000: expected images with alpha, so that data.brightness and data.contrast change the "
        "foreground alone, got RGB — add masks, or set both to [1.0, 1.0]."
    )


def test_evaluation_is_never_jittered(make) -> None:
    assert same(
        make("val", brightness=(0.5, 0.5)).evaluation_batch(0).to("cpu"), make("val").evaluation_batch(0).to("cpu")
    )


# ---------------------------------------------------------------- mirrored and turned scenes


def test_turning_scenes_leaves_their_images(make) -> None:
    plain, turned = (make(rotate=r).training_batch(2, 1).to("cpu") for r in (False, True))
    assert torch.equal(plain.images, turned.images) and not torch.allclose(plain.cameras.c2w, turned.cameras.c2w)


def test_turning_scenes_moves_their_cameras_about_the_vertical_together(make) -> None:
    plain, turned = (make(rotate=r).training_batch(2, 1).to("cpu").cameras for r in (False, True))
    turn = turned.c2w[0, :, :3, :3] @ plain.c2w[0, :, :3, :3].mT
    torch.testing.assert_close(turn, turn[:1].expand_as(turn))
    torch.testing.assert_close(turn[0, 2], torch.tensor([0.0, 0.0, 1.0]))


def test_half_of_the_scenes_are_mirrored_and_all_views_of_one_together(make) -> None:
    loaders = make(), make(mirror=True)
    mirrored = []
    for step in range(40):
        plain, batch = (loader.training_batch(step, 1).to("cpu").images for loader in loaders)
        mirrored.append(not torch.equal(plain, batch))
        torch.testing.assert_close(batch, plain.flip(-1) if mirrored[-1] else plain)
    assert 10 < sum(mirrored) < 30


def test_evaluation_is_never_mirrored_nor_turned(make) -> None:
    assert same(
        make("val", mirror=True, rotate=True).evaluation_batch(0).to("cpu"), make("val").evaluation_batch(0).to("cpu")
    )


# ---------------------------------------------------------------- views


def test_a_batch_is_a_function_of_seed_and_step(make) -> None:
    first, second = make(seed=3), make(seed=3)
    second.training_batch(0, 2).to("cpu"), second.training_batch(1, 2).to("cpu")
    assert same(first.training_batch(5, 2).to("cpu"), second.training_batch(5, 2).to("cpu"))


def test_another_seed_gives_another_batch(make) -> None:
    assert not same(make(seed=3).training_batch(5, 2).to("cpu"), make(seed=4).training_batch(5, 2).to("cpu"))


def test_an_epoch_shows_every_scene_once(make) -> None:
    loader = make()
    seen = [loader.training_batch(step, 1).to("cpu").scenes[0] for step in range(5, 10)]
    assert sorted(seen) == [scene.name for scene in loader.scenes]


def test_inputs_are_other_views_than_targets(make) -> None:
    centres = make().training_batch(0, 1).to("cpu").cameras.centres[0]
    assert len({tuple(centre.tolist()) for centre in centres}) == 6


def test_training_draws_how_many_views_a_batch_is_shown_and_evaluation_never(make) -> None:
    loader = make(min_input_views=2)
    shown = [loader.training_batch(step, 2).num_input_views for step in range(60)]
    assert set(shown) == {2, 3, 4} and all(shown.count(inputs) > 10 for inputs in (2, 3, 4))
    assert shown == [make(min_input_views=2).training_batch(step, 2).num_input_views for step in range(60)]
    assert all(loader.training_batch(step, 2).frames.shape[1] == 6 for step in range(9))
    assert make("val", min_input_views=2).evaluation_batch(0).num_input_views == 4


def test_processes_that_share_a_pass_show_the_same_number(make) -> None:
    loader = make(min_input_views=1)
    for index in range(20):
        halves = [loader.training_batch(2 * index + half, 1, pieces=2) for half in range(2)]
        assert {half.num_input_views for half in halves} == {loader.training_batch(index, 2).num_input_views}
        assert [half.scenes[0] for half in halves] == list(loader.training_batch(index, 2).scenes)


def test_the_draw_of_how_many_leaves_the_other_draws_as_they_were(make) -> None:
    plain, drawn = (make(min_input_views=fewest).training_batch(3, 2) for fewest in (None, 1))
    assert torch.equal(plain.frames, drawn.frames)


def test_fixed_sampling_takes_the_first_views_in_order(make, mice: Dataset) -> None:
    batch = make(view_sampling="fixed", num_views=4, num_input_views=3).training_batch(0, 1).to("cpu")
    expected = mice.scenes[batch.scenes[0]].cameras.centres[:4].float()
    torch.testing.assert_close(batch.cameras.centres[0], expected)


@pytest.mark.parametrize("step", range(5))
def test_overlap_sampling_takes_targets_that_see_what_some_input_sees(ring: Dataset, tmp_path: Path, step: int) -> None:
    values = config(image_size=8, num_views=8, num_input_views=2, view_sampling="overlap")
    towards = centres_towards(Loader(ring, "train", values, tmp_path).training_batch(step, 1).to("cpu"))
    assert bool(((towards[2:] @ towards[:2].T).amax(-1) >= OVERLAP_COSINE).all())


def test_random_sampling_does_not_mind_the_angle(ring: Dataset, tmp_path: Path) -> None:
    loader = Loader(ring, "train", config(image_size=8, num_views=8, num_input_views=2), tmp_path)
    towards = [centres_towards(loader.training_batch(step, 1).to("cpu")) for step in range(5)]
    assert min(float((t[2:] @ t[:2].T).amax(-1).min()) for t in towards) < OVERLAP_COSINE


def test_overlap_sampling_falls_back_on_the_other_views(ring: Dataset, tmp_path: Path) -> None:
    values = config(image_size=8, num_views=32, num_input_views=1, view_sampling="overlap")
    assert Loader(ring, "train", values, tmp_path).training_batch(0, 1).to("cpu").images.shape[1] == 32


@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
def test_held_out_views_do_not_depend_on_the_inputs(inputs: int) -> None:
    chosen = [held_out_views(6, config(num_input_views=n, num_held_out_views=2))[0] for n in (inputs, 4)]
    assert chosen[0] == chosen[1]


def test_no_input_view_of_an_evaluation_is_held_out(make) -> None:
    loader = make("test", num_held_out_views=2)
    assert not set(loader.inputs) & set(loader.held_out)


def test_an_evaluation_shows_inputs_first_then_held_out_views(make, mice: Dataset) -> None:
    loader = make("test", num_held_out_views=2)
    centres = mice.split("test")[0].cameras.centres.float()
    shown = loader.evaluation_batch(0).to("cpu").cameras.centres[0]
    torch.testing.assert_close(shown, centres[[*loader.inputs, *loader.held_out]])


def test_the_held_out_views_of_a_single_scene_are_never_trained_on(mice_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(mice_folder / SCENE)
    loader = Loader(dataset, "train", config(num_views=4, num_input_views=2, num_held_out_views=2), tmp_path)
    held_out = dataset.split("train")[0].cameras.centres[list(loader.held_out)].float()
    trained = torch.cat([loader.training_batch(step, 1).to("cpu").cameras.centres[0] for step in range(10)])
    assert float(torch.cdist(trained, held_out).min()) > 0.1


def test_a_single_scene_with_too_few_views_left_to_train_on_is_refused(mice_folder: Path, tmp_path: Path) -> None:
    message = refusal(open_dataset(mice_folder / SCENE), tmp_path, num_held_out_views=2)
    assert message == "mice: expected at least data.num_views 6 views to train on, got 4 — lower data.num_views."


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "expected at least data.num_views 6 views to train on, got 5 — lower data.num_views."),
        (
            {"num_input_views": 5},
            "expected at least 6 views (data.num_input_views 5 + data.num_held_out_views 1), got 5 — "
            "lower one of them.",
        ),
    ],
)
def test_a_scene_with_five_of_six_views_is_named(mice_copy: Path, tmp_path: Path, values, expected: str) -> None:
    path = mice_copy / SCENE / CAMERAS_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"frames": content["frames"][:5]}))
    message = refusal(open_dataset(mice_copy, verify=False), tmp_path / "cache", **values)
    assert message == f"mice/{SCENE}: {expected}" and not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- cache and masks


def test_decoded_frames_are_reused(mice: Dataset, frames_cache: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.setattr(loader_module, "read_image", None)
    assert make("val").evaluation_batch(0).to("cpu").images.shape == (1, 5, 3, 32, 32)


def test_a_broken_image_leaves_no_frames_behind(mice_copy: Path, tmp_path: Path) -> None:
    (mice_copy / SCENE / "images/cam_002.png").write_text("not a picture")
    message = refusal(open_dataset(mice_copy, verify=False), tmp_path / "cache")
    assert "cam_002.png: expected an image" in message and list((tmp_path / "cache").iterdir()) == []


def test_frames_that_were_cut_off_are_decoded_again(mice: Dataset, tmp_path: Path) -> None:
    whole = np.array(loader_module.decoded_frames(mice, 32, tmp_path).array)
    [file] = tmp_path.iterdir()
    for size in (file.stat().st_size // 2, 0):
        file.write_bytes(file.read_bytes()[:size])
        assert np.array_equal(loader_module.decoded_frames(mice, 32, tmp_path).array, whole)


def test_two_processes_may_decode_at_once(mice_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DECODE, str(mice_folder), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = {process.communicate(timeout=60)[0] for process in processes}
    assert len(sums) == 1 and len(list((tmp_path / "cache").iterdir())) == 1


def test_images_without_alpha_have_no_masks(opaque_mice: Dataset, tmp_path: Path) -> None:
    assert Loader(opaque_mice, "train", config(), tmp_path).training_batch(0, 1).to("cpu").masks is None


@pytest.mark.parametrize("name", ["masked", "background", "alpha"])
def test_a_loss_that_needs_masks_is_refused_without_them(opaque_mice: Dataset, tmp_path: Path, name: str) -> None:
    loss = LossConfig(**{name: True if name == "masked" else 0.1})  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        check_dataset(loss, Loader(opaque_mice, "train", config(), tmp_path))
    assert str(caught.value).replace(str(opaque_mice.root), "mice") == (
        f"mice/scene_000000: expected images with alpha, which loss.{name} needs, got RGB — add masks, or switch "
        f"loss.{name} off."
    )


def test_one_image_without_alpha_among_others_is_named(mice_copy: Path, tmp_path: Path) -> None:
    path = mice_copy / SCENE / "images/cam_002.png"
    Image.open(path).convert("RGB").save(path)
    expected = f"mice/{SCENE}/images/cam_002.png: expected alpha as in other images of the dataset, got none — "
    assert refusal(open_dataset(mice_copy, verify=False), tmp_path) == expected + "add its mask."
