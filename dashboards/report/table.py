"""The table of a report: a row for each trial, its cells as text in full and in four digits, and what sorts it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.figure import name_of, short
from dashboards.charts.settings import Setting, choice
from dashboards.words import duration
from sweeps.book.record import TrialRecord
from sweeps.space.gates import Gate, judge
from sweeps.space.plan import SEED

_TONES = {"COMPLETE": "good", "PRUNED": "quiet", "FAIL": "bad", "RUNNING": "open", "KILLED": "warn", "WAITING": "quiet"}


@dataclass(frozen=True)
class Badge:
    """A short verdict. tone: a class of style.css."""

    text: str
    tone: str
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """kind: number, text, name, state or gates. full: every digit, where `text` has four; key: what sorts, or None."""

    kind: str
    text: str
    key: float | str | None
    full: str = ""
    badges: tuple[Badge, ...] = ()


@dataclass(frozen=True)
class Column:
    """title: what it holds, in a sentence."""

    label: str
    title: str
    is_number: bool


def columns(settings: Sequence[Setting], gates: Sequence[Gate], metric: str, priced: bool = False) -> list[Column]:
    """The columns of every table of a report."""
    before = [
        Column("trial", "Its number, and its run's id in MLflow.", False),
        Column("state", "COMPLETE: it ran to its last step. PRUNED: it was stopped before.", False),
        Column("best", f"The best {metric} it reported: MLflow's best/{metric}.", True),
        Column("last", f"The last {metric} it reported: what Optuna is told.", True),
        Column("at step", "The step of the best value.", True),
        Column("steps", "The last step it reported.", True),
        Column("s/step", "Median seconds of a training step, over its reports.", True),
        Column("worked", "From its opening to its last report or end, over all attempts; waiting is left out.", True),
    ]
    before += [Column("cost", "Its GPU-hours at the price of budget.money.per_gpu_hour.", True)] if priced else []
    gated = [Column("gates", "Targets of a champion, by validation figures: the test decides at promotion.", False)]
    searched = [Column(setting.path, "A searched setting.", setting.choices is None) for setting in settings]
    return [*before, *(gated if gates else []), *searched, Column("reason", "Why it ended so.", False)]


def row(one: TrialRecord, settings: Sequence[Setting], gates: Sequence[Gate], cost: float | None = None) -> list[Cell]:
    """The cells of one trial, in the order of `columns`. cost: where a price is known."""
    trial = one.trial
    before = [
        Cell("name", name_of(one), trial.number, trial.run_id or ""),
        Cell("state", "", str(trial.state), badges=(state_badge(trial.state),)),
        *(number(value) for value in (trial.best_value, trial.last_value, trial.best_step)),
        number(trial.last_step if trial.last_step >= 0 else None),
        number(one.step_seconds),
        Cell("number", duration(one.busy_seconds), one.busy_seconds, f"{one.busy_seconds:.1f} s"),
    ]
    before += [number(cost)] if cost is not None else []
    gated = [_gates(one, gates)] if gates else []
    return [
        *before,
        *gated,
        *(_setting(one, setting) for setting in settings),
        Cell("text", said := _reason(one), said),
    ]


def _reason(one: TrialRecord) -> str:
    """Why it ended so and which constraints it breaks, behind what it was for where no sampler chose it."""
    trial = one.trial
    confirms = "" if trial.confirms is None else f"confirms t{trial.confirms:04d} with seed {trial.params[SEED]}"
    return "; ".join(part for part in (confirms, one.reason) if part)


def state_badge(state: str) -> Badge:
    """The state of a trial."""
    return Badge(state, _TONES[state])


def number(value: float | None) -> Cell:
    """A figure in four digits, every digit beside it."""
    key = value if value is not None and math.isfinite(value) else None
    return Cell("number", short(value), key, "" if value is None else repr(value))


def _gates(one: TrialRecord, gates: Sequence[Gate]) -> Cell:
    """Held against what the trial validated at its best step, under the same name: `val/psnr` for `test/psnr`."""
    badges = []
    for found in judge(gates, {gate.metric: value for gate in gates if (value := _validated(one, gate)) is not None}):
        tone = "quiet" if found.value is None else "good" if found.passed else "bad"
        name = found.gate.metric.removeprefix("test/")
        badges.append(Badge(f"{name} {found.gate.target}", tone, found.figure))
    passed = sum(badge.tone == "good" for badge in badges)
    return Cell("gates", f"{passed} of {len(badges)}", passed, badges=tuple(badges))


def _validated(one: TrialRecord, gate: Gate) -> float | None:
    points = one.metrics.get("val/" + gate.metric.removeprefix("test/"), ())
    return next((point.value for point in points if point.step == one.trial.best_step), None)


def _setting(one: TrialRecord, setting: Setting) -> Cell:
    value: Any = one.trial.params.get(setting.path)
    if setting.choices is None:
        return number(value)
    used = setting.path in one.trial.params
    return Cell("text", choice(value) if used else "–", choice(value) if used else None)
