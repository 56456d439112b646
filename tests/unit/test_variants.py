"""Variants are made once and shared, hashes are remembered, names hold on to content, old folders are taken in."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import hashes
from pipeline.data.foreground import mask_from_background
from pipeline.data.ingest import ingest
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, Dataset, open_dataset
from pipeline.data.unfinished import writing
from pipeline.data.variants import prepared
from pipeline.errors import DataError
from pipeline.recipe import DataConfig
from sweeps import datasets
from sweeps.errors import RegistryError
from sweeps.home import Home


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mice(tmp_path_factory.mktemp("arena") / "arena", scenes=3, size=192, rig="mouse", seed=3)


def asked(root: Path, **fields: object) -> DataConfig:
    base = DataConfig(root=str(root), normalise="object_centred", image_size=64, num_views=6, num_input_views=5)
    return replace(base, **fields)  # type: ignore[arg-type]


# ---------------------------------------------------------------- variants


def test_a_variant_has_the_recipes_size_and_is_made_once(arena: Path, tmp_path: Path) -> None:
    first = prepared(asked(arena), tmp_path)
    made = (first.root / MANIFEST_FILE).stat().st_mtime_ns
    again = prepared(asked(arena), tmp_path)
    assert (again.root, again.digest) == (first.root, first.digest)
    assert (again.root / MANIFEST_FILE).stat().st_mtime_ns == made
    assert {scene.cameras.width for scene in first.scenes.values()} == {64}


def test_everything_that_changes_pixels_is_another_variant(arena: Path, tmp_path: Path) -> None:
    ways = [
        asked(arena),
        asked(arena, image_size=32),
        asked(arena, normalise="zoom_exact"),
        asked(arena, normalise="zoom_exact", zoom=1.2),
    ]
    assert len({prepared(way, tmp_path).root for way in ways}) == 4


def test_who_comes_second_waits_for_the_first(arena: Path, tmp_path: Path) -> None:
    digests: list[str] = []
    workers = [
        threading.Thread(target=lambda: digests.append(prepared(asked(arena), tmp_path).digest)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(digests) == 3 and len(set(digests)) == 1


def test_without_normalise_the_dataset_itself_is_used(arena: Path, tmp_path: Path) -> None:
    assert prepared(asked(arena, normalise=None), tmp_path).root == arena
    assert not (tmp_path / "variants").exists()


# ---------------------------------------------------------------- folders in the making


def test_what_a_killed_command_left_half_written_is_taken_away(tmp_path: Path) -> None:
    plan = {"kind": "normalise", "size": 3}
    with writing(tmp_path / "out", plan, "scenes"):
        pass
    (tmp_path / "out" / ".scene_000001.4242" / "images").mkdir(parents=True)
    with writing(tmp_path / "out", plan, "scenes"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".normalise.json"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="expected room and leave to write, got No space left on device"),
        writing(tmp_path / "out", {"kind": "normalise"}, "scenes"),
    ):
        raise OSError(28, os.strerror(28))


def test_two_commands_do_not_write_one_folder(tmp_path: Path) -> None:
    plan = {"kind": "normalise"}
    with (
        writing(tmp_path / "out", plan, "scenes"),
        pytest.raises(DataError, match="expected to write it alone, got another command at it"),
        writing(tmp_path / "out", plan, "scenes"),
    ):
        pass


# ---------------------------------------------------------------- hashes


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("one")
    first = hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True)
    monkeypatch.setattr(hashes, "sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    assert hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True) == first


def test_a_changed_file_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True)
    (tmp_path / "a").write_text("two")
    assert hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True) != first


def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True)
    (tmp_path / hashes.FILE).write_text("{")
    assert hashes.hashes_of(tmp_path, [tmp_path / "a"], remember=True) == first


def test_nothing_is_left_in_a_folder_that_is_not_ours(mice_copy: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()
    (mice_copy / hashes.FILE).unlink()
    before = set(mice_copy.rglob("*"))
    assert len(open_dataset(mice_copy).digest) == 64
    assert set(mice_copy.rglob("*")) == before


# ---------------------------------------------------------------- names


def home_at(root: Path) -> Home:
    return Home.from_environment({"MOUSELIFT_HOME": str(root)})


def test_a_name_leads_to_its_content(mice: Dataset, tmp_path: Path) -> None:
    home = home_at(tmp_path)
    datasets.register(home, "lab", mice.root)
    assert datasets.resolve(home, "lab") == mice.root.resolve()
    assert datasets.resolve(home, mice.root) == mice.root
    assert datasets.registered(home)["lab"].geometry == "exact"
    datasets.forget(home, "lab")
    assert datasets.registered(home) == {}


def test_a_name_is_not_given_to_other_content(mice: Dataset, arena: Path, tmp_path: Path) -> None:
    home = home_at(tmp_path)
    datasets.register(home, "lab", mice.root)
    datasets.register(home, "lab", mice.root)
    with pytest.raises(RegistryError, match=r"lab: expected a new name or the data of digest"):
        datasets.register(home, "lab", arena)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- {name: lab}", "expected a list of datasets, got "),
        ("lab: 3", "expected a list of datasets, got "),
        ("- {name: 1, path: x, digest: y}", "expected a list of datasets, got "),
        ("[", ":1: expected YAML, got "),
        ("- {name: a, path: x,\n   path: z, digest: y}", ":2: path: expected one value, got another in line 1"),
        ("- {name: a, path: x, digest: y}\n" * 2, "expected each name once, got a twice"),
    ],
)
def test_a_broken_list_of_names_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "datasets.yaml").write_text(content)
    with pytest.raises(RegistryError, match=message):
        datasets.registered(home_at(tmp_path))


# ---------------------------------------------------------------- old folders


def take(source: Path, out: Path, data_root: Path | None = None) -> Dataset:
    for _ in ingest(open_dataset(source, data_root=data_root), out):
        pass
    return open_dataset(out)


def test_scenes_with_alpha_are_linked_bit_by_bit(mice_copy: Path, tmp_path: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()
    taken = take(mice_copy, tmp_path / "taken")
    name = next(iter(taken.scenes))
    for old, new in zip(sorted((mice_copy / name / "images").iterdir()), taken.scenes[name].paths, strict=True):
        assert old.read_bytes() == new.read_bytes()
    assert taken.manifest.geometry is not None and taken.manifest.geometry.verdict == "exact"


def test_a_path_of_another_machine_is_found_by_its_longest_tail(mice_copy: Path, tmp_path: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()
    names = sorted(path.parent.name for path in mice_copy.glob(f"*/{CAMERAS_FILE}"))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "data_train.txt").write_text("\n".join(f"/old/{mice_copy.name}/{name}" for name in names[:5]))
    (lists / "data_val.txt").write_text("\n".join(f"/old/{mice_copy.name}/{name}" for name in names[5:]))
    taken = take(lists, tmp_path / "taken", data_root=mice_copy.parent)
    assert taken.manifest.splits == {"train": tuple(names[:5]), "val": (names[5],), "test": (names[6],)}
    with pytest.raises(DataError, match=r"expected the scene below --data-root .*, found none"):
        open_dataset(lists, data_root=lists)


def test_a_mask_is_found_on_white_with_its_holes_filled() -> None:
    image = np.full((20, 20, 3), 255, np.uint8)
    image[5:15, 5:15] = 80
    image[8:11, 8:11] = 255  # white fur inside
    expected = np.zeros((20, 20), np.uint8)
    expected[5:15, 5:15] = 255
    np.testing.assert_array_equal(mask_from_background(image, "x"), expected)


def test_a_grey_background_is_no_background() -> None:
    with pytest.raises(DataError, match=r"x: expected alpha, or a white background .* got RGB with 0% of its border"):
        mask_from_background(np.full((20, 20, 3), 204, np.uint8), "x")


def test_a_missing_file_name_means_facelifts(mice_copy: Path) -> None:
    """FaceLift's own camera files name no images: view i is images/cam_00i.png."""
    path = mice_copy / "scene_000000" / CAMERAS_FILE
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        del frame["file_path"]
    path.write_text(json.dumps(content))
    scene = open_dataset(mice_copy, verify=False).scenes["scene_000000"]
    assert scene.files[3] == "images/cam_003.png"


