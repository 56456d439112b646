"""Scene and dataset folders: what is written is read back, and what is broken is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.cameras import Cameras, look_at, mouse_rig
from pipeline.data.scenes import (
    CAMERAS_FILE,
    MANIFEST_FILE,
    Dataset,
    Manifest,
    open_dataset,
    read_image,
    read_scene,
    write_manifest,
    write_scene,
)
from pipeline.errors import DataError

SCENE = "scene_000001"
IMAGE = f"{SCENE}/images/cam_002.png"


def small_rig() -> Cameras:
    """Six cameras whose rotations are orthonormal to the last bit of float64, unlike any published in float32."""
    real = mouse_rig().to(torch.float64).resize(18, 16)
    return Cameras(look_at(real.centres, torch.full((6, 3), 50.0).double()), real.fxfycxcy, 18, 16)


def pictures(views: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (views, 16, 18, 4), dtype=np.uint8)


def edit_cameras(dataset: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = dataset / SCENE / CAMERAS_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_manifest(dataset: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = dataset / MANIFEST_FILE
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def write_lists(dataset: Path, train: str, val: str) -> None:
    """FaceLift's layout: no manifest, two lists."""
    (dataset / MANIFEST_FILE).unlink()
    (dataset / "data_mouse_train.txt").write_text(train)
    (dataset / "data_mouse_val.txt").write_text(val)


