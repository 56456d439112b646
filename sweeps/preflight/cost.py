"""What a whole sweep takes, multiplied out from the steps of its dry run: hours, and room for its checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.progress import duration
from pipeline.recipe import Recipe
from sweeps.home import Home
from sweeps.preflight.disk_and_memory import disk_needs
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.space import SearchSpace

# How far the truth may lie on either side: trials that run beside each other share memory and disk, and validations
# are not counted. A convention: the trials of a demo sweep on two cores differed by 1.6 times in the time of a step.
_FACTOR = 1.5
_UNITS = ((60.0, 10.0), (3600.0, 60.0), (86400.0, 600.0), (math.inf, 3600.0))  # below so many seconds: by so many


@dataclass(frozen=True)
class Cost:
    """seconds: of the whole sweep if every trial runs to its end; None where the pace of a step is not known.

    stops_early: whether trials may be pruned, so that it takes less. bytes: of checkpoints and releases at most, on all
    disks together.
    """

    seconds: float | None
    stops_early: bool
    bytes: int

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
    rounds = math.ceil(trials.count / at_a_time)
    seconds = None if measured.pace is None else rounds * recipe.train.max_steps * measured.pace
    return Cost(seconds, space.scheduler.kind != "none", sum(need.total for need in disk_needs(space, home, measured)))


def _rounded(seconds: float) -> float:
    """As finely as it is known."""
    unit = next(unit for longest, unit in _UNITS if seconds < longest)
    return max(1, round(seconds / unit)) * unit


def _gib(number: int) -> str:
    """Bytes in GiB, or MiB below a tenth of one."""
    gib = number / 2**30
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{number / 2**20:.0f} MiB"
