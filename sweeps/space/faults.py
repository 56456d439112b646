"""The faults that a trial can have, and what is done about each. Pure: knows no Ray; errors are known by class name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe import Count, Positive, strict

Cause = Literal[
    "worker_lost", "node_lost", "out_of_memory", "host_out_of_memory", "hang", "diverged", "data", "store", "exception"
]
Action = Literal["retry", "halve", "prune", "fail"]
_LONGEST_REASON = 400

# By the name of an error's class or of one of its bases; of several that fit, the first in this order is the cause.
_BY_CLASS: dict[str, Cause] = {
    "DivergedError": "diverged",
    "NonFiniteError": "diverged",  # the line of a traceback names no bases
    "OversizedError": "diverged",
    "DataError": "data",
    "NodeDiedError": "node_lost",
    "OutageError": "store",
}
# Then by words of the message, in lower case: torch and Ray do not have a class for each of these in every version.
_BY_WORDS: tuple[tuple[str, Cause], ...] = (
    ("cuda out of memory", "out_of_memory"),
    ("running low on memory", "host_out_of_memory"),
    ("node has died", "node_lost"),
    ("its node", "node_lost"),
    ("the actor never ran", "worker_lost"),
    ("the actor died", "worker_lost"),
    ("the actor is dead", "worker_lost"),
    ("the actor is temporarily unavailable", "worker_lost"),  # its node may be gone, too, but Ray does not know yet
)
_BY_CLASS_LAST: dict[str, Cause] = {
    "OutOfMemoryError": "out_of_memory",
    "ActorDiedError": "worker_lost",
    "ActorUnavailableError": "worker_lost",
    "RayActorError": "worker_lost",
    "WorkerCrashedError": "worker_lost",
    "ChildProcessError": "worker_lost",  # a companion of the trial's own process
    "MemoryError": "host_out_of_memory",
}


@strict
@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is done when a trial breaks.

    retry: it goes on from its last checkpoint, up to `retries` times in all. halve: the same, with each batch in twice
    as many parts, so that the step stays what it was in less memory. prune: it ends as PRUNED, and the search learns
    from it. fail: it ends as FAIL with the cause.
    """

    retries: Count = 3  # how often one trial is tried again, over all causes
    same_cause: Positive = 3  # trials in a row that fail for one cause end the sweep
    hang_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0  # without a report
    worker_lost: Literal["retry", "fail"] = "retry"  # a trial's process died
    node_lost: Literal["retry", "fail"] = "retry"  # its machine is gone
    out_of_memory: Literal["halve", "retry", "fail"] = "halve"  # of the GPU
    host_out_of_memory: Literal["retry", "fail"] = "retry"  # of the machine
    hang: Literal["retry", "fail"] = "retry"  # no report for hang_minutes
    diverged: Literal["prune", "fail"] = "prune"  # a number that is none, or Gaussians too large to draw
    data: Literal["retry", "fail"] = "fail"  # a file of the dataset cannot be read
    store: Literal["retry", "fail"] = "retry"  # checkpoints could not be reached for minutes
    exception: Literal["retry", "fail"] = "fail"  # any other error


@dataclass(frozen=True)
class Fault:
    """Why an attempt at a trial ended before its time."""

    cause: Cause
    reason: str  # one line


@dataclass(frozen=True)
class Remedy:
    """What is done about a fault, and the reason that is written down if it ends the trial."""

    action: Action
    reason: str


def fault_of(error: BaseException | None, text: str, silent_minutes: float | None = None) -> Fault:
    """The fault behind an error of Ray Tune and the last line of its traceback.

    silent_minutes: set when the trial was ended because it had not reported for so long.
    """
    if silent_minutes is not None:
        return Fault("hang", f"no report for {silent_minutes:.3g} minutes")
    said = " ".join(text.split())[:_LONGEST_REASON] or "the trial's process ended without a word"
    names = {kind.__name__ for kind in type(error).__mro__} if error is not None else set()
    words = f"{error} {text}".lower()
    found = [cause for name, cause in _BY_CLASS.items() if name in names or f"{name}:" in text]
    found += [cause for part, cause in _BY_WORDS if part in words]
    found += [cause for name, cause in _BY_CLASS_LAST.items() if name in names or f"{name}:" in text]
    return Fault(next(iter(found), "exception"), said)


def remedy(faults: Faults, fault: Fault, earlier: int, batch_size: int, splits: int) -> Remedy:
    """What to do about a fault of a trial that was retried `earlier` times and trains each batch in `splits` parts."""
    action: Action = getattr(faults, fault.cause)
    if action in ("prune", "fail"):
        return Remedy(action, f"{fault.cause}: {fault.reason}")
    if action == "halve" and splits * 2 > batch_size:
        return Remedy("fail", f"{fault.cause}: with one scene at a time too: {fault.reason}")
    if action == "retry" and earlier >= faults.retries:
        again = f"after {faults.retries} retries" if faults.retries else "and no retries are allowed"
        return Remedy("fail", f"{fault.cause} {again}: {fault.reason}")
    return Remedy(action, f"{fault.cause}: {fault.reason}")


def run_of_failures(causes: Iterable[str], limit: int) -> str | None:
    """The cause that the last `limit` trials to end have in common, or None; a trial that did not fail has cause ''."""
    last = list(causes)[-limit:]
    return last[0] if len(last) == limit and last[0] and len(set(last)) == 1 else None
