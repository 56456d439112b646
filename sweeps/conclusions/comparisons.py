"""What the runs of a plan say: each setting held against another on the same seeds and scenes, by one stated rule.

Pure but for reading the scene figures that lie beside the journal. Figures are those of each trial's last step: the
best of many validations would be chosen for its luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sweeps.book.journal import State
from sweeps.book.record import TARGETS, SweepRecord, TrialRecord
from sweeps.book.scene_figures import Validated, read_scenes
from sweeps.conclusions.paired_intervals import Interval, contrast_interval
from sweeps.errors import SpaceError, counted
from sweeps.space import words
from sweeps.space.objective import METRICS, METRICS_OF_SETS
from sweeps.space.plan import mixed_with_pairs, settings_asked
from sweeps.space.words import value as written

CONFIDENCE = 0.95
Verdict = Literal["better", "worse", "not told apart", "not measured"]
_DIGITS = 3


@dataclass(frozen=True)
class Comparison:
    """One setting held against another.

    effect and against: the two in words; difference: of the metric, `effect` less `against`, with its interval; seeds:
    with which all runs of the comparison ended; scenes: on which they are measured; why: which runs are left out, and
    why nothing was measured or could be told, where that is so.
    """

    effect: str
    against: str
    verdict: Verdict
    difference: Interval | None
    seeds: tuple[int, ...]
    scenes: int
    why: str = ""


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a plan by one metric. rule: how the verdicts were come by; notes: what else to know."""

    metric: str
    step: int
    comparisons: tuple[Comparison, ...]
    rule: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Contrast:
    """A weight for each setting of the plan that takes part; they sum to 0."""

    effect: str
    against: str
    weights: Mapping[int, float]


def comparisons_of(record: SweepRecord, metric: str | None = None) -> Comparisons | None:
    """The comparisons of a sweep that follows a plan, by its objective or another metric; None of any other sweep.

    Raises SpaceError for a metric that no trial reported.
    """
    ledger = record.ledger
    if not words.follows_plan(ledger.space) or ledger.objective is None:
        return None
    plain = ledger.space["plan"]
    if metric is not None:
        _require_reported(record, metric)
    metric = metric or ledger.objective.metric
    settings = settings_asked(ledger.space)
    runs = _Runs(record, metric, settings, tuple(plain["seeds"]))
    contrasts = list(_contrasts(plain["kind"], settings))
    better = (METRICS | METRICS_OF_SETS)[metric.removeprefix("val/")]
    found = tuple(_compared(one, runs, better, len(contrasts)) for one in contrasts)
    notes = _notes(plain["kind"], contrasts, settings)
    return Comparisons(metric, int(ledger.params["train.max_steps"]), found, _rule(runs, len(found)), notes)


def difference_in_words(found: Comparison) -> tuple[str, str]:
    """A difference and its interval in three digits; empty where there is none."""
    if found.difference is None:
        return "", ""
    mean, low, high = (f"{value:+.{_DIGITS}g}" for value in astuple(found.difference))
    return mean, f"{low} to {high}"


def sentence(found: Comparison, metric: str) -> str:
    """One comparison in a sentence: verdict, interval and n come first, for what is compared may be long."""
    held = f"{found.effect} against {found.against}"
    if found.difference is None:
        return f"{found.verdict} ({found.why}): {held}"
    mean, span = difference_in_words(found)
    n = f"{counted(len(found.seeds), 'seed')}, {counted(found.scenes, 'scene')}"
    return f"{found.verdict}, {metric} {mean} ({span}; {n}{f'; {found.why}' if found.why else ''}): {held}"


