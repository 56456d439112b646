"""From a recording to a registered finding: the commands a user types, in the order he types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.data.mice.recording import write_recording
from pipeline.data.scenes import MANIFEST_FILE
from sweeps.book.journal import Journal, TrialOpened
from tests.e2e.conftest import SMALL, Seat


@pytest.fixture(scope="module")
def seat(tmp_path_factory: pytest.TempPathFactory) -> Seat:
    return Seat(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def scenes(seat: Seat) -> Path:
    """A recording of 12 frames at quarter size, converted."""
    write_recording(seat.folder / "recording", frames=12, scale=0.25)
    said = seat.answer("data", "convert", "recording", "scenes", "--guard", "0.01")
    assert said["view_order"] == [0, 5, 3, 1, 2, 4]
    return seat.folder / "scenes"


@pytest.fixture(scope="module")
def normalised(seat: Seat, scenes: Path) -> dict[str, Any]:
    """The verdicts of every method on the same scenes, the first in processes of their own."""
    found, answer = {}, seat.answer
    for method in ("object_centred", "rig_affine", "zoom_exact", "facelift_rig", "pixel_based"):
        answer("data", "normalise", scenes, method, "--method", method, "--size", 128)
        found[method], answer = answer("data", "check", method), seat.answer_here
    return found


def test_exact_methods_are_exact_and_the_others_say_what_they_are(normalised: dict[str, Any]) -> None:
    for method in ("object_centred", "rig_affine", "zoom_exact"):
        assert (normalised[method]["verdict"], normalised[method]["views"]) == ("exact", [])
        assert normalised[method]["reprojection_px_p95"] < 0.1 and normalised[method]["silhouette_iou"] > 0.97
    assert normalised["facelift_rig"]["verdict"] == "approximate"
    assert 0.05 < normalised["facelift_rig"]["reprojection_px_p95"] < 1
    assert normalised["pixel_based"]["verdict"] == "inconsistent"
    assert 15 < normalised["pixel_based"]["reprojection_px_p95"] < 40
    assert normalised["pixel_based"]["silhouette_iou"] < 0.9


def test_the_seeds_grade_prefers_the_broken_set(normalised: dict[str, Any]) -> None:
    grades = {method: found["quality"]["grade"] for method, found in normalised.items()}
    assert grades["pixel_based"] == "A" and grades["rig_affine"] == "D"


def test_check_leaves_a_page_and_a_verdict(seat: Seat, normalised: dict[str, Any]) -> None:
    page = seat.folder / normalised["object_centred"]["page"]
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert "verdict: exact" in (seat.folder / "object_centred" / MANIFEST_FILE).read_text()


def test_an_inconsistent_set_trains_nothing_until_that_is_allowed(seat: Seat, normalised: dict[str, Any]) -> None:
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    words = ["gslrm_tiny", "--data", "pixel_based", "--set", " ".join([*settings, "train.max_steps=4"])]
    for command in (("train",), ("fit", "--out", "fitted")):
        refused = seat.here(*command, *words)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert "pixel_based moves images and keeps their cameras" in refused.stderr
    allowed = seat.mouselift("fit", "--out", "fitted", *words, "--set", "data.allow_inconsistent_geometry=true")
    assert allowed.returncode == 0, allowed.stderr
    assert [json.loads(line)["step"] for line in allowed.stdout.splitlines()][-1] == 4


def test_a_sweep_varies_how_a_named_recording_is_normalised(seat: Seat, scenes: Path) -> None:
    """The variants are made once, both trials finish, and the best is verified and registered on its own variant."""
    seat.answer("data", "register", scenes, "--name", "arena")
    assert [entry["name"] for entry in seat.answer("data", "list")] == ["arena"]
    space = {
        "recipe": "gslrm_tiny",
        # At 32 px the animal is too small for a verdict.
        "fixed": SMALL | {"train.max_steps": 4, "data.image_size": 128, "data.allow_inconsistent_geometry": True},
        "space": {"data.normalise": {"choice": ["object_centred", "pixel_based"]}},
        "sampler": {"kind": "grid"},
        "trials": {"count": 2},
    }
    (seat.folder / "methods.yaml").write_text(json.dumps(space))
    status = seat.answer("sweep", "run", "methods.yaml", "--data", "arena", "--name", "methods")
    assert status["trials"]["complete"] == 2
    opened = [event for _, event in Journal(seat.home.journal("methods")).events() if isinstance(event, TrialOpened)]
    said = {event.params["data.normalise"]: event.tags["data.geometry"] for event in opened}
    assert said == {"object_centred": "exact", "pixel_based": "inconsistent"}
    assert len({event.tags["data.digest"] for event in opened}) == 2
    variants = [folder for folder in (seat.home.cache / "variants").iterdir() if folder.is_dir()]
    assert sorted(folder.name.split("-")[1] for folder in variants) == ["object_centred", "pixel_based"]
    assert seat.answer_here("model", "promote", "methods")["alias"] == "champion"


def test_a_name_does_not_follow_changed_data(seat: Seat, normalised: dict[str, Any]) -> None:
    lab = seat.folder / "lab"
    shutil.copytree(seat.folder / "object_centred", lab)
    seat.answer_here("data", "register", "lab", "--name", "bench")
    shutil.rmtree(lab)
    shutil.copytree(seat.folder / "zoom_exact", lab)
    refused = seat.here("train", "gslrm_tiny", "--data", "bench")
    assert refused.returncode == 2 and "bench: expected the data of digest" in refused.stderr
    misspelled = seat.here("train", "gslrm_tiny", "--data", "bensh")
    assert misspelled.returncode == 2 and "did you mean bench?" in misspelled.stderr


def test_a_bare_folder_of_rgb_on_white_is_taken_in(seat: Seat, normalised: dict[str, Any]) -> None:
    """FaceLift's layout from another machine: absolute lists without a final newline, RGB without alpha."""
    source = seat.folder / "theirs"
    names = sorted(folder.name for folder in (seat.folder / "object_centred").glob("frame_*"))
    for name in names:
        shutil.copytree(seat.folder / "object_centred" / name, source / "samples" / name)
        for path in (source / "samples" / name / "images").iterdir():
            picture = Image.open(path)
            white = Image.new("RGBA", picture.size, "white")
            Image.alpha_composite(white, picture).convert("RGB").save(path)
    (source / "data_mouse_train.txt").write_text("\n".join(f"/gpu03/data/samples/{name}" for name in names[:-2]))
    (source / "data_mouse_val.txt").write_text("\n".join(f"/gpu03/data/samples/{name}" for name in names[-2:]))
    said = seat.answer("data", "ingest", source, "mine", "--data-root", source)
    assert (said["scenes"], said["splits"]) == (len(names), {"train": len(names) - 2, "val": 1, "test": 1})
    assert said["geometry"]["verdict"] == "exact" and said["geometry"]["silhouette_iou"] > 0.95
