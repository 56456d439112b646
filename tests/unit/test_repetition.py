"""A trial that is to be run again: on what, with which settings, and what is refused before any step."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.mice.mice import write_mice
from pipeline.recipe import LOCAL_PATHS
from pipeline.recipes import load_recipe, override
from sweeps.book.journal import Journal, Reported, SweepOpened, TrialClosed, TrialOpened
from sweeps.datasets import data_tags, register
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.preflight.repetition import compared, original, paths_of, space_again
from tests.support.spaces import space_with

SMALL = {"data.image_size": 32, "data.num_views": 5, "data.num_held_out_views": 1, "data.num_input_views": 4}
MACHINE = {"machine.device": "cpu", "machine.threads": "1", "machine.processes": "1"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})


def journal_of(home: Home, root: Path, state: str = "COMPLETE", metrics=True, **params) -> Journal:
    """A sweep over the learning rate, with a trial that ran on this data."""
    base = override(load_recipe("gslrm_tiny"), SMALL | {"data.root": str(root)})
    space = space_with(name="mine", recipe="gslrm_tiny").with_fixed(SMALL | {"data.root": str(root)})
    digest = data_tags(base, home.cache)
    journal = Journal(home.journal("mine"))
    journal.append(SweepOpened("mine", "gslrm_tiny", space.as_plain(), digest, base.params))
    chosen = {"optim.lr": 0.25} | params
    recipe = base.params | chosen
    journal.append(TrialOpened(0, "r", 1, chosen, recipe, override(base, {"optim.lr": 0.25}).fingerprint, digest))
    if metrics:
        journal.append(Reported(0, 20, {"val/psnr_fg": 20.0}, {}, MACHINE))
    if state != "RUNNING":
        journal.append(TrialClosed(0, state))
    return journal


def test_it_runs_with_the_trials_own_settings_on_as_many_threads(home, mice_folder):
    found = original(journal_of(home, mice_folder), 0)
    space = space_again(found, {}, on_cluster=False)
    assert space.base.params == found.one.recipe_params
    assert (space.trials.count, space.trials.cpus, space.trials.gpus, space.space) == (1, 1, 0.0, {})
    told = {one.name: (one.then, one.now) for one in compared(found, space, home).checks}
    same = {name for name, (then, now) in told.items() if then == now}
    assert {"recipe", "seed", "data", "machine device", "machine threads", "machine processes"} <= same
    assert told["packages"] == (None, "recorded") and told["code"][0] is None


def test_data_that_is_gone_is_refused_with_how_to_name_it(home, mice_folder, tmp_path):
    found = original(journal_of(home, mice_folder), 0)
    space = space_again(found, {"data.root": str(tmp_path / "gone")}, False)
    expected = r"mine/t0000: data: expected the dataset mice of digest \w{12}, got no folder at .* — name where it lies"
    with pytest.raises(StudyError, match=rf"{expected}: --data D\.$"):
        compared(found, space, home)
    register(home, "here", mice_folder)
    with pytest.raises(StudyError, match=rf"{expected}, which is registered as here: --data here\.$"):
        compared(found, space, home)


def test_a_dataset_of_another_digest_is_refused(home, mice_folder, tmp_path):
    other = write_mice(tmp_path / "other", scenes=3, size=32, seed=9)
    found = original(journal_of(home, mice_folder), 0)
    with pytest.raises(StudyError, match=rf"got \w{{12}} at {other} — name where it lies: --data D\.$"):
        compared(found, space_again(found, {"data.root": str(other)}, False), home)


def test_weights_that_are_gone_are_refused(home, mice_folder, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"as they were")
    journal = journal_of(home, mice_folder, **{"train.init_from": str(weights)})
    found = original(journal, 0)
    weights.unlink()
    with pytest.raises(StudyError, match=r"train\.init_from: expected the contents .*: --set train\.init_from=PATH\.$"):
        compared(found, space_again(found, {}, False), home)


@pytest.mark.parametrize(
    ("state", "metrics", "said"),
    [
        ("RUNNING", True, "expected a run that has ended, got one that is RUNNING"),
        ("FAIL", False, r"expected a run with figures to compare with, got none \(FAIL\)"),
    ],
)
def test_a_trial_without_an_end_or_figures_is_not_run_again(home, mice_folder, state, metrics, said):
    with pytest.raises(StudyError, match=said):
        original(journal_of(home, mice_folder, state, metrics), 0)


def test_a_setting_that_this_version_does_not_know_is_one_line_with_the_commit(home, mice_folder):
    found = original(journal_of(home, mice_folder, **{"optim.forgotten": 1}), 0)
    with pytest.raises(StudyError, match=r"a run of this version's settings, got .*forgotten.*code of its commit"):
        space_again(found, {}, False)


def test_only_places_of_files_may_be_given(home):
    assert paths_of(["train.init_from=x", "model.base=y"]) == {"train.init_from": "x", "model.base": "y"}
    assert paths_of([f"{LOCAL_PATHS[0]}=z"]) == {"data.root": "z"}
    with pytest.raises(StudyError, match=r"--set optim\.lr=1: expected where a file lies now"):
        paths_of(["optim.lr=1"])
