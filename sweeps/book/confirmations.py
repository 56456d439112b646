"""Who won a search whose best ran again with other seeds, and by how much: figures alone, from what their runs reached.

The best of many was also the luckiest of them: by the seed, and by what a few validation scenes happen to favour. So
the run by which a trial won its place is not counted among those that confirm it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

from sweeps.errors import counted

_DIGITS = 4  # of a figure


class Run(NamedTuple):
    """A trial that confirms another one. value: its best objective, once it is COMPLETE."""

    trial: int  # that is confirmed
    seed: int
    has_ended: bool
    value: float | None


@dataclass(frozen=True)
class Confirmed:
    """A trial of a search whose settings ran again with other seeds.

    place: that it had in the search, from 1; found: what it reached there. values: what it reached with each of the
    `seeds` that are compared; a run that was pruned or broke has none.
    """

    trial: int
    place: int
    found: float
    values: tuple[float, ...]
    seeds: int

    @property
    def mean(self) -> float | None:
        """None where no run came to its end."""
        return fmean(self.values) if self.values else None

    @property
    def is_whole(self) -> bool:
        """Whether each of its runs came to its end."""
        return len(self.values) == self.seeds

    def __str__(self) -> str:
        """`mean 22.5 over 2 seeds (22 to 23), was 23.1 in the search`."""
        return f"{self.by_seeds}, was {self.found:.{_DIGITS}g} in the search"

    @property
    def by_seeds(self) -> str:
        """`mean 22.5 over 2 seeds (22 to 23)`."""
        n = counted(self.seeds, "seed") if self.is_whole else f"{len(self.values)} of {counted(self.seeds, 'seed')}"
        if self.mean is None:
            return f"no figure with {n}"
        if len(self.values) == 1:
            return f"{self.mean:.{_DIGITS}g} with {n}, so without a spread"
        least, most = min(self.values), max(self.values)
        return f"mean {self.mean:.{_DIGITS}g} over {n} ({least:.{_DIGITS}g} to {most:.{_DIGITS}g})"

    def as_plain(self) -> dict[str, Any]:
        """What programs are told of it; n: of how many seeds there is a figure."""
        known = {"trial": self.trial, "place": self.place, "found": self.found, "mean": self.mean}
        span = {"least": min(self.values, default=None), "most": max(self.values, default=None)}
        return known | span | {"n": len(self.values), "seeds": self.seeds}


def confirmed(
    runs: Iterable[Run], search: Sequence[tuple[int, float]], seeds: int, mode: Literal["max", "min"]
) -> list[Confirmed]:
    """The trials that were confirmed, the best mean first; behind them those of which a run did not come to its end.

    They are compared by the seeds with which the runs of all of them have ended, so that none is ahead because others
    still run. One that has ended with none of its seeds is left out as soon as others have ended with all `seeds`: a
    sweep that was given more trials may have a new one among its best.

    search: the COMPLETE trials of the search with their objectives, the best first.
    """
    by_trial: dict[int, dict[int, Run]] = {}
    for run in runs:
        by_trial.setdefault(run.trial, {})[run.seed] = run
    ended = {trial: {seed for seed, run in found.items() if run.has_ended} for trial, found in by_trial.items()}
    if not all(ended.values()):
        ended = {trial: those for trial, those in ended.items() if len(those) == seeds}
    common: Collection[int] = set.intersection(*ended.values()) if ended else ()
    if not common:
        return []
    places = [
        Confirmed(number, place, found, _values(by_trial[number], common), len(common))
        for place, (number, found) in enumerate(search, 1)
        if number in ended
    ]
    sign = -1.0 if mode == "max" else 1.0
    return sorted(places, key=lambda one: (not one.is_whole, one.mean is None, sign * (one.mean or 0.0), one.place))


def _values(runs: dict[int, Run], seeds: Collection[int]) -> tuple[float, ...]:
    found = (runs[seed].value for seed in sorted(seeds))
    return tuple(value for value in found if value is not None)
