"""Every method: images and cameras move together, over random rigs; and the one that does not says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.cameras import Cameras, mouse_rig
from pipeline.data.gate.checks import check
from pipeline.data.gate.geometry import meeting_point, silhouette
from pipeline.data.gate.scene_check import centre_of, rms_over_views
from pipeline.data.mice.mice import write_mice
from pipeline.data.normalise.normalise import METHODS, Seen, method_of, normalise
from pipeline.data.normalise.warp import Warp, apply_homography, resample
from pipeline.data.scenes import CAMERAS_FILE, Dataset, Scene, open_dataset, read_image, read_scene
from pipeline.errors import DataError
from pipeline.recipe import Normalisation
from tests.unit.rigs import ball, random_rig

EXACT = [kind for kind, method in METHODS.items() if method.exact]
CENTRE = torch.tensor([60.0, 40.0, 50.0], dtype=torch.float64)


def seen_through(cameras: Cameras, radius: float = 25.0, unit: str = "mm") -> Seen:
    alphas = ball(cameras, CENTRE, radius)[..., 3]
    outlines = tuple(silhouette(alpha / np.float32(255)) for alpha in alphas)
    return Seen(cameras, alphas, outlines, centre_of(outlines, cameras), meeting_point(cameras), unit)  # type: ignore[arg-type]


def points(seed: int) -> Tensor:
    return CENTRE + 20 * torch.randn(30, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- project(transform) = transform(project)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", EXACT)
def test_moving_the_world_and_projecting_is_projecting_and_moving_pixels(kind: str, seed: int) -> None:
    source, world = random_rig(seed), points(seed)
    warp, target = method_of(kind).warp(seen_through(source))
    moved_pixels = apply_homography(warp.homographies, source.project(world)[0])
    projected, depth = target.project(warp.scale * (world - warp.centre))
    torch.testing.assert_close(projected, moved_pixels, rtol=0, atol=1e-7)
    assert bool((depth > 0).all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", sorted(METHODS))
def test_the_cameras_that_pixels_really_have_explain_every_method(kind: str, seed: int) -> None:
    source, world = random_rig(seed), points(seed)
    warp, _ = method_of(kind).warp(seen_through(source))
    moved_pixels = apply_homography(warp.homographies, source.project(world)[0])
    torch.testing.assert_close(warp.cameras.project(world)[0], moved_pixels, rtol=0, atol=1e-7)
    warp.cameras.check("really")


@pytest.mark.parametrize("kind", sorted(METHODS))
def test_only_exact_methods_leave_no_residual(kind: str) -> None:
    warp, target = method_of(kind).warp(seen_through(random_rig(7)))
    residual = float(warp.residuals(points(7), target).square().mean(0).sqrt().quantile(0.95))
    limits = {"facelift_rig": (0.05, 2.0), "pixel_based": (10.0, 200.0)}
    low, high = limits.get(kind, (-1.0, 1e-6))
    assert low < residual < high


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["object_centred", "zoom_exact", "facelift_rig"])
def test_the_object_is_in_the_middle_whole_and_as_far_as_facelifts(kind: str, seed: int) -> None:
    source = random_rig(seed)
    _, target = method_of(kind).warp(seen_through(source))
    target.check(kind)
    in_middle, depth = target.project(torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(in_middle, torch.full_like(in_middle, 256.0))
    assert float(depth.mean()) == pytest.approx(2.7, abs=1e-6)
    assert bool((target.c2w[:, 2, 0].abs() < 1e-9).all())  # upright: right has no share of Z
    if kind == "facelift_rig":
        torch.testing.assert_close(depth, torch.full_like(depth, 2.7))


def test_rig_affine_has_the_published_shifts_and_scales() -> None:
    """MAMMAL's rig: camera 0 is scaled by 0.3363, 0.3349 and shifted by 53.8, 91.5 px; camera 5 by 50.3, 80.8."""
    real = mouse_rig().to(torch.float64)
    blank = Seen(real, np.zeros((6, 4, 4), np.uint8), (), CENTRE, meeting_point(real), "mm")
    warp, target = method_of("rig_affine").warp(blank)
    np.testing.assert_allclose(warp.homographies[0].diagonal()[:2], [0.3363, 0.3349], atol=5e-5)
    np.testing.assert_allclose(warp.homographies[[0, 5], :2, 2], [[53.8, 91.5], [50.3, 80.8]], atol=0.06)
    np.testing.assert_allclose(target.fxfycxcy, np.tile([548.9938, 548.9938, 256, 256], (6, 1)), atol=1e-4)