def refusal(dataset: Path, verify: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(dataset, verify)
    return str(caught.value).replace(str(dataset), "mice")


# ---------------------------------------------------------------- round trips


def test_cameras_survive_a_scene_folder_to_1e_12(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", pictures(), small_rig())
    read = read_scene(tmp_path / "scene").cameras
    expected = small_rig()
    torch.testing.assert_close((read.w2c, read.fxfycxcy), (expected.w2c, expected.fxfycxcy), rtol=1e-12, atol=1e-12)


def test_images_survive_a_scene_folder_to_the_bit(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", pictures(), small_rig())
    read = [np.asarray(read_image(path, (18, 16))) for path in read_scene(tmp_path / "scene").paths]
    np.testing.assert_array_equal(read, pictures())


def test_writing_a_scene_again_replaces_it_whole(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", pictures(), small_rig())
    write_scene(tmp_path / "scene", pictures(4), small_rig()[:4])
    assert len(list((tmp_path / "scene" / "images").iterdir())) == 4 and len(list(tmp_path.iterdir())) == 1


def test_pictures_of_another_size_than_their_cameras_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected uint8 RGBA \[V, H, W, 4\] of the cameras' size, got \(6, 8, 18, 4\)"
    ):
        write_scene(tmp_path / "scene", pictures()[:, :8], small_rig())


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_scene(tmp_path / "a", pictures(), small_rig())
    written = Manifest(
        name="mine",
        parent="0123",
        transforms=({"kind": "object_centred", "scale": 0.5},),
        rig="mouse",
        view_order=(0, 5, 3, 1, 2, 4),
        splits={"train": ("a",), "val": ("a",), "test": ("a",)},
    )
    read = write_manifest(tmp_path, written).manifest
    assert read == Manifest(**{**vars(written), "digest": read.digest})


# ---------------------------------------------------------------- digests


def test_the_digest_does_not_depend_on_where_the_dataset_lies(mice: Dataset, mice_copy: Path) -> None:
    assert open_dataset(mice_copy).content_digest == mice.content_digest


def test_shadow_files_of_notebooks_and_macs_are_no_scenes_and_no_images(mice: Dataset, mice_copy: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()  # the folders themselves say which scenes there are
    shutil.copytree(mice_copy / "scene_000001", mice_copy / ".ipynb_checkpoints" / "scene_000001-checkpoint")
    shutil.copytree(mice_copy / "scene_000001", mice_copy / "._scene_000001")
    (mice_copy / ".DS_Store").write_bytes(b"Bud1")
    (mice_copy / "__MACOSX").mkdir()
    (mice_copy / IMAGE).with_name("._cam_000.png").write_bytes(bytes([0, 5, 22, 7]))
    assert set(open_dataset(mice_copy).scenes) == set(mice.scenes)


def test_one_byte_changes_the_digest(mice: Dataset, mice_copy: Path) -> None:
    (mice_copy / IMAGE).write_bytes((mice_copy / IMAGE).read_bytes() + b"\0")
    assert open_dataset(mice_copy, verify=False).content_digest != mice.content_digest


def test_a_moved_camera_changes_the_digest(mice: Dataset, mice_copy: Path) -> None:
    edit_cameras(mice_copy, lambda content: content["frames"][0].update(cx=15.9))
    assert open_dataset(mice_copy, verify=False).content_digest != mice.content_digest


def test_the_splits_of_a_dataset_have_digests_of_their_own(mice: Dataset) -> None:
    assert len({mice.split_digest(split) for split in ("train", "val", "test")}) == 3


def test_files_changed_after_the_manifest_are_refused(mice_copy: Path) -> None:
    (mice_copy / IMAGE).write_bytes((mice_copy / IMAGE).read_bytes() + b"\0")
    message = refusal(mice_copy, verify=True)
    assert message.startswith("mice: expected the content of digest ")
    assert f"files were changed after {MANIFEST_FILE} was written; restore them, or let " in message


# ---------------------------------------------------------------- folders without a manifest


def test_facelifts_lists_are_read_when_they_are_absolute_and_of_another_machine(mice_copy: Path) -> None:
    train = "\n".join(f"/srv/data/mice/scene_{i:06d}" for i in range(4))
    write_lists(mice_copy, train, "/srv/data/mice/scene_000004\n/srv/data/mice/scene_000005")
    splits = open_dataset(mice_copy).manifest.splits
    assert splits == {
        "train": tuple(f"scene_{i:06d}" for i in range(4)),
        "val": ("scene_000004",),
        "test": ("scene_000005",),
    }


def test_the_last_line_of_a_list_counts_without_its_newline(mice_copy: Path) -> None:
    write_lists(mice_copy, "scene_000000\nscene_000001", "scene_000002\n")
    assert open_dataset(mice_copy).manifest.splits["train"] == ("scene_000000", "scene_000001")


def test_an_absolute_list_of_this_machine_names_scenes_wherever_they_lie(mice_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(str(mice_folder / SCENE))
    assert open_dataset(tmp_path).split("train")[0].folder.resolve() == (mice_folder / SCENE).resolve()


def test_two_lists_for_one_split_are_refused(mice_copy: Path) -> None:
    write_lists(mice_copy, "scene_000000", "scene_000001")
    (mice_copy / "my_train.txt").write_text("scene_000000")
    expected = "mice: expected one list for train, got data_mouse_train.txt, my_train.txt — keep one."
    assert refusal(mice_copy) == expected


def test_bare_scene_folders_are_split_in_order(mice_copy: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()
    splits = open_dataset(mice_copy).manifest.splits
    assert [len(splits[split]) for split in ("train", "val", "test")] == [5, 1, 1]


def test_a_single_scene_is_a_dataset_whose_held_out_views_are_never_trained_on(mice_folder: Path) -> None:
    dataset = open_dataset(mice_folder / SCENE)
    assert dataset.manifest.held_out_from_training and [s.name for s in dataset.split("test")] == [SCENE]


def test_a_folder_with_too_few_scenes_is_refused(tmp_path: Path, mice_folder: Path) -> None:
    shutil.copytree(mice_folder / SCENE, tmp_path / SCENE)
    with pytest.raises(DataError, match=r"expected dataset\.yaml, lists or at least 3 scene folders, got 1"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- what is broken is named


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path / "nothing")
    expected = f"{tmp_path}/nothing: expected a dataset folder, found none — check data.root."
    assert str(caught.value) == expected


def test_a_missing_scene_folder_is_named(mice_copy: Path) -> None:
    shutil.rmtree(mice_copy / SCENE)
    expected = f"mice/{SCENE}: expected a scene with {CAMERAS_FILE}, found none — check the list or data.root."
    assert refusal(mice_copy) == expected


def test_the_sixth_image_is_named_when_only_five_are_there(mice_copy: Path) -> None:
    (mice_copy / IMAGE).unlink()
    expected = f"mice/{IMAGE}: expected an image that {CAMERAS_FILE} names, found none — restore it."
    assert refusal(mice_copy) == expected


def test_a_mirrored_camera_is_named(mice_copy: Path) -> None:
    def mirror(content: dict[str, Any]) -> None:
        row = content["frames"][3]["w2c"][0]
        content["frames"][3]["w2c"][0] = [-value for value in row[:3]] + row[3:]

    edit_cameras(mice_copy, mirror)
    assert refusal(mice_copy) == (
        f"mice/{SCENE}/{CAMERAS_FILE}: camera 3: expected a rotation with det +1, got det -1 — the camera is "
        "mirrored or scaled; store w2c with x right, y down, z forward."
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda frame: frame.update(fx=None), "must be real number, not NoneType"),
        (lambda frame: frame.pop("cy"), "'cy'"),
        (lambda frame: frame.update(w="wide"), "invalid literal for int() with base 10: 'wide'"),
    ],
    ids=["null", "missing", "text"],
)
def test_a_frame_that_is_no_camera_is_named(mice_copy: Path, change, fault: str) -> None:
    edit_cameras(mice_copy, lambda content: change(content["frames"][0]))
    expected = f"mice/{SCENE}/{CAMERAS_FILE}: expected frames of w h fx fy cx cy w2c file_path, got a fault at {fault}"
    assert refusal(mice_copy) == f"{expected} — write them."


def test_views_of_two_sizes_are_refused(mice_copy: Path) -> None:
    edit_cameras(mice_copy, lambda content: content["frames"][0].update(w=33))
    expected = f"mice/{SCENE}/{CAMERAS_FILE}: expected views of one size, got 32×32 and 33×32 — split the scene."
    assert refusal(mice_copy) == expected


@pytest.mark.parametrize(("rows", "came"), [(slice(0, 3), "3×4"), (0, "4"), (slice(0, 0), "0")])
def test_a_w2c_of_another_shape_is_refused_with_its_view_and_shape(mice_copy: Path, rows, came: str) -> None:
    edit_cameras(mice_copy, lambda content: content["frames"][2].update(w2c=content["frames"][2]["w2c"][rows]))
    assert refusal(mice_copy) == (
        f"mice/{SCENE}/{CAMERAS_FILE}: view 2: expected a w2c of 4×4, got {came} — add the row 0 0 0 1."
    )


def test_an_unknown_key_of_a_manifest_is_named(mice_copy: Path) -> None:
    edit_manifest(mice_copy, lambda content: content.update(splitz={}))
    assert refusal(mice_copy) == "mice/dataset.yaml: unknown key splitz — did you mean splits?"


def test_a_split_that_the_dataset_has_not_is_refused(mice: Dataset) -> None:
    with pytest.raises(DataError, match="expected a split holdout, got train, val, test — add it"):
        mice.split("holdout")


def test_an_empty_split_is_refused(mice_copy: Path) -> None:
    edit_manifest(mice_copy, lambda content: content["splits"].update(train=[]))
    with pytest.raises(DataError, match="expected scenes in split train, got none — add some"):
        open_dataset(mice_copy, verify=False).split("train")


def test_an_image_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png", (32, 32))
    assert str(caught.value).replace(str(tmp_path), "scene") == (
        "scene/a.png: expected an image, got none of PNG, JPEG, WEBP, TIFF, BMP, GIF, PPM, AVIF — restore the file."
    )


def test_an_image_cut_short_is_named(mice_copy: Path) -> None:
    path = mice_copy / IMAGE
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cam_002\.png: expected an image, got Truncated File Read"):
        read_image(path, (32, 32))


def test_an_image_of_another_size_than_its_camera_is_named(mice_copy: Path) -> None:
    with pytest.raises(DataError, match=r"cam_002\.png: expected 64×48 as its camera says, got 32×32 — restore"):
        read_image(mice_copy / IMAGE, (64, 48))


@pytest.mark.parametrize(("mode", "decoded"), [("L", "RGB"), ("LA", "RGBA"), ("P", "RGB"), ("RGB", "RGB")])
def test_other_kinds_of_png_are_decoded_with_the_alpha_they_have(tmp_path: Path, mode: str, decoded: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (4, 4)).mode == decoded
