"""What can be concluded from a sweep, and by which rule; in figures, not yet in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scipy import stats

from dashboards.words import setting
from sweeps.book.journal import State
from sweeps.book.record import MEASURE, Measured, SweepRecord, TrialRecord
from sweeps.conclusions.importance import Importance
from sweeps.space.gates import GateResult, judge, parse_gates

TARGETS = {"psnr": "> 25", "ssim": "> 0.9", "lpips": "< 0.15", "mask_iou": "> 0.9"}  # of held-out views
_SEED = ".seed"  # what the path of a setting ends with that decides chance alone
_CONFIDENCE = 0.95
_EDGE = 0.05  # of a range, from its end


@dataclass(frozen=True)
class Noise:
    """How far figures differ without a reason. Trials are told apart where they differ by more than `limit`.

    sd: the standard deviation between seeds; None where no setting was repeated, and the limit is then how far a trial
    moved between its last two validations. n: repeats beyond the first of each setting, or trials.
    """

    limit: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Repeated:
    """Settings that ran with several seeds: the mean of the objective, its standard deviation, and of how many."""

    params: dict[str, Any]
    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Target:
    """A target, what the best trial reached, and the span of the same figure over the COMPLETE trials beside it."""

    result: GateResult
    step: int | None
    low: float
    high: float
    n: int

    @property
    def is_measured(self) -> bool:
        """Whether there is a figure."""
        return self.result.value is not None


@dataclass(frozen=True)
class Conclusions:
    """Of a record, and of the importance of what it searched."""

    record: SweepRecord
    importance: Importance

    @cached_property
    def best(self) -> TrialRecord | None:
        """The trial that the sweep would promote; before any has finished, the best so far."""
        best = self.record.ledger.best
        return None if best is None else self.record.trial(best.number)

    @cached_property
    def alike(self) -> Measured | None:
        """The trials that were measured as the best one was."""
        return None if self.best is None else self.record.group_of(self.best.trial.number)

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """Those of them that the search chose and that came to their end with a figure, the best first."""
        return _finished(() if self.alike is None else self.alike.searching)

    @cached_property
    def confirming(self) -> list[TrialRecord]:
        """Those that ran with another seed to confirm one of these, and came to their end."""
        return _finished([one for one in (self.alike.trials if self.alike else ()) if one.trial.confirms is not None])

    @property
    def stronger(self) -> TrialRecord | None:
        """A trial that was measured alike and reached more than the best one, but did not come to its end."""
        first = None if self.alike is None else self.alike.searching[0]
        if first is None or self.best is None or first.trial.number == self.best.trial.number:
            return None
        return None if first.trial.state == State.COMPLETE else first  # which others were confirmed before

    @property
    def values(self) -> list[float]:
        """The best value of each of these."""
        return [one.trial.best_value for one in self.complete if one.trial.best_value is not None]

    @cached_property
    def noise(self) -> Noise | None:
        """By repeats with other seeds where there are some, else by how steady the objective was; None without any."""
        groups = [values for values in self._by_settings.values() if len(values) > 1]
        freedom = sum(len(values) - 1 for values in groups)
        if freedom:
            sd = math.sqrt(sum((len(values) - 1) * statistics.variance(values) for values in groups) / freedom)
            chance = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom))
            return Noise(chance * math.sqrt(2) * sd, sd, freedom)
        curves = [one.trial.curve for one in self.complete if len(one.trial.curve) > 1]
        if not curves:
            return None
        return Noise(statistics.median(abs(curve[-1][1] - curve[-2][1]) for curve in curves), None, len(curves))

    @property
    def tied(self) -> list[TrialRecord]:
        """COMPLETE trials within the constraints that are not told apart from the best one."""
        if self.best is None or self.best.trial.best_value is None or self.noise is None:
            return []
        top, limit = self.best.trial.best_value, self.noise.limit
        allowed = (one for one in self.complete if not self.record.ledger.unmet(one.trial))
        others = (one for one in allowed if one.trial.number != self.best.trial.number)
        return [one for one in others if abs(top - (one.trial.best_value or 0.0)) <= limit]

    @property
    def repeated(self) -> Repeated | None:
        """Of the settings that ran with the most seeds, and more than one, those with the best mean."""
        most = max((len(values) for values in self._by_settings.values()), default=0)
        if most < 2:
            return None
        objective = self.record.ledger.objective
        sign = -1 if objective is not None and objective.mode == "min" else 1
        full = [(params, values) for params, values in self._by_settings.items() if len(values) == most]
        params, values = max(full, key=lambda one: sign * statistics.fmean(one[1]))
        return Repeated(dict(params), statistics.fmean(values), statistics.stdev(values), most)

    @property
    def one_seed(self) -> bool:
        """Whether no setting ran with several seeds."""
        return self.repeated is None

    @cached_property
    def _by_settings(self) -> dict[tuple[tuple[str, Any], ...], list[float]]:
        """The values of each settings, whatever the seed; where the best were confirmed, of the runs that did, as those
        of the search were chosen for their figures.
        """
        found: dict[tuple[tuple[str, Any], ...], list[float]] = {}
        for one in self.confirming or self.complete:
            key = tuple((path, value) for path, value in sorted(one.trial.params.items()) if not is_seed(path))
            found.setdefault(key, []).append(one.trial.best_value or 0.0)
        return found

    @property
    def ended_early(self) -> list[TrialRecord]:
        """Trials that are PRUNED, failed or were interrupted."""
        ends = (State.PRUNED, State.FAIL, State.KILLED)
        return [one for one in self.record.trials if one.trial.state in ends]

    @property
    def targets(self) -> list[Target]:
        """What the best trial reached on the validation scenes at its best step."""
        return [] if self.best is None else targets_of(self.best, self.complete)

    @property
    def edges(self) -> list[str]:
        """Searched settings whose best value lies at an end of what was searched."""
        space = self.record.ledger.space.get("space", {})
        params = {} if self.best is None else self.best.trial.params
        return [path for path, value in params.items() if path in space and _at_an_end(space[path], value)]

    @property
    def still_improving(self) -> bool:
        """Whether the best trial was best at its last step, which was not its only one."""
        trial = None if self.best is None else self.best.trial
        return trial is not None and len(trial.curve) > 1 and trial.best_step == trial.last_step


def _finished(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [one for one in trials if one.trial.state == State.COMPLETE and one.trial.best_value is not None]


def targets_of(best: TrialRecord, beside: Sequence[TrialRecord]) -> list[Target]:
    """What a trial reached of `TARGETS`, and the span over the trials `beside` it."""
    metrics = {f"val/{name}": wanted for name, wanted in TARGETS.items()}
    step = best.trial.best_step
    figures = {metric: value for metric in metrics if (value := best.at(metric, step)) is not None}
    found = []
    for result in judge(parse_gates(metrics), figures):
        reached = (one.at(result.gate.metric, one.trial.best_step) for one in beside)
        values = [value for value in reached if value is not None]
        low, high = (min(values), max(values)) if values else (math.nan, math.nan)
        found.append(Target(result, step if result.value is not None else None, low, high, len(values)))
    return found


def is_seed(path: str) -> bool:
    """Whether a setting decides chance alone."""
    return path.endswith(_SEED)


def measured_by(group: Measured) -> str:
    """The settings that decide how trials were measured, by their paths: the same in every language."""
    params = group.trials[0].recipe_params
    return ", ".join(f"{path} {setting(params[path])}" for path in MEASURE if path in params)


def by_reason(trials: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials that ended early by the rule that ended them, or by their state; the most frequent first."""
    found: dict[str, list[TrialRecord]] = {}
    for one in trials:
        found.setdefault(rule_of(one), []).append(one)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def rule_of(one: TrialRecord) -> str:
    """What a reason begins with (`asha: …`), or the trial's state."""
    rule, colon, _ = one.trial.reason.partition(":")
    return rule if colon and rule.isidentifier() else str(one.trial.state)


def _at_an_end(searched: Mapping[str, Any], value: Any) -> bool:
    """Of a range within its last twentieth, evenly as it is drawn; of numbers in order the first or last of them."""
    if "choice" in searched:
        choices = searched["choice"]
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in choices)
        return numbers and len(choices) > 2 and value in (min(choices), max(choices))
    low, high = searched["float"] if "float" in searched else searched["int"]
    if low == high:  # a range of one value has nothing beyond its ends that was left out
        return False
    if "int" in searched:
        return bool(value in (low, high))
    if searched.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return not _EDGE <= (value - low) / (high - low) <= 1 - _EDGE