def test_pixel_based_gives_every_view_the_seeds_ratio_and_labels() -> None:
    """√(mask / frame) 0.3, centroid in the middle; distances 2.7·|T| / mean |T| and FaceLift's K over any image."""
    source = random_rig(3)
    warp, target = method_of("pixel_based").warp(seen_through(source))
    images = ball(source, CENTRE, 25.0)
    made = np.stack([resample(i, h, (512, 512)) for i, h in zip(images, warp.homographies, strict=True)])
    mask = made[..., 3] > 127
    np.testing.assert_allclose(np.sqrt(mask.mean((1, 2))), 0.3, atol=0.01)
    rows, columns = np.mgrid[:512, :512] + 0.5
    for view in mask:
        assert abs(columns[view].mean() - 256) < 1 and abs(rows[view].mean() - 256) < 1
    norms = source.centres.norm(dim=-1)
    torch.testing.assert_close(target.centres.norm(dim=-1), 2.7 * norms / norms.mean())
    torch.testing.assert_close(target.c2w[:, :3, :3], source.c2w[:, :3, :3])


def test_zoom_is_lowered_where_it_would_clip() -> None:
    seen = seen_through(random_rig(1), radius=60.0)
    _, asked = method_of("object_centred", zoom=9.0).warp(seen)
    _, fitting = method_of("zoom_exact").warp(seen)
    torch.testing.assert_close(asked.fxfycxcy, fitting.fxfycxcy)
    assert 548.9938 < float(fitting.fxfycxcy[0, 0]) < 9 * 548.9938


# ---------------------------------------------------------------- resampling


@pytest.mark.parametrize("seed", range(3))
def test_a_resampled_ball_is_the_ball_that_the_new_camera_would_have_seen(seed: int) -> None:
    """Drawn through the source and resampled, against drawn through the target at once: half a level of alpha."""
    source = random_rig(seed).resize(576, 512)
    warp, target = method_of("object_centred", size=256).warp(seen_through(source))
    images = ball(source, CENTRE, 25.0)
    made = np.stack([resample(i, h, (256, 256)) for i, h in zip(images, warp.homographies, strict=True)])
    drawn = ball(target, warp.scale * (CENTRE - warp.centre), 25.0 * warp.scale)
    difference = np.abs(made[..., 3].astype(float) - drawn[..., 3])
    assert difference.mean() < 0.1 and difference.max() < 40  # of 255: the edge is as sharp, at the same place
    assert abs(made[..., 3].sum() / drawn[..., 3].sum() - 1) < 2e-3


def test_the_identity_changes_no_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    image[..., 3] = 255
    np.testing.assert_array_equal(resample(image, torch.eye(3, dtype=torch.float64), (30, 20)), image)


def test_making_smaller_averages_and_does_not_pick() -> None:
    """Stripes of one pixel become grey at half size; picking would keep one of both colours."""
    image = np.full((32, 32, 4), 255, np.uint8)
    image[:, ::2, :3] = 0
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    inner = resample(image, half, (16, 16))[2:-2, 2:-2, :3]
    assert abs(int(inner.mean()) - 127) <= 1 and int(np.ptp(inner)) <= 1


def test_colour_under_transparent_pixels_does_not_bleed() -> None:
    image = np.zeros((16, 16, 4), np.uint8)
    image[..., 1] = 255  # green wherever nothing is
    image[4:12, 4:12] = [200, 100, 50, 255]
    made = resample(image, torch.diag(torch.tensor([0.7, 0.7, 1.0], dtype=torch.float64)), (11, 11))
    inside = made[made[..., 3] > 0]
    np.testing.assert_allclose(inside[:, :3], np.tile([200, 100, 50], (len(inside), 1)), atol=2)


