"""What README says that mouselift will not let you do, clause by clause, by the command that it speaks of."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from pipeline import GSLRM, checkpoint, load_recipe, losses
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE
from pipeline.errors import NonFiniteError
from pipeline.training.loop import train
from sweeps.errors import RegistryError
from sweeps.registry.verification import verify
from tests.e2e.conftest import SMALL, write_space

README = (Path(__file__).parents[2] / "README.md").read_text()
HEADING = "## What it will not let you do\n"
SETTINGS = " ".join(f"{path}={value}" for path, value in SMALL.items())


class Promise(NamedTuple):
    """prepare: makes what is wrong, and gives the words of the command. said: what the one line has to say."""

    prepare: Callable[[Path, Path], tuple[object, ...]]
    said: str


def checking(folder: Path, *settings: str) -> tuple[object, ...]:
    return ("check", "gslrm_tiny", "--recipe", "--data", folder, "--set", " ".join([SETTINGS, *settings]))


def without_a_tensor(mice: Path, folder: Path) -> tuple[object, ...]:
    recipe = load_recipe("gslrm_tiny", SETTINGS.split())
    start = checkpoint.save(folder / "start", GSLRM(recipe.model), recipe, step=1)
    tensors = load_file(start / checkpoint.WEIGHTS)
    del tensors["input_layer_norm.weight"]
    save_file(tensors, folder / "most.safetensors")
    return checking(mice, f"train.init_from={folder / 'most.safetensors'}")


def mirrored(mice: Path, folder: Path) -> tuple[object, ...]:
    path = mice / "scene_000002" / CAMERAS_FILE
    cameras = json.loads(path.read_text())
    for row in cameras["frames"][1]["w2c"][:3]:
        row[0] = -row[0]
    path.write_text(json.dumps(cameras))
    return checking(mice)


def swapped(mice: Path, folder: Path) -> tuple[object, ...]:
    for scene in mice.glob("scene_*"):
        one, other = scene / "images/cam_001.png", scene / "images/cam_004.png"
        one.rename(scene / "aside")
        other.rename(one)
        (scene / "aside").rename(other)
    (mice / MANIFEST_FILE).unlink()
    return checking(mice)


def in_millimetres(mice: Path, folder: Path) -> tuple[object, ...]:
    write_mice(folder / "mm", scenes=3, size=64, rig="mouse")
    return checking(folder / "mm")


def with_an_image_gone(mice: Path, folder: Path) -> tuple[object, ...]:
    (mice / "scene_000002/images/cam_003.png").unlink()
    return checking(mice)


def without_masks(mice: Path, folder: Path) -> tuple[object, ...]:
    for path in mice.glob("scene_*/images/*.png"):
        picture = Image.open(path)
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        Image.alpha_composite(white, picture).convert("RGB").save(path)
    (mice / MANIFEST_FILE).unlink()
    return checking(mice, "loss.masked=true", "data.allow_inconsistent_geometry=true")


def refused_range(mice: Path, folder: Path) -> tuple[object, ...]:
    space = write_space(folder / "bad.yaml", space={"optim.lr": {"float": [-1.0, 1.0e-3]}})
    return ("sweep", "run", space, "--data", mice)


def lr_as_text(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "mine.yaml").write_text("base: gslrm_tiny\noptim: {lr: 1e-4}\n")
    return ("train", folder / "mine.yaml", "--data", mice)


def twice(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "mine.yaml").write_text("base: gslrm_tiny\noptim: {lr: 1.0e-4}\noptim: {lr: 1.0e-3}\n")
    return ("train", folder / "mine.yaml", "--data", mice)


def with_a_number_that_is_none(mice: Path, folder: Path) -> tuple[object, ...]:
    recipe = load_recipe("gslrm_tiny", SETTINGS.split())
    start = checkpoint.save(folder / "start", GSLRM(recipe.model), recipe, step=1)
    tensors = load_file(start / checkpoint.WEIGHTS)
    tensors["input_layer_norm.weight"][0] = math.nan
    save_file(tensors, folder / "nan.safetensors")
    return checking(mice, f"train.init_from={folder / 'nan.safetensors'}")


def opaque(mice: Path, folder: Path) -> tuple[object, ...]:
    for path in mice.glob("scene_*/images/*.png"):
        picture = Image.open(path)
        picture.putalpha(255)
        picture.save(path)
    (mice / MANIFEST_FILE).unlink()
    return checking(mice)


def photographed(mice: Path, folder: Path) -> tuple[object, ...]:
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "photo.png")
    return ("reconstruct", folder / "photo.png", "--views", folder / "none", "--gaussians", folder / "none")


def two_animals(mice: Path, folder: Path) -> tuple[object, ...]:
    picture = Image.new("RGB", (128, 64), "white")
    for left in (16, 80):
        ImageDraw.Draw(picture).ellipse((left, 20, left + 32, 44), (90, 70, 50))
    picture.save(folder / "photo.png")
    return ("reconstruct", folder / "photo.png", "--views", folder / "none", "--gaussians", folder / "none")


def onto_a_file(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "taken").write_text("mine")
    return ("reconstruct", mice / "scene_000000", "--model", folder / "none", "--out", folder / "taken")


PROMISES = {
    "an unknown key (*did you mean*)": Promise(
        lambda mice, folder: ("train", "gslrm_tiny", "--data", mice, "--set", "optim.ler=1.0e-3"),
        r"unknown key optim\.ler — did you mean optim\.lr\?",
    ),
    "a key that stands twice": Promise(twice, r"mine\.yaml:3: optim: expected one value, got another in line 2"),
    "`lr: 1e-4` (which is text to YAML)": Promise(lr_as_text, r"got '1e-4' — YAML reads 1e-4 as text.*write 1\.0e-4"),
    "a checkpoint with a tensor missing": Promise(without_a_tensor, r"1 missing: input_layer_norm\.weight"),
    "weights that are not finite": Promise(with_a_number_that_is_none, r"1 not finite: input_layer_norm\.weight"),
    "a mirrored camera": Promise(mirrored, r"camera 1: expected a rotation with det \+1, got det -1"),
    "cameras that contradict their images (the views are named)": Promise(swapped, r"views 1, 4 disagree"),
    "masks that say nothing about the cameras": Promise(opaque, r"mask fills the frame"),
    "millimetres": Promise(in_millimetres, r"millimetres — run `mouselift data normalise`"),
    "a scene with an image gone": Promise(with_an_image_gone, r"cam_003\.png: expected an image .* found none"),
    "a photo of which nothing tells the animal from its background": Promise(
        photographed, r"photo\.png: expected something that tells the animal from its background"
    ),
    "two animals in one photo": Promise(two_animals, r"photo\.png: expected one animal, got 2"),
    "a masked loss on images without masks": Promise(without_masks, r"expected .*(mask|alpha)"),
    "a search range the recipe refuses": Promise(refused_range, r"optim\.lr: expected greater than 0, got -1\.0"),
    "an output that cannot be written": Promise(
        onto_a_file, r"taken: expected a folder that can be written to, got a file"
    ),
}


def sentences() -> list[str]:
    """Of the paragraph: the first lists what is refused."""
    paragraph = README.partition(HEADING)[2].partition("\n\n")[0].partition("\n##")[0]
    return [sentence.strip().rstrip(".") for sentence in re.split(r"\.(?:\s+|$)", paragraph) if sentence.strip()]


def test_every_clause_of_the_paragraph_has_a_test() -> None:
    opening, _, listed = sentences()[0].partition(": ")
    assert opening == ("Mistakes are one line, before a GPU second is spent, with exit code 2 and nothing written"), (
        "the test below holds exactly this"
    )
    assert set(re.split(r", (?![^(]*\))", listed)) == set(PROMISES)
    assert sentences()[1:] == [
        "A loss that stays non-finite stops the trial and names step and term",
        "A registered version's figures were measured twice",
    ]


@pytest.mark.parametrize("clause", PROMISES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_written(refused, mice_folder, tmp_path, clause) -> None:
    mice = Path(shutil.copytree(mice_folder, tmp_path / "mice"))
    words = PROMISES[clause].prepare(mice, tmp_path)
    assert re.search(PROMISES[clause].said, refused(*words))


def test_a_non_finite_loss_stops_the_trial_and_names_step_and_term(tmp_path, tiny_recipe, monkeypatch) -> None:
    whole = losses.mse
    monkeypatch.setattr(losses, "mse", lambda *args: whole(*args) * math.nan)
    with pytest.raises(NonFiniteError, match=r"^step 1: expected a finite loss, got nan from mse nan\.$"):
        list(train(tiny_recipe("optim.max_nonfinite_updates=0"), tmp_path))


def test_weights_that_exploded_stop_the_trial_and_the_step_is_named(tmp_path, tiny_recipe) -> None:
    exploding = ("optim.lr=1.0e+30", "optim.warmup_steps=0", "optim.grad_clip_norm=1.0e+30")
    expected = r"^step 4: expected a finite (loss|gradient), got .*; the gradient norm was \S+, 3 steps before; the upd"
    with pytest.raises(NonFiniteError, match=expected):
        list(train(tiny_recipe(*exploding), tmp_path))


def test_a_registered_versions_figures_were_measured_twice(tmp_path, tiny_recipe, mice_folder, frames_cache) -> None:
    recipe = tiny_recipe()
    torch.manual_seed(0)
    saved = checkpoint.save(tmp_path / "start", GSLRM(recipe.model), recipe, step=1)
    with pytest.raises(RegistryError, match=r"expected val/psnr 99 as logged, found .* when evaluated again"):
        verify(saved, mice_folder, {"val/psnr": 99.0}, frames_cache)
    assert math.isfinite(verify(saved, mice_folder, {}, frames_cache).metrics["test/psnr"])