class _Runs:
    """The scene figures of a plan's runs, by setting and seed."""

    def __init__(
        self, record: SweepRecord, metric: str, settings: Sequence[Mapping[str, Any]], seeds: tuple[int, ...]
    ) -> None:
        self.seeds, self.num_settings = seeds, len(settings)
        self.figures: dict[tuple[int, int], Validated] = {}
        self.missing: dict[tuple[int, int], str] = {}
        self._pruned: set[int] = set()  # settings
        self._measured_on: dict[tuple[int, int], str] = {}
        for number in range(len(seeds) * len(settings)):
            key = number % len(settings), seeds[number // len(settings)]
            trial = _trial(record, number)
            why = "not run" if trial is None else _why_without(trial, record, metric)
            figures = None if trial is None or trial.scenes is None or why else read_scenes(trial.scenes, metric)
            if trial is not None and trial.trial.state == State.PRUNED:
                self._pruned.add(key[0])
            if trial is None or figures is None:
                self.missing[key] = why or "no figures of its scenes"
            else:
                self.figures[key] = figures
                self._measured_on[key] = trial.tags.get(TARGETS, "")

    def whole_seeds(self, settings: Sequence[int]) -> tuple[int, ...]:
        """The seeds with which all of these settings have figures."""
        return tuple(seed for seed in self.seeds if all((one, seed) in self.figures for one in settings))

    def alike(self, settings: Sequence[int], seeds: Sequence[int]) -> bool:
        """Whether they were all measured on the same scenes and views."""
        keys = [(one, seed) for one in settings for seed in seeds]
        return len({(self._measured_on[key], self.figures[key].scenes) for key in keys}) == 1

    def beside(self, settings: Sequence[int], seeds: Sequence[int]) -> list[int]:
        """These settings first, then the others that have the same seeds and were measured alike: they tell, too, how
        much chance does.
        """
        others = (one for one in range(self.num_settings) if one not in settings)
        whole = (one for one in others if set(seeds) <= set(self.whole_seeds([one])))
        return [*settings, *(one for one in whole if self.alike([*settings, one], seeds))]

    def values(self, settings: Sequence[int], seeds: Sequence[int], part: int) -> Float[np.ndarray, "some seed scene"]:
        """In the order of the scenes' frames. The first `part` settings decide which scenes count, those in which each
        of them has a figure; a setting after them that lacks one of these is left out.
        """
        values = np.array([[self.figures[one, seed].values for seed in seeds] for one in settings])
        order = np.argsort(self.figures[settings[0], seeds[0]].frames or range(values.shape[2]), kind="stable")
        values = values[..., [scene for scene in order if np.isfinite(values[:part, :, scene]).all()]]
        return values[[one < part or bool(np.isfinite(values[one]).all()) for one in range(len(values))]]

    def gaps(self, settings: Sequence[int]) -> str:
        """Which runs of these settings have no figures, and why; empty where all have."""
        return "; ".join(dict.fromkeys(why for (one, _), why in self.missing.items() if one in settings))

    def any_pruned(self, settings: Sequence[int]) -> bool:
        """Whether a run of these settings was stopped for what it did: those that are left are the luckier ones."""
        return not self._pruned.isdisjoint(settings)

    @property
    def frames(self) -> tuple[int, ...] | None:
        """Of the recording that the scenes were taken from."""
        return next((one.frames for one in self.figures.values()), None)


def _compared(contrast: _Contrast, runs: _Runs, mode: str, comparisons: int) -> Comparison:
    part, named = list(contrast.weights), (contrast.effect, contrast.against)
    seeds, gaps = runs.whole_seeds(part), runs.gaps(part)
    if not seeds:
        return Comparison(*named, "not measured", None, seeds, 0, gaps)
    if not runs.alike(part, seeds):
        return Comparison(*named, "not measured", None, seeds, 0, "their figures are measured on other scenes or views")
    values = runs.values(runs.beside(part, seeds), seeds, len(part))
    weights = np.array([*contrast.weights.values(), *(0.0 for _ in values[len(part) :])])
    scenes = values.shape[2]
    if min(values.shape[1:]) < 2:
        mean = f"{np.tensordot(weights, values, axes=1).mean():+.{_DIGITS}g}; " if values.size else ""
        n = f"{counted(len(seeds), 'seed')} and {counted(scenes, 'scene')}"
        why = f"{mean}{n} have no spread{f'; left out: {gaps}' if gaps else ''}"
        return Comparison(*named, "not told apart", None, seeds, scenes, why)
    interval = contrast_interval(values, weights, CONFIDENCE, comparisons, runs.frames is not None)
    verdict = "not told apart" if runs.any_pruned(part) else _verdict(interval, mode)
    return Comparison(*named, verdict, interval, seeds, scenes, f"left out: {gaps}" if gaps else "")


def _verdict(interval: Interval, mode: str) -> Verdict:
    if interval.low <= 0.0 <= interval.high:
        return "not told apart"
    return "better" if (interval.mean > 0.0) == (mode == "max") else "worse"


def _contrasts(kind: str, settings: Sequence[Mapping[str, Any]]) -> Iterator[_Contrast]:
    if kind == "factorial":
        yield from (_of_factor(path, settings) for path in settings[0])
        return
    for number, setting in enumerate(settings[1:], 1):
        changed = {path for path in (*settings[0], *setting) if setting.get(path) != settings[0].get(path)}
        yield _Contrast(_named(setting, changed), _named(settings[0], changed), {number: 1.0, 0: -1.0})


def _of_factor(path: str, settings: Sequence[Mapping[str, Any]]) -> _Contrast:
    """The mean of the settings with one value of a path less that of those with the other."""
    first = settings[0][path]
    low, high = (
        [n for n, setting in enumerate(settings) if (setting[path] == first) == of_first] for of_first in (True, False)
    )
    weights = {n: -1.0 / len(low) for n in low} | {n: 1.0 / len(high) for n in high}
    return _Contrast(f"{path} {written(settings[high[0]][path])}", f"{path} {written(first)}", weights)


def _notes(kind: str, contrasts: Sequence[_Contrast], settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What a reader has to know of a factorial plan."""
    if kind != "factorial":
        return ()
    means = "Each difference is a mean over the values of all other settings of the plan."
    signs = np.sign([[one.weights[n] for n in range(len(settings))] for one in contrasts]).astype(int)
    mixed = (
        "In this fraction the effect of one setting cannot be told from that of two others together (resolution III)."
    )
    return (means, mixed) if mixed_with_pairs(signs) else (means,)


def _named(setting: Mapping[str, Any], paths: set[str]) -> str:
    return ", ".join(f"{path} {written(setting[path])}" for path in setting if path in paths) or "without it"


def _trial(record: SweepRecord, number: int) -> TrialRecord | None:
    """The trial of a run, which may be that of an earlier run with the same recipe."""
    ledger = record.ledger
    if number in ledger.not_run:
        repeats = ledger.not_run[number].repeats
        return None if repeats is None else record.trial(repeats)
    return record.trial(number) if number in ledger.trials else None


def _why_without(one: TrialRecord, record: SweepRecord, metric: str) -> str:
    """Why a trial takes no part; empty where it does."""
    trial = one.trial
    if trial.state != State.COMPLETE:
        reason = f": {trial.reason}" if trial.reason else ""
        return f"t{trial.number:04d} is {trial.state}{reason}"
    if one.scenes is None or not one.scenes.is_file():
        return f"t{trial.number:04d} has no figures of its scenes"
    if one.at(metric, int(record.ledger.params["train.max_steps"])) is None:
        return f"t{trial.number:04d} reported no {metric} at its last step"
    return ""


def _require_reported(record: SweepRecord, metric: str) -> None:
    reported = {name for one in record.trials for name in one.metrics}
    known = [name for name in (f"val/{one}" for one in METRICS | METRICS_OF_SETS) if name in reported]
    if metric not in known:
        expected = f"one of {', '.join(known)}" if known else "a validation to be reported first"
        raise SpaceError(f"{record.ledger.name}: expected {expected}, got {metric} — name one that was reported.")


def _rule(runs: _Runs, comparisons: int) -> str:
    drawn = "scene by scene" if runs.frames is None else "in blocks of neighbouring frames"
    together = f"hold together for {comparisons} comparisons (Bonferroni)" if comparisons > 1 else "is of 1 comparison"
    return (
        f"Paired by seed and scene at the last step. A {CONFIDENCE:.0%} interval that leaves out 0 says better or "
        f"worse; the intervals {together}. They hold the variation between seeds (t) and between scenes (bootstrap, "
        f"{drawn}). A setting of which a run was pruned is called neither better nor worse."
    )
