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
from sweeps.conclusions.paired_intervals import Interval, block_length, contrast_interval
from sweeps.errors import SpaceError, counted
from sweeps.space import words
from sweeps.space.plan import SEED, mixed_with_pairs
from sweeps.space.space import METRICS, METRICS_OF_SETS
from sweeps.space.words import value as written

CONFIDENCE = 0.95
Verdict = Literal["better", "worse", "not told apart", "not measured"]
_DIGITS = 3


@dataclass(frozen=True)
class Comparison:
    """One setting held against another.

    effect and against: the two in words; difference: of the metric, `effect` less `against`, with its interval; seeds:
    with which all runs of the comparison ended; scenes: on which they are measured; why: what is missing, where the
    verdict is that nothing was measured or could be told.
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
    settings = _settings(ledger.space)
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
    """One comparison in a sentence, with its n and its interval."""
    held = f"{found.effect} against {found.against}"
    if found.difference is None:
        return f"{held}: {found.verdict}: {found.why}."
    mean, span = difference_in_words(found)
    n = f"{counted(len(found.seeds), 'seed')}, {counted(found.scenes, 'scene')}"
    return f"{held}: {found.verdict}, {metric} {mean} ({span}; {n})."


class _Runs:
    """The scene figures of a plan's runs, by setting and seed."""

    def __init__(
        self, record: SweepRecord, metric: str, settings: Sequence[Mapping[str, Any]], seeds: tuple[int, ...]
    ) -> None:
        self.seeds, self.num_settings = seeds, len(settings)
        self.figures: dict[tuple[int, int], Validated] = {}
        self.missing: dict[tuple[int, int], str] = {}
        self._measured_on: dict[tuple[int, int], str] = {}
        for number in range(len(seeds) * len(settings)):
            key = number % len(settings), seeds[number // len(settings)]
            trial = _trial(record, number)
            why = "not run" if trial is None else _why_without(trial, record, metric)
            figures = None if trial is None or trial.scenes is None or why else read_scenes(trial.scenes, metric)
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

    def values(self, settings: Sequence[int], seeds: Sequence[int]) -> Float[np.ndarray, "setting seed scene"]:
        """Of the scenes that have a figure in every run, in the order of their frames."""
        values = np.array([[self.figures[one, seed].values for seed in seeds] for one in settings])
        order = np.argsort(self.figures[settings[0], seeds[0]].frames or range(values.shape[2]), kind="stable")
        return values[..., [scene for scene in order if np.isfinite(values[..., scene]).all()]]

    @property
    def frames(self) -> tuple[int, ...] | None:
        """Of the recording that the scenes were taken from."""
        return next((one.frames for one in self.figures.values()), None)


def _compared(contrast: _Contrast, runs: _Runs, mode: str, comparisons: int) -> Comparison:
    part = list(contrast.weights)
    seeds = runs.whole_seeds(part)
    if not seeds:
        why = "; ".join(dict.fromkeys(why for (one, _), why in runs.missing.items() if one in part))
        return Comparison(contrast.effect, contrast.against, "not measured", None, seeds, 0, why)
    if not runs.alike(part, seeds):
        why = "their figures are measured on other scenes or views"
        return Comparison(contrast.effect, contrast.against, "not measured", None, seeds, 0, why)
    everyone = list(range(runs.num_settings))
    beside = everyone if runs.whole_seeds(everyone) == seeds and runs.alike(everyone, seeds) else part
    values = runs.values(beside, seeds)
    weights = np.array([contrast.weights.get(one, 0.0) for one in beside])
    if min(values.shape[1:]) < 2:
        mean = f"{np.tensordot(weights, values, axes=1).mean():+.{_DIGITS}g} of " if values.size else ""
        n = f"{counted(len(seeds), 'seed')}, {counted(values.shape[2], 'scene')}"
        why = f"{mean}{n} has no spread to be held against"
        return Comparison(contrast.effect, contrast.against, "not told apart", None, seeds, values.shape[2], why)
    block = block_length(runs.frames, values.shape[2])
    interval = contrast_interval(values, weights, block, CONFIDENCE, comparisons)
    verdict = _verdict(interval, mode)
    return Comparison(contrast.effect, contrast.against, verdict, interval, seeds, values.shape[2])


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
    mixed = "In this fraction the effect of one setting cannot be told from that of two others together."
    return (means, mixed) if mixed_with_pairs(signs) else (means,)


def _named(setting: Mapping[str, Any], paths: set[str]) -> str:
    return ", ".join(f"{path} {written(setting[path])}" for path in setting if path in paths) or "without it"


def _settings(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of a plan, without seeds."""
    every = space["enqueue"][: len(space["enqueue"]) // len(space["plan"]["seeds"])]
    return [{path: value for path, value in setting.items() if path != SEED} for setting in every]


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
        f"{drawn})."
    )
