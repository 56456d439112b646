"""What the driver writes down about the end of a trial, by the verdict that the study goes by too."""

import math
from types import SimpleNamespace

import pytest

from sweeps.journal import Journal, TrialClosed, TrialOpened
from sweeps.tune import _JournalCallback, _Notes

METRIC = "val/psnr_fg"


@pytest.fixture
def callback(tmp_path, tiny_recipe):
    with Journal(tmp_path) as journal:
        recipe = tiny_recipe("train.max_steps=12")
        yield _JournalCallback(_Notes(journal, lambda _: None), recipe, METRIC, tmp_path / "cache")


def ended(callback, last_result):
    """The event of a trial that ends with this report and has no checkpoint."""
    manager = SimpleNamespace(best_checkpoint_result=None)
    trial = SimpleNamespace(
        config={"number": 0, "params": {}},
        trial_id="a",
        num_failures=0,
        last_result=last_result,
        run_metadata=SimpleNamespace(checkpoint_manager=manager),
    )
    callback.on_trial_start(0, [], trial)
    callback.on_trial_complete(0, [], trial)
    opened, closed = (event for _, event in callback._notes.journal.events())
    assert isinstance(opened, TrialOpened) and isinstance(closed, TrialClosed)
    assert opened.tags["data.geometry"] == "exact" and len(opened.tags["data.digest"]) == 64
    return closed


def test_a_trial_of_all_steps_is_complete(callback):
    closed = ended(callback, {"step": 12, METRIC: 20.0})
    assert (closed.state, closed.reason) == ("COMPLETE", "")


def test_a_trial_that_the_scheduler_stopped_is_pruned_with_its_last_figure(callback):
    closed = ended(callback, {"step": 4, METRIC: 15.25})
    assert (closed.state, closed.reason) == (
        "PRUNED",
        "stopped by the scheduler at step 4 of 12 with val/psnr_fg 15.25",
    )


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"step": 12, METRIC: math.nan}, "val/psnr_fg was nan at step 12"),
        ({"step": 4, METRIC: math.nan}, "val/psnr_fg was nan at step 4"),
        ({"step": 12}, "val/psnr_fg was not reported at step 12"),
        ({}, "stopped before its first report"),
    ],
)
def test_a_trial_without_a_finite_objective_fails_and_says_why(callback, result, reason):
    closed = ended(callback, result)
    assert (closed.state, closed.reason) == ("FAIL", reason)


def test_a_trial_that_ended_is_no_longer_open(callback):
    ended(callback, {"step": 12, METRIC: 20.0})
    assert callback._notes.open == set()
