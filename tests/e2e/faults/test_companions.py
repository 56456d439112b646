"""Trials of two processes under Ray Tune, on the CPU: what is reported, and that a lost companion ends the trial."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import tune
from ray.cluster_utils import Cluster
from torch import distributed

from pipeline.recipe import Recipe
from pipeline.training.loop import train
from sweeps.run.nodes import Seat
from sweeps.run.processes import companions, resources

pytestmark = pytest.mark.faults
SEATS = [Seat(cpus=1), Seat(cpus=1)]
LOST = "ChildProcessError: process 1 of the trial was lost: it was killed, or its node is gone"
SECONDS = 60  # in which a trial is over when its companion is killed; it takes a few


def follow(recipe: Recipe, cache: Path, fault: str, device: torch.device) -> None:
    """What the companion does."""
    with tempfile.TemporaryDirectory() as folder:
        for report in train(recipe, Path(folder), None, device, cache):
            if report.step == 4 and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if report.step == 4 and fault == "raises":
                raise MemoryError("CUDA out of memory, of the companion")


def trial(config: dict[str, Any], recipe: Recipe, cache: Path) -> None:
    work = partial(follow, recipe, cache, config["fault"])
    with companions(work, SEATS) as device, tempfile.TemporaryDirectory() as folder:
        for report in train(recipe, Path(folder), None, device, cache):
            tune.report(
                {"step": report.step, "size": distributed.get_world_size(), "time": time.time(), **report.metrics}
            )


class Stops(tune.schedulers.FIFOScheduler):
    """The first trial, at its third report, as ASHA would."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.STOP if trial.config["fault"] == "stopped" and result["step"] == 4 else self.CONTINUE


class Book(tune.Callback):
    """What Ray Tune told; `at_second` is called at the second report."""

    def __init__(self, at_second: Callable[[], object] = str) -> None:
        self._at_second = at_second
        self.steps: dict[str, list[int]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.ended: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps callbacks with the experiment

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.steps.setdefault(trial.config["fault"], []).append(result["step"])
        self.results[trial.config["fault"]] = result
        if len(self.steps[trial.config["fault"]]) == 2:
            self._at_second()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended[trial.config["fault"]] = time.time()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended[trial.config["fault"]] = time.time()
        self.errors[trial.config["fault"]] = Path(trial.error_file).read_text()


def sweep(recipe: Recipe, cache: Path, folder: Path, book: Book, faults: list[str]) -> None:
    """Trials one after the other: each needs every CPU there is."""
    tune.Tuner(
        tune.with_resources(partial(trial, recipe=recipe, cache=cache), resources(SEATS)),
        param_space={"fault": tune.grid_search(faults)},
        tune_config=tune.TuneConfig(metric="step", mode="max", scheduler=Stops(), reuse_actors=True),
        run_config=tune.RunConfig(name="pair", storage_path=str(folder), callbacks=[book], verbose=0),
    ).fit()


@pytest.fixture(scope="module")
def ray_settings():
    """For ray.init; Ray's workers find this repository, and write no files of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    patch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    yield {"log_to_driver": False, "runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
    patch.undo()


@pytest.fixture(scope="module")
def book(tiny_recipe, frames_cache, tmp_path_factory, ray_settings):
    book = Book()
    ray.init(num_cpus=2, include_dashboard=False, **ray_settings)
    try:
        recipe, folder = tiny_recipe("train.batch_size=2"), tmp_path_factory.mktemp("ray")
        sweep(recipe, frames_cache, folder, book, ["none", "stopped", "killed", "raises"])
    finally:
        ray.shutdown()
    return book


def test_rank_0_reports_to_ray_tune_and_the_other_trains_beside_it(book) -> None:
    assert book.steps["none"] == [1, 2, 4, 6, 8]
    assert book.results["none"]["size"] == 2 and "none" not in book.errors


def test_the_scheduler_stops_a_trial_of_two_like_any_other(book) -> None:
    assert book.steps["stopped"] == [1, 2, 4] and "stopped" not in book.errors


def test_a_killed_companion_ends_the_trial_with_that_cause(book) -> None:
    assert book.errors["killed"].rstrip().endswith(LOST)
    assert book.ended["killed"] - book.results["killed"]["time"] < SECONDS


def test_what_a_companion_raises_is_the_trials_error(book) -> None:
    assert book.errors["raises"].rstrip().endswith("MemoryError: CUDA out of memory, of the companion")
    assert book.ended["raises"] - book.results["raises"]["time"] < SECONDS


def test_a_lost_node_ends_the_trial_that_had_a_process_on_it(tiny_recipe, frames_cache, tmp_path, ray_settings) -> None:
    """Two nodes with a CPU each, so that the trial has a process on both; one goes without a word."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, **ray_settings)
        seen = Book(lambda: threading.Thread(target=cluster.remove_node, args=(other, False)).start())
        long = tiny_recipe("train.batch_size=2", "train.max_steps=100000", "train.validate_every=100000")
        sweep(long, frames_cache, tmp_path, seen, ["none"])
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert "none" in seen.errors and seen.ended["none"] - seen.results["none"]["time"] < SECONDS
