"""Faults told apart by what Ray and torch say of them, and what is done about each."""

from __future__ import annotations

import pytest

from pipeline.errors import DataError, NonFiniteError, OversizedError
from sweeps.errors import SpaceError
from sweeps.space.faults import Fault, Faults, fault_of, remedy, run_of_failures
from sweeps.space.space import load_space


def named(name: str, base: type[Exception] = Exception) -> Exception:
    """An error of a class called so, as Ray's and torch's are."""
    return type(name, (base,), {})("said")


NODE = "The actor died unexpectedly before finishing this task. The actor is dead because its node has died."


@pytest.mark.parametrize(
    ("error", "text", "cause"),
    [
        (named("ActorDiedError"), "ActorDiedError: The actor died unexpectedly", "worker_lost"),
        (named("ActorDiedError"), NODE, "node_lost"),
        (None, "The actor b2 is unavailable: The actor is temporarily unavailable: RpcError", "worker_lost"),
        (named("OutageError"), "OutageError: MOUSELIFT_CHECKPOINTS: expected a store that answers", "store"),
        (None, "The actor never ran - it was cancelled before it started running.", "worker_lost"),
        (None, "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", "worker_lost"),
        (named("OutOfMemoryError"), "torch.OutOfMemoryError: CUDA out of memory. Tried", "out_of_memory"),
        (named("RuntimeError"), "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        (named("OutOfMemoryError"), "Task was killed due to the node running low on memory", "host_out_of_memory"),
        (MemoryError(), "MemoryError", "host_out_of_memory"),
        (NonFiniteError("step 3: nan"), "pipeline.errors.NonFiniteError: step 3: nan", "diverged"),
        (named("RayTaskError", NonFiniteError), "NonFiniteError: step 3", "diverged"),
        (named("RayTaskError", OversizedError), "RayTaskError: step 3", "diverged"),
        (None, "pipeline.errors.OversizedError: step 3: render: Gaussians so large that", "diverged"),
        (DataError("x.png is broken"), "pipeline.errors.DataError: x.png is broken", "data"),
        (None, "pipeline.errors.DegenerateViewsError: views", "exception"),
        (ValueError("bug"), "ValueError: bug", "exception"),
        (None, "", "exception"),
    ],
)
def test_a_fault_is_told_by_its_class_or_by_its_words(error, text, cause):
    assert fault_of(error, text).cause == cause


def test_a_trial_killed_for_its_silence_hung_whatever_ray_says_of_it():
    assert fault_of(named("ActorDiedError"), "x", silent_minutes=30.0) == Fault("hang", "no report for 30 minutes")


def test_a_reason_is_one_short_line_and_never_empty():
    assert fault_of(None, "a\n  b " * 400).reason.count("\n") == 0
    assert len(fault_of(None, "x" * 5000).reason) == 400
    assert fault_of(None, "").reason == "the trial's process ended without a word"


@pytest.mark.parametrize(
    ("cause", "earlier", "action"),
    [("worker_lost", 0, "retry"), ("worker_lost", 2, "retry"), ("worker_lost", 3, "fail"), ("exception", 0, "fail")],
)
def test_retries_are_counted_over_all_causes_of_a_trial(cause, earlier, action):
    assert remedy(Faults(retries=3), Fault(cause, "x"), earlier, batch_size=1, splits=1).action == action


@pytest.mark.parametrize(
    ("batch", "splits", "action"), [(4, 1, "halve"), (4, 2, "halve"), (4, 4, "fail"), (1, 1, "fail")]
)
def test_a_batch_is_halved_down_to_one_scene(batch, splits, action):
    assert remedy(Faults(), Fault("out_of_memory", "x"), 9, batch, splits).action == action


def test_failures_in_a_row_have_one_cause():
    assert run_of_failures(["data", "data", "data"], 3) == "data"
    assert run_of_failures(["data", "data"], 3) is None
    assert run_of_failures(["data", "", "data", "data"], 3) is None
    assert run_of_failures(["data", "hang", "data"], 3) is None
    assert run_of_failures(["", "", ""], 3) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("faults.hang=prune", "faults.hang: expected 'retry' or 'fail', got 'prune'"),
        ("faults.retries=-1", "faults.retries: expected greater than or equal to 0, got -1"),
        ("faults.hang_minutes=0", "faults.hang_minutes: expected greater than 0, got 0"),
        ("faults.retry=2", "unknown key faults.retry — did you mean faults.retries?"),
        ("retention.best=0", "retention.best: expected greater than 0, got 0"),
    ],
)
def test_a_policy_that_is_none_is_refused_in_one_line(override, message):
    with pytest.raises(SpaceError) as caught:
        load_space("gslrm_tiny", [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)
