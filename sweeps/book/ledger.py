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
from sweeps.errors import DamagedError, StudyError
from sweeps.home import Home
from sweeps.space.objective import Objective
from sweeps.space.plan import SEED, Confirm

MOST_REPEATS = 20  # after so many proposals in a row that are not run, wait for another result
_ENDINGS_KEPT = 100
_ENDED_FIRST = "the sweep ended before this trial did"


@dataclass(frozen=True)
class Trial:
    """One trial, over all its attempts."""

    number: int
    attempt: int = 0  # 0: proposed, and never begun
    state: State = State.WAITING
    reason: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    run_id: str | None = None
    ray_trial_id: str = ""
    last_step: int = -1
    resumed_at: int = -1  # the last step an earlier attempt had reported
    best_value: float | None = None
    best_step: int | None = None
    last_value: float | None = None  # the objective when it was last reported
    curve: tuple[tuple[int, float], ...] = ()  # step and objective, as first reported, where finite
    faults: tuple[str, ...] = ()  # the action taken after each, of faults.Action
    fault: events.AttemptFailed | None = None  # of the last attempt, until another one starts
    released: str | None = None  # the folder of its best checkpoint, once it is COMPLETE
    gaussians: str | None = None  # the folder of its Gaussians to be looked at, once it is COMPLETE or PRUNED
    last_event_time: float = 0.0  # unix seconds of its last opening or report
    taken_from: str = ""  # `SWEEP t0003`, where it was trained; empty where this sweep trains it
    confirms: int | None = None  # the trial of the search whose settings it has, with another seed

    @property
    def begun(self) -> bool:
        return self.attempt > 0

    @property
    def ran_until_the_end(self) -> bool:
        """Whether an end of its sweep is its end, too."""
        return self.begun and self.state.is_open

    @property
    def lacks_release(self) -> bool:
        """Whether its best checkpoint is still to be released, which a resumed sweep does."""
        return self.state == State.COMPLETE and self.released is None

    @property
    def lacks_gaussians(self) -> bool:
        """Whether its Gaussians are still to be kept, as far as it left some, which a resumed sweep does."""
        return self.state in (State.COMPLETE, State.PRUNED) and self.gaussians is None

    @property
    def splits(self) -> int:
        """Parts in which each batch goes through the network, after running out of memory so often."""
        return 2 ** self.faults.count("halve")


@dataclass(frozen=True)
class Ledger:
    """One sweep. `opened` is unix seconds; name and `opened` together identify the sweep."""

    name: str = ""
    recipe: str = ""
    opened: float = 0.0
    state: State = State.RUNNING
    reason: str = ""
    objective: Objective | None = None
    searched: tuple[str, ...] = ()  # dotted paths the sampler chooses
    asked: int = 0  # trials of the search
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
        best are confirmed; before any has finished, the best so far. It is one of the search.
        """
        first = next(iter(self.confirmed), None)
        if first is not None and first.mean is not None:
            return self.trials[first.trial]
        judged = [trial for trial in self.ranked if trial.best_value is not None and trial.confirms is None]
        finished = [trial for trial in judged if trial.state == State.COMPLETE]
        return next(iter(finished or judged), None)

    @property
    def ranked(self) -> list[Trial]:
        """Every trial, the best objective first, those without one last; behind those of the search the ones that
        confirm its best, which chose themselves by no figure.
        """
        sign = -1.0 if self.objective is not None and self.objective.mode == "max" else 1.0
        trials = self.trials.values()
        return sorted(
            trials,
            key=lambda t: (t.confirms is not None, t.best_value is None, sign * (t.best_value or 0.0), t.number),
        )

    @property
    def searching(self) -> list[Trial]:
        """The trials of the search, without those that confirm its best."""
        return [trial for trial in self.trials.values() if trial.confirms is None]

    @property
    def has_searched(self) -> bool:
        """Whether its search has come to its end, as far as the journal alone tells: a grid may end earlier."""
        searching = self.searching
        has_all = self.state == State.COMPLETE or len(searching) >= self.asked or self.fruitless >= MOST_REPEATS
        return has_all and all(trial.state.is_final for trial in searching)

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
        return [trial for trial in self.ranked if trial.confirms is None and trial.state == State.COMPLETE]

    @property
    def planned(self) -> int:
        """How many trials it may have: those of its search, and those that confirm its best, as far as is known."""
        return self.asked + len(self.trials) - len(self.searching) + self.to_confirm

    @property
    def to_confirm(self) -> int:
        """How many runs that confirm its best are not proposed yet, about, while its search goes on."""
        others = 0 if self.has_searched else min(self.confirm.top, self.asked) - len(self.top)
        return len(self.unconfirmed) + self.confirm.seeds * max(0, others)

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
            return _with(ledger, _reported(_trial(ledger, event.trial), event, ledger.objective))
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
        objective, space = _objective(event.space), event.space
        searched = tuple(space["space"]) if "space" in space else ()
        asked = int(space["trials"]["count"]) if "trials" in space else 1
        confirm = Confirm(**space.get("confirm", {}))
    except (KeyError, TypeError, ValueError) as error:
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
        objective=objective,
        tags=event.tags,
        searched=searched,
        asked=asked,
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


def _objective(space: dict[str, Any]) -> Objective | None:
    return Objective(space["objective"]["metric"], space["objective"]["mode"]) if "objective" in space else None


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
        state=State.RUNNING,
        reason="",
        params=event.params,
        fingerprint=event.fingerprint,
        ray_trial_id=event.ray_trial_id,
        resumed_at=trial.last_step,
        fault=None,
        last_event_time=event.time,
        taken_from=event.tags.get(events.TAKEN_FROM, ""),
    )


def _reported(trial: Trial, event: events.Reported, objective: Objective | None) -> Trial:
    changes: dict[str, Any] = {"last_event_time": event.time}
    if event.step > trial.resumed_at:  # else an earlier attempt reported this step, and its report stands
        changes["last_step"] = max(trial.last_step, event.step)
        if objective is not None and objective.metric in event.metrics:
            changes |= _judged(trial, event.step, event.metrics[objective.metric], objective)
    return replace(trial, **changes)  # once: a sweep has many reports


def _judged(trial: Trial, step: int, value: float, objective: Objective) -> dict[str, Any]:
    """What a report of the objective changes."""
    changes: dict[str, Any] = {"last_value": value}
    if math.isfinite(value) and step not in dict(trial.curve):
        changes["curve"] = (*trial.curve, (step, value))
    if objective.better(value, than=trial.best_value):
        changes |= {"best_value": value, "best_step": step}
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
