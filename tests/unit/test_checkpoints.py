"""Checkpoints of trials, kept, thinned, found again: on a disk and in S3."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from pipeline import checkpoint
from sweeps.errors import StudyError
from sweeps.run.checkpoints import Checkpoints
from sweeps.space.gates import parse_gates
from sweeps.space.objective import Aims, Objective

GOAL = Aims((Objective("val/psnr_fg", "max"),))


def keep(store, recipe, step, value=None):
    """A checkpoint of a network of one tensor."""
    metrics = {} if value is None else {GOAL.first.metric: value}
    with store.workspace() as folder:
        model = torch.nn.Linear(4, 4)
        store.keep(checkpoint.save(folder / f"step-{step:06d}", model, recipe, step, metrics, {"step": step}))


def damage(store, step, file="model.safetensors"):
    path = f"{store.folder}/step-{step:06d}/{file}"
    with open(path, "r+b") as opened:
        opened.seek(10)
        opened.write(b"\xff\xff\xff")


@pytest.fixture
def store(tmp_path):
    return Checkpoints(str(tmp_path / "checkpoints"), "mine", 3)


def test_a_kept_checkpoint_lies_whole_at_its_step(store, tiny_recipe):
    keep(store, tiny_recipe(), 4, 20.0)
    assert [(kept.step, kept.metrics) for kept in store.all()] == [(4, {GOAL.first.metric: 20.0})]
    with store.fetched(4) as folder:
        assert checkpoint.inspect(folder).step == 4
    assert sorted(os.listdir(store.folder)) == ["step-000004"]


def test_the_newest_up_to_a_step_is_where_a_trial_goes_on(store, tiny_recipe):
    for step in (4, 8, 12):
        keep(store, tiny_recipe(), step)
    with store.newest(at_most=10) as (folder, damaged):
        assert (folder.name, damaged) == ("step-000008", [])
    with store.newest(at_most=-1) as (folder, _):
        assert folder is None


def test_a_checkpoint_whose_report_was_never_heard_takes_no_others_place(store, tiny_recipe):
    keep(store, tiny_recipe(), 4, 20.0)
    keep(store, tiny_recipe(), 12, 30.0)  # and a kill before its report
    with store.newest(at_most=4) as (folder, _):
        assert folder.name == "step-000004"
    keep(store, tiny_recipe(), 8, 10.0)
    store.thin(GOAL, best=1, last=1)
    with store.newest(at_most=8) as (folder, _):
        assert folder.name == "step-000008"


@pytest.mark.parametrize("how", ["flipped", "truncated", "no index", "empty index"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(store, tiny_recipe, how):
    for step in (4, 8):
        keep(store, tiny_recipe(), step)
    folder = f"{store.folder}/step-000008"
    match how:
        case "flipped":
            damage(store, 8)
        case "truncated":
            os.truncate(f"{folder}/training.pt", 10)
        case "no index":
            os.remove(f"{folder}/checkpoint.json")
        case "empty index":
            os.truncate(f"{folder}/checkpoint.json", 0)
    with store.newest(at_most=8) as (found, damaged):
        assert found.name == "step-000004"
    assert len(damaged) == (0 if how == "no index" else 1)
    assert [kept.step for kept in store.all()] == [4]


def test_all_but_the_best_and_the_last_go(store, tiny_recipe):
    for step, value in ((4, 20.0), (8, 25.0), (12, 22.0), (16, 21.0)):
        keep(store, tiny_recipe(), step, value)
    assert store.thin(GOAL, best=1, last=1) == [4, 12]
    assert [kept.step for kept in store.all()] == [8, 16]


def test_a_checkpoint_between_validations_is_gone_on_from_and_never_the_best(store, tiny_recipe, tmp_path):
    for step, value in ((4, 20.0), (6, None), (8, 25.0), (10, None)):
        keep(store, tiny_recipe(), step, value)
    assert store.thin(GOAL, best=1, last=1) == [4, 6]
    with store.newest(at_most=10) as (folder, _):
        assert folder.name == "step-000010"
    assert checkpoint.inspect(store.release(GOAL, tmp_path / "released")).step == 8


def test_nothing_goes_while_the_newest_is_damaged(store, tiny_recipe):
    for step, value in ((4, 20.0), (8, 25.0), (12, 22.0)):
        keep(store, tiny_recipe(), step, value)
    damage(store, 12)
    assert store.thin(GOAL, best=1, last=1) == []
    assert [kept.step for kept in store.all()] == [4, 8, 12]


def test_the_release_is_the_best_sound_one_without_its_training_state(store, tiny_recipe, tmp_path):
    for step, value in ((4, 20.0), (8, 25.0), (12, float("nan"))):
        keep(store, tiny_recipe(), step, value)
    damage(store, 8)
    released = store.release(GOAL, tmp_path / "released")
    assert checkpoint.inspect(released).step == 4
    assert not (released / checkpoint.TRAINING).exists()


def test_a_trial_without_checkpoints_releases_nothing(store, tmp_path):
    assert store.release(GOAL, tmp_path / "released") is None
    assert store.all() == [] and store.thin(GOAL, 1, 1) == []


def test_the_floor_of_the_disk_is_told_with_both_figures(store):
    assert store.lacks_room(0.0) == ""
    assert "GB free at" in store.lacks_room(1e9) and "(floor 1e+09 GB)" in store.lacks_room(1e9)


def test_what_a_dead_worker_left_half_written_is_swept_up_and_a_living_ones_is_not(store):
    with store.workspace() as mine:
        dead = mine.with_name(mine.name.rpartition("-")[0] + "-4194300")
        dead.mkdir()
        store.sweep_up()
        assert mine.exists() and not dead.exists()


@pytest.mark.parametrize("root", ["gopher://x/y", "://"])
def test_an_address_that_is_none_is_refused_in_one_line(root):
    with pytest.raises(StudyError) as caught:
        Checkpoints(root, "mine", 0)
    assert "MOUSELIFT_CHECKPOINTS: expected a folder or s3://bucket/prefix, got" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_is_the_last_file_to_come_and_the_first_to_go(store, tiny_recipe, monkeypatch):
    keep(store, tiny_recipe(), 4)
    seen = []
    whole = store._fs

    class Watched:
        def delete_file(self, path):
            seen.append(path.rpartition("/")[2])
            whole.delete_file(path)

        def delete_dir(self, path):
            seen.append("the rest")
            whole.delete_dir(path)

        def __getattr__(self, name):
            return getattr(whole, name)

    monkeypatch.setattr(store, "_fs", Watched())
    store.remove(4)
    assert seen == [checkpoint.INDEX, "the rest"]


def test_metrics_of_a_checkpoint_come_from_its_index(store, tiny_recipe):
    keep(store, tiny_recipe(), 4, 20.0)
    path = f"{store.folder}/step-000004/{checkpoint.INDEX}"
    with open(path) as file:
        assert json.load(file)["metrics"] == store.all()[0].metrics


def test_a_checkpoint_within_the_constraints_goes_before_a_better_one_without(store, tiny_recipe):
    """A cost is a trial's, so that no checkpoint is told by it."""
    aims = replace(GOAL, constraints=parse_gates({GOAL.first.metric: "<= 19", "time/step_seconds": "<= 0.1"}))
    for step, psnr in ((2, 20.0), (4, 18.0), (6, 19.0), (8, 21.0)):
        keep(store, tiny_recipe(), step, psnr)
    assert [kept.step for kept in store.best(aims)] == [6, 4, 8, 2]
    assert [kept.step for kept in store.best(GOAL)] == [8, 2, 6, 4]
