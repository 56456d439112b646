"""A verdict knows what it measured: no fault of ten sorts is exact, and nothing is graded that was not measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import mouselift
from dashboards.check_page import write_page
from pipeline.data.gate.checks import check, checked, problems_of, require_geometry, store
from pipeline.data.gate.evidence import rests
from pipeline.data.gate.quality import quality
from pipeline.data.scenes import GEOMETRY_VERSION, MANIFEST_FILE, Geometry, Manifest, open_dataset
from pipeline.errors import DataError
from sweeps.datasets import data_tags
from tests.support.planted_faults import FAULTS, Fault, Shot, centimetres, judged, opaque, photographed

RING = "FaceLift's ring"
Shots = Sequence[Shot]


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    """Two mice in a ring of eight, 96 px."""
    return photographed(RING, 2, 96)


@pytest.fixture(scope="module")
def opaque_set(shots: Shots, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alpha is 255 everywhere, and two views are swapped. Read only."""
    folder = tmp_path_factory.mktemp("opaque") / "set"
    judged([opaque(shot) for shot in shots], folder, RING)
    return folder


def with_alpha(change: Callable[[np.ndarray], np.ndarray], views: Sequence[int]) -> Fault:
    def changed(shot: Shot) -> Shot:
        images = shot.images.copy()
        for view in views:
            images[view, ..., 3] = change(images[view, ..., 3])
        return shot._replace(images=images)

    return changed


INVERTED_2 = with_alpha(lambda alpha: 255 - alpha, [2])


def disc(alpha: np.ndarray) -> np.ndarray:
    """What a microscope or a round arena leaves of a picture: the same in every view."""
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]] + 0.5 - alpha.shape[0] / 2
    return np.where(np.hypot(x, y) < 0.45 * alpha.shape[0], 255, 0).astype(np.uint8)


def framed(alpha: np.ndarray) -> np.ndarray:
    """What undistortion leaves of an opaque picture: a transparent border."""
    return np.pad(np.full_like(alpha, 255)[4:-4, 4:-4], 4)


def taken(shots: Shots, views: Sequence[int]) -> list[Shot]:
    views = list(views)
    return [Shot(shot.images[views], shot.cameras[views], shot.later[views]) for shot in shots]


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_no_set_with_a_planted_fault_is_exact(shots: Shots, tmp_path: Path, fault: str) -> None:
    assert judged([FAULTS[fault](shot) for shot in shots], tmp_path / "set", RING).verdict != "exact"


def test_the_same_set_without_a_fault_is_exact_and_says_what_that_rests_on(shots: Shots, tmp_path: Path) -> None:
    found = judged(shots, tmp_path / "set", RING).geometry
    assert found is not None and found.verdict == "exact"
    assert (found.measured_views, found.tangents, found.unmeasured) == (8, 2 * 28 * 2, ())  # two a pair and scene


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda alpha: np.full_like(alpha, 255), "mask fills the frame"),
        (lambda alpha: 255 - alpha, "mask fills the frame"),
        (framed, "mask fills the frame"),
        (disc, "mask is another view's"),
    ],
)
def test_masks_that_say_nothing_are_named_and_never_exact(
    shots: Shots, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], why: str
) -> None:
    fault = with_alpha(change, range(8))
    found = judged([fault(shot) for shot in shots], tmp_path / "set", RING).geometry
    assert found is not None and found.verdict == "unknown"
    assert [(one.view, one.why) for one in found.unmeasured] == [(view, why) for view in range(8)]


def test_one_inverted_mask_is_named_and_does_not_blame_the_other_views(shots: Shots, tmp_path: Path) -> None:
    found = judged([INVERTED_2(shots[0]), shots[1]], tmp_path / "set", RING).geometry
    assert found is not None and (found.verdict, found.views) == ("unknown", ())
    (unmeasured,) = found.unmeasured
    assert (unmeasured.view, unmeasured.scenes, unmeasured.first) == (2, 1, "scene_000000")
    assert found.measured_views == 7 and found.silhouette_iou is not None and found.silhouette_iou > 0.97


