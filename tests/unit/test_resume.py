"""A sweep that goes on: its space and recipe are those of the journal, whatever the files say by now."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from pipeline import config
from pipeline.recipes import load_recipe
from sweeps.book.journal import Journal, SweepOpened
from sweeps.book.ledger import Ledger
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.run.resume import begun, check_is_new, check_same_files, resumable
from sweeps.space.space import load_space

RECIPES = ["gslrm_tiny", "gslrm_mouse", "mvdiffusion_tiny", "mvdiffusion_mouse"]


@pytest.fixture
def home(tmp_path):
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})


@pytest.fixture
def begin(home, tmp_path):
    """Write down that a sweep of a recipe began; returns its space."""

    def begin(recipe="gslrm_tiny", space=None, params=None):
        path = tmp_path / "mine.yaml"
        ranges = space or {"optim.lr": {"float": [1e-4, 1e-3]}}
        path.write_text(yaml.safe_dump({"recipe": recipe, "space": ranges, "pruning": {}}))
        loaded = load_space(path)
        with Journal(home.journal("mine")).claim() as journal:
            journal.append(SweepOpened("mine", recipe, loaded.as_plain(), {}, params or loaded.base.params))
        return loaded

    return begin


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sweep_goes_on_with_the_space_and_recipe_that_it_began_with(begin, home, monkeypatch, recipe):
    space = begin(recipe)
    monkeypatch.setattr(config, "_read_yaml", None)  # no file is asked
    assert resumable(home, "mine") == space


def test_where_the_normalisation_is_searched_the_recipe_is_still_that_of_the_space(begin, home):
    space = begin(space={"data.normalise": {"choice": ["zoom_exact", "pixel_based"]}})
    assert resumable(home, "mine").fingerprint == space.fingerprint


def test_the_same_space_under_a_taken_name_differs_in_nothing(begin, home):
    space = begin(space={"data.normalise": {"choice": ["zoom_exact", "pixel_based"]}})
    with pytest.raises(StudyError, match=r"^mine: expected a new name, got that of a sweep \(0 of 1 trial ended\) — "):
        check_is_new(home, "mine", space)


def test_a_setting_that_this_version_does_not_know_is_named(begin, home):
    begin(params=json.loads(json.dumps(load_recipe("gslrm_tiny").params)) | {"optim.magic": 1})
    with pytest.raises(
        StudyError, match=r"expected a sweep of this version's settings, got .*unknown key optim\.magic"
    ):
        resumable(home, "mine")


def test_a_job_that_is_queued_again_finds_its_sweep_and_a_first_one_finds_none(begin, home):
    space = begin()
    assert begun(home, "mine", space).name == "mine"
    assert begun(home, "other", space) is None


def test_a_job_that_is_queued_again_with_another_space_is_told_the_difference(begin, home):
    space = begin()
    other = replace(space, trials=replace(space.trials, count=9))
    with pytest.raises(StudyError, match=r"trials\.count: 1 -> 9 — `mouselift sweep resume mine` goes on with it"):
        begun(home, "mine", other)


def test_a_job_whose_space_leaves_gpus_to_the_machine_finds_the_sweep_that_took_one(begin, home):
    space = begin()
    opened = replace(space, trials=replace(space.trials, gpus=1.0))
    with Journal(home.journal("mine")).claim() as journal:
        journal.append(SweepOpened("mine", "gslrm_tiny", opened.as_plain(), {}, opened.base.params))
    assert begun(home, "mine", space).name == "mine"
    assert resumable(home, "mine").trials.gpus == 1.0
    with pytest.raises(StudyError, match=r"trials\.gpus: 1\.0 -> 0\.5"):
        begun(home, "mine", replace(space, trials=replace(space.trials, gpus=0.5)))


ADDED = ("optim.decay", "optim.max_nonfinite_updates", "train.checkpoint_every")


@pytest.fixture
def before(begin, home):
    """Write down a sweep as the version did that had no setting of ADDED, and named the layers computed again."""

    def before(recipe, **params):
        space = begin(recipe)
        then = {path: value for path, value in space.base.params.items() if path not in (*ADDED, "model.checkpoint")}
        if "model.checkpoint" in space.base.params:
            then["model.checkpoint_layers"] = 1 if recipe == "gslrm_mouse" else 0
        plain = space.as_plain()
        plain["trials"]["gpus"] = 0.0
        with Journal(home.journal("mine")).claim() as journal:
            journal.append(SweepOpened("mine", recipe, plain, {}, then | params))
        return space

    return before


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_job_goes_on_with_a_sweep_of_before_its_recipe_had_all_settings(before, home, recipe):
    assert begun(home, "mine", before(recipe)).name == "mine"


@pytest.mark.parametrize(
    ("setting", "value", "then"),
    [("optim.decay", "matrices", None), ("optim.decay", "all", "matrices"), ("model.checkpoint", "attention", "none")],
)
def test_a_setting_of_after_that_the_user_wrote_is_a_difference(before, home, setting, value, then):
    written = before("gslrm_tiny").with_fixed({setting: value})
    if then is None:
        assert begun(home, "mine", written).name == "mine"
        return
    with pytest.raises(StudyError, match=rf'another space: {setting}: "{then}" -> "{value}" — '):
        begun(home, "mine", written)


def test_a_setting_of_before_that_is_another_now_is_a_difference(before, home):
    space = before("mvdiffusion_tiny", **{"optim.weight_decay": 0.5})
    with pytest.raises(StudyError, match=r"another space: optim\.weight_decay: 0\.5 -> 0\.01 — "):
        begun(home, "mine", space)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"data.digest": "b" * 64}, "expected dataset aaaaaaaaaaaa, with which it began, got bbbbbbbbbbbb"),
        (
            {"artefact.train.init_from": "c" * 64},
            "expected train.init_from dddddddddddd, with which it began, got cc",
        ),
    ],
)
def test_a_sweep_does_not_go_on_with_other_files_under_the_same_name(tags, message):
    """A dataset or weights that were replaced in their place: later trials would start from something else."""
    began = {"data.digest": "a" * 64, "artefact.train.init_from": "d" * 64}
    ledger = Ledger(name="mine", tags=began)
    check_same_files(ledger, began)
    with pytest.raises(StudyError, match=message):
        check_same_files(ledger, began | tags)
    check_same_files(Ledger(name="old", tags={"data.digest": "a" * 64}), began)  # from before hashes were written down


def test_a_job_that_tells_somebody_else_goes_on_with_its_sweep(begin, home):
    space = begin()
    assert begun(home, "mine", replace(space, notify=("MICE_CHAT",))).name == "mine"
