"""Everything that a window shows of one sweep, from its journal: the ledger, the curves and the previews.

Pure but for reading the journal. `record_of` reads it whole; a window that stays open keeps a `Recorder` and gives it
the events that came since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.book import journal as events
from sweeps.book.journal import Event, Journal
from sweeps.book.ledger import Ledger, fold
from sweeps.book.trial import Trial
from sweeps.space.objective import STEP_SECONDS, over_a_trial

PROTOCOL = "eval.protocol"  # the tag of a run, and of a registered version, that names how its figures were measured
TARGETS = "eval.targets"  # the tag of a run that names what its figures are measured on, whatever the model is given
MEASURE = {
    "data.image_size": "image size",
    "data.num_input_views": "input views",
    "data.num_held_out_views": "held-out views",
    "data.view_sampling": "view sampling",
    "train.max_val_scenes": "scenes of val at most",
    "train.precision": "precision",
}


class Point(NamedTuple):
    """One value of a metric; `time` is when it was reported, in unix seconds."""

    step: int
    value: float
    time: float


class Preview(NamedTuple):
    """A picture that a trial reported: a PNG file kept beside the journal."""

    name: str
    step: int
    path: Path


@dataclass(frozen=True)
class TrialRecord:
    """A trial with all that it reported, over all its attempts."""

    trial: Trial
    recipe_params: dict[str, Any] = field(default_factory=dict)  # by dotted path; empty before it began
    tags: dict[str, str] = field(default_factory=dict)  # of its openings and reports
    metrics: dict[str, tuple[Point, ...]] = field(default_factory=dict)  # of each step as it was first reported
    previews: tuple[Preview, ...] = ()
    scenes: Path | None = None  # the figures of each scene of its last validation, as `scene_figures` reads it
    faults: tuple[events.AttemptFailed, ...] = ()  # how its attempts broke
    opened: float | None = None  # unix seconds of its first attempt
    ended: float | None = None
    reason: str = ""  # why it ended so, and which constraints it breaks
    # from the opening to the last report or the end, summed over its attempts; of one that was taken, 0
    busy_seconds: float = 0.0
    gpus: float = 0.0  # that it occupied; 0 also where the sweep took what the machine has

    @property
    def protocol(self) -> str | None:
        """The id of the protocol of its validations; None before the first, and from versions that told none."""
        return self.tags.get(PROTOCOL)

    @property
    def measured(self) -> str:
        """The settings of its recipe that decide how its validations measure, in words; empty before it began."""
        words = (f"{name} {self.recipe_params[path]}" for path, name in MEASURE.items() if path in self.recipe_params)
        return ", ".join(words)

    @property
    def step_seconds(self) -> float | None:
        """The median time of a training step; None before one was reported."""
        return over_a_trial(STEP_SECONDS, (point.value for point in self.metrics.get(STEP_SECONDS, ())))

    def last(self, metric: str) -> float | None:
        """The value of a metric when it was last reported; None where it never was."""
        points = self.metrics.get(metric, ())
        return points[-1].value if points else None

    def at(self, metric: str, step: int | None) -> float | None:
        """The value of a metric as it was reported at a step; None where it was not."""
        return next((point.value for point in self.metrics.get(metric, ()) if point.step == step), None)


class Measured(NamedTuple):
    """Trials whose figures may share a table, the best objective first, those that confirm others last. `protocol` is
    None where none of them told.
    """

    protocol: str | None
    words: str
    trials: tuple[TrialRecord, ...]

    @property
    def searching(self) -> tuple[TrialRecord, ...]:
        """Those of the search, without the runs that confirm its best."""
        return tuple(one for one in self.trials if one.trial.confirms is None)

    @property
    def judged(self) -> list[int]:
        """Numbers of those of the search that reported the objective, the best first."""
        return [one.trial.number for one in self.searching if one.trial.best_value is not None]


@dataclass(frozen=True)
class SweepRecord:
    """A sweep and its trials, as its journal has them at `now` (unix seconds)."""

    ledger: Ledger
    trials: tuple[TrialRecord, ...]  # by number
    ended: float | None
    now: float

    def trial(self, number: int) -> TrialRecord:
        """The trial of this number. Raises KeyError where there is none."""
        return self._by_number[number]

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The best objective first, trials without one last."""
        return [self._by_number[trial.number] for trial in self.ledger.ranked]

    @cached_property
    def _by_number(self) -> dict[int, TrialRecord]:
        return {record.trial.number: record for record in self.trials}

    @cached_property
    def by_protocol(self) -> list[Measured]:
        """The trials that began, apart by how they were measured; the group of the best trial first.

        A trial that told no protocol is counted with those of the same settings and data that did.
        """
        begun = [one for one in self.ranked if one.trial.begun]
        told = {_alike(one): one.protocol for one in begun if one.protocol is not None}
        groups: dict[tuple[str, str], list[TrialRecord]] = {}
        for one in begun:
            key = one.protocol or told.get(_alike(one))
            groups.setdefault((key, "") if key else _alike(one), []).append(one)
        return [
            Measured(next((one.protocol for one in found if one.protocol), None), found[0].measured, tuple(found))
            for found in groups.values()
        ]

    def group_of(self, number: int) -> Measured | None:
        """The trials that were measured as this one was; None before it began."""
        return next(
            (group for group in self.by_protocol if any(one.trial.number == number for one in group.trials)), None
        )

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours that the trials occupied them."""
        return sum(record.gpus * record.busy_seconds for record in self.trials) / 3600


def _alike(one: TrialRecord) -> tuple[str, str]:
    """What decides how a trial is measured, as far as its record has it."""
    return one.tags.get("data.digest", ""), one.measured


def record_of(journal: Journal, now: float) -> SweepRecord:
    """The record of a whole journal, read at `now`. Raises DamagedError for a line that is no event."""
    recorder = Recorder(journal.folder)
    recorder.add(event for _, event in journal.events())
    return recorder.record(now)


class Recorder:
    """Adds events up. `folder` is the journal's, where the previews lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ledger = Ledger()
        self._trials: dict[int, _Trial] = {}
        self._ended: float | None = None

    def add(self, news: Iterable[Event]) -> None:
        """Take in the events that follow."""
        for event in news:
            before, self._ledger = self._ledger, fold(self._ledger, event)
            match event:
                case events.SweepOpened():
                    self._ended = None
                case events.SweepClosed():
                    self._ended = event.time
                    for number in before.open & self._trials.keys():
                        self._trials[number].end(event.time)
                case events.TrialOpened():
                    self._trials.setdefault(event.trial, _Trial()).open(event)
                case events.Reported():
                    known = before.trials[event.trial].resumed_at
                    self._trials[event.trial].report(event, self._folder, is_new=event.step > known)
                case events.TrialClosed() if event.trial in self._trials:
                    self._trials[event.trial].end(event.time)
                case events.AttemptFailed() if event.trial in self._trials:
                    self._trials[event.trial].fail(event)

    def record(self, now: float) -> SweepRecord:
        """What the events so far add up to."""
        gpus, busy = gpus_of(self._ledger), self._ledger.spending.trials
        trials = (
            self._trials.get(number, _Trial()).record(trial, self._ledger.reason_of(trial), gpus, busy.get(number, 0.0))
            for number, trial in sorted(self._ledger.trials.items())
        )
        return SweepRecord(self._ledger, tuple(trials), self._ended, now)


