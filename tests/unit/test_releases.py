"""Best checkpoints are released by a thread: a slow store holds up no other trial."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from pipeline.cameras import facelift_ring
from pipeline.previews import Preview
from pipeline.recipes import load_recipe
from sweeps.errors import OutageError
from sweeps.home import Home
from sweeps.run.checkpoints import Checkpoints
from sweeps.run.releases import Releases
from sweeps.space.objective import Aims, Objective
from tests.unit.test_gaussians import random_gaussians

GOAL = Aims((Objective("val/psnr_fg", "max"),))


@pytest.fixture
def home(tmp_path):
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})


def releases(home, told):
    return made(home, lambda number, folder: told.append((number, folder.name)))


def made(home, released, kept=lambda number, folder: None):
    return Releases(home, "s", GOAL, home.root / "released", released, kept)


def slow(seconds, monkeypatch):
    """A store that takes so long for each copy."""

    def release(self, aims, target):
        time.sleep(seconds)
        target.mkdir(parents=True)
        return target

    monkeypatch.setattr(Checkpoints, "release", release)


def test_a_release_is_told_with_its_folder_and_the_caller_does_not_wait(home, monkeypatch):
    slow(0.3, monkeypatch)
    told: list[tuple[int, str]] = []
    work = releases(home, told)
    began = time.monotonic()
    for number in (3, 1):
        work.add(number)
    assert time.monotonic() - began < 0.1
    work.finish(10)
    assert told == [(3, "t0003"), (1, "t0001")]


def test_a_trial_without_a_checkpoint_is_not_told(home):
    told: list[tuple[int, str]] = []
    work = releases(home, told)
    work.add(0)
    work.finish(10)
    assert told == []


def test_what_stood_in_the_way_is_raised_at_the_end_and_the_others_are_released(home, monkeypatch):
    def release(self, aims, target):
        if "t0001" in self.folder:
            raise OutageError("MOUSELIFT_CHECKPOINTS: expected a store that answers, got none.")
        return target

    monkeypatch.setattr(Checkpoints, "release", release)
    told: list[tuple[int, str]] = []
    work = releases(home, told)
    for number in range(3):
        work.add(number)
    with pytest.raises(OutageError, match="expected a store that answers"):
        work.finish(10)
    assert [number for number, _ in told] == [0, 2]


def test_an_error_of_any_kind_is_raised_at_the_end_and_ends_no_other_release(home, monkeypatch):
    slow(0.0, monkeypatch)
    told: list[int] = []

    def listen(number, folder):
        if number == 0:
            raise ZeroDivisionError("a listener's own")
        told.append(number)

    work = made(home, listen)
    for number in range(3):
        work.add(number)
    with pytest.raises(ZeroDivisionError):
        work.finish(10)
    assert told == [1, 2]


def test_a_wait_for_releases_can_be_broken_off(home, monkeypatch):
    slow(0.5, monkeypatch)
    work = releases(home, [])
    work.add(0)
    assert [work.finish(0.1), work.finish(10)] == [False, True]


def test_nothing_is_told_after_the_end(home, monkeypatch):
    slow(0.6, monkeypatch)
    told: list[tuple[int, str]] = []
    others = set(threading.enumerate())
    work = releases(home, told)
    work.add(0)
    [thread] = set(threading.enumerate()) - others
    began = time.monotonic()
    work.close(patience=0.1)
    assert time.monotonic() - began < 0.4
    thread.join(10)
    assert told == []


def test_what_a_killed_process_left_half_released_is_removed(home, monkeypatch):
    slow(0.0, monkeypatch)
    left = home.root / "released" / ".t0003.123.456"
    left.mkdir(parents=True)
    work = releases(home, [])
    work.add(0)
    work.finish(10)
    assert not left.exists() and Path(home.root / "released" / "t0000").is_dir()


def kept_checkpoint(home, number, step):
    """A checkpoint in its place, with Gaussians; returns their bytes."""
    folder = home.root / "made" / f"step-{step:06d}"
    shown = Preview(random_gaussians(step), facelift_ring(32, 3), "scene_000020")
    model = torch.nn.Linear(1, 1)
    checkpoint.save(folder, model, load_recipe("gslrm_tiny"), step, {GOAL.first.metric: 1.0 * step}, {}, shown.writers)
    place = Path(home.checkpoints) / "s" / f"t{number:04d}"
    place.mkdir(parents=True, exist_ok=True)
    Checkpoints(home.checkpoints, "s", number).keep(folder)
    return (place / folder.name / checkpoint.PREVIEW).read_bytes()


def test_the_gaussians_of_a_trial_that_was_pruned_are_kept_without_its_checkpoint(home):
    bytes_of = {step: kept_checkpoint(home, 2, step) for step in (5, 7)}
    released, kept = [], []
    work = made(home, lambda *told: released.append(told), lambda *told: kept.append(told))
    work.add(2, with_checkpoint=False)
    work.finish(10)
    [(number, folder)] = kept
    assert (number, released) == (2, [])
    assert {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()} == {
        f"step-{step:06d}": ["preview.json", "preview.ply"] for step in (5, 7)
    }
    assert {step: (folder / f"step-{step:06d}" / "preview.ply").read_bytes() for step in (5, 7)} == bytes_of


def test_a_store_that_gives_no_gaussians_ends_no_sweep(home, monkeypatch, caplog):
    def fail(self, target):
        raise OutageError("MOUSELIFT_CHECKPOINTS: expected a store that answers, got none.")

    monkeypatch.setattr(Checkpoints, "previews", fail)
    slow(0.0, monkeypatch)
    told: list[tuple[int, str]] = []
    work = releases(home, told)
    work.add(0)
    assert work.finish(10) and told == [(0, "t0000")]
    assert "t0000: its Gaussians are not kept to be looked at: MOUSELIFT_CHECKPOINTS" in caplog.text
