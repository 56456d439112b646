"""What the sampler may choose for a path of a recipe: a range or a list, and the conditions under which it chooses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import AfterValidator, Field, TypeAdapter

from pipeline.recipe import Positive, Rate, strict

_DIGITS = 12  # of a float grid, so that 3 × 0.1 is 0.3


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("a number, text, true, false or null")


Scalar = Annotated[Any, AfterValidator(_scalar)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# Path of another parameter -> the values of it under which this one is searched.
Conditions = dict[str, tuple[Scalar, ...]]


@strict
@dataclass(frozen=True, kw_only=True)
class FloatRange:
    """A real number between two ends, both included; with `step` only those on a grid from the lower end."""

    ends: Annotated[tuple[Number, Number], Field(alias="float")]  # lower and upper end, both included
    log: bool = False  # drawn evenly in the logarithm
    step: Rate | None = None  # distance of the points of a grid
    # searched only where other parameters have one of these values: path -> values
    when: Conditions = field(default_factory=dict)

    @property
    def points(self) -> tuple[float, ...] | None:
        """Every value, or None where there is no step and so no end of them."""
        if self.step is None:
            return None
        low, high = self.ends
        count = round((high - low) / self.step) + 1
        return tuple(_rounded(low + i * self.step) for i in range(count))

    @property
    def distribution(self) -> BaseDistribution:
        """As `suggest` asks for it."""
        return FloatDistribution(*self.ends, log=self.log, step=self.step)

    @property
    def described(self) -> str:
        """What it holds, in words."""
        low, high = self.ends
        return f"a number from {low:g} to {high:g}" + (f" in steps of {self.step:g}" if self.step else "")

    def contains(self, value: Scalar) -> bool:
        """Whether `suggest` could give it."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.ends[0] <= value <= self.ends[1] if self.points is None else value in self.points

    def suggest(self, trial: optuna.Trial, path: str) -> float:
        value = trial.suggest_float(path, *self.ends, log=self.log, step=self.step)
        return value if self.step is None else _rounded(value)


@strict
@dataclass(frozen=True, kw_only=True)
class IntRange:
    """A whole number between two ends, both included."""

    ends: Annotated[tuple[int, int], Field(alias="int")]  # lower and upper end, both included
    log: bool = False  # drawn evenly in the logarithm
    step: Positive | None = None  # distance of the values
    when: Conditions = field(default_factory=dict)  # as of float

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(range(self.ends[0], self.ends[1] + 1, self.step or 1))

    @property
    def distribution(self) -> BaseDistribution:
        """As `suggest` asks for it."""
        return IntDistribution(*self.ends, log=self.log, step=self.step or 1)

    @property
    def described(self) -> str:
        """What it holds, in words."""
        low, high = self.ends
        return f"a whole number from {low} to {high}" + (f" in steps of {self.step}" if self.step else "")

    def contains(self, value: Scalar) -> bool:
        """Whether `suggest` could give it."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        low, high = self.ends
        return low <= value <= high and (value - low) % (self.step or 1) == 0

    def suggest(self, trial: optuna.Trial, path: str) -> int:
        return trial.suggest_int(path, *self.ends, log=self.log, step=self.step or 1)


@strict
@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a list."""

    ends: Annotated[tuple[Scalar, ...], Field(alias="choice")]  # the values
    when: Conditions = field(default_factory=dict)  # as of float

    @property
    def points(self) -> tuple[Scalar, ...]:
        return self.ends

    @property
    def distribution(self) -> BaseDistribution:
        """As `suggest` asks for it."""
        return CategoricalDistribution(self.ends)

    @property
    def described(self) -> str:
        """What it holds, in words."""
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in self.ends)

    def contains(self, value: Scalar) -> bool:
        """Whether it is one of them; true is not 1."""
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.ends)

    def suggest(self, trial: optuna.Trial, path: str) -> Scalar:
        return trial.suggest_categorical(path, self.ends)


Distribution = FloatRange | IntRange | Choice
_PLAIN = TypeAdapter(dict[str, Distribution])


def grid_size(space: Mapping[str, Distribution]) -> int:
    """How many settings a grid over these paths has; 0 where one of them has no end of values."""
    return math.prod(len(found.points or ()) for found in space.values())


def points_of_grid(space: Mapping[str, Any]) -> int:
    """`grid_size` of the plain values of a space, as a journal keeps them. Raises ValueError."""
    return grid_size(_PLAIN.validate_json(json.dumps(space)))


def is_searched(found: Distribution, chosen: Mapping[str, Scalar]) -> bool:
    """Whether its conditions hold with what was chosen for the paths before it in `SearchSpace.order`."""
    return all(parent in chosen and chosen[parent] in allowed for parent, allowed in found.when.items())


def range_problem(found: Distribution) -> str | None:
    """What is wrong with a distribution, whatever its recipe; None if nothing is."""
    if isinstance(found, Choice):
        good = len(found.ends) > 1 and len(set(found.ends)) == len(found.ends)  # 1 and 1.0 are one value of a recipe
        return None if good else f"expected two or more different values, got {list(found.ends)} — change the list."
    low, high = found.ends
    if low > high:
        return f"expected [low, high], got [{low}, {high}] — swap them."
    if low == high:
        return f"expected two different ends, got [{low}, {high}] — write the one value under `fixed`."
    if found.log and low <= 0:
        return f"expected a lower end above 0 with log, got {low} — raise it or drop log."
    if found.log and found.step is not None:
        return "expected log or step, got both — drop one."
    if found.step is not None and not is_whole((high - low) / found.step):
        return f"expected ends a multiple of step {found.step} apart, got [{low}, {high}] — change one."
    return None


def is_whole(number: float) -> bool:
    """Whether a number is whole, within rounding."""
    return abs(number - round(number)) < 1e-9 * max(1.0, abs(number))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
