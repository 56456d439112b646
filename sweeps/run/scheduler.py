"""Which trials stop early: named rules first, then ASHA. Both survive the interruption of a sweep.

Ray's ASHA keeps its rungs in memory under Ray's own trial ids. Here a trial has its number, so that it stays the same
trial after a fault. A resumed sweep gets its rungs back because the scheduler reads the journal again. Trials that
confirm the best of a search have no part in ASHA: they are run to be compared at their last step.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from sweeps.book.journal import Event, Reported, TrialClosed, TrialOpened, TrialProposed
from sweeps.space.pruning import Watch
from sweeps.space.space import SearchSpace

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


class SweepScheduler(FIFOScheduler):
    """Ray Tune's scheduler for a space. `stopped` holds the reason of each trial it has stopped, by number."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.stopped: dict[int, str] = {}
        self._open: set[int] = set()
        self._confirming: set[int] = set()  # trials that confirm others: the rules alone may stop them
        self._rules, self._asha = Watch(space.pruning, space.objective), _asha(space)
        self._metric = space.objective.metric
        self._max_steps = space.base.train.max_steps

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        """Accept Ray's metric and mode; the space knows its objective."""
        return True

    def judge_again(self, events: Iterable[Event]) -> None:
        """Judge the reports of earlier sessions again, in their order, and keep the outcome."""
        last: dict[int, dict[str, Any]] = {}
        for event in events:
            match event:
                case TrialProposed(confirms=int()):
                    self._confirming.add(event.trial)
                case TrialOpened():
                    self._add(event.trial)
                case Reported():
                    result = last[event.trial] = {"step": event.step, **event.metrics}
                    self._judge(event.trial, result)
                case TrialClosed(state="COMPLETE" | "PRUNED"):
                    self._completed(event.trial, last.get(event.trial, {}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._add(_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._judge(_number(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._completed(_number(trial), result)

    def _add(self, number: int) -> None:
        self._open.add(number)
        if self._asha is not None and number not in self._confirming:
            self._asha.on_trial_add(None, _same(number))

    def _judge(self, number: int, result: dict[str, Any]) -> str:
        if "step" not in result:
            return CONTINUE
        step = result["step"]
        reason = self._rules.feed(number, step, result)
        asha = None if number in self._confirming else self._asha
        if asha is not None and asha.on_trial_result(None, _same(number), result) == STOP:
            reason = reason or f"asha: {self._metric} {result[self._metric]:.4g} is among the weaker"
        if reason is None or step >= self._max_steps:  # the last report is the trial's own end
            return CONTINUE
        self.stopped[number] = f"{reason}, at step {step} of {self._max_steps}"
        return STOP

    def _completed(self, number: int, result: dict[str, Any]) -> None:
        if self._asha is not None and number in self._open - self._confirming:
            self._asha.on_trial_complete(None, _same(number), result)
        self._open.discard(number)
        self._rules.forget(number)


def _asha(space: SearchSpace) -> ASHAScheduler | None:
    if space.scheduler.kind == "none":
        return None
    return ASHAScheduler(
        time_attr="step",
        metric=space.objective.metric,
        mode=space.objective.mode,
        # ASHA stops every trial at max_t. With one step more, a trial ends by itself at its last report.
        max_t=space.base.train.max_steps + 1,
        grace_period=space.scheduler.grace_steps,
        reduction_factor=space.scheduler.reduction_factor,
    )


def _same(number: int) -> Any:
    """A stand-in for Ray's trial whose id is our number, which stays the same over all attempts."""
    return SimpleNamespace(trial_id=number)


def _number(trial: Any) -> int:
    return int(trial.config["number"])
