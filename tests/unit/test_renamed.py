"""Recipes of before `model.checkpoint`: what was stored is read, what a user writes is refused with the new name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import checkpoint, kinds
from pipeline.checkpoint import INDEX, RECIPE
from pipeline.errors import RecipeError
from pipeline.files import sha256_of
from pipeline.gslrm.model import GSLRM
from pipeline.recipes import load_recipe, override, recipe_of
from sweeps.book.ledger import ledger_of
from sweeps.book.study import began_with, study_of
from sweeps.errors import SpaceError
from sweeps.home import Home
from sweeps.space.space import load_space

BEFORE = Path(__file__).parents[1] / "golden" / "gslrm" / "recipe_before_checkpoint.yaml"  # checkpoint_layers: 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with the recipe.yaml that a version before the new name wrote."""
    recipe = load_recipe(
        "gslrm_tiny", ["model.dim=32", "model.head_dim=16", "model.num_layers=1", "data.image_size=16"]
    )
    folder = checkpoint.save(tmp_path / "step-000007", GSLRM(recipe.model), recipe, 7)
    (folder / RECIPE).write_bytes(BEFORE.read_bytes())
    index = json.loads((folder / INDEX).read_text())
    index["sha256"][RECIPE] = sha256_of(BEFORE)
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_a_checkpoint_of_before_loads_and_computes_again_what_its_groups_did(folder: Path) -> None:
    network = kinds.load(folder).model
    assert isinstance(network, GSLRM) and network.config.checkpoint == "layers"


def test_a_checkpoint_of_before_has_the_recipe_that_is_written_with_the_new_name(folder: Path) -> None:
    changes = ["model.dim=32", "model.head_dim=16", "model.num_layers=1", "data.image_size=16"]
    todays = load_recipe("gslrm_tiny", [*changes, "model.checkpoint=layers"])
    assert checkpoint.inspect(folder).recipe.fingerprint == todays.fingerprint


# ---------------------------------------------------------------- a sweep


def of_before(value: object) -> object:
    """A stored value, deep inside, as a version before the new name wrote it."""
    if isinstance(value, dict):
        return {key.replace("model.checkpoint", "model.checkpoint_layers"): of_before(v) for key, v in value.items()}
    return [of_before(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """With a sweep of before, which searched the old name and asked it in a condition; its second trial is open."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipe: gslrm_tiny\n"
        "space:\n"
        "  model.checkpoint: {choice: [none, layers]}\n"
        "  model.dim: {choice: [64, 192], when: {model.checkpoint: [layers]}}\n"
    )
    space = load_space(path)
    plain, params = (dict(of_before(values)) for values in (space.as_plain(), space.base.params))
    old, ranges = "model.checkpoint_layers", plain["space"]
    ranges[old] = {"int": [0, 2], "log": False, "step": None, "when": {}}
    ranges["model.dim"]["when"] = {old: [1, 2]}
    params[old] = 0
    opened = {"ray_trial_id": "", "attempt": 1, "recipe_params": params, "fingerprint": ""}
    lines = [
        {"kind": "SweepOpened", "sweep": "mine", "recipe": "gslrm_tiny", "space": plain, "tags": {}, "params": params},
        {"kind": "TrialProposed", "trial": 0, "params": {old: 0}},
        {"kind": "TrialOpened", "trial": 0, "params": {old: 0}, **opened},
        {"kind": "TrialProposed", "trial": 1, "params": {old: 2, "model.dim": 64}},
        {"kind": "TrialOpened", "trial": 1, "params": {old: 2, "model.dim": 64}, **opened},
    ]
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    home.journal("mine").mkdir(parents=True)
    (home.journal("mine") / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home


def test_a_sweep_of_before_goes_on_under_the_new_name(home: Home) -> None:
    ledger = ledger_of(home, "mine")
    space = began_with(ledger)
    assert space.base.params["model.checkpoint"] == "none"
    assert ledger.searched == ("model.checkpoint", "model.dim")
    assert space.space["model.checkpoint"].ends == ("none", "layers")
    assert space.space["model.dim"].when == {"model.checkpoint": ("layers",)}


def test_the_trials_of_a_sweep_of_before_are_in_its_study_under_the_new_name(home: Home) -> None:
    ledger = ledger_of(home, "mine")
    study = study_of(ledger, began_with(ledger))
    found = [trial.params for trial in study.trials]
    assert found == [{"model.checkpoint": "none"}, {"model.checkpoint": "layers", "model.dim": 64}]


# ---------------------------------------------------------------- what a user writes


@pytest.mark.parametrize(("layers", "word"), [(0, "none"), (1, "layers"), (3, "layers")])
def test_the_old_name_is_refused_with_the_new_name_and_value(tmp_path: Path, layers: int, word: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: gslrm\nmodel: {{checkpoint_layers: {layers}}}\n")
    base, option = load_recipe("gslrm"), f"model.checkpoint_layers={layers}"
    for where, call in (
        (str(path), lambda: load_recipe(path)),
        ("--set", lambda: load_recipe("gslrm", [option])),
        (f"gslrm with {option}", lambda: override(base, {"model.checkpoint_layers": layers})),
        ("mine", lambda: recipe_of("mine", {**base.params, "model.checkpoint_layers": layers})),
    ):
        with pytest.raises(RecipeError) as caught:
            call()
        assert str(caught.value) == (
            f"{where}: unknown key model.checkpoint_layers — it is model.checkpoint now: write model.checkpoint={word}."
        )


def test_a_space_over_the_old_name_is_refused_with_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: gslrm_tiny\nspace: {model.checkpoint_layers: {choice: [0, 1]}}\n")
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert str(caught.value) == (
        f"{path}: space.model.checkpoint_layers: expected a path of recipe gslrm_tiny, got an unknown one — it is "
        "model.checkpoint now, which is none, attention or layers."
    )
