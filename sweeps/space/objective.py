"""The objective of a sweep: which figure it improves, and which way is better; and the figures that there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config import did_you_mean
from pipeline.recipe import strict
from sweeps.errors import RegistryError
from sweeps.space.gates import parse_gates

# Which way each metric is better.
METRICS = {"psnr": "max", "psnr_fg": "max", "ssim": "max", "lpips": "min", "mask_iou": "max"}
# Of generated view sets alone: whether they agree on one shape, and foreground PSNR less what that costs.
METRICS_OF_SETS = {"hull_iou": "max", "consistent_psnr_fg": "max"}


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


def problems(objective: Objective, gates: Mapping[str, str], kind: str) -> Iterator[tuple[str, str]]:
    """Dotted path and problem of the figures that a space of this kind of model names."""
    of_sets = METRICS_OF_SETS if kind == "mvdiffusion" else {}
    ways, metric = METRICS | of_sets, objective.metric
    group, _, name = metric.partition("/")
    if group != "val" or name not in ways:
        yield "objective.metric", _unknown(metric, [f"val/{known}" for known in ways])
    elif objective.mode != ways[name]:
        mode = objective.mode
        yield "objective.mode", f"expected {ways[name]}, the better way of {metric}, got {mode} — write {ways[name]}."
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
