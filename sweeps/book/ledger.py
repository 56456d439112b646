"""What the journal adds up to: the state of a sweep and of its trials, by folding one event after the other.

Pure: `fold(ledger, event)` gives a new ledger, and folding a stretch of the journal twice from the same one
gives the same again. The study, MLflow, the status command and the reports all count with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from sweeps.book import confirmations
from sweeps.book import journal as events
from sweeps.book.confirmations import Confirmed, Run
from sweeps.book.journal import Event, Journal, State
from sweeps.book.spending import Spending
from sweeps.book.trial import Trial
from sweeps.errors import DamagedError, RegistryError, StudyError
from sweeps.home import Home
from sweeps.space.distributions import points_of_grid
from sweeps.space.gates import GateResult
from sweeps.space.objective import COSTS, Aims, Objective, aims_of
from sweeps.space.plan import SEED, Confirm

MOST_REPEATS = 20  # after so many proposals in a row that are not run, wait for another result
_ENDINGS_KEPT = 100
_ENDED_FIRST = "the sweep ended before this trial did"


@dataclass(frozen=True)
class Ledger:
    """One sweep. `opened` is unix seconds; name and `opened` together identify the sweep."""

    name: str = ""
    recipe: str = ""
    opened: float = 0.0
    state: State = State.RUNNING
    reason: str = ""
    objective: Objective | None = None  # the first of its aims
    aims: Aims | None = None
    searched: tuple[str, ...] = ()  # dotted paths the sampler chooses
    asked: int = 0  # trials of the search
    proposals: float = math.inf  # that its search can make at most: a grid has an end
    confirm: Confirm = field(default_factory=Confirm)  # which of them run again with other seeds
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    trials: dict[int, Trial] = field(default_factory=dict)
    not_run: dict[int, events.TrialProposed] = field(default_factory=dict)  # repeats, and what the recipe refuses
    fruitless: int = 0  # proposals in a row that are not run, since a trial was proposed or ended
    params: dict[str, Any] = field(default_factory=dict)  # of the recipe, before any trial changes them
    space: dict[str, Any] = field(default_factory=dict)  # as its YAML reads
    endings: tuple[str, ...] = ()  # of this session's latest trials, in order: the cause of a FAIL, '' of any other end
    last_event_time: float = 0.0  # unix seconds of the last event
    spending: Spending = field(default_factory=Spending)  # over all its sessions
    past: tuple[events.PastTrial, ...] = ()  # of other sweeps, known to the sampler

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best objective, or whose settings had the best mean with other seeds, where the
        best are confirmed; before any has finished, the best so far. It is one of the search, and within the
        constraints.
        """
        first = next(iter(self.confirmed), None)
        if first is not None and first.mean is not None:
            return self.trials[first.trial]
        allowed = [trial for trial in self.ranked if trial.confirms is None and not self.unmet(trial)]
        judged = [trial for trial in allowed if trial.best_value is not None]
        finished = [trial for trial in judged if trial.state == State.COMPLETE]
        return next(iter(finished or judged), None)

    @property
    def ranked(self) -> list[Trial]:
        """Every trial, the best objective first; then those that break a constraint, and those without figures. Behind
        those of the search stand the ones that confirm its best, which chose themselves by no figure.
        """
        sign = -1.0 if self.objective is not None and self.objective.mode == "max" else 1.0

        def place(trial: Trial) -> tuple[bool, bool, bool, float, int]:
            is_judged = trial.best_value is not None
            broken = is_judged and bool(self.unmet(trial))
            return trial.confirms is not None, not is_judged, broken, sign * (trial.best_value or 0.0), trial.number

        return sorted(self.trials.values(), key=place)

    @property
    def searching(self) -> list[Trial]:
        """The trials of the search, without those that confirm its best."""
        return [trial for trial in self.trials.values() if trial.confirms is None]

    @property
    def is_bounded(self) -> bool:
        """Whether there are constraints."""
        return self.aims is not None and bool(self.aims.constraints)

    @property
    def is_judged(self) -> bool:
        """Whether a trial of the search reported the objective, within the constraints or not."""
        return any(trial.best_value is not None for trial in self.searching)

    @property
    def has_searched(self) -> bool:
        """Whether its search has come to its end."""
        has_all = self.state == State.COMPLETE or not self.to_search or self.fruitless >= MOST_REPEATS
        return has_all and all(trial.state.is_final for trial in self.searching)

    @property
    def top(self) -> list[Trial]:
        """The trials to confirm: the best COMPLETE ones of the search, as they stand now."""
        ended = [trial for trial in self._finished if trial.best_value is not None]
        return ended[: self.confirm.top] if self.confirm.is_made else []

    @property
    def unconfirmed(self) -> list[tuple[int, int]]:
        """Trial and seed of each run that those trials still lack, seed by seed: an early end has whole comparisons."""
        proposed = {(one.confirms, one.params[SEED]) for one in self._confirming}
        seeds = self.confirm.seeds_after(int(self.params.get(SEED, 0)))
        return [(t.number, seed) for seed in seeds for t in self.top if (t.number, seed) not in proposed]

    @property
    def confirmed(self) -> list[Confirmed]:
        """The trials that were confirmed, the best mean first; empty before there is anything to compare."""
        runs = [
            Run(t.confirms, t.params[SEED], t.state.is_final, t.best_value if t.state == State.COMPLETE else None)
            for t in self.trials.values()
            if t.confirms is not None
        ]
        if not runs:
            return []
        search = [(trial.number, trial.best_value) for trial in self._finished if trial.best_value is not None]
        mode = "max" if self.objective is None else self.objective.mode
        return confirmations.confirmed(runs, search, self.confirm.seeds, mode)

    def confirmation_of(self, number: int) -> Confirmed | None:
        """What became of a trial with other seeds; None where it was not confirmed."""
        return next((one for one in self.confirmed if one.trial == number), None)

    @property
    def _finished(self) -> list[Trial]:
        """Of the search, within the constraints."""
        ended = [one for one in self.ranked if one.confirms is None and one.state == State.COMPLETE]
        return [trial for trial in ended if not self.unmet(trial)]

    @property
    def planned(self) -> int:
        """How many trials it may have: those of its search, and those that confirm its best, as far as is known."""
        return len(self.trials) + self.to_search + self.to_confirm

    @property
    def to_search(self) -> int:
        """How many trials of its search are not proposed yet."""
        return int(max(0, min(self.asked - len(self.searching), self.proposals - self.drawn)))

    @property
    def to_confirm(self) -> int:
        """How many runs that confirm its best are not proposed yet, about, while its search goes on."""
        going = self.to_search + sum(not trial.state.is_final for trial in self.searching)
        others = 0 if self.has_searched else min(self.confirm.top - len(self.top), going)
        return len(self.unconfirmed) + self.confirm.seeds * others

    @property
    def open(self) -> set[int]:
        """Numbers of the trials whose end is not written."""
        return {number for number, trial in self.trials.items() if trial.state.is_open}

    @property
    def ended(self) -> int:
        """How many trials are done for good. One that was KILLED is not: a resumed sweep goes on with it."""
        return sum(trial.state.is_final for trial in self.trials.values())

    @property
    def next_number(self) -> int:
        """The number of the next proposal: one more than the highest that any proposal has."""
        return 1 + max((*self.trials, *self.not_run), default=-1)

    def unmet(self, trial: Trial) -> list[GateResult]:
        """The constraints that a trial does not meet, as far as it has come."""
        return [] if self.aims is None else self.aims.unmet(trial.figures)

    def reason_of(self, trial: Trial) -> str:
        """Why a trial ended as it did, and which constraints it breaks."""
        broken = self.unmet(trial) if trial.best_value is not None else []
        bounds = f"breaks a constraint: {'; '.join(result.reason for result in broken)}" if broken else ""
        return " — ".join(filter(None, [trial.reason, bounds]))

    @property
    def drawn(self) -> int:
        """How many proposals its search has made, whether they were run or not."""
        return self.next_number - len(self._confirming)

    @property
    def _confirming(self) -> list[Trial | events.TrialProposed]:
        """Proposals that confirm a trial of the search, whether they were run or not."""
        every: list[Trial | events.TrialProposed] = [*self.trials.values(), *self.not_run.values()]
        return [one for one in every if one.confirms is not None]

    def count(self, state: State | str) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials.values())


