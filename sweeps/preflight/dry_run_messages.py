"""What the two processes of a dry run say to each other. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.recipe import Recipe

STEPS = 2


@dataclass(frozen=True)
class Job:
    """A configuration as a trial would meet it, but for its length."""

    recipe: Recipe
    cache: str
    threads: int
    gpu: bool
    paced: bool = False  # whether more steps are made, to know how long one takes


@dataclass(frozen=True)
class Measured:
    """What the steps of a configuration took. Bytes; memory_total is the device's, or None on the CPU."""

    step_seconds: float  # of the second step
    memory: int
    memory_total: int | None
    checkpoint: int
    release: int  # of the checkpoint without its training state
    figures: tuple[str, ...]  # names of what the validation reports
    pace: float | None = None  # seconds of a step once the first ones are made; None where that was not asked for


@dataclass(frozen=True)
class Fault:
    """Why a configuration did not come through, and what to do."""

    text: str
