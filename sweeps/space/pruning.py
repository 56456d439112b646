"""Rules that end a trial by what it reports of itself; the scheduler, beside them, compares trials with each other.

    pruning:
      skip_rate: {above: 0.3, window_steps: 200}
      white_collapse: {above: 0.98, after_steps: 500}
      mask_iou: {at_most: 0.0, after_steps: 500}
      grad_norm: {p95_above: 100.0, window_steps: 200}
      no_gain: {window_steps: 2000, min_gain: 0.05}

A rule that is not named is off. Pure: the reports decide, so that the journal's reports, fed again, decide the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from statistics import median
from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.recipe import Count, Positive, Rate, Recipe, TrainConfig, Weight, strict
from sweeps.space.objective import Objective

Metrics = Mapping[str, float]
Share = Annotated[float, Field(ge=0, lt=1)]
# Why a rule would end a trial at a step, in figures, or None. It is given every report of one trial, once, in order.
Judge = Callable[[int, Metrics], str | None]


class Rule(ABC):
    """One reason to end a trial."""

    kinds: ClassVar[tuple[str, ...]] = ("gslrm", "mvdiffusion")  # of models that report what it needs
    sooner: ClassVar[str] = "window_steps or train.report_every"  # the settings to lower for it to act earlier

    @abstractmethod
    def earliest(self, train: TrainConfig) -> int:
        """The first optimizer step at which it could end a trial."""

    @abstractmethod
    def judge(self, objective: Objective) -> Judge:
        """A judge of one trial that has seen nothing yet."""


@strict
@dataclass(frozen=True, kw_only=True)
class SkipRate(Rule):
    """Too many updates are skipped, because their gradient norm is beyond the recipe's limit."""

    above: Share = 0.3  # of the updates
    window_steps: Positive = 200  # optimizer steps over which the share is taken

    def earliest(self, train: TrainConfig) -> int:
        return _report_at(self.window_steps, train)

    def judge(self, objective: Objective) -> Judge:  # noqa: ARG002
        return partial(self._judge, _Window(self.window_steps))

    def _judge(self, window: _Window, step: int, metrics: Metrics) -> str | None:
        skipped = _reading(metrics, "train/skipped_updates")  # since the trial's first step
        if skipped is None:
            return None
        window.add(step, skipped)
        start, before = window.start
        rate = (skipped - before) / (step - start)
        if not window.is_full or rate <= self.above:
            return None
        return f"{_percent(rate)} of updates skipped in steps {start + 1}-{step}, limit {_percent(self.above)}"


@strict
@dataclass(frozen=True, kw_only=True)
class WhiteCollapse(Rule):
    """Held-out views are rendered white where the animal is. An animal that is itself so white is left alone."""

    kinds = ("gslrm",)
    sooner = "after_steps or train.validate_every"

    above: Share = 0.98  # mean colour of the foreground, 0…1
    after_steps: Count = 500  # earlier validations are not looked at

    def earliest(self, train: TrainConfig) -> int:
        return _validation_at(self.after_steps, train)

    def judge(self, objective: Objective) -> Judge:  # noqa: ARG002
        return self._judge

    def _judge(self, step: int, metrics: Metrics) -> str | None:
        rendered, own = (_reading(metrics, f"val/{name}foreground_mean") for name in ("", "target_"))
        if step < self.after_steps or rendered is None or rendered <= self.above:
            return None
        if own is not None and own > self.above:
            return None
        beside = "" if own is None else f", the animal's own is {own:.3g}"
        return f"the rendered foreground is {rendered:.3g} at step {step}, limit {self.above:g}{beside}"


@strict
@dataclass(frozen=True, kw_only=True)
class MaskIoU(Rule):
    """What is drawn of held-out views meets no silhouette."""

    sooner = "after_steps or train.validate_every"

    at_most: Share = 0.0  # val/mask_iou at or below which a trial ends
    after_steps: Count = 500  # earlier validations are not looked at

    def earliest(self, train: TrainConfig) -> int:
        return _validation_at(self.after_steps, train)

    def judge(self, objective: Objective) -> Judge:  # noqa: ARG002
        return self._judge

    def _judge(self, step: int, metrics: Metrics) -> str | None:
        iou = _reading(metrics, "val/mask_iou")
        if step < self.after_steps or iou is None or iou > self.at_most:
            return None
        return f"{iou:.3g} at step {step}, limit {self.at_most:g}"


@strict
@dataclass(frozen=True, kw_only=True)
class GradNorm(Rule):
    """Gradients stay large: the 95th percentile of their norms, before clipping, in most reports of a window."""

    p95_above: Rate  # limit of the typical 95th percentile
    window_steps: Positive = 200  # optimizer steps whose reports count

    def earliest(self, train: TrainConfig) -> int:
        return _report_at(self.window_steps, train)

    def judge(self, objective: Objective) -> Judge:  # noqa: ARG002
        return partial(self._judge, _Window(self.window_steps))

    def _judge(self, window: _Window, step: int, metrics: Metrics) -> str | None:
        norm = _reading(metrics, "train/grad_norm_p95")  # of the steps since the report before
        if norm is None:
            return None
        window.add(step, norm)
        typical = median(window.values)
        if not window.is_full or typical <= self.p95_above:
            return None
        return f"p95 is {typical:.4g} in steps {window.start[0] + 1}-{step}, limit {self.p95_above:g}"