def read(journal: Journal, until: int | None = None) -> Ledger:
    """The ledger of a whole journal, or of its first `until` bytes."""
    return fold_all(Ledger(), (event for end, event in journal.events() if until is None or end <= until))


def ledger_of(home: Home, name: str) -> Ledger:
    """The ledger of a sweep of this home. Raises StudyError when there is none."""
    ledger = read(Journal(home.journal(name)))
    if not ledger.name:
        names = sorted(folder.name for folder in home.journals.glob("*") if folder.is_dir())
        raise StudyError(
            f"{name}: expected a sweep of {home.root}, got none — it has {', '.join(names) or 'no sweep'}."
        )
    return ledger


def fold_all(ledger: Ledger, news: Iterable[Event]) -> Ledger:
    """The ledger after these events."""
    return reduce(fold, news, ledger)


def fold(ledger: Ledger, event: Event) -> Ledger:
    """The ledger after one more event."""
    spending, latest = ledger.spending.after(event), max(ledger.last_event_time, event.time)
    return replace(_folded(ledger, event), last_event_time=latest, spending=spending)


def closing(ledger: Ledger, state: State, reason: str) -> Iterator[Event]:
    """The end of a sweep: trials that ran until then are KILLED, and can be taken up again."""
    for number, trial in sorted(ledger.trials.items()):
        if trial.ran_until_the_end:
            yield events.TrialClosed(number, State.KILLED, reason or _ENDED_FIRST)
    yield events.SweepClosed(state, reason)


