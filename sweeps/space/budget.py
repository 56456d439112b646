"""What a sweep may spend, and what fits into it: functions of figures that the caller has measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.recipe import Rate, strict
from sweeps.errors import StudyError

_MARGIN = 1.1  # more than what the pace so far asks for: it is not that steady
_BEGIN_HOURS = 1 / 60  # of a further session, before its first trial begins
BY_BUDGET = "budget: "  # how the reason of a sweep begins that its budget ended


@strict
@dataclass(frozen=True, kw_only=True)
class Money:
    """What GPUs cost, in the currency of whoever pays. The cost is shown; with an amount it is bounded, too."""

    per_gpu_hour: Rate  # price of one GPU for an hour
    amount: Rate | None = None  # that may be spent, over all sessions; None: the cost is shown and bounds nothing


@strict
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a sweep may spend over all its sessions; what is left out bounds nothing."""

    hours: Rate | None = None  # that its sessions run, trials or none
    gpu_hours: Rate | None = None  # that its trials occupy GPUs: GPUs times hours, over all attempts
    money: Money | None = None  # price of the GPU-hours, and what they may cost

    @property
    def is_bounded(self) -> bool:
        return any(limit.most is not None for limit in self.limits(Spent()))

    @property
    def counts_gpus(self) -> bool:
        """Whether a bound is spent by trials that take GPUs alone."""
        return any(limit.most is not None and limit.name != "hours" for limit in self.limits(Spent()))

    def limits(self, spent: Spent) -> list[Limit]:
        """What is spent of each; money only where a price is known."""
        found = [Limit("hours", spent.hours, self.hours), Limit("GPU-hours", spent.gpu_hours, self.gpu_hours)]
        if self.money is not None:
            found.append(Limit("money", spent.gpu_hours * self.money.per_gpu_hour, self.money.amount))
        return found

    def exhausted(self, spent: Spent) -> Limit | None:
        """The first bound of which nothing is left."""
        return next((one for one in self.limits(spent) if one.most is not None and one.spent >= one.most), None)

    def short(self, spent: Spent, needed: Spent, promised: Spent | None = None) -> tuple[Limit, float] | None:
        """The first bound that does not hold what is needed beside what is promised, and how much of it is needed."""
        for one, more, others in zip(*map(self.limits, (spent, needed, promised or Spent())), strict=True):
            if one.most is not None and one.spent + others.spent + more.spent > one.most:
                return one, more.spent
        return None

    def raised(self, sweep: str, by: Raised) -> Budget:
        """The same with other bounds, where they are given. Raises StudyError for one that is no bound."""
        given = {"--hours": by.hours, "--gpu-hours": by.gpu_hours, "--money": by.money}
        for option, value in given.items():
            if value is not None and not 0 < value < math.inf:
                raise StudyError(f"{sweep}: expected {option} above 0, got {value:g} — name what it may spend in all.")
        if by.money is not None and self.money is None:
            raise StudyError(
                f"{sweep}: expected a sweep whose space has budget.money.per_gpu_hour, got --money without a price — "
                "bound it by --gpu-hours."
            )
        priced = self.money if by.money is None or self.money is None else replace(self.money, amount=by.money)
        return Budget(hours=by.hours or self.hours, gpu_hours=by.gpu_hours or self.gpu_hours, money=priced)


@dataclass(frozen=True)
class Raised:
    """What a resumed sweep may spend in all; None: as before."""

    hours: float | None = None
    gpu_hours: float | None = None
    money: float | None = None


@dataclass(frozen=True)
class Spent:
    """hours: of sessions. gpu_hours: GPUs times hours of trials."""

    hours: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class Limit:
    """One bound of a budget: how much is spent, of how much at most; None: it is counted and not bounded."""

    name: str
    spent: float
    most: float | None

    @property
    def option(self) -> str:
        """By which `sweep resume` raises it."""
        return f"--{self.name.lower()}"

    def __str__(self) -> str:
        of = "" if self.most is None else f" of {self.most:g}"
        return f"{self.spent:.3g}{of} {self.name}"


def words(budget: Budget, spent: Spent) -> str:
    """`0.52 of 2 hours, 1.04 GPU-hours, 1.98 of 20 money (1.9 per GPU-hour)`; GPUs where some were taken or bounded."""
    shown = [one for one in budget.limits(spent) if one.name == "hours" or one.spent or one.most is not None]
    said = [f"{one} ({budget.money.per_gpu_hour:g} per GPU-hour)" if one.name == "money" and budget.money else str(one)
            for one in shown]  # fmt: skip
    return ", ".join(said)


def options(budget: Budget, spent: Spent, rest: Spent | None) -> str:
    """What `sweep resume` is to be given so that the rest fits: ` --hours 3.1`, rounded up; empty where it fits.

    rest: what it needs, about; where that is not known, twice as much is named.
    """
    return "".join(_options(budget, spent, rest))


def _options(budget: Budget, spent: Spent, rest: Spent | None) -> Iterator[str]:
    for one, more in zip(budget.limits(spent), budget.limits(rest or Spent()), strict=True):
        if one.most is None or (one.spent < one.most and one.spent + more.spent <= one.most):
            continue
        begin = _BEGIN_HOURS if one.name == "hours" else 0.0
        enough = 2 * max(one.spent, one.most) if rest is None else max(one.spent + more.spent, one.most) * _MARGIN
        yield f" {one.option} {_rounded_up(enough + begin):g}"


def _rounded_up(value: float) -> float:
    """To two digits, never below."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / digit - 1e-9) * digit, 10)
