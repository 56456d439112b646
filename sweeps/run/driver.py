"""The driver of a sweep: hears what Ray says of the trials, decides what becomes of them, and writes that down first.

Knows no Ray: it is told of Ray's trials by their ids and asks for their errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.book.journal import (
    AttemptFailed,
    Event,
    Journal,
    Reported,
    State,
    SweepClosed,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.ledger import Objective as Goal
from sweeps.book.ledger import Trial, fold, read
from sweeps.book.study import Ending, Result, Ruling, StudySearcher, verdict
from sweeps.home import Home
from sweeps.preflight.checks import data_tags
from sweeps.run.checkpoints import Checkpoints
from sweeps.run.scheduler import SweepScheduler
from sweeps.run.vitals import Vitals
from sweeps.space.faults import fault_of, remedy, run_of_failures
from sweeps.space.space import SearchSpace

STOP_FILE = "stop"
ENDED = ("COMPLETE", "PRUNED", "FAIL")  # for good; a KILLED trial may be taken up again
_NAP_SECONDS = 60.0  # between two looks: nobody was there to hear the trials, who are then given time anew
_NO_FIGURE = "objective"  # the cause of a FAIL that is no fault of the trial's process


class Listener(Protocol):
    """Hears each event after it is safe in the journal: the progress display."""

    def __call__(self, event: Event) -> None: ...


class Broken(NamedTuple):
    """What Ray kept of an attempt that broke."""

    config: Mapping[str, Any]
    error: BaseException | None
    traceback: str

    @property
    def last_line(self) -> str:
        """The error itself."""
        lines = [line.strip() for line in self.traceback.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Driver:
    """What happens to the trials of one session of a sweep.

    end: called with a state and a reason when the sweep should end early; clock: unix seconds.
    """

    def __init__(
        self,
        journal: Journal,
        space: SearchSpace,
        recipe: Recipe,
        home: Home,
        scheduler: SweepScheduler,
        listen: Listener,
        end: Callable[[State, str], None],
        clock: Callable[[], float] = time.time,
        vitals: Vitals | None = None,
    ) -> None:
        self.journal, self.ledger = journal, read(journal)
        self._space, self._recipe, self._home, self._scheduler = space, recipe, home, scheduler
        self._listen, self._end, self._clock = listen, end, clock
        self._hung: set[int] = set()
        self.vitals = vitals or Vitals()
        self._watched, self._awake = clock(), 0.0  # when it last looked, and since when without a pause
        self.broken: Callable[[str], Broken] = _unheard

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps what it is given with the experiment; a driver lives and dies with its process

    @property
    def running(self) -> list[int]:
        return [number for number, trial in self.ledger.trials.items() if trial.state == "RUNNING"]

    @property
    def objective(self) -> Goal:
        return Goal(self._space.objective.metric, self._space.objective.mode)

    def write(self, event: Event) -> None:
        """Into the journal, and then to whoever listens."""
        event = self.journal.append(event)
        self.ledger = fold(self.ledger, event)
        self._listen(event)

    def checkpoints(self, number: int) -> Checkpoints:
        return Checkpoints(self._home.checkpoints, self.ledger.name, number)

    def continuation(self, number: int) -> dict[str, Any]:
        """What a trial's worker must know: which attempt this is, and from where it goes on."""
        trial = self.ledger.trials.get(number)
        if trial is None:
            return {"attempt": 1, "reported": -1, "splits": 1}
        return {"attempt": trial.attempt + 1, "reported": trial.last_step, "splits": trial.splits}

    def opened(self, ray_trial_id: str, config: Mapping[str, Any]) -> None:
        """An attempt at a trial starts."""
        number, params = int(config["number"]), config["params"]
        self._hung.discard(number)  # an attempt before this one hung
        recipe = override(self._recipe, params)
        tags = data_tags(recipe, self._home.cache)
        if config["splits"] > 1:
            tags["trial.batch_parts"] = str(config["splits"])
        opened = TrialOpened(number, ray_trial_id, config["attempt"], params, recipe.params, recipe.fingerprint, tags)
        self.write(opened)

    def reported(
        self, number: int, step: int, metrics: dict[str, float], images: Mapping[str, bytes], tags: dict[str, str]
    ) -> None:
        """A trial reported."""
        kept = {name: self.journal.keep(f"{name}.png", png) for name, png in images.items()}
        self.write(Reported(number, step, metrics, kept, tags))

    def ended(self, number: int, ray_trial_id: str, result: Result | None, error: bool) -> Ruling:
        """What becomes of a trial whose attempt ended; written down already when this returns."""
        if error and self.vitals.lost:  # no fault of the trial
            return Ruling("WAITING")
        if error:
            broken = self.broken(ray_trial_id)
            if number not in self.running:  # its process never came up
                self.opened(ray_trial_id, broken.config)
            return self._broke(self.ledger.trials[number], broken)
        if number not in self.running:
            return Ruling("WAITING")
        state, reason = verdict(result, False, self._space.objective.metric, self._recipe.train.max_steps)
        if state == "PRUNED":
            reason = self._scheduler.stopped.get(number, reason)
        return self._close(number, state, reason, _NO_FIGURE if state == "FAIL" else "")

    def watch(self, kill: Callable[[int], None]) -> None:
        """Called often: end trials that have not been heard of for too long, and the sweep when somebody asked."""
        limit, now = self._space.faults.hang_minutes * 60, self._clock()
        if now - self._watched > _NAP_SECONDS:  # it was itself that heard nothing
            self._awake = now
        self._watched = now
        for number in self.running:
            if number not in self._hung and now - max(self.ledger.trials[number].heard, self._awake) > limit:
                self._hung.add(number)
                kill(number)
        if lost := self.vitals.lost:
            resume = f"`mouselift sweep resume {self.ledger.name}` goes on with it"
            self._end("FAIL", f"Ray died: its {lost} ended — {resume}")
        if (self.journal.folder / STOP_FILE).exists():
            self._end("KILLED", "stopped by `mouselift sweep stop`")

    def take_up(self, searcher: StudySearcher) -> None:
        """Make journal, scheduler and study agree after whatever ended the session before this one."""
        events = [event for _, event in self.journal.events()]
        self._scheduler.hear_again(events)
        for number, trial in self.ledger.trials.items():
            if trial.state not in ENDED:
                self._decide(number, trial)
        curves = _curves(events, self._space.objective.metric)
        for number, trial in self.ledger.trials.items():
            if trial.state in ENDED:
                ending: Any = trial.state
                searcher.tell(number, ending, trial.last_value, curves.get(number, {}), trial.reason)
        searcher.put_back()

    def close(self, state: State, reason: str) -> None:
        """The end of the session: what still runs is KILLED, and can be taken up again."""
        why = reason or "the sweep ended before this trial did"
        for number in sorted(self.ledger.open):
            self.write(TrialClosed(number, "KILLED", why))
        self.write(SweepClosed(state, reason))

    def _decide(self, number: int, trial: Trial) -> None:
        """Close a trial whose end was reached or decided, but not written down."""
        metric, max_steps = self._space.objective.metric, self._recipe.train.max_steps
        if number in self._scheduler.stopped:
            self._close(number, "PRUNED", self._scheduler.stopped[number])
        elif trial.last_step >= max_steps:
            result = {"step": trial.last_step} | ({} if trial.last_value is None else {metric: trial.last_value})
            self._close(number, *verdict(result, False, metric, max_steps))

    def _broke(self, trial: Trial, broken: Broken) -> Ruling:
        hung = self._space.faults.hang_minutes if trial.number in self._hung else None
        self._hung.discard(trial.number)
        fault = fault_of(broken.error, broken.last_line, hung)
        batch_size = override(self._recipe, trial.params).train.batch_size
        retries = trial.faults.count("retry")
        found = remedy(self._space.faults, fault, retries, batch_size, trial.splits)
        blob = self.journal.keep("traceback.txt", broken.traceback.encode()) if broken.traceback else None
        self.write(AttemptFailed(trial.number, trial.attempt, fault.cause, found.action, fault.reason, blob))
        match found.action:
            case "retry" | "halve":
                return Ruling("WAITING")
            case "prune":
                return self._close(trial.number, "PRUNED", found.reason)
        return self._close(trial.number, "FAIL", found.reason, fault.cause)

    def _close(self, number: int, state: Ending, reason: str, cause: str = "") -> Ruling:
        artifacts = self._release(number) if state == "COMPLETE" else {}
        self.write(TrialClosed(number, state, reason, artifacts, cause))
        shared = run_of_failures(self.ledger.endings, self._space.faults.same_cause)
        if state == "FAIL" and shared is not None:
            self._end("FAIL", f"{self._space.faults.same_cause} trials in a row failed; the last: {reason}")
        return Ruling(state, reason)

    def _release(self, number: int) -> dict[str, str]:
        """The best checkpoint without its optimizer state, in the journal's folder: what MLflow and users get."""
        target = self.journal.folder / "checkpoints" / f"t{number:04d}"
        released: Path | None = self.checkpoints(number).release(self.objective, target)
        return {} if released is None else {"checkpoint": str(released)}


def _curves(events: list[Event], metric: str) -> dict[int, dict[int, float]]:
    """The objective of each trial by step, as first reported."""
    found: dict[int, dict[int, float]] = {}
    for event in events:
        if isinstance(event, Reported) and metric in event.metrics:
            found.setdefault(event.trial, {}).setdefault(event.step, event.metrics[metric])
    return found


def _unheard(ray_trial_id: str) -> Broken:
    raise KeyError(ray_trial_id)
