"""When the steps of a sweep are taken, and when a verdict that is remembered stands for them."""

from dataclasses import replace

import pytest
import torch
import yaml

from sweeps.errors import StudyError
from sweeps.preflight.dry_run import DryRun
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.space import load_space

FOUND = Measured(0.5, 1000, None, 300, 100, ("val/psnr_fg",))


class FakeProcess:
    """Takes jobs and answers them at once."""

    def __init__(self, *answers):
        self.started, self.jobs, self.answers = False, [], list(answers)

    def start(self):
        self.started = True

    def send(self, jobs):
        self.jobs += jobs

    def receive(self, where):
        return self.answers.pop(0)


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({"recipe": "gslrm_tiny", "space": {"data.num_input_views": {"choice": [3, 5]}}}))
    return load_space(path)


def tried(space, cache, process, digest="d1"):
    """What came out, and what a row says of it."""
    dry_run = DryRun(space, cache, 1, process)
    dry_run.begin()
    dry_run.ask([], lambda recipe: digest)
    found = dry_run.outcome()
    dry_run.remember()
    return found, dry_run.told


def test_both_configurations_are_tried_and_the_neediest_figures_count(space, tmp_path):
    process = FakeProcess(FOUND, replace(FOUND, memory=5000, checkpoint=200))
    found, told = tried(space, tmp_path / "cache", process)
    assert [job.recipe.data.num_input_views for job in process.jobs] == [3, 5]
    assert (found.memory, found.checkpoint) == (5000, 300)
    assert told == "first 0.5 s a step, largest 0.5 s a step"


def test_a_space_of_one_configuration_is_tried_once(tmp_path, space):
    process = FakeProcess(FOUND)
    _, told = tried(replace(space, space={}), tmp_path / "cache", process)
    assert (len(process.jobs), told) == (1, "first 0.5 s a step")


def test_a_verdict_on_the_same_recipes_and_data_needs_no_process(space, tmp_path):
    tried(space, tmp_path, FakeProcess(FOUND, FOUND))
    process = FakeProcess()
    found, told = tried(space, tmp_path, process)
    assert found == FOUND and told.endswith(", as measured before")
    assert not process.started and process.jobs == []


@pytest.mark.parametrize("changed", ["data", "recipe"])
def test_other_data_or_another_recipe_is_tried_anew(space, tmp_path, changed):
    tried(space, tmp_path, FakeProcess(FOUND, FOUND))
    process = FakeProcess(FOUND, FOUND)
    other = space.with_fixed({"model.dim": 128}) if changed == "recipe" else space
    tried(other, tmp_path, process, "d2" if changed == "data" else "d1")
    assert len(process.jobs) == 2


def test_a_verdict_that_was_damaged_is_made_again(space, tmp_path):
    tried(space, tmp_path, FakeProcess(FOUND, FOUND))
    (verdict,) = tmp_path.glob("dry-run-*.json")
    verdict.write_text(verdict.read_text()[:40])
    process = FakeProcess(FOUND, FOUND)
    tried(space, tmp_path, process)
    assert len(process.jobs) == 2


def test_a_refused_sweep_leaves_no_verdict(space, tmp_path):
    dry_run = DryRun(space, tmp_path, 1, FakeProcess(*2 * [replace(FOUND, figures=("val/psnr",))]))
    dry_run.ask([], lambda recipe: "d1")
    with pytest.raises(StudyError, match="expected val/psnr_fg among the figures of a validation, got val/psnr — "):
        dry_run.outcome()
    assert list(tmp_path.glob("dry-run-*")) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_driver_without_the_gpu_that_trials_want_tries_nothing(space, tmp_path):
    process = FakeProcess()
    found, told = tried(replace(space, trials=replace(space.trials, gpus=1.0)), tmp_path, process)
    assert found is None and told == "left to the first trial: this machine has no GPU"
    assert not process.started and list(tmp_path.glob("dry-run-*")) == []
