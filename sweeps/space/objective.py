"""What a sweep improves: one figure or several, within constraints; and the figures that there are.

    objectives: [{metric: val/psnr_fg, mode: max}, {metric: time/step_seconds, mode: min}]
    constraints: {val/mask_iou: ">= 0.85", system/peak_gpu_memory_gb: "<= 20"}

Of several objectives the first decides which checkpoint of a trial is its best, and which trials ASHA stops.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pipeline.config import did_you_mean
from pipeline.recipe import strict
from sweeps.errors import RegistryError
from sweeps.space.gates import Gate, GateResult, judge, parse_gates

# Which way each metric is better.
METRICS = {"psnr": "max", "psnr_fg": "max", "ssim": "max", "lpips": "min", "mask_iou": "max"}
# Of generated view sets alone: whether they agree on one shape, and foreground PSNR less what that costs.
METRICS_OF_SETS = {"hull_iou": "max", "consistent_psnr_fg": "max"}
# What a trial costs. One that another sweep trained has no such figures here.
STEP_SECONDS = "time/step_seconds"  # how long one training step took
COSTS = {
    STEP_SECONDS: "min",
    "time/train_seconds": "min",
    "system/peak_gpu_memory_gb": "min",
    "system/process_memory_gb": "min",
}
_BOUNDS = (">=", "<=")


@strict
@dataclass(frozen=True)
class Objective:
    """The figure to improve: a validation metric of held-out views. A finished trial counts with its last value."""

    metric: str = "val/psnr_fg"  # val/psnr_fg and so on; docs/conventions.md has the list
    mode: Literal["max", "min"] = "max"  # which way is better

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` beats what was best so far; a value that is not finite never does."""
        if not math.isfinite(value):
            return False
        return than is None or (value > than if self.mode == "max" else value < than)


@dataclass(frozen=True)
class Aims:
    """What a trial is judged by. objectives: the first is the one that schedulers and checkpoints follow."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Gate, ...] = ()

    @property
    def first(self) -> Objective:
        """The objective that schedulers and checkpoints follow."""
        return self.objectives[0]

    @property
    def are_several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @property
    def is_one(self) -> bool:
        """Whether one objective is all."""
        return not self.are_several and not self.constraints

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every figure that objectives and constraints name, once."""
        named = [one.metric for one in self.objectives] + [one.metric for one in self.constraints]
        return tuple(dict.fromkeys(named))

    @property
    def count_costs(self) -> bool:
        """Whether one of them is a figure of what a trial costs."""
        return any(metric in COSTS for metric in self.metrics)

    def allow(self, metrics: Mapping[str, float]) -> bool:
        """Whether a checkpoint with these validated figures meets its constraints. What a trial costs is not asked."""
        return all(result.passed for result in judge(self.validated, metrics))

    def place(self, metrics: Mapping[str, float]) -> tuple[bool, float]:
        """By which checkpoints with these figures are sorted, the best first. The first objective's has to be there."""
        value = metrics[self.first.metric]
        return not self.allow(metrics), -value if self.first.mode == "max" else value

    @property
    def validated(self) -> tuple[Gate, ...]:
        """The constraints on figures of validations, in which checkpoints of a trial differ."""
        return tuple(bound for bound in self.constraints if bound.metric not in COSTS)

    def unmet(self, figures: Mapping[str, float]) -> list[GateResult]:
        """The constraints that these figures do not meet; one without its figure is not met."""
        return [result for result in judge(self.constraints, figures) if not result.passed]


def aims_of(space: Mapping[str, Any]) -> Aims:
    """The aims of a space, by its plain values as the journal keeps them. Raises KeyError where it has no objective."""
    plain = space.get("objectives") or [space["objective"]]
    objectives = tuple(Objective(one["metric"], one["mode"]) for one in plain)
    return Aims(objectives, parse_gates(space.get("constraints", {}), "constraints"))


def over_a_trial(metric: str, values: Iterable[float]) -> float | None:
    """One figure of what a trial cost, from those of its reports: the median time of a step, the most of the others.
    None without a finite one.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return statistics.median(finite) if metric == STEP_SECONDS else max(finite)


def beyond(bound: Gate, value: float) -> float:
    """By how much a figure violates a constraint; 0 or less where it does not."""
    return bound.threshold - value if bound.operator == ">=" else value - bound.threshold


def problems(
    objective: Objective,
    objectives: Sequence[Objective],
    constraints: Mapping[str, str],
    gates: Mapping[str, str],
    kind: str,
) -> Iterator[tuple[str, str]]:
    """Dotted path and problem of the figures that a space of this kind of model names."""
    of_sets = METRICS_OF_SETS if kind == "mvdiffusion" else {}
    validated = {f"val/{name}": way for name, way in (METRICS | of_sets).items()}
    if not objectives:
        yield from _of_objective("objective", objective, validated)
    for number, one in enumerate(objectives):
        yield from _of_objective(f"objectives.{number}", one, validated if number == 0 else validated | COSTS)
        if one.metric in (before.metric for before in objectives[:number]):
            yield f"objectives.{number}.metric", f"expected each figure once, got {one.metric} again — remove it."
    yield from _of_constraints(constraints, [*validated, *COSTS])
    yield from _of_gates(gates, of_sets)


def _of_objective(where: str, objective: Objective, ways: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    metric, mode = objective.metric, objective.mode
    if metric in COSTS and metric not in ways:
        mend = "name a validated one first: ASHA and checkpoints follow it."
        yield f"{where}.metric", f"expected one of {', '.join(ways)}, got {metric}, a cost — {mend}"
    if metric not in ways:
        yield f"{where}.metric", _unknown(metric, list(ways))
    elif mode != ways[metric]:
        yield (
            f"{where}.mode",
            f"expected {ways[metric]}, the better way of {metric}, got {mode} — write {ways[metric]}.",
        )


def _of_constraints(constraints: Mapping[str, str], known: list[str]) -> Iterator[tuple[str, str]]:
    for metric, target in constraints.items():
        where = f"constraints.{metric}"
        if metric not in known:
            yield where, _unknown(metric, known)
        try:
            bound = parse_gates({metric: target}, "constraints")[0]
        except RegistryError as error:
            yield where, str(error).partition(": ")[2].removeprefix(f"{metric}: ")
        else:
            if bound.operator not in _BOUNDS:
                yield where, f"expected >= or <=, got {target!r} — write one of them."


def _of_gates(gates: Mapping[str, str], of_sets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = [f"test/{role}{name}" for role in ("", "input/") for name in METRICS] + [f"test/{name}" for name in of_sets]
    for gated in gates:
        if gated not in known:
            yield f"gates.{gated}", _unknown(gated, known)
    try:
        parse_gates(gates, "gates")
    except RegistryError as error:
        yield "gates", str(error).removeprefix("gates: ")


def _unknown(metric: str, known: list[str]) -> str:
    return f"expected one of {', '.join(known)}, got {metric}{did_you_mean(metric, known) or ' — name one.'}"
