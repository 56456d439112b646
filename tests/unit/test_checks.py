"""The gate: true sets pass, and every way of contradicting an image is caught with the view named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cameras import facelift_ring, look_at
from pipeline.data.gate.checks import Check, as_plain, check, checked, problems_of, require_geometry, store
from pipeline.data.gate.quality import leakage, quality
from pipeline.data.mice.mice import write_mice
from pipeline.data.normalise.normalise import method_of, normalise
from pipeline.data.scenes import (
    CAMERAS_FILE,
    MANIFEST_FILE,
    Dataset,
    Geometry,
    Manifest,
    Notes,
    open_dataset,
    write_manifest,
    write_scene,
)
from pipeline.errors import DataError
from tests.unit.rigs import ball

Change = Callable[[Path, int], object]


@pytest.fixture(scope="module")
def true_set(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Five moments of one mouse through the real rig, 576 px, made object-centred at 256 px."""
    folder = tmp_path_factory.mktemp("true")
    source = open_dataset(write_mice(folder / "mm", scenes=5, size=576, rig="mouse", seed=6))
    for _ in normalise(source, folder / "exact", method_of("object_centred", size=256)):
        pass
    return open_dataset(folder / "exact")


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def image(scene: Path, view: int) -> Path:
    return scene / f"images/cam_{view:03d}.png"


def swap(scene: Path, _: int) -> None:
    one, other = image(scene, 1).read_bytes(), image(scene, 4).read_bytes()
    image(scene, 1).write_bytes(other)
    image(scene, 4).write_bytes(one)


def mirror(scene: Path, _: int) -> None:
    with Image.open(image(scene, 2)) as picture:
        flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flipped.save(image(scene, 2))


def overwrite_k(scene: Path, _: int) -> None:
    edited(scene / CAMERAS_FILE, lambda content: content["frames"][3].update(fx=200.0, fy=200.0, cx=140.0, cy=120.0))


def take_another_frame(scene: Path, index: int) -> None:
    neighbour = scene.with_name(f"scene_{(index + 1) % 5:06d}")
    image(scene, 5).write_bytes(image(neighbour, 5).read_bytes())


def set_distance(scene: Path, _: int) -> None:
    def move(content: dict[str, Any]) -> None:
        w2c = content["frames"][0]["w2c"]
        w2c[2][3] *= 1.08

    edited(scene / CAMERAS_FILE, move)


def broken_copy(source: Dataset, target: Path, change: Change, scenes: range = range(5)) -> Check:
    shutil.copytree(source.root, target)
    for index in scenes:
        change(target / f"scene_{index:06d}", index)
    return check(open_dataset(target, verify=False))


# ---------------------------------------------------------------- verdicts


def test_a_true_set_is_exact(true_set: Dataset) -> None:
    found = check(true_set)
    geometry = found.geometry
    assert (geometry.verdict, geometry.views, found.problems) == ("exact", (), [])
    assert geometry.silhouette_iou > 0.97 and geometry.reprojection_px_p95 < 0.1
    assert geometry == true_set.manifest.geometry


@pytest.mark.parametrize(
    ("change", "views"),
    [(swap, (1, 4)), (mirror, (2,)), (overwrite_k, (3,)), (take_another_frame, (5,)), (set_distance, (0,))],
)
def test_what_contradicts_the_images_is_caught_and_the_view_named(
    true_set: Dataset, tmp_path: Path, change: Change, views: tuple[int, ...]
) -> None:
    found = broken_copy(true_set, tmp_path / "broken", change)
    geometry = found.geometry
    assert (geometry.verdict, geometry.views) == ("inconsistent", views)
    assert geometry.silhouette_iou < 0.97 and geometry.reprojection_px_p95 > 2
    assert f"views {', '.join(map(str, views))} disagree" in found.problems[0]


@pytest.mark.parametrize(("change", "views"), [(swap, (1, 4)), (mirror, (2,)), (overwrite_k, (3,))])
def test_one_bad_scene_among_good_ones_is_named(
    true_set: Dataset, tmp_path: Path, change: Change, views: tuple[int, ...]
) -> None:
    geometry = broken_copy(true_set, tmp_path / "broken", change, range(2, 3)).geometry
    assert (geometry.verdict, geometry.views, geometry.at_odds) == ("inconsistent", views, ("scene_000002",))