def test_a_camera_inside_the_object_is_named_and_not_those_around_it(tmp_path: Path) -> None:
    rig = "other elevations"
    found = judged([centimetres(shot) for shot in photographed(rig, 1, 96)], tmp_path / "set", rig)
    assert found.geometry is not None and (found.verdict, found.geometry.views) == ("inconsistent", (1,))


def test_animals_of_a_few_pixels_fit_any_camera_and_are_called_too_small(tmp_path: Path) -> None:
    found = judged(photographed(RING, 1, 128, scale=0.06), tmp_path / "set", RING).geometry
    assert found is not None and (found.verdict, found.tangents, found.reprojection_px_p95) == ("unknown", 0, None)
    assert {one.why for one in found.unmeasured} == {"mask is too small"}


def test_two_views_leave_a_shift_along_the_epipolar_lines_open(shots: Shots, tmp_path: Path) -> None:
    two = judged(taken(shots, [0, 2]), tmp_path / "two", RING)
    assert two.verdict == "unknown" and "either may be moved along the epipolar lines unseen" in two.why
    assert judged(taken(shots, [0, 2, 3]), tmp_path / "three", RING).verdict == "exact"


# ---------------------------------------------------------------- who reads it


def test_nothing_measured_is_no_number(opaque_set: Path) -> None:
    found = check(open_dataset(opaque_set, verify=False))
    geometry = found.geometry
    assert (geometry.reprojection_px_p95, geometry.silhouette_iou, geometry.measured_views) == (None, None, 0)
    measured = quality(found)
    assert (measured.grade, measured.ungraded) == (None, "masks that fill the frame")


def test_what_one_scene_of_two_shows_is_not_called_that_of_no_views(shots: Shots, tmp_path: Path) -> None:
    opaque = with_alpha(lambda alpha: np.full_like(alpha, 255), range(8))
    found = judged([opaque(shots[0]), shots[1]], tmp_path / "set", RING).geometry
    assert found is not None and (found.verdict, found.measured_views) == ("unknown", 0)
    assert rests(found) == f"{found.tangents} tangents, but of no view in all 2 scenes" and found.tangents > 0


def test_one_scene_earns_no_grade(shots: Shots, tmp_path: Path) -> None:
    judged(shots[:1], tmp_path / "set", RING)
    measured = quality(check(open_dataset(tmp_path / "set")))
    assert (measured.grade, measured.size_cv_percent) == (None, None)


def test_the_command_and_its_page_say_why(opaque_set: Path, tmp_path: Path) -> None:
    words = ["data", "check", str(opaque_set), "--page", str(tmp_path / "page.html")]
    said = CliRunner().invoke(mouselift.app, words)
    assert "unknown, nothing measured; 0 tangents of 0 views in 2 scenes" in said.stdout
    assert "got nothing of views 0, 1, 2, 3, 4, 5, 6, 7 (mask fills the frame in 2 scenes, first scene_0" in said.stdout
    assert "write 255 on the animal and 0 beside it" in said.stdout and "nan" not in said.stdout
    plain = json.loads(CliRunner().invoke(mouselift.app, [*words, "--json"]).stdout)
    assert (plain["verdict"], plain["reprojection_px_p95"], plain["quality"]["grade"]) == ("unknown", None, None)
    assert plain["unmeasured"][3]["why"] == "mask fills the frame" and plain["view_residual_px"] == [None] * 8
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Nothing was measured" in page and page.count("under its mask") == 8


def test_a_page_is_written_for_every_way_of_not_knowing(shots: Shots, tmp_path: Path) -> None:
    judged([INVERTED_2(shot) for shot in taken(shots, [0, 3, 2])], tmp_path / "a", RING)
    found = check(open_dataset(tmp_path / "a"))
    page = write_page(found, quality(found), tmp_path / "a.html").read_text(encoding="utf-8")
    assert "View 2 under its mask" in page and page.count("under its mask") == 1


