"""Gates: the absolute targets a version must meet before it may become champion. Pure; knows no MLflow."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.errors import RegistryError

NOT_AVAILABLE = "not available"
_DIGITS = 4  # of a figure, where they are enough
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TARGET = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """One target, such as test/psnr >= 25."""

    metric: str
    operator: str  # one of >= <= > <
    threshold: float

    @property
    def target(self) -> str:
        """The target as a space spells it: `>= 25`."""
        return f"{self.operator} {self.threshold:g}"


@dataclass(frozen=True)
class GateResult:
    """What a gate found; `value` is None when the metric is not available."""

    gate: Gate
    value: float | None
    passed: bool

    @property
    def figure(self) -> str:
        """The value, with as many digits as it takes to see why it passed or did not."""
        return NOT_AVAILABLE if self.value is None else apart(self.value, self.gate.threshold)[0]

    @property
    def reason(self) -> str:
        """`test/psnr 24.1, wanted >= 25`."""
        return f"{self.gate.metric} {self.figure}, wanted {self.gate.target}"

    @property
    def line(self) -> str:
        """`24.1 >= 25 failed`, for people who look at a version in MLflow."""
        return f"{self.figure} {self.gate.target} {'passed' if self.passed else 'failed'}"

    def as_plain(self) -> dict[str, Any]:
        """The form stored with a version and shown by `mouselift model list --json`; NaN becomes None."""
        value = None if self.value is None or not math.isfinite(self.value) else self.value
        return {"metric": self.gate.metric, "target": self.gate.target, "value": value, "passed": self.passed}


def parse_gate(metric: str, text: object, where: str = "gates") -> Gate:
    """The gate of a metric and its target such as ">= 25"; `where` opens the message (file and key).

    Raises RegistryError for anything but a comparison with a finite number.
    """
    match = _TARGET.fullmatch(text) if isinstance(text, str) else None
    threshold = _number(match[2]) if match else None
    if match is None or threshold is None:
        raise RegistryError(
            f'{where}: {metric}: expected a comparison with a number, got {text!r} — write it like ">= 25".'
        )
    return Gate(metric, match[1], threshold)


def parse_gates(targets: Mapping[str, object], where: str = "gates") -> tuple[Gate, ...]:
    """Every gate of a mapping from metric to target, in its order. Raises RegistryError."""
    return tuple(parse_gate(metric, text, where) for metric, text in targets.items())


def judge(gates: Iterable[Gate], metrics: Mapping[str, float]) -> list[GateResult]:
    """Hold each gate against the figures; an absent metric or one that is not a number fails its gate."""
    return [_judge_one(gate, metrics.get(gate.metric)) for gate in gates]


def apart(one: float, other: float) -> tuple[str, str]:
    """Two figures in as few digits, four or more, as tell them apart; the same text twice only where they are equal."""
    for digits in range(_DIGITS, 18):
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if texts[0] != texts[1] or one == other:
            break
    return texts


def _judge_one(gate: Gate, value: float | None) -> GateResult:
    passed = value is not None and _COMPARISONS[gate.operator](value, gate.threshold)
    return GateResult(gate, value, passed)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
