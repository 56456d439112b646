"""Files of words with something wrong in them: each is taken as it stands, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, open_dataset, read_scene
from pipeline.errors import DataError, RecipeError
from pipeline.recipes import FOLDER, load_recipe, recipe_of
from sweeps.book.journal import (
    Event,
    Journal,
    Reported,
    RunOpened,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
    TrialProposed,
)
from sweeps.book.ledger import read
from sweeps.errors import DamagedError, SpaceError
from sweeps.space.space import FOLDER as SPACES
from sweeps.space.space import load_space, space_of
from tests.support.mutations import mutations

COUNT = 100  # of each file; the seed is its own


def ends_well(take: Callable[[], object], refusal: type[Exception]) -> bool:
    """Whether it was taken; otherwise it was refused in one line. Anything else that is raised fails the test."""
    said = ""
    try:
        take()
    except refusal as error:
        said = str(error)
    assert "\n" not in said
    return not said


def take_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe_of(recipe.name, json.loads(json.dumps(recipe.params))) == recipe


def take_space(path: Path) -> None:
    space = load_space(path)
    assert space_of(json.loads(json.dumps(space.as_plain())), space.name, space.base) == space


@pytest.mark.parametrize("name", ["gslrm", "gslrm_tiny", "mvdiffusion_tiny"])
def test_a_mutated_recipe_is_that_recipe_or_refused(tmp_path: Path, name: str) -> None:
    path, taken = tmp_path / "mine.yaml", []
    for content in mutations((FOLDER / f"{name}.yaml").read_bytes(), seed=len(name), count=COUNT):
        path.write_bytes(content)
        taken.append(ends_well(lambda: take_recipe(path), RecipeError))
    assert len(taken) == COUNT and not all(taken)


@pytest.mark.parametrize("name", ["gslrm_losses", "mvdiffusion_tiny"])
def test_a_mutated_space_is_that_space_or_refused(tmp_path: Path, name: str) -> None:
    path, taken = tmp_path / "mine.yaml", []
    for content in mutations((SPACES / f"{name}.yaml").read_bytes(), seed=len(name), count=COUNT // 2):
        path.write_bytes(content)
        taken.append(ends_well(lambda: take_space(path), SpaceError))
    assert len(taken) == COUNT // 2 and not all(taken)


@pytest.mark.parametrize("file", [MANIFEST_FILE, f"scene_000001/{CAMERAS_FILE}"])
def test_a_mutated_dataset_is_that_dataset_or_refused(mice_copy: Path, file: str) -> None:
    whole = open_dataset(mice_copy).digest
    path = mice_copy / file
    for content in mutations(path.read_bytes(), seed=3, count=COUNT):
        path.write_bytes(content)
        if ends_well(lambda: open_dataset(mice_copy), DataError):
            dataset = open_dataset(mice_copy, verify=False)
            assert dataset.content_digest == whole or dataset.manifest.digest is None


def test_mutated_cameras_are_usable_or_refused(mice_folder: Path, tmp_path: Path) -> None:
    scene = Path(shutil.copytree(mice_folder / "scene_000000", tmp_path / "scene"))
    path, taken = scene / CAMERAS_FILE, []
    for content in mutations(path.read_bytes(), seed=5, count=COUNT):
        path.write_bytes(content)
        taken.append(ends_well(lambda: read_scene(scene).cameras.check("scene"), DataError))
    assert len(taken) == COUNT and not all(taken)


# ---------------------------------------------------------------- recipes that nobody wrote

words = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["off", "1e-4", "0100", "1:30", "2024-01-01", "~", "=", "<<", "*a", "&a x", "!!set {}", "[", "{a: 1, a: 2}"]
    ),
)
values = st.recursive(
    words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
paths = st.sampled_from(
    sorted({*load_recipe("gslrm").params, *load_recipe("mvdiffusion").params, "optim", "zzz", "a.b"})
)
quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(said=st.dictionaries(paths, values, max_size=4))
def test_a_recipe_of_any_values_is_taken_or_refused(tmp_path: Path, said: dict[str, object]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"base": "gslrm_tiny", **said}, allow_unicode=True), errors="replace")
    taken = ends_well(lambda: take_recipe(path), RecipeError)
    assert taken or said, "the recipe alone is taken"


@quick
@given(path=paths, word=st.text(max_size=12) | words.map(str))
def test_an_option_of_any_words_is_taken_or_refused(path: str, word: str) -> None:
    ends_well(lambda: load_recipe("gslrm_tiny", [f"{path}={word}"]), RecipeError)


# ---------------------------------------------------------------- our own books

EVENTS: tuple[Event, ...] = (
    SweepOpened(
        "s", "gslrm_tiny", {"space": {"optim.lr": {}}, "objective": {"metric": "val/psnr", "mode": "max"}}, {}, {}
    ),
    RunOpened(None, "parent"),
    TrialProposed(0, {"optim.lr": 1e-4}, "abc"),
    TrialOpened(0, "ray", 1, {"optim.lr": 1e-4}, {"optim.lr": 1e-4}, "abc"),
    Reported(0, 4, {"val/psnr": 12.5}),
    Reported(0, 8, {"val/psnr": 13.5, "train/loss": float("nan")}),
    TrialClosed(0, State.COMPLETE),
    SweepClosed(State.COMPLETE),
)


def written(folder: Path) -> bytes:
    with Journal(folder, clock=lambda: 5.0) as journal:
        for event in EVENTS:
            journal.append(event)
    return journal.path.read_bytes()


def test_a_mutated_journal_is_a_ledger_or_refused(tmp_path: Path) -> None:
    content, taken = written(tmp_path / "s"), []
    for changed in mutations(content, seed=11, count=4 * COUNT):
        (tmp_path / "s/journal.jsonl").write_bytes(changed)
        taken.append(ends_well(lambda: read(Journal(tmp_path / "s")), DamagedError))
    assert len(taken) == 4 * COUNT and any(taken) and not all(taken)
