"""How many trials a sweep runs, and what each of them occupies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.errors import RecipeError
from pipeline.recipe import Positive, Rate, Recipe, Weight, strict
from pipeline.rules import divide


@strict
@dataclass(frozen=True, kw_only=True)
class Resources:
    """How many trials run, how many at a time, and what each of them occupies."""

    count: Positive = 1  # trials of the sweep, over all its sessions
    concurrent: Positive = 1  # trials that run at a time
    gpus: Weight | None = None  # a fraction of one, or several, each with a process; None: one, where there are GPUs
    cpus: Positive | None = None  # None: those of the machine, shared among the trials at a time
    workers: Positive | None = None  # processes that train together; None: one for each GPU
    needs: dict[str, Rate | str] = field(default_factory=dict)  # labels of a node: at least a number, or a text

    @property
    def processes(self) -> int:
        """How many of them make up one trial."""
        return self.workers or max(1, int(self.taken_gpus))

    @property
    def taken_gpus(self) -> float:
        """Of a trial; 0 as long as it is not decided (see `sweeps/run/nodes.py`)."""
        return self.gpus or 0.0

    def problems(self, recipes: Iterable[Recipe]) -> Iterator[tuple[str, str]]:
        """Dotted path and problem: GPUs that are neither a share nor whole, steps that do not divide."""
        gpus = self.taken_gpus
        if gpus > 1 and gpus != int(gpus):
            yield "trials.gpus", f"expected a fraction below 1 or a whole number, got {gpus} — round it."
        elif self.workers is not None and gpus and self.workers != max(1.0, gpus):
            problem = f"expected one for each of {gpus:g} trials.gpus, got {self.workers} — drop one of the two."
            yield "trials.workers", problem
        for recipe in recipes:
            try:
                divide(recipe.train.batch_size, recipe.train.accumulate, self.processes)
            except RecipeError as error:
                yield "trials.workers", str(error)
                return