class _Trial:
    """What a trial reported so far."""

    def __init__(self) -> None:
        self.ended: float | None = None
        self._known: TrialRecord | None = None
        self._faults: list[events.AttemptFailed] = []
        self._recipe_params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._metrics: dict[str, dict[int, Point]] = {}
        self._previews: dict[tuple[str, int], Preview] = {}
        self._scenes: Path | None = None
        self._opened: float | None = None

    def open(self, event: events.TrialOpened) -> None:
        self.ended, self._known = None, None
        self._opened = self._opened or event.time
        self._recipe_params = event.recipe_params
        self._tags.pop(events.TAKEN_FROM, None)  # of a copy that was cut off, and whose source was gone then
        self._tags |= event.tags

    def report(self, event: events.Reported, folder: Path, is_new: bool) -> None:
        self._known = None
        self._tags |= event.tags
        if not is_new:
            return
        for name, value in event.metrics.items():
            self._metrics.setdefault(name, {}).setdefault(event.step, Point(event.step, value, event.time))
        for name, blob in event.images.items():
            self._previews.setdefault((name, event.step), Preview(name, event.step, folder / blob))
        if event.scenes is not None:
            self._scenes = folder / event.scenes

    def fail(self, event: events.AttemptFailed) -> None:
        self._faults.append(event)
        self._known = None

    def end(self, when: float) -> None:
        self.ended, self._known = when, None

    def record(self, trial: Trial, reason: str, gpus: float, busy: float) -> TrialRecord:
        """Made anew only where something happened to the trial since."""
        known = self._known
        if known is None or known.trial is not trial or (known.gpus, known.busy_seconds) != (gpus, busy):
            self._known = known = self._made(trial, reason, gpus, busy)
        return known

    def _made(self, trial: Trial, reason: str, gpus: float, busy: float) -> TrialRecord:
        return TrialRecord(
            trial=trial,
            recipe_params=self._recipe_params,
            tags=dict(self._tags),
            metrics={name: tuple(points.values()) for name, points in self._metrics.items()},
            previews=tuple(self._previews.values()),
            scenes=self._scenes,
            faults=tuple(self._faults),
            opened=self._opened,
            ended=self.ended if trial.state.is_final or trial.state == "KILLED" else None,
            reason=reason,
            busy_seconds=busy,
            gpus=gpus,
        )


def gpus_of(ledger: Ledger) -> float:
    """What the space asked for each trial; 0 where the sweep took what the machine has."""
    asked = ledger.space.get("trials", {}).get("gpus")
    return float(asked) if asked is not None else 0.0