def _folded(ledger: Ledger, event: Event) -> Ledger:
    match event:
        case events.SweepOpened():
            return _opened(ledger, event)
        case events.TrialProposed():
            return _proposed(ledger, event)
        case events.TrialOpened():
            earlier = ledger.trials.get(event.trial, Trial(event.trial))
            return _with(ledger, _reopened(earlier, event))
        case events.Reported():
            return _with(ledger, _reported(_trial(ledger, event.trial), event, ledger.aims))
        case events.AttemptFailed():
            broken = _trial(ledger, event.trial)
            state = State.WAITING if event.action in ("retry", "halve") else broken.state
            return _with(ledger, replace(broken, state=state, faults=(*broken.faults, event.action), fault=event))
        case events.TrialClosed():
            return _closed(ledger, event)
        case events.CheckpointReleased():
            return _with(ledger, replace(_trial(ledger, event.trial), released=event.path))
        case events.GaussiansKept():
            return _with(ledger, replace(_trial(ledger, event.trial), gaussians=event.path))
        case events.RunOpened(trial=None):
            return replace(ledger, run_id=event.run_id)
        case events.RunOpened(trial=int(number)):
            return _with(ledger, replace(_trial(ledger, number), run_id=event.run_id))
        case events.SweepClosed():
            trials = {number: _ended_with_the_sweep(trial) for number, trial in ledger.trials.items()}
            return replace(ledger, state=State(event.state), reason=event.reason, trials=trials)
    return ledger


def _opened(ledger: Ledger, event: events.SweepOpened) -> Ledger:
    try:
        aims, space = aims_of(event.space) if "objective" in event.space else None, event.space
        searched = tuple(space["space"]) if "space" in space else ()
        asked = int(space["trials"]["count"]) if "trials" in space else 1
        confirm = Confirm(**space.get("confirm", {}))
        is_grid = space.get("sampler", {}).get("kind") == "grid"
        proposals = len(space.get("enqueue", ())) + points_of_grid(space["space"]) if is_grid else math.inf
    except (KeyError, TypeError, ValueError, RegistryError) as error:
        raise DamagedError(
            f"{event.sweep}: expected a search space in the journal, got a fault at {error} — the journal is damaged; "
            "restore it."
        ) from None
    return replace(
        ledger,
        name=event.sweep,
        recipe=event.recipe,
        opened=ledger.opened or event.time,
        state=State.RUNNING,
        reason="",
        objective=None if aims is None else aims.first,
        aims=aims,
        tags=event.tags,
        searched=searched,
        asked=asked,
        proposals=proposals,
        confirm=confirm,
        params=event.params,
        space=space,
        past=event.past or ledger.past,
        endings=(),  # the user may have removed the cause since
        trials={number: _taken_up(trial) for number, trial in ledger.trials.items()},
    )


def _taken_up(trial: Trial) -> Trial:
    """A trial that had no end of its own when the session before ended is to go on."""
    return trial if trial.state.is_final else replace(trial, state=State.WAITING, reason="")