def test_training_refuses_it_as_it_refuses_an_inconsistent_set(
    opaque_set: Path, tmp_path: Path, tiny_recipe: Callable[..., object]
) -> None:
    dataset = open_dataset(opaque_set, verify=False)
    with pytest.raises(DataError, match=r"got nothing of views 0, .*data.allow_inconsistent_geometry=true trains"):
        require_geometry(dataset, tmp_path)
    assert require_geometry(dataset, tmp_path, allow_inconsistent=True).verdict == "unknown"
    allowed = tiny_recipe(f"data.root={opaque_set}", "data.allow_inconsistent_geometry=true")
    tags = data_tags(allowed, tmp_path)  # type: ignore[arg-type]
    assert tags["data.geometry"] == "unknown" and tags["data.geometry.rests_on"] == "0 tangents of 0 views in 2 scenes"


def test_views_that_a_model_made_up_are_told_what_to_do_about() -> None:
    geometry = Geometry(
        version=GEOMETRY_VERSION,
        verdict="inconsistent",
        reprojection_px_p95=84.1,
        measured_by="silhouettes",
        silhouette_iou=0.3,
        views=(1,),
        scenes=3,
        extent=0.5,
        measured_views=6,
        tangents=90,
    )
    (problem,) = problems_of(geometry, Manifest(name="x", splits={}, transforms=({"kind": "generated"},)))
    assert "views 1 disagree — the model's views do not show one object" in problem and "train that model" in problem


# ---------------------------------------------------------------- manifests of other versions


def rewritten(root: Path, **geometry: object) -> None:
    path = root / MANIFEST_FILE
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"geometry": geometry}))


OLD = {
    "version": 1,
    "verdict": "exact",
    "reprojection_px_p95": 0.0,
    "measured_by": "silhouettes",
    "silhouette_iou": 1.0,
    "views": [],
    "scenes": 2,
    "at_odds": [],
    "extent": 0.8,
}


@pytest.mark.parametrize("version", [1, GEOMETRY_VERSION])
def test_exact_without_evidence_is_read_as_unknown_and_looked_at_again(
    shots: Shots, tmp_path: Path, version: int
) -> None:
    judged(shots, tmp_path / "set", RING)
    rewritten(tmp_path / "set", **OLD | {"version": version})
    old = open_dataset(tmp_path / "set")
    assert old.manifest.geometry is not None and old.manifest.geometry.verdict == "unknown"
    assert require_geometry(old, tmp_path / "cache").verdict == "exact"
    assert store(check(old))
    again = open_dataset(tmp_path / "set").manifest.geometry
    assert again is not None and (again.verdict, again.version) == ("exact", GEOMETRY_VERSION)


def test_an_old_verdict_that_is_not_in_favour_is_believed(shots: Shots, tmp_path: Path) -> None:
    judged(shots, tmp_path / "set", RING)
    rewritten(tmp_path / "set", **OLD | {"verdict": "inconsistent"})
    geometry = open_dataset(tmp_path / "set").manifest.geometry
    assert geometry is not None and geometry.verdict == "inconsistent"


def test_a_verdict_of_a_newer_version_is_one_line(shots: Shots, tmp_path: Path) -> None:
    judged(shots, tmp_path / "set", RING)
    rewritten(tmp_path / "set", **OLD | {"version": GEOMETRY_VERSION + 1, "by": "something new"})
    with pytest.raises(
        DataError, match=r"rules up to version \d+, got version \d+ of a newer mouselift — update"
    ) as said:
        open_dataset(tmp_path / "set")
    assert "\n" not in str(said.value)


def test_the_evidence_survives_the_manifest(shots: Shots, tmp_path: Path) -> None:
    inverted = with_alpha(lambda alpha: 255 - alpha, [1])
    judged([inverted(shot) for shot in taken(shots, [0, 2, 3])], tmp_path / "set", RING)
    judgement = checked(open_dataset(tmp_path / "set")).manifest.geometry
    assert judgement == check(open_dataset(tmp_path / "set")).geometry
