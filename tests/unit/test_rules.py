"""Shares of an optimizer step: every scene once, and the same number to each process."""

from __future__ import annotations

import pytest

from pipeline.errors import RecipeError
from pipeline.rules import Division, divide


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "expected"),
    [(2, 1, 2, (2, 1, 1)), (1, 8, 4, (1, 1, 4)), (2, 4, 8, (2, 1, 4)), (6, 2, 4, (2, 3, 2)), (8, 2, 1, (1, 8, 1))],
)
def test_every_scene_of_a_step_falls_to_one_process(batch_size, accumulate, processes, expected) -> None:
    division = divide(batch_size, accumulate, processes)
    assert division == Division(*expected)
    scenes = [
        division.piece(rank, index) * division.size + i
        for rank in range(processes)
        for index in division.passes(rank, accumulate)
        for i in range(division.size)
    ]
    assert sorted(scenes) == list(range(batch_size * accumulate))
    assert len({len(division.passes(rank, accumulate)) for rank in range(processes)}) == 1


@pytest.mark.parametrize(("batch_size", "accumulate", "processes"), [(1, 1, 2), (2, 3, 4), (8, 1, 3)])
def test_unequal_shares_are_refused(batch_size, accumulate, processes) -> None:
    with pytest.raises(RecipeError) as error:
        divide(batch_size, accumulate, processes)
    assert str(error.value) == (
        f"train.batch_size: expected {batch_size} × accumulate {accumulate} scenes a step to divide among {processes} "
        "processes, got a rest — take fewer processes, or change one of them."
    )
