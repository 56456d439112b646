"""The driver of a sweep: it takes in what Ray reports of the trials, writes it to the journal, and decides.

It calls nothing of Ray: it gets Ray's trials by their ids, and asks for their errors. All that it knows of the sweep
is the ledger, but for the proposals that Ray has taken and not yet begun.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.book import journal as events
from sweeps.book.journal import Event, Journal, State
from sweeps.book.ledger import closing, fold, read
from sweeps.book.remaining import Shortage, short_of, spent_of, why
from sweeps.book.scene_figures import SceneFigures, keep_scenes
from sweeps.book.study import Proposals, confirmation, may_search, verdict
from sweeps.book.trial import Trial
from sweeps.datasets import data_tags
from sweeps.errors import counted
from sweeps.home import Home
from sweeps.reuse.continuing import Continuing
from sweeps.reuse.known_results import PARTS, KnownResults
from sweeps.reuse.taking import Taking
from sweeps.run.checkpoints import Checkpoints
from sweeps.run.ray_session import Vitals
from sweeps.run.releases import Releases
from sweeps.run.scheduler import SweepScheduler
from sweeps.space.faults import Cause, Fault, Remedy, fault_of, remedy, run_of_failures
from sweeps.space.space import SearchSpace

STOP_FILE = "stop"
_STOPPED = "stopped by `mouselift sweep stop`"
_NAP_BETWEEN_LOOKS = 0.5  # seconds
_NAP_SECONDS = 60.0  # a driver that did not run for so long heard no report: no trial is blamed for that time
_IDLE_SECONDS = 60.0  # after which a sweep says that no process came up for a trial; then after twice that, and so on
_NO_FIGURE = "objective"  # the cause of a FAIL without an error: the objective is missing or not finite
_TAKING_SECONDS = 1.0  # in which results of other sweeps are taken before Ray hears its trials again
_RELEASE_SECONDS = 10.0  # for checkpoints that are being released when the sweep is interrupted
_log = logging.getLogger(__name__)
E = TypeVar("E", bound=Event)
Result = Mapping[str, Any]
# Gets each event after it is safe in the journal. The progress display is one.
Listener = Callable[[Event], None]


class Broken(NamedTuple):
    """An attempt that broke, as Ray describes it."""

    config: Mapping[str, Any]
    error: BaseException | None
    traceback: str

    @property
    def last_line(self) -> str:
        """The error itself."""
        lines = [line.strip() for line in self.traceback.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Driver:
    """Decides about the trials of one session of a sweep.

    end: is called with a state and a reason when the sweep should end early. clock: gives unix seconds. made_by: tags
    of the code and of the kind of machine that trials are trained with; without them no result is taken.
    """

    def __init__(
        self,
        journal: Journal,
        space: SearchSpace,
        recipe: Recipe,
        home: Home,
        listen: Listener,
        end: Callable[[State, str], None],
        clock: Callable[[], float] = time.time,
        vitals: Vitals | None = None,
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        self.journal, self.ledger = journal, read(journal)
        self.space, self.recipe, self.home, self.scheduler = space, recipe, home, SweepScheduler(space)
        self._listen, self._end, self._clock = listen, end, clock
        self._hung: set[int] = set()
        self.vitals = vitals or Vitals()
        self._watched, self._awake = clock(), 0.0  # the last call of `watch`, and the first after a nap
        self._idle_since, self._idle_told = clock(), _IDLE_SECONDS
        self.broken: Callable[[str], Broken]  # how an attempt broke, by Ray's id: set by what runs the trials
        self._proposals = Proposals(space)
        self._given: dict[str, int] = {}  # Ray's id -> the trial it was given and has not begun
        self._short: Shortage | None = None  # of the budget, when a trial was asked for last
        self._spent_since: float | None = None  # when the budget was found to be spent
        self._writing = threading.RLock()
        place = journal.folder / "checkpoints"
        self.releases = Releases(home, journal.folder.name, space.aims, place, self._released, self._kept)
        self._made_by = dict(made_by or {})
        known = KnownResults(home, journal.folder.name, space.aims, self._made_by)
        self._taking = Taking(home, journal, known, self._made_by, place)
        store = partial(Checkpoints, home.checkpoints)
        self._continuing = Continuing(home, journal, known, space.aims, self._made_by, store)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles a driver with its experiment, but a driver is of use only in its own process

    @property
    def running(self) -> list[int]:
        return [number for number, trial in self.ledger.trials.items() if trial.state == State.RUNNING]

    def write(self, event: E) -> E:
        """Write an event to the journal, then tell the listener; from any thread."""
        with self._writing:
            event = self._noted(event)
            self._listen(event)
        return event

    def _noted(self, event: E) -> E:
        event = self.journal.append(event)
        self.ledger = fold(self.ledger, event)
        return event

    def next_trial(self, ray_trial_id: str) -> dict[str, Any] | None:
        """The config of the next trial: one that waits, or else a new proposal; None where there is neither.

        It has `number`, `params` by dotted path, `attempt`, the last step `reported`, and `splits` of each batch.
        """
        number = self._next()
        if number is None:
            return None
        self._given[ray_trial_id] = number
        trial = self.ledger.trials[number]
        goes_on = {"attempt": trial.attempt + 1, "reported": trial.last_step, "splits": trial.splits}
        return {"number": number, "params": trial.params, **goes_on}

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended, and none is to come; or none runs, and none can end within the budget."""
        ended = not self.ledger.open and not self._may_propose
        return ended or (self._short is not None and not self.running and not self._given)

    def opened(self, ray_trial_id: str, config: Mapping[str, Any]) -> None:
        """An attempt at a trial starts."""
        number, params = int(config["number"]), config["params"]
        self._given.pop(ray_trial_id, None)
        self._hung.discard(number)  # the attempt before may have hung
        recipe = override(self.recipe, params)
        tags = data_tags(recipe, self.home.cache) | self._made_by
        if config["splits"] > 1:
            tags[PARTS] = str(config["splits"])
        attempt, fingerprint = config["attempt"], recipe.fingerprint
        self.write(events.TrialOpened(number, ray_trial_id, attempt, params, recipe.params, fingerprint, tags))

    def reported(
        self,
        number: int,
        step: int,
        metrics: dict[str, float],
        images: Mapping[str, bytes],
        tags: dict[str, str],
        scenes: Sequence[SceneFigures] = (),
    ) -> None:
        """A trial reported at an optimizer step. scenes: the figures of each scene that it validated."""
        kept = {name: self.journal.keep(f"{name}.png", png) for name, png in images.items()}
        per_scene = keep_scenes(self.journal, scenes) if scenes else None
        self.write(events.Reported(number, step, metrics, kept, tags, per_scene))

    def ended(self, ray_trial_id: str, result: Result | None, error: bool) -> None:
        """Ray ended an attempt, whose last report this is: decide whether its trial goes on, and write it down."""
        number = self._number_of(ray_trial_id)
        if number is None or (error and self.vitals.lost):  # a trial is not blamed for Ray's own end
            return
        if error:
            broken = self.broken(ray_trial_id)
            if number not in self.running:  # its process never came up
                self.opened(ray_trial_id, broken.config)
            self._broke(self.ledger.trials[number], broken)
        elif number in self.running:
            self._judge(number, *_reading(result, self.space.objective.metric))
        self._given.pop(ray_trial_id, None)

    def watch(self, kill: Callable[[int], None]) -> None:
        """Called often: kill trials that have not reported for too long; end the sweep if Ray died or a user asked."""
        limit, now = self.space.faults.hang_minutes * 60, self._clock()
        if now - self._watched > _NAP_SECONDS:  # this process did not run meanwhile
            self._awake = now
        self._watched = now
        self._say_if_idle(now)
        self._end_if_spent(now)
        for number in self.running:
            if number not in self._hung and now - max(self.ledger.trials[number].last_event_time, self._awake) > limit:
                self._hung.add(number)
                kill(number)
        if lost := self.vitals.lost:
            resume = f"`mouselift sweep resume {self.ledger.name}` goes on with it"
            self._end(State.FAIL, f"Ray died: its {lost} ended — {resume}")
        if (self.journal.folder / STOP_FILE).exists():
            self._end(State.KILLED, _STOPPED)

    def _say_if_idle(self, now: float) -> None:
        """Ray waits without a word for a process that does not come up, and for a place in a cluster."""
        if self.running or not self._given:
            self._idle_since, self._idle_told = now, _IDLE_SECONDS
        elif now - self._idle_since >= self._idle_told:
            self._idle_told *= 2
            _log.warning(
                "no trial has run for %.0f s: expected Ray to bring up a process for one, got none so far — a full "
                "cluster makes it wait; what else is in the way is in raylet.err of %s/ray/session_latest/logs.",
                now - self._idle_since,
                os.environ.get("RAY_TMPDIR", "/tmp"),  # noqa: S108  where Ray puts it
            )

    def _end_if_spent(self, now: float) -> None:
        """End the sweep once each trial that runs has reported after the budget was spent."""
        spent = self.space.budget.exhausted(spent_of(self.ledger, now))
        self._spent_since = None if spent is None else self._spent_since or now
        if spent is None or self._spent_since is None:
            return
        running = [self.ledger.trials[number] for number in self.running]
        at_end = any(trial.last_step >= self.recipe.train.max_steps for trial in running)  # it ends by itself, at once
        if running and not at_end and all(trial.last_event_time > self._spent_since for trial in running):
            self._end(State.KILLED, why(self.ledger, Shortage(spent), now))

    def take_up(self) -> None:
        """Go on from where the session before this one ended."""
        self.scheduler.judge_again(event for _, event in self.journal.events())
        for trial in list(self.ledger.trials.values()):
            if trial.begun and not trial.state.is_final and not trial.taken_from:
                self._decide(trial)
            elif trial.lacks_release or trial.lacks_gaussians:
                self.releases.add(trial.number, with_checkpoint=trial.lacks_release)

    def finish(self) -> None:
        """Wait for the checkpoints that are being released, unless `sweep stop` asks for the end.

        Raises what stood in the way of a release. A sweep whose budget ended is KILLED then: it can be taken up again.
        """
        while not self.releases.finish(_NAP_BETWEEN_LOOKS):
            if (self.journal.folder / STOP_FILE).exists():
                self._end(State.KILLED, _STOPPED)
                return
        if self._short is not None:
            self._end(State.KILLED, why(self.ledger, self._short, self._clock()))

    def close(self, state: State, reason: str) -> None:
        """End the session. The listener hears of it when all is written: it may have lost its terminal."""
        self.releases.close(_RELEASE_SECONDS)
        self.ledger = read(self.journal)  # a signal may have interrupted `write` between journal and ledger
        for event in [self._noted(event) for event in closing(self.ledger, state, reason)]:
            self._listen(event)

    def _next(self) -> int | None:
        """The next trial to be trained; None where there is none, or where others took known results for too long."""
        began, self._short = time.monotonic(), None
        while True:
            number = self._waiting()
            if number is None and self._may_propose and self._affords(self.recipe.train.max_steps):
                number = self._propose()
            if number is None or not self._takes(self.ledger.trials[number]):
                return number
            if time.monotonic() - began >= _TAKING_SECONDS:
                return None

    def _takes(self, trial: Trial) -> bool:
        """End a trial that was not trained yet with the result that another sweep has, if one has it; of one that has
        its first steps, take those. What it cost there is no figure of this sweep.
        """
        if self.space.fresh or self.space.aims.count_costs or (trial.begun and not trial.taken_from):
            return False
        recipe = override(self.recipe, trial.params)
        news = self._taking.events(self.ledger, trial, recipe)
        if not news and not trial.begun:
            news = self._continuing.events(self.ledger, trial, recipe)
        if not news:
            return False
        with self._writing:
            for event in self.journal.append_all(news):
                self.ledger = fold(self.ledger, event)
                self._listen(event)
        self.scheduler.judge_again(news)  # others are compared with it
        if (begun := self.ledger.trials[trial.number]).state.is_open:
            self._decide(begun)  # what it has so far may be among the weaker here
        return not self.ledger.trials[trial.number].state.is_open

    def _waiting(self) -> int | None:
        """The first trial that waits, that Ray has not taken, and that can end within the budget."""
        given, longest = self._given.values(), self.recipe.train.max_steps
        waiting = [n for n, t in sorted(self.ledger.trials.items()) if t.state == State.WAITING and n not in given]
        left = ((number, longest - max(0, self.ledger.trials[number].last_step)) for number in waiting)
        return next((number for number, steps in left if self._affords(steps)), None)

    def _affords(self, steps: int) -> bool:
        """Whether a trial of so many steps can end within the budget, beside those that run."""
        beside = {*self.running, *self._given.values()}
        short = short_of(self.ledger, steps, self._clock(), beside)
        self._short = self._short or short
        return short is None

    def _propose(self) -> int | None:
        """A new trial. None when the sweep has enough, or when nothing new is found before another trial ends."""
        while may_search(self.ledger, self.space):
            proposed = self.write(self._proposals.next(self.ledger))
            if proposed.trial in self.ledger.trials:
                return proposed.trial
        while (confirming := confirmation(self.ledger, self.space)) is not None:
            self.scheduler.judge_again([self.write(confirming)])  # which leaves it out of ASHA
            if confirming.trial in self.ledger.trials:
                return confirming.trial
        return None

    @property
    def _may_propose(self) -> bool:
        return may_search(self.ledger, self.space) or confirmation(self.ledger, self.space) is not None

    def _number_of(self, ray_trial_id: str) -> int | None:
        """The trial that has this id of Ray in this session, unless it has ended."""
        if ray_trial_id in self._given:
            return self._given[ray_trial_id]
        trials = self.ledger.trials.values()
        return next((t.number for t in trials if t.ray_trial_id == ray_trial_id and t.state == State.RUNNING), None)

    def _decide(self, trial: Trial) -> None:
        """Close a trial whose end was reached or decided, but not written."""
        if trial.number in self.scheduler.stopped:
            self._close(trial.number, State.PRUNED, self.scheduler.stopped[trial.number])
        elif trial.fault is not None and trial.fault.action in ("fail", "prune"):
            fault = Fault(cast(Cause, trial.fault.cause), trial.fault.reason)
            self._settle(trial, self._remedy(trial, fault), fault.cause)
        elif trial.last_step >= self.recipe.train.max_steps:
            self._judge(trial.number, trial.last_step, trial.last_value)

    def _judge(self, number: int, step: int | None, value: float | None) -> None:
        """Close a trial that ended without a fault, by its last report."""
        state, reason = verdict(step, value, self.space.objective.metric, self.recipe.train.max_steps)
        if state == State.PRUNED:
            reason = self.scheduler.stopped.get(number, reason)
        self._close(number, state, reason, _NO_FIGURE if state == State.FAIL else "")

    def _broke(self, trial: Trial, broken: Broken) -> None:
        hung = self.space.faults.hang_minutes if trial.number in self._hung else None
        self._hung.discard(trial.number)
        fault = fault_of(broken.error, broken.last_line, hung)
        chosen = self._remedy(trial, fault)
        blob = self.journal.keep("traceback.txt", broken.traceback.encode()) if broken.traceback else None
        self.write(events.AttemptFailed(trial.number, trial.attempt, fault.cause, chosen.action, fault.reason, blob))
        self._settle(trial, chosen, fault.cause)

    def _remedy(self, trial: Trial, fault: Fault) -> Remedy:
        batch_size = override(self.recipe, trial.params).train.batch_size
        return remedy(self.space.faults, fault, trial.faults.count("retry"), batch_size, trial.splits)

    def _settle(self, trial: Trial, chosen: Remedy, cause: str) -> None:
        """Close a trial whose fault ends it."""
        match chosen.action:
            case "prune":
                self._close(trial.number, State.PRUNED, chosen.reason)
            case "fail":
                self._close(trial.number, State.FAIL, chosen.reason, cause)

    def _close(self, number: int, state: State, reason: str, cause: str = "") -> None:
        self.write(events.TrialClosed(number, state, reason, cause=cause))
        if state in (State.COMPLETE, State.PRUNED):
            self.releases.add(number, with_checkpoint=state == State.COMPLETE)
        shared = run_of_failures(self.ledger.endings, self.space.faults.same_cause)
        if state == State.FAIL and shared is not None:
            reason = f"{counted(self.space.faults.same_cause, 'trial')} in a row failed; the last: {reason}"
            self._end(State.FAIL, reason)

    def _released(self, number: int, folder: Path) -> None:
        self.write(events.CheckpointReleased(number, str(folder)))

    def _kept(self, number: int, folder: Path) -> None:
        self.write(events.GaussiansKept(number, str(folder)))


def _reading(result: Result | None, metric: str) -> tuple[int | None, float | None]:
    """Step and objective of a report, as far as it has them."""
    step, value = (result or {}).get("step"), (result or {}).get(metric)
    return None if step is None else int(step), None if value is None else float(value)
