"""One sweep, each of whose trials suffers something else: all are told apart, and none harms another."""

from __future__ import annotations

import re

import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import Seat
from tests.e2e.faults.conftest import Bench
from tests.e2e.faults.patches import at_step

pytestmark = pytest.mark.faults
SOUND, NAN_FIRST, NAN_MIDDLE, NAN_LAST = 1.0e-3, 1.1e-3, 1.2e-3, 1.3e-3
TOO_LARGE, FAR_TOO_LARGE, HOST_MEMORY, DATA = 1.4e-3, 1.5e-3, 1.6e-3, 1.7e-3
RATES = [SOUND, NAN_FIRST, NAN_MIDDLE, NAN_LAST, TOO_LARGE, FAR_TOO_LARGE, HOST_MEMORY, DATA]
LAST = 24
STEPS = {"train.max_steps": LAST, "train.validate_every": 8, "train.batch_size": 2}
CODE = f"""
import torch
from pipeline.errors import DataError
rate = self.recipe.optim.lr
if number == {{{NAN_FIRST}: 1, {NAN_MIDDLE}: 13, {NAN_LAST}: {LAST}}}.get(rate):
    with torch.no_grad():
        next(p for p in self.stage.model.parameters() if p.requires_grad).fill_(float("nan"))
if number == 1 and rate in ({TOO_LARGE}, {FAR_TOO_LARGE}):
    losses_, room = self.stage.losses, 1 if rate == {TOO_LARGE} else 0
    def losses(batch, step, generator):
        if len(batch.scenes) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return losses_(batch, step, generator)
    self.stage.losses = losses
if number == 13 and rate == {HOST_MEMORY} and once("memory"):
    raise MemoryError("Unable to allocate 12.0 GiB for an array")
if number == 13 and rate == {DATA}:
    raise DataError("mice/scene_000003/images/cam_001.png: expected an image, got a broken file — mend it.")
"""


@pytest.fixture(scope="module")
def hurt(tmp_path_factory, mice_folder):
    root = tmp_path_factory.mktemp("many")
    space = {"space": {"optim.lr": {"choice": RATES}}, "sampler": {"kind": "grid"}, "fixed": STEPS}
    seat = Seat(root, at_step(root / "patch", CODE))
    bench = Bench(seat, mice_folder, **space, trials={"count": len(RATES), "concurrent": 2})
    bench.start()
    assert bench.finish() == 0, bench.said
    return bench


@pytest.fixture(scope="module")
def trials(hurt):
    return {trial.params["optim.lr"]: trial for trial in hurt.seat.ledger("hurt").trials.values()}


@pytest.fixture(scope="module")
def books(hurt):
    return hurt.check()


def tags(hurt, trial):
    return MlflowClient(hurt.seat.home.tracking_uri).get_run(trial.run_id).data.tags


def test_each_trial_ends_as_its_fault_has_it(trials, books):
    ends = dict.fromkeys((SOUND, TOO_LARGE, HOST_MEMORY), "COMPLETE")
    ends |= dict.fromkeys((NAN_FIRST, NAN_MIDDLE, NAN_LAST), "PRUNED")
    assert {rate: trial.state for rate, trial in trials.items()} == ends | {FAR_TOO_LARGE: "FAIL", DATA: "FAIL"}
    assert books.wrong == []


@pytest.mark.parametrize(
    ("rate", "step", "word"), [(NAN_FIRST, 3, "first"), (NAN_MIDDLE, 15, "middle"), (NAN_LAST, LAST, "last")]
)
def test_a_trial_that_diverges_is_pruned_and_never_the_best(hurt, trials, books, note, rate, step, word):
    """Of 100 updates in a row, two may have no finite loss or gradient; a validation ends the trial at once."""
    norm = "" if word == "first" else r".*; the gradient norm was \S+( a step|, \d steps) before"
    assert re.match(rf"diverged: .*NonFiniteError: step {step}: .*expected .*, got .*{norm}", trials[rate].reason)
    assert tags(hurt, trials[rate])["trial.reason"] == trials[rate].reason
    assert books.best in {trials[rate].number for rate in (SOUND, TOO_LARGE, HOST_MEMORY)}
    note(f"weights that are no numbers at the {word} step", books, "PRUNED as diverged: term, step, gradient norm")


def test_a_gpu_that_is_too_small_halves_the_parts_and_keeps_the_batch(hurt, trials, books, note):
    found = tags(hurt, trials[TOO_LARGE])
    assert (found["trial.attempt"], found["trial.batch_parts"]) == ("2", "2")
    assert found["trial.fault.1"].startswith("out_of_memory (halve): ")
    first = {r.trial: r.metrics for r in hurt.seat.reports("hurt") if r.step == 1}
    halved, whole = (first[trials[name].number]["train/loss"] for name in (TOO_LARGE, SOUND))
    # The learning rate is 0 before step 1: every trial has the same loss there, if its batch is the same.
    assert halved == pytest.approx(whole, rel=1e-5)
    note("CUDA out of memory", books, "the batch in two parts, the same step; the same trial and run")


def test_a_gpu_that_is_too_small_for_one_scene_fails_the_trial(trials, books, note):
    assert trials[FAR_TOO_LARGE].reason.startswith("out_of_memory: with one scene at a time too: ")
    assert trials[FAR_TOO_LARGE].attempt == 2
    note("CUDA out of memory with one scene, too", books, "FAIL with the cause")


def test_a_host_without_memory_is_tried_again(hurt, trials, books, note):
    found = tags(hurt, trials[HOST_MEMORY])
    assert found["trial.fault.1"].startswith("host_out_of_memory (retry): ")
    assert (found["trial.attempt"], found["trial.resumed_from"]) == ("2", "step-000008")
    note("MemoryError of the host", books, "second attempt from its checkpoint")


def test_broken_data_fail_the_trial_and_name_the_file(hurt, trials, books, note):
    assert trials[DATA].reason.startswith("data: ") and "cam_001.png" in trials[DATA].reason
    assert trials[DATA].attempt == 1
    note("an exception in the data at step 13", books, "FAIL with the file's name")


def test_three_trials_in_a_row_with_broken_data_end_the_sweep(bench, note, tmp_path):
    code = (
        "from pipeline.errors import DataError\nraise DataError('scene_000003: expected an image, got none — mend it.')"
    )
    hurt = bench(at_step(tmp_path / "patch", code), fixed=STEPS, trials={"count": 6, "concurrent": 1})
    hurt.start()
    assert hurt.finish() == 1
    ledger = hurt.seat.ledger("hurt")
    assert [trial.state for trial in ledger.trials.values()] == ["FAIL"] * 3
    assert ledger.state == "FAIL" and "Traceback" not in hurt.said
    assert ledger.reason.startswith("3 trials in a row failed; the last: data: ")
    assert f"sweep FAIL: {ledger.reason}" in hurt.said
    note(
        "three trials in a row with broken data", hurt.check(ended=False), "the sweep ends early with the cause, exit 1"
    )
