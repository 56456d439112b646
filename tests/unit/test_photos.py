"""Photos: which files of a folder are taken and under which names, what is a mouse cut out, and what is said first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mouselift
from pipeline.data.incoming.names import check_names
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.folders import read_pictures
from pipeline.data.photo.photo import photo_of
from pipeline.data.pictures import view_on_white
from pipeline.data.scenes import Dataset
from pipeline.errors import DataError

ANIMAL = np.zeros((16, 16, 4), np.uint8)
ANIMAL[4:12, 4:12] = (90, 60, 30, 255)


def animal(on: tuple[int, int, int] | None = None) -> Image.Image:
    """Cut out, or opaque on a colour."""
    cut_out = Image.fromarray(ANIMAL)
    return cut_out if on is None else Image.alpha_composite(Image.new("RGBA", cut_out.size, on), cut_out).convert("RGB")


def in_a_cage() -> Image.Image:
    """Opaque, on a background of many colours."""
    texture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    return Image.alpha_composite(Image.fromarray(texture).convert("RGBA"), animal()).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def refusal(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(DataError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said(*words: object) -> str:
    """What the command line says about words that it refuses."""
    result = CliRunner().invoke(mouselift.app, [str(word) for word in words])
    assert isinstance(result.exception, DataError), result.output
    return str(result.exception)


# ---------------------------------------------------------------- a mouse, cut out


@pytest.mark.parametrize("picture", [animal(), animal((255, 255, 255)), animal((251, 252, 250))])
def test_a_mouse_on_nothing_or_on_white_is_taken(picture: Image.Image) -> None:
    assert float(photo_of(picture, "a").image(16)[:, 8, 8].mean()) == pytest.approx(60 / 255, abs=1e-6)


def test_a_mouse_that_the_frame_cuts_off_is_taken_with_its_alpha() -> None:
    cut = animal().crop((4, 2, 14, 12))
    assert float(photo_of(cut, "a").image(10).mean()) == pytest.approx(float(view_on_white(cut, 10).mean()))


@pytest.mark.parametrize("opaque_alpha", [False, True])
def test_a_photo_with_a_background_of_many_colours_is_refused(opaque_alpha: bool) -> None:
    picture = in_a_cage().convert("RGBA" if opaque_alpha else "RGB")
    expected = "photo: expected something that tells the animal from its background"
    assert refusal(photo_of, picture, "photo").startswith(expected)


def test_alpha_that_is_the_wrong_way_round_is_refused() -> None:
    inverted = np.dstack([np.full((16, 16, 3), 100, np.uint8), 255 - ANIMAL[..., 3]])
    assert "got 0% of the border transparent" in refusal(photo_of, Image.fromarray(inverted), "photo")


def test_a_picture_of_nothing_is_refused() -> None:
    nothing = Image.fromarray(np.zeros_like(ANIMAL))
    assert "got nothing but background" in refusal(photo_of, nothing, "photo")


# ---------------------------------------------------------------- a folder


def test_a_folder_is_read_before_anything_else_is_done(folder: Path) -> None:
    for name in "abc":
        animal().save(folder / f"{name}.png")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:-20])
    words = "data", "generate", folder, folder.parent / "out", "--model", "nobody@nowhere"
    assert f"{folder}/b.png: expected an image" in said(*words)


def test_what_is_no_picture_in_a_folder_is_left_out_and_named(folder: Path, caplog) -> None:
    animal().save(folder / "a.png")
    animal().save(folder / ".b.png")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside a file
    (folder / "c.png").symlink_to(folder / "gone.png")
    (folder / "d.png").mkdir()
    (folder / "notes.txt").write_text("")
    assert list(read_pictures(folder).paths) == ["a"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"{folder}: left out ._a.png (hidden), .b.png (hidden), c.png (a link to nothing), d.png (a folder), "
        "notes.txt (no picture by its suffix)"
    )


def test_a_link_to_a_picture_is_a_picture(folder: Path) -> None:
    animal().save(folder.parent / "elsewhere.png")
    (folder / "a.png").symlink_to(folder.parent / "elsewhere.png")
    assert list(read_pictures(folder).paths) == ["a"]


@pytest.mark.parametrize(
    "names", [("a.png", "a.jpg"), ("a.png", "A.png"), ("a.png", "a.PNG"), ("\u00e9.png", "e\u0301.png")], ids=ascii
)
def test_two_pictures_that_would_be_one_scene_are_refused(folder: Path, names: tuple[str, str]) -> None:
    for name in names:
        animal((255, 255, 255)).save(folder / name, "JPEG" if name.endswith("jpg") else "PNG")
    message = refusal(read_pictures, folder)
    assert message.startswith(f"{folder}: expected scenes of different names") and all(
        name in message for name in names
    )


def test_one_mask_of_several_pictures_is_refused(folder: Path) -> None:
    for name in "ab":
        in_a_cage().save(folder / f"{name}.png")
    mask = folder.parent / "mask.png"
    animal().getchannel("A").save(mask)
    said = refusal(read_pictures, folder, 0, Cutting(mask))
    assert said == f"--mask {mask}: expected a folder of masks for 2 photos, got a file — name the folder."


def test_other_masks_make_other_pictures(folder: Path) -> None:
    in_a_cage().save(folder / "a.png")
    mask = folder.parent / "a.png"
    animal().getchannel("A").save(mask)
    first = read_pictures(folder, 0, Cutting(mask)).digest
    animal().getchannel("A").resize((8, 8)).save(mask)
    assert first != read_pictures(folder, 0, Cutting(mask)).digest


@pytest.mark.parametrize("name", ["dataset.yaml.png", "\udcff.png"], ids=ascii)
def test_a_name_that_no_scene_can_have_is_refused(folder: Path, name: str) -> None:
    animal().save(folder / "good.png")
    (folder / "good.png").rename(folder / name)
    assert refusal(read_pictures, folder).startswith(f"{folder}: expected ")


@pytest.mark.parametrize(
    "names", [{"a/x": "x", "b/x": "x"}, {"a/x": "x", "b/X": "X"}, {"a": ".a"}, {"a/..": ""}, {"a": "é" * 101}]
)
def test_scenes_of_a_dataset_keep_names_of_their_own(names: dict[str, str]) -> None:
    assert refusal(check_names, Path("mice"), names).startswith("mice: expected ")


def test_the_views_of_a_dataset_are_photos(mice: Dataset) -> None:
    assert len(read_pictures(mice.root).paths) == len(mice.scenes)


def test_a_network_sees_a_photo_on_white() -> None:
    torch.testing.assert_close(photo_of(animal(), "a").image(16), photo_of(animal((255, 255, 255)), "a").image(16))
