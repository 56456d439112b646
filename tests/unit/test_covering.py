"""Which of the views given are kept, when a model takes fewer: by what the others cover, not by their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cameras import Cameras, facelift_ring, facelift_six, orbit
from pipeline.data.rings import covering
from pipeline.errors import DataError
from pipeline.reconstruction.inputs import read_inputs
from tests.unit.rigs import random_rig


def largest_gap(azimuths: np.ndarray) -> float:
    """Of cameras once round, in degrees, between neighbours."""
    ordered = np.sort(azimuths % 360)
    return float(np.diff(np.append(ordered, ordered[0] + 360)).max())


def test_the_back_view_of_facelifts_rig_stays() -> None:
    """Slots at 0, -45, -90, 180, 90, 45 degrees from the front: without the last, no gap is over 90."""
    assert covering(facelift_six(64), 5) == (0, 1, 2, 3, 4)


def test_of_views_alike_the_later_one_is_left_out() -> None:
    assert covering(facelift_ring(64, 6), 5) == (0, 1, 2, 3, 4)


def test_all_are_kept_where_the_model_takes_more() -> None:
    assert covering(facelift_ring(64, 4), 6) == (0, 1, 2, 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_of_uneven_cameras_is_the_smallest_there_is(seed: int) -> None:
    azimuths = np.append(0.0, np.random.default_rng(seed).uniform(0, 360, 7))
    cameras = orbit(azimuths.tolist(), 10.0, 64)
    kept = covering(cameras, 7)
    gaps = [largest_gap(np.delete(azimuths, view)) for view in range(1, 8)]
    assert kept[0] == 0 and largest_gap(azimuths[list(kept)]) == pytest.approx(min(gaps), abs=2.0)


def test_a_ring_of_many_is_thinned_evenly() -> None:
    assert covering(facelift_ring(64, 12), 4) == (0, 3, 6, 9)
    kept = covering(facelift_ring(64, 32), 8)
    assert len(set(kept)) == 8 and largest_gap(np.array(kept) * 360 / 32) <= 90


def test_the_choice_hangs_on_no_frame_or_unit() -> None:
    cameras = random_rig(3)
    moved = cameras.transform(0.01, centre=(5.0, -7.0, 2.0))
    assert covering(cameras, 4) == covering(moved, 4)
    assert covering(Cameras(cameras.c2w.float(), cameras.fxfycxcy.float(), 288, 256), 4) == covering(cameras, 4)


def test_cameras_that_look_one_way_determine_no_place() -> None:
    c2w = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    c2w[:, 0, 3] = torch.arange(4.0)
    with pytest.raises(DataError, match="expected cameras whose rays meet"):
        covering(Cameras(c2w, torch.tensor([100.0, 100.0, 32.0, 32.0], dtype=torch.float64).repeat(4, 1), 64, 64), 3)


# ---------------------------------------------------------------- what is handed over


def test_each_thing_is_known_by_what_it_holds(mice_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / "photos" / name).write_bytes(b"")
    (tmp_path / "clip").write_bytes(b"\0\0\0\x18ftypisom" + bytes(16))
    scene = mice_folder / "scene_000003"
    found = read_inputs([tmp_path / "photos", scene, tmp_path / "clip", mice_folder], split="val")
    assert [(one.kind, one.name) for one in found] == [
        ("photo", "a"),
        ("photo", "b"),
        ("scene", "scene_000003"),
        ("sequence", "clip"),
        ("scene", "scene_000005"),
    ]


def test_a_dataset_of_one_scene_is_that_scene(mice_copy: Path) -> None:
    (mice_copy / "dataset.yaml").unlink()
    for number in range(1, 7):
        (mice_copy / f"scene_{number:06d}/opencv_cameras.json").unlink()
    assert [one.name for one in read_inputs([mice_copy])] == ["scene_000000"]


def test_a_folder_and_a_dataset_may_each_be_one_sequence(mice_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    found = read_inputs([tmp_path / "frames", mice_folder], sequence=True)
    assert [(one.kind, one.name) for one in found] == [("sequence", "frames"), ("sequence", "mice")]


def test_a_link_and_a_dot_are_called_as_their_folder(mice_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(mice_folder / "scene_000003")
    assert read_inputs([Path(".")])[0].name == "scene_000003"


def test_what_is_named_twice_is_taken_once(mice_folder: Path) -> None:
    scene = mice_folder / "scene_000005"
    assert [one.path for one in read_inputs([scene, mice_folder, scene], split="val")] == [scene]


def test_two_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"got .*a/x\.png and .*b/x\.png — rename one"):
        read_inputs([tmp_path / "a/x.png", tmp_path / "b/x.png"])
