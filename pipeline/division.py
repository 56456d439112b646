"""How the scenes of an optimizer step are divided among processes; the step is the same however many there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import RecipeError


@dataclass(frozen=True)
class Division:
    """Equal shares of a step of `accumulate` passes of `batch_size` scenes.

    A pass is cut into `pieces` of `size` scenes as far as it divides, and the passes are dealt among the groups of
    processes that make up one pass each: two processes take half of each pass, or every other pass.
    """

    pieces: int
    size: int
    groups: int

    def passes(self, rank: int, accumulate: int) -> list[int]:
        """The passes of a step that a process takes part in, from 0."""
        return list(range(rank // self.pieces, accumulate, self.groups))

    def piece(self, rank: int, index: int) -> int:
        """Which of the pieces of `size` scenes, counted from the run's first, a process takes of pass `index`."""
        return index * self.pieces + rank % self.pieces


def divide(batch_size: int, accumulate: int, processes: int) -> Division:
    """Raises RecipeError where there are no equal shares."""
    pieces = math.gcd(batch_size, processes)
    groups = processes // pieces
    if accumulate % groups:
        raise RecipeError(
            f"train.batch_size: expected {batch_size} × accumulate {accumulate} scenes a step to divide among "
            f"{processes} processes, got a rest — take fewer processes, or change one of them."
        )
    return Division(pieces, batch_size // pieces, groups)