# ---------------------------------------------------------------- datasets


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four mice in millimetres, seen by the real rig at 288 px."""
    return open_dataset(write_mice(tmp_path_factory.mktemp("arena") / "mm", scenes=4, size=288, rig="mouse", seed=2))


def run(source: Dataset, out: Path, kind: str, **params: object) -> Dataset:
    assert list(normalise(source, out, method_of(kind, size=192, **params))) == [1, 2, 3, 4]
    return open_dataset(out)


@pytest.mark.parametrize("kind", sorted(METHODS))
def test_a_normalised_dataset_says_how_it_came_to_be_and_what_it_is_worth(
    arena: Dataset, tmp_path: Path, kind: str
) -> None:
    made = run(arena, tmp_path / "made", kind)
    manifest = made.manifest
    assert (manifest.parent, manifest.unit, manifest.splits) == (arena.digest, "scene", arena.manifest.splits)
    assert [step["kind"] for step in manifest.transforms] == ["mice", "normalise"]
    assert manifest.transforms[-1]["method"] == kind
    geometry = manifest.geometry
    assert geometry is not None and geometry.measured_by == "transform chain"
    expected = {"facelift_rig": "approximate", "pixel_based": "inconsistent"}.get(kind, "exact")
    assert geometry.verdict == expected
    assert all(scene.cameras.width == 192 for scene in made.scenes.values())


def test_facelift_rig_stores_per_scene_the_residual_that_the_check_finds(arena: Dataset, tmp_path: Path) -> None:
    made = run(arena, tmp_path / "made", "facelift_rig")
    for scene in check(made).scenes:
        assert scene.chain is not None
        noted = made.scenes[scene.name].notes.normalised
        assert noted is not None
        assert noted["residual_px_p95"] == pytest.approx(float(rms_over_views(scene.chain).quantile(0.95)), abs=1e-3)
        assert 0.01 < noted["residual_px_p95"] < 1.0


def test_a_continued_normalisation_gives_the_same_digest(arena: Dataset, tmp_path: Path) -> None:
    whole = run(arena, tmp_path / "whole", "object_centred")
    steps: Iterator[int] = normalise(arena, tmp_path / "made", method_of("object_centred", size=192))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert run(arena, tmp_path / "made", "object_centred").digest == whole.digest


def test_another_method_does_not_continue_what_one_began(arena: Dataset, tmp_path: Path) -> None:
    run(arena, tmp_path / "made", "object_centred")
    with pytest.raises(DataError, match="expected scenes of the same plan, got another"):
        run(arena, tmp_path / "made", "rig_affine")


def test_rig_affine_asks_for_one_rig(mice: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rig_affine: expected the same cameras in every scene, got others in scene_"):
        list(normalise(mice, tmp_path / "made", method_of("rig_affine")))


def test_keypoints_go_where_their_pixels_go(arena: Dataset, tmp_path: Path) -> None:
    joint = [62.0, 41.0, 30.0]
    source = tmp_path / "source"
    for name in arena.scenes:
        shutil.copytree(arena.root / name, source / name)
        path = source / name / CAMERAS_FILE
        content = json.loads(path.read_text())
        pixels = arena.scenes[name].cameras.to(torch.float64).project(torch.tensor([joint]).double())[0]
        for view, frame in enumerate(content["frames"]):
            frame["keypoints"] = [[*pixels[view, 0].tolist(), 1.0]]
        path.write_text(json.dumps(content))
    made = run(open_dataset(source), tmp_path / "made", "object_centred").scenes["scene_000000"]
    warp = Warp.of(made)
    assert warp is not None and made.notes.keypoints is not None
    expected = made.cameras.project(warp.scale * (torch.tensor([joint]).double() - warp.centre))[0]
    np.testing.assert_allclose(made.notes.keypoints[:, 0, :2], expected[:, 0], atol=1e-6)


def test_scenes_without_a_recording_note_no_warp(mice: Dataset) -> None:
    assert Warp.of(next(iter(mice.scenes.values()))) is None


def test_an_empty_mask_is_named(arena: Dataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(arena.root, broken)
    path = broken / "scene_000001/images/cam_004.png"
    Image.fromarray(np.zeros((256, 288, 4), np.uint8)).save(path)
    with pytest.raises(
        DataError, match=r"scene_000001/images/cam_004.png: expected a mask of the object, got an empty"
    ):
        list(normalise(open_dataset(broken, verify=False), tmp_path / "made", method_of("object_centred")))


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("object_centered", {}, "expected one of .*got an unknown one — did you mean object_centred?"),
        ("rig_affine", {"zoom": 2.0}, "--zoom: expected a parameter of rig_affine, got one it has not"),
        ("zoom_exact", {"zoom": -1.0}, "expected size and zoom above 0"),
    ],
)
def test_a_method_that_cannot_be_is_refused(kind: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        method_of(kind, **params)


def test_recipes_know_every_method() -> None:
    assert set(get_args(Normalisation)) == set(METHODS)


def test_what_is_written_is_what_the_cameras_say(arena: Dataset, tmp_path: Path) -> None:
    made = run(arena, tmp_path / "made", "zoom_exact")
    scene: Scene = read_scene(made.root / "scene_000002", "scene_000002")
    alpha = np.asarray(read_image(scene.paths[0], (192, 192)))[..., 3]
    rows, columns = np.nonzero(alpha)
    reach = max(rows.max() - 95.5, 95.5 - rows.min(), columns.max() - 95.5, 95.5 - columns.min())
    assert reach <= 0.97 * 96 and reach > 0.7 * 96


def test_one_scene_becomes_a_dataset_of_one_scene_under_its_own_name(mice_folder: Path, tmp_path: Path) -> None:
    """Its held-out views stay untrained, and nothing is written beside the folder that was asked for."""
    for done in normalise(
        open_dataset(mice_folder / "scene_000003"), tmp_path / "one", method_of("object_centred", size=64)
    ):
        assert done == 1
    made = open_dataset(tmp_path / "one")
    assert list(made.scenes) == ["scene_000003"] and made.manifest.held_out_from_training
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_scenes_listed_elsewhere_are_written_inside(mice_copy: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    names = sorted(path.parent.name for path in mice_copy.glob(f"*/{CAMERAS_FILE}"))
    for split, some in (("train", names[:5]), ("val", names[5:])):
        (lists / f"{split}.txt").write_text("\n".join(str(mice_copy / name) for name in some))
    for _ in normalise(open_dataset(lists), tmp_path / "made", method_of("object_centred", size=64)):
        pass
    assert sorted(open_dataset(tmp_path / "made").scenes) == names


def test_two_scenes_of_one_name_are_refused(mice_copy: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    shutil.copytree(mice_copy / "scene_000000", lists / "a" / "sample")
    shutil.copytree(mice_copy / "scene_000001", lists / "b" / "sample")
    (lists / "train.txt").write_text("a/sample")
    (lists / "val.txt").write_text("b/sample")
    with pytest.raises(DataError, match=r"expected scenes of different names .*, got a/sample and b/sample"):
        list(normalise(open_dataset(lists), tmp_path / "made", method_of("object_centred")))


def test_normalising_twice_is_judged_from_the_first_source(arena: Dataset, tmp_path: Path) -> None:
    """What facelift_rig left over does not vanish behind an exact step, and the mouse stays where it stood, in mm."""
    first = run(arena, tmp_path / "first", "facelift_rig")
    second = run(first, tmp_path / "second", "object_centred")
    assert second.manifest.geometry is not None and second.manifest.geometry.verdict == "approximate"
    centres = [check(one).scenes[0].centre_world for one in (arena, second)]
    assert float((centres[0] - centres[1]).norm()) < 1.5  # mm


def test_running_again_does_not_bless_what_was_changed_since(arena: Dataset, tmp_path: Path) -> None:
    run(arena, tmp_path / "made", "object_centred")
    path = tmp_path / "made/scene_000001/images/cam_000.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with pytest.raises(DataError, match="expected the content of digest"):
        list(normalise(arena, tmp_path / "made", method_of("object_centred", size=192)))


def test_a_speck_does_not_decide_the_zoom() -> None:
    seen = seen_through(random_rig(2))
    alphas = seen.alphas.copy()
    alphas[1, 4:6, 4:6] = 255
    outlines = tuple(silhouette(alpha / np.float32(255)) for alpha in alphas)
    _, clean = method_of("zoom_exact").warp(seen)
    _, specked = method_of("zoom_exact").warp(replace(seen, outlines=outlines))
    torch.testing.assert_close(specked.fxfycxcy, clean.fxfycxcy, rtol=1e-3, atol=0)
