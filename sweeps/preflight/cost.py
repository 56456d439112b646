"""What a whole sweep takes, multiplied out from the steps of its dry run: hours, and room for its checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.progress import duration
from pipeline.recipe import Recipe
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.preflight.disk_and_memory import disk_needs
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.budget import Spent
from sweeps.space.space import SearchSpace

# How far the truth may lie on either side: trials that run beside each other share memory and disk, and validations
# are not counted. A convention: the trials of a demo sweep on two cores differed by 1.6 times in the time of a step.
_FACTOR = 1.5
_UNITS = ((60.0, 10.0), (3600.0, 60.0), (86400.0, 600.0), (math.inf, 3600.0))  # below so many seconds: by so many


@dataclass(frozen=True)
class Cost:
    """seconds: of the whole sweep if every trial runs to its end; None where the pace of a step is not known.
    trial_seconds: of one that runs to its end, in the neediest configuration; likewise.

    stops_early: whether trials may be pruned, so that it takes less. bytes: of checkpoints and releases at most, on all
    disks together.
    """

    seconds: float | None
    stops_early: bool
    bytes: int
    trial_seconds: float | None = None

    def __str__(self) -> str:
        room = f"{_gib(self.bytes)} of checkpoints"
        if self.seconds is None:
            return f"at most {room}"
        about = "at most about" if self.stops_early else "about"
        low, high = self.seconds / _FACTOR, self.seconds * _FACTOR
        return (
            f"{about} {duration(_rounded(self.seconds))} on this machine ({duration(_rounded(low))} to "
            f"{duration(_rounded(high))} or so, by the pace of a few steps), at most {room}"
        )


def cost_of(space: SearchSpace, recipe: Recipe, home: Home, measured: Measured) -> Cost:
    """The cost of a sweep. measured: of its neediest configuration."""
    trials = space.trials
    at_a_time = max(1, min(trials.count, trials.concurrent))
    confirming = space.confirm.runs(trials.count)  # they begin when the search has ended
    rounds = math.ceil(trials.count / at_a_time) + math.ceil(confirming / max(1, min(confirming, trials.concurrent)))
    trial = None if measured.pace is None else recipe.train.max_steps * measured.pace
    seconds = None if trial is None else rounds * trial
    room = sum(need.total for need in disk_needs(space, home, measured))
    return Cost(seconds, space.scheduler.kind != "none", room, trial)


def least_step_seconds(cost: Cost | None, recipe: Recipe) -> float | None:
    """Seconds of a step at the least, as far as a few steps can tell: what a trial is taken to need before one ran."""
    known = None if cost is None else cost.trial_seconds
    return None if known is None else known / _FACTOR / recipe.train.max_steps


def of_budget(space: SearchSpace, cost: Cost | None) -> list[str]:
    """Notes on a new sweep that its budget may not hold.

    Raises StudyError where not even one trial can end within it, at the least that it may take.
    """
    budget, gpus = space.budget, space.trials.taken_gpus
    notes = []
    if budget.counts_gpus and not gpus:
        notes.append("budget: trials take no GPU here, so that GPU-hours and money are never spent — bound its hours.")
    if cost is None or cost.trial_seconds is None or cost.seconds is None:
        return notes
    trial, whole = (Spent(s / 3600, gpus * n * cost.trial_seconds / 3600)
                    for s, n in ((cost.trial_seconds, 1), (cost.seconds, space.most_trials)))  # fmt: skip
    least = Spent(trial.hours / _FACTOR, trial.gpu_hours / _FACTOR)
    if (short := budget.short(Spent(), least)) is not None:
        limit, needed = short
        raise StudyError(
            f"{space.name}: budget: expected {limit.name} for one trial at least, about {needed:.2g} by the pace of a "
            f"few steps, got {limit.most:g} — raise it, or lower train.max_steps."
        )
    if (short := budget.short(Spent(), whole)) is not None:
        limit, needed = short
        most = " at most" if cost.stops_early else ""
        notes.append(
            f"budget: {limit.most:g} {limit.name} may not hold all {space.most_trials} trials, which take{most} about "
            f"{needed:.2g} by the pace of a few steps; those that do not fit are not begun."
        )
    return notes


def _rounded(seconds: float) -> float:
    """As finely as it is known."""
    unit = next(unit for longest, unit in _UNITS if seconds < longest)
    return max(1, round(seconds / unit)) * unit


def _gib(number: int) -> str:
    """Bytes in GiB, or MiB below a tenth of one."""
    gib = number / 2**30
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{number / 2**20:.0f} MiB"