def test_the_same_is_caught_where_no_chain_is_known(true_set: Dataset, tmp_path: Path) -> None:
    """A FaceLift folder says nothing of its past: the silhouettes alone have to do."""

    def forget_and_swap(scene: Path, index: int) -> None:
        edited(scene / CAMERAS_FILE, lambda content: content.pop("normalised"))
        swap(scene, index)

    geometry = broken_copy(true_set, tmp_path / "broken", forget_and_swap).geometry
    assert (geometry.verdict, geometry.views, geometry.measured_by) == ("inconsistent", (1, 4), "silhouettes")


def test_mice_of_64_pixels_are_exact_too(tmp_path: Path) -> None:
    made = open_dataset(write_mice(tmp_path / "mice", scenes=12, size=64, rig="mouse_centred"))
    assert made.manifest.geometry is not None and made.manifest.geometry.verdict == "exact"


def test_a_camera_that_looks_away_is_refused(true_set: Dataset, tmp_path: Path) -> None:
    def turn_round(scene: Path, _: int) -> None:
        def negate(content: dict[str, Any]) -> None:
            w2c = content["frames"][1]["w2c"]
            w2c[0], w2c[2] = [-x for x in w2c[0]], [-x for x in w2c[2]]

        edited(scene / CAMERAS_FILE, negate)

    with pytest.raises(
        DataError, match=r"view 1: expected a camera that looks at the object, got one that has it behind"
    ):
        broken_copy(true_set, tmp_path / "broken", turn_round)


def test_keypoints_that_contradict_the_cameras_are_caught(true_set: Dataset, tmp_path: Path) -> None:
    def add_moved_keypoints(scene: Path, _: int) -> None:
        cameras = true_set.scenes[scene.name].cameras
        points = 0.2 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        pixels = cameras.project(points)[0]
        pixels[3] += 12.0
        rows = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1).tolist()

        def note(content: dict[str, Any]) -> None:
            for view, frame in enumerate(content["frames"]):
                frame["keypoints"] = rows[view]

        edited(scene / CAMERAS_FILE, note)

    found = broken_copy(true_set, tmp_path / "broken", add_moved_keypoints)
    assert found.keypoint_px is not None and int(found.keypoint_px.argmax()) == 3
    assert float(found.keypoint_px[3]) > 10 and (found.geometry.verdict, found.geometry.views) == ("inconsistent", (3,))


# ---------------------------------------------------------------- what training asks for


def test_millimetres_are_not_trained_on(tmp_path: Path) -> None:
    arena = open_dataset(write_mice(tmp_path / "mm", scenes=3, size=96, rig="mouse"))
    with pytest.raises(DataError, match=r"expected the object within ±1.8 of the origin, got ±\d+ millimetres"):
        require_geometry(arena, tmp_path / "cache")


def test_an_inconsistent_set_is_trained_on_only_when_that_is_said(true_set: Dataset, tmp_path: Path) -> None:
    broken = broken_copy(true_set, tmp_path / "broken", mirror).dataset
    judged = checked(broken)
    with pytest.raises(DataError, match=r"views 2 disagree .*data.allow_inconsistent_geometry=true"):
        require_geometry(judged, tmp_path / "cache")
    assert require_geometry(judged, tmp_path / "cache", allow_inconsistent=True).verdict == "inconsistent"


def test_a_folder_without_a_manifest_is_judged_once_and_remembered(true_set: Dataset, tmp_path: Path) -> None:
    shutil.copytree(true_set.root, tmp_path / "bare")
    (tmp_path / "bare" / MANIFEST_FILE).unlink()
    bare = open_dataset(tmp_path / "bare")
    first = require_geometry(bare, tmp_path / "cache")
    assert [path.name[:9] for path in (tmp_path / "cache").iterdir()] == ["geometry-"]
    shutil.rmtree(tmp_path / "bare" / "scene_000000" / "images")  # a second look would raise
    assert require_geometry(bare, tmp_path / "cache") == first


def test_a_stored_verdict_does_not_outlive_the_content_it_was_made_of(true_set: Dataset, tmp_path: Path) -> None:
    shutil.copytree(true_set.root, tmp_path / "changed")
    swap(tmp_path / "changed/scene_000000", 0)
    with pytest.raises(DataError, match="expected the content of digest"):
        open_dataset(tmp_path / "changed")


def test_pixel_based_is_called_by_its_name() -> None:
    geometry = Geometry(
        version=1,
        verdict="inconsistent",
        reprojection_px_p95=27.0,
        measured_by="transform chain",
        silhouette_iou=0.5,
        views=(0, 1),
        scenes=3,
        extent=0.5,
    )
    manifest = Manifest(name="x", splits={}, transforms=({"kind": "normalise", "method": "pixel_based"},))
    assert list(problems_of(geometry, manifest)) == [
        "expected cameras that fit their images, got 27.0 px (p95, at 512) by transform chain and silhouette "
        "IoU 0.500, views 0, 1 disagree — pixel_based moves images and keeps their cameras: normalise with "
        "object_centred; data.allow_inconsistent_geometry=true trains on it all the same."
    ]


