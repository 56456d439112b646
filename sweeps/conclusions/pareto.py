"""The Pareto front of a sweep with several objectives, its knee, and the trial that somebody picks from it.

A trial counts with the figures of its best checkpoint, the one that is released, and with what it cost. It is on the
front if it is COMPLETE, meets every constraint, and no other such trial is as good in every objective and better in
one.

The knee is the trial that lies farthest out from the plane through the ends of the front (Das 1999): each objective is
scaled from 0, its worst on the front, to 1, its best; the knee has the largest sum. Where that sum is 1 or less the
front does not bulge, and it has no knee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import create_trial

from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.trial import Trial
from sweeps.errors import RegistryError, counted
from sweeps.space.objective import Aims, Objective

KNEE = "knee"
KNEE_RULE = (
    "Each objective is scaled from its worst on the front, 0, to its best, 1; the knee has the largest sum, if that is "
    "more than 1."
)
_NAMES = 8


@dataclass(frozen=True)
class Front:
    """Trials that none beats in every objective, the best of the first objective first.

    knee: the number of one of them, where there is one. broken: numbers of finished trials that break a constraint.
    unmeasured: of other finished ones without a finite figure of an objective.
    """

    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    knee: int | None
    judged: int
    broken: tuple[int, ...]
    unmeasured: tuple[int, ...]

    def values(self, trial: Trial) -> list[float]:
        """A trial's figures in the order of the objectives."""
        return [trial.figures[one.metric] for one in self.objectives]

    @property
    def notes(self) -> list[str]:
        """How many trials are on it, of how many; which break a constraint; and which is the knee, by which rule."""
        said = [f"{len(self.trials)} of {counted(self.judged, 'COMPLETE trial')} on the front, each with one seed."]
        if self.broken:
            said.append(f"Left out for a constraint: {_named(self.broken)}.")
        if self.unmeasured:
            said.append(f"Left out without a figure of each objective: {_named(self.unmeasured)}.")
        named = "no trial" if self.knee is None else f"t{self.knee:04d}"
        return [*said, f"Knee: {named}. {KNEE_RULE}"]

    def as_plain(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "objectives": [asdict(one) for one in self.objectives],
            "trials": [
                {"trial": trial.number, "step": trial.best_step, "figures": trial.figures, "params": trial.params}
                for trial in self.trials
            ],
            "knee": self.knee,
            "judged": self.judged,
            "broken": list(self.broken),
            "unmeasured": list(self.unmeasured),
        }


def front_of(ledger: Ledger) -> Front | None:
    """The front as far as the sweep has come; None where it has one objective."""
    aims = ledger.aims
    if aims is None or not aims.are_several:
        return None
    finished = [trial for trial in ledger.trials.values() if trial.state == State.COMPLETE]
    broken = tuple(trial.number for trial in finished if ledger.unmet(trial))
    within = [trial for trial in finished if trial.number not in broken]
    allowed = [trial for trial in within if _is_whole(trial, aims)]
    unmeasured = tuple(trial.number for trial in within if not _is_whole(trial, aims))
    on_front = {allowed[place].number for place in _unbeaten([trial.figures for trial in allowed], aims)}
    trials = tuple(trial for trial in ledger.ranked if trial.number in on_front)
    return Front(aims.objectives, trials, _knee(trials, aims.objectives), len(finished), broken, unmeasured)


def picked(ledger: Ledger, pick: str) -> tuple[Trial, Objective]:
    """The knee of a sweep, or its best trial by one metric; and the objective by which it meets a champion.

    Raises RegistryError where nothing is to be picked.
    """
    aims, front = ledger.aims, front_of(ledger)
    if aims is None or front is None or not front.trials:
        came = "one objective" if front is None else f"no trial on the front of {front.judged} finished"
        raise RegistryError(
            f"{ledger.name}: --pick {pick}: expected a sweep of several objectives with finished trials within its "
            f"constraints, got {came} — leave --pick away."
        )
    first, *_ = aims.objectives
    if pick == KNEE:
        if front.knee is None:
            numbers = ", ".join(f"t{trial.number:04d}" for trial in front.trials)
            raise RegistryError(
                f"{ledger.name}: --pick {KNEE}: expected a front that bulges, got one that does not ({numbers}) — "
                f"name a metric, or one of them with --trial."
            )
        return ledger.trials[front.knee], first
    chosen = next((one for one in aims.objectives if one.metric == pick), None)
    if chosen is None:
        known = ", ".join([KNEE, *(one.metric for one in aims.objectives)])
        raise RegistryError(f"{ledger.name}: --pick: expected one of {known}, got {pick} — name one of them.")
    best = min(front.trials, key=lambda trial: _loss(chosen, trial.figures))
    return best, chosen if chosen.metric.startswith("val/") else first


def _named(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMES} more" if len(numbers) > _NAMES else ""
    return ", ".join(f"t{number:04d}" for number in numbers[:_NAMES]) + more


def _is_whole(trial: Trial, aims: Aims) -> bool:
    return all(math.isfinite(trial.figures.get(one.metric, math.nan)) for one in aims.objectives)


def _unbeaten(figures: Sequence[Mapping[str, float]], aims: Aims) -> list[int]:
    """Places of those on the front, as Optuna finds them."""
    study = optuna.create_study(directions=["minimize"] * len(aims.objectives))
    study.add_trials(create_trial(values=[_loss(by, one) for by in aims.objectives]) for one in figures)
    return [trial.number for trial in study.best_trials]


def _knee(front: Sequence[Trial], objectives: Sequence[Objective]) -> int | None:
    if len(front) < 3:
        return None
    sums = dict.fromkeys((trial.number for trial in front), 0.0)
    for objective in objectives:
        losses = {trial.number: _loss(objective, trial.figures) for trial in front}
        best, worst = min(losses.values()), max(losses.values())
        for number, loss in losses.items():
            sums[number] += (worst - loss) / (worst - best) if worst > best else 1.0
    knee = max(sums, key=lambda number: sums[number])  # of equals, the first objective's better one
    return knee if sums[knee] > 1.0 + 1e-9 else None


def _loss(objective: Objective, figures: Mapping[str, float]) -> float:
    value = figures[objective.metric]
    return -value if objective.mode == "max" else value