@strict
@dataclass(frozen=True, kw_only=True)
class NoGain(Rule):
    """The objective stands still: over a window it has not become better by more than `min_gain`."""

    sooner = "window_steps or train.validate_every"

    window_steps: Positive  # optimizer steps without enough gain
    min_gain: Weight = 0.0  # in the objective's own unit

    def earliest(self, train: TrainConfig) -> int:
        return train.validate_every + _validation_at(self.window_steps, train)

    def judge(self, objective: Objective) -> Judge:
        return partial(self._judge, objective, _Gain())

    def _judge(self, objective: Objective, gain: _Gain, step: int, metrics: Metrics) -> str | None:
        value = _reading(metrics, objective.metric)
        if value is None:
            return None
        gained = (value - gain.over) * (1 if objective.mode == "max" else -1)
        if gain.since is None or gained > self.min_gain:
            gain.over, gain.since, gain.most = value, step, 0.0
            return None
        gain.most = max(gain.most, gained)
        if step - gain.since < self.window_steps:
            return None
        window = f"steps {gain.since + 1}-{step}"
        return f"{objective.metric} gained {gain.most:.3g} over {gain.over:.4g} in {window}, limit {self.min_gain:g}"


@strict
@dataclass(frozen=True, kw_only=True)
class Pruning:
    """The rules of a sweep; of several that hold at a report, the first in this order is the reason."""

    skip_rate: SkipRate | None = None  # too many updates are skipped
    white_collapse: WhiteCollapse | None = None  # held-out views are rendered white where the animal is; GS-LRM alone
    mask_iou: MaskIoU | None = None  # what is drawn meets no silhouette
    grad_norm: GradNorm | None = None  # gradients stay large
    no_gain: NoGain | None = None  # the objective stands still

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that are on, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: rule for name, rule in named.items() if rule is not None}


USUAL = Pruning(skip_rate=SkipRate(), white_collapse=WhiteCollapse(), mask_iou=MaskIoU())


def usual(recipe: Recipe) -> Pruning:
    """What holds where a space says nothing: those of USUAL that can act on this recipe."""
    unfit = {name for name, _ in problems(USUAL, recipe)}
    return Pruning(**{name: rule for name, rule in USUAL.rules.items() if name not in unfit})  # type: ignore[arg-type]


def problems(pruning: Pruning, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Name and problem of each rule that could never end a trial of this recipe."""
    kind, train = recipe.model.kind, recipe.train
    for name, rule in pruning.rules.items():
        if kind not in rule.kinds:
            yield name, f"expected a rule for {kind}, got one for {' and '.join(rule.kinds)} — drop it."
        elif (step := rule.earliest(train)) >= train.max_steps:
            yield (
                name,
                f"expected to act before train.max_steps {train.max_steps}, got step {step} at the earliest — "
                f"lower {rule.sooner}, or drop the rule.",
            )


class Watch:
    """The rules of a sweep over its running trials.

    Its state follows from what it was fed, and of a trial it holds no more than the longest window.
    """

    def __init__(self, pruning: Pruning, objective: Objective) -> None:
        self._pruning, self._objective = pruning, objective
        self._trials: dict[int, _Watched] = {}

    def feed(self, trial_number: int, step: int, metrics: Metrics) -> str | None:
        """Why the trial should end, the rule's name first, or None.

        A step that is not after the trial's last one is a repetition and counts for nothing. A reason stands until
        the trial is forgotten.
        """
        if trial_number not in self._trials:
            judges = {name: rule.judge(self._objective) for name, rule in self._pruning.rules.items()}
            self._trials[trial_number] = _Watched(judges)
        return self._trials[trial_number].feed(step, metrics)

    def forget(self, trial_number: int) -> None:
        """Drop what is held of a trial, which has ended."""
        self._trials.pop(trial_number, None)


@dataclass
class _Watched:
    judges: dict[str, Judge]
    last_step: int = 0
    reason: str | None = None

    def feed(self, step: int, metrics: Metrics) -> str | None:
        if step > self.last_step:
            self.last_step = step
            found = {name: judge(step, metrics) for name, judge in self.judges.items()}  # each sees every report
            reasons = [f"{name}: {figures}" for name, figures in found.items() if figures is not None]
            self.reason = self.reason or next(iter(reasons), None)
        return self.reason


class _Window:
    """The readings of the last so many steps, and the one before them, from which they are counted."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._readings = deque([(0, 0.0)])  # step, value; at step 0 nothing has happened

    def add(self, step: int, value: float) -> None:
        self._readings.append((step, value))
        while self._readings[1][0] <= step - self._steps:
            self._readings.popleft()

    @property
    def start(self) -> tuple[int, float]:
        """Step and value of the last reading that is outside the window."""
        return self._readings[0]

    @property
    def values(self) -> list[float]:
        """What was read after the start."""
        return [value for _, value in list(self._readings)[1:]]

    @property
    def is_full(self) -> bool:
        return self._readings[-1][0] - self._readings[0][0] >= self._steps


@dataclass
class _Gain:
    """The value that the objective last rose to by more than the least gain, when, and the most gained over it."""

    over: float = 0.0
    since: int | None = None
    most: float = 0.0


def _reading(metrics: Metrics, name: str) -> float | None:
    """A finite figure of a report, or None. On a figure that is not finite the training loop stops by itself."""
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _report_at(step: int, train: TrainConfig) -> int:
    """The first report at this step or later; a validation reports too."""
    return min(_rounded_up(step, train.report_every), _rounded_up(step, train.validate_every))


def _validation_at(step: int, train: TrainConfig) -> int:
    return _rounded_up(max(step, 1), train.validate_every)


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