def _proposed(ledger: Ledger, event: events.TrialProposed) -> Ledger:
    if event.repeats is None and not event.refused:
        proposed = Trial(event.trial, params=event.params, fingerprint=event.fingerprint, confirms=event.confirms)
        return _with(replace(ledger, fruitless=0 if event.confirms is None else ledger.fruitless), proposed)
    fruitless = ledger.fruitless + (event.confirms is None)
    return replace(ledger, not_run={**ledger.not_run, event.trial: event}, fruitless=fruitless)


def _trial(ledger: Ledger, number: int) -> Trial:
    if number not in ledger.trials:
        raise DamagedError(
            f"{ledger.name}: trial {number}: expected it to be opened before anything is written about it, "
            "got no TrialOpened in the journal — the journal is damaged; restore it."
        )
    return ledger.trials[number]


def _with(ledger: Ledger, trial: Trial) -> Ledger:
    return replace(ledger, trials={**ledger.trials, trial.number: trial})


def _reopened(trial: Trial, event: events.TrialOpened) -> Trial:
    return replace(
        trial,
        attempt=event.attempt,
        state=State.WAITING if events.CONTINUED_FROM in event.tags else State.RUNNING,
        reason="",
        params=event.params,
        fingerprint=event.fingerprint,
        ray_trial_id=event.ray_trial_id,
        resumed_at=trial.last_step,
        fault=None,
        last_event_time=event.time,
        taken_from=event.tags.get(events.TAKEN_FROM, ""),
        continued_from=event.tags.get(events.CONTINUED_FROM, trial.continued_from),
    )


def _reported(trial: Trial, event: events.Reported, aims: Aims | None) -> Trial:
    changes: dict[str, Any] = {"last_event_time": event.time}
    if event.step > trial.resumed_at:  # else an earlier attempt reported this step, and its report stands
        changes["last_step"] = max(trial.last_step, event.step)
        if trial.state == State.WAITING:
            changes["steps_elsewhere"] = changes["last_step"]
        if aims is not None and aims.first.metric in event.metrics:
            changes |= _judged(trial, event.step, event.metrics, aims)
        if aims is not None and not aims.is_one:
            changes |= _by_aim(trial, event.metrics, aims, is_best="best_step" in changes)
    return replace(trial, **changes)  # once: a sweep has many reports


def _judged(trial: Trial, step: int, metrics: dict[str, float], aims: Aims) -> dict[str, Any]:
    """What a report of the first objective changes. One within the constraints beats others."""
    value = metrics[aims.first.metric]
    changes: dict[str, Any] = {"last_value": value}
    if math.isfinite(value) and step not in dict(trial.curve):
        changes["curve"] = (*trial.curve, (step, value))
    allowed, was = aims.allow(metrics), trial.best_value is not None and aims.allow(trial.at_best)
    if aims.first.better(value, than=trial.best_value if allowed == was else None) and allowed >= was:
        changes |= {"best_value": value, "best_step": step}
    return changes


def _by_aim(trial: Trial, metrics: dict[str, float], aims: Aims, is_best: bool) -> dict[str, Any]:
    """What a report changes in the figures that several aims name."""
    named = {metric: metrics[metric] for metric in aims.metrics if metric in metrics}
    costs = {metric: (*trial.costs.get(metric, ()), value) for metric, value in named.items() if metric in COSTS}
    changes: dict[str, Any] = {"costs": trial.costs | costs} if costs else {}
    if is_best:
        changes["at_best"] = {metric: value for metric, value in named.items() if metric not in COSTS}
    return changes


def _closed(ledger: Ledger, event: events.TrialClosed) -> Ledger:
    trial, state = _trial(ledger, event.trial), State(event.state)
    if trial.state.is_final:  # an end stands, whatever an interruption wrote after it
        return ledger
    released = event.artifacts.get("checkpoint", trial.released)
    ended = _with(ledger, replace(trial, state=state, reason=event.reason, released=released))
    if state == State.KILLED:
        return ended
    fruitless = 0 if trial.confirms is None else ledger.fruitless  # of what confirms others the search learns nothing
    return replace(ended, endings=(*ledger.endings, event.cause)[-_ENDINGS_KEPT:], fruitless=fruitless)


def _ended_with_the_sweep(trial: Trial) -> Trial:
    return replace(trial, state=State.KILLED, reason=_ENDED_FIRST) if trial.ran_until_the_end else trial