def test_json_has_what_other_programs_rely_on(true_set: Dataset) -> None:
    plain = json.loads(json.dumps(as_plain(check(true_set))))
    assert {"verdict", "reprojection_px_p95", "silhouette_iou", "views", "scenes"} <= plain.keys()
    assert [set(scene) >= {"name", "centre_world"} for scene in plain["scenes"]] == [True] * 5


def test_the_centre_is_told_in_the_recordings_world(true_set: Dataset, tmp_path: Path) -> None:
    """The mouse of a normalised scene stands at its origin, and somewhere in the arena, in millimetres."""
    scene = check(true_set).scenes[0]
    assert float(scene.centre.norm()) < 0.01
    in_arena = scene.centre_world
    assert 0 < float(in_arena[0]) < 100 and 0 < float(in_arena[1]) < 100 and 5 < float(in_arena[2]) < 60


# ---------------------------------------------------------------- quality


def balls(root: Path, frames: list[int], shift: float = 0.0) -> Dataset:
    """A ring of eight views of a ball, `shift` world units off the middle."""
    cameras = facelift_ring(96, 8).to(torch.float64)
    pictures = ball(cameras, torch.tensor([0.0, 0.0, shift], dtype=torch.float64), 0.5)
    names = [f"frame_{frame:06d}" for frame in frames]
    for name, frame in zip(names, frames, strict=True):
        write_scene(root / name, pictures, cameras, Notes(frame=frame))
    splits = {"train": tuple(names[:-2]), "val": (names[-2],), "test": (names[-1],)}
    return write_manifest(root, Manifest(name="balls", splits=splits))


def test_quality_of_a_ball_in_the_middle_is_known(tmp_path: Path) -> None:
    """Radius 0.5 at 2.7: the edge's tangent is 0.5 / √(2.7² − 0.5²), so √area = √π · 0.1885 · f / width, 35.8 %."""
    measured = quality(check(balls(tmp_path, [0, 10, 20, 30])))
    assert measured.size_ratio_percent == pytest.approx(35.8, abs=0.3)
    assert measured.grade == "A" and measured.size_cv_percent < 0.1 and measured.com_offset_px < 0.5
    assert measured.clipped_edge_px == 0 and measured.views_per_scene == 8
    assert [round(view.elevation) for view in measured.views] == [20] * 8
    assert [round(view.distance, 3) for view in measured.views] == [2.7] * 8
    np.testing.assert_allclose(measured.gaps, 45, atol=1e-3)


def test_an_object_off_the_middle_loses_its_grade(tmp_path: Path) -> None:
    assert quality(check(balls(tmp_path, [0, 10, 20, 30], shift=0.3))).grade == "D"


def test_clipped_pixels_are_counted(tmp_path: Path) -> None:
    measured = quality(check(balls(tmp_path, [0, 10, 20, 30], shift=1.0)))
    assert measured.clipped_views_share == 1.0 and measured.clipped_edge_px > 10


def test_leakage_is_the_nearest_frame_of_another_split(tmp_path: Path) -> None:
    found = leakage(balls(tmp_path, [0, 10, 11, 30]))
    assert (found.measured_by, found.nearest, found.near_duplicates) == ("frames", 1.0, 1)


def test_without_frame_numbers_leakage_is_seen_in_the_pictures(mice: Dataset) -> None:
    assert leakage(mice).measured_by == "pictures"


def test_the_real_rig_is_described_about_where_its_axes_meet(tmp_path: Path) -> None:
    """MAMMAL: axes meet at (46.9, 49.2, 59.6) mm; elevations 0.7, 15.0, 2.2, 0.7, 15.3, 18.3; ring 0, 5, 3, 1, 2, 4."""
    measured = quality(check(open_dataset(write_mice(tmp_path / "mm", scenes=3, size=288, rig="mouse"))))
    assert measured.ring == (0, 5, 3, 1, 2, 4) and "where the optical axes meet" in measured.origin
    meeting = [float(number) for number in re.findall(r"[\d.]+", measured.origin)]
    np.testing.assert_allclose(meeting, [46.9, 49.2, 59.6], atol=0.11)
    elevations = [view.elevation for view in measured.views]
    np.testing.assert_allclose(elevations, [0.7, 15.0, 2.2, 0.7, 15.3, 18.3], atol=0.06)
    np.testing.assert_allclose(measured.gaps, [67.4, 54.5, 53.6, 62.9, 62.6, 59.0], atol=0.1)