def test_an_rgb_scene_is_written_with_its_alpha(mice_copy: Path, tmp_path: Path) -> None:
    (mice_copy / MANIFEST_FILE).unlink()
    shutil.rmtree(mice_copy / "scene_000006")
    for path in mice_copy.glob("scene_*/images/*.png"):
        picture = Image.open(path)
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(path)
    taken = take(mice_copy, tmp_path / "taken")
    modes = {Image.open(path).mode for scene in taken.scenes.values() for path in scene.paths}
    assert modes == {"RGBA"}


def test_taking_in_never_writes_outside(mice_copy: Path, tmp_path: Path) -> None:
    """A camera file may name images elsewhere; what is written lies in the new folder, under FaceLift's names."""
    (mice_copy / MANIFEST_FILE).unlink()
    (tmp_path / "elsewhere").mkdir()
    for scene in mice_copy.glob("scene_*"):
        path = scene / CAMERAS_FILE
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            moved = tmp_path / "elsewhere" / f"{scene.name}-{Path(frame['file_path']).name}"
            (scene / frame["file_path"]).rename(moved)
            frame["file_path"] = os.path.relpath(moved, scene)
        path.write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    taken = take(mice_copy, tmp_path / "deep" / "taken")
    assert {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == before
    assert {path.parent.parent.parent for scene in taken.scenes.values() for path in scene.paths} == {taken.root}


@pytest.mark.parametrize(
    "change",
    [{"w": float("inf")}, {"fx": 10**400}, {"w2c": "no"}, {"w2c": [[1e200] * 4] * 4}],
)
def test_numbers_beyond_all_measure_are_refused_in_words(mice_copy: Path, change: dict[str, object]) -> None:
    path = mice_copy / "scene_000000" / CAMERAS_FILE
    content = json.loads(path.read_text())
    content["frames"][1].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=CAMERAS_FILE):
        open_dataset(mice_copy, verify=False)