def test_checking_changed_content_leaves_a_link_in_the_chain(true_set: Dataset, tmp_path: Path) -> None:
    broken = broken_copy(true_set, tmp_path / "broken", swap)
    assert store(broken)
    stored = open_dataset(tmp_path / "broken").manifest
    assert stored.transforms[-1] == {"kind": "edited", "was": true_set.digest}
    assert stored.geometry is not None and stored.geometry.verdict == "inconsistent"
    assert store(check(open_dataset(tmp_path / "broken")))
    assert open_dataset(tmp_path / "broken").manifest.transforms == stored.transforms


def test_one_view_cannot_be_judged(tmp_path: Path) -> None:
    cameras = facelift_ring(96, 8).to(torch.float64)
    pictures = ball(cameras, torch.zeros(3, dtype=torch.float64), 0.5)
    write_scene(tmp_path / "one", pictures[:1], cameras[:1])
    with pytest.raises(DataError, match="expected 2 or more views to compare, got 1"):
        check(open_dataset(tmp_path / "one"))


def test_a_sideways_shift_in_a_level_rig_is_caught_by_the_hull(tmp_path: Path) -> None:
    """FaceLift's six stand at one height: a shift along the epipolar lines leaves the tangents as they were."""
    write_mice(tmp_path / "six", scenes=4, size=128, rig="facelift_six")
    assert check(open_dataset(tmp_path / "six")).geometry.verdict == "exact"
    for scene in (tmp_path / "six").glob("scene_*"):

        def shift(content: dict[str, Any]) -> None:
            for view, frame in enumerate(content["frames"]):
                frame["cx"] += 3.0 if view % 2 else -3.0

        edited(scene / CAMERAS_FILE, shift)
    assert check(open_dataset(tmp_path / "six", verify=False)).geometry.verdict != "exact"


def test_a_look_at_few_scenes_does_not_replace_a_thorough_one(true_set: Dataset, tmp_path: Path) -> None:
    broken = broken_copy(true_set, tmp_path / "broken", mirror, range(2, 3))
    assert store(broken)
    assert not store(check(open_dataset(tmp_path / "broken"), limit=2))
    geometry = open_dataset(tmp_path / "broken").manifest.geometry
    assert geometry is not None and geometry.verdict == "inconsistent"


def test_a_verdict_by_older_rules_is_made_anew(true_set: Dataset, tmp_path: Path) -> None:
    shutil.copytree(true_set.root, tmp_path / "old")
    swap(tmp_path / "old/scene_000000", 0)
    manifest = true_set.manifest
    assert manifest.geometry is not None
    old = write_manifest(tmp_path / "old", replace(manifest, geometry=replace(manifest.geometry, version=0)))
    with pytest.raises(DataError, match="views 1, 4 disagree in scene_000000"):
        require_geometry(old, tmp_path / "cache")


def test_opposite_cameras_cannot_be_judged_and_are_not_called_wrong(tmp_path: Path) -> None:
    cameras = facelift_ring(96, 2).to(torch.float64)
    level = replace(
        cameras, c2w=look_at(torch.tensor([[2.7, 0, 0], [-2.7, 0, 0]]).double(), torch.zeros(2, 3).double())
    )
    write_scene(tmp_path / "two", ball(level, torch.zeros(3, dtype=torch.float64), 0.5), level)
    with pytest.raises(DataError, match="expected cameras whose rays meet at an angle, got parallel or opposite ones"):
        check(open_dataset(tmp_path / "two"))


def test_the_same_camera_six_times_is_refused_in_words(true_set: Dataset, tmp_path: Path) -> None:
    def copy_first(scene: Path, _: int) -> None:
        def same(content: dict[str, Any]) -> None:
            for frame in content["frames"]:
                frame["w2c"] = content["frames"][0]["w2c"]

        edited(scene / CAMERAS_FILE, same)

    with pytest.raises(DataError, match=r"scene_00000.: expected cameras whose rays meet at an angle"):
        broken_copy(true_set, tmp_path / "broken", copy_first)


@pytest.mark.parametrize("noted", ["yes", {}, {"scale": 1}])
def test_a_chain_that_is_none_is_refused(true_set: Dataset, tmp_path: Path, noted: object) -> None:
    def spoil(scene: Path, _: int) -> None:
        edited(scene / CAMERAS_FILE, lambda content: content.update(normalised=noted))

    with pytest.raises(DataError, match=r"opencv_cameras.json: expected frames"):
        broken_copy(true_set, tmp_path / "broken", spoil)
