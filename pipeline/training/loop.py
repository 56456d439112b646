"""The one training loop: `train(recipe, workdir)` yields Reports and does not know who reads them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.errors import CheckpointError, PipelineError
from pipeline.metrics import import_ahead
from pipeline.recipe import Recipe, TrainConfig
from pipeline.training.processes import World
from pipeline.training.saving import Report, Reports
from pipeline.training.trainer import Trainer


def train(
    recipe: Recipe,
    workdir: Path,
    resume: Path | None = None,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    splits: int = 1,
    lacks_room: Callable[[], str] = str,
) -> Generator[Report, None, None]:
    """Train `recipe` and yield reports: at the first step and every `report_every` steps, with figures and pictures
    every `validate_every`, with a checkpoint every `checkpoint_every`, and with all of that at the last.

    A thread writes the checkpoint from a copy, while the steps that follow are made; its report and those of these
    steps come when it is in its place. Whenever a report is yielded, nothing is being written. An error comes after
    the reports of the steps before it.

    resume: a checkpoint folder of the same recipe; on the CPU the steps that follow are bit-identical to those of
    a run never stopped. cache: folder for decoded frames, shared by runs. splits: each batch goes through the network
    in so many parts, one after the other: the same optimizer step in less memory. lacks_room: asked before a checkpoint
    is made; a reason makes it wait for the next one, as a full disk does.
    Raises RecipeError, DataError, CheckpointError before the first step; DivergedError with step and term.

    Where torch.distributed is set up, each process calls this with a device of its own and they make the same steps
    together, a share of the scenes each; all yield at the same steps, and what the leader (rank 0) yields has the
    content.
    """
    world = World.here()
    with world.agreed():
        trainer = Trainer(recipe, torch.device(device), cache or workdir / "cache", splits, world)
        start = trainer.resume(resume) if resume is not None else 0
        if start >= recipe.train.max_steps:
            raise CheckpointError(
                f"{resume}: expected a step below train.max_steps {recipe.train.max_steps}, got {start} — "
                "it is finished."
            )
    trainer.join(start)
    with import_ahead(), trainer.working_ahead(start):  # what the stage itself imports is there
        yield from _reports(trainer, start, workdir, lacks_room)


def _reports(trainer: Trainer, start: int, workdir: Path, lacks_room: Callable[[], str]) -> Iterator[Report]:
    """Make the steps after `start`; what `train` yields of them."""
    config = trainer.recipe.train
    with Reports() as reports:
        try:
            for step in range(start + 1, config.max_steps + 1):
                trainer.step(step)
                due = _Due.at(step, config)
                if due.report:
                    report, attachments = trainer.report(step, due.validation)
                    if due.checkpoint and trainer.world.leads:
                        yield from reports.rest()  # one at a time; and whoever hears of the last may remove older ones
                        if unsaved := lacks_room():
                            reports.add(replace(report, unsaved=unsaved))
                        else:
                            reports.write(trainer.save(workdir, report, attachments))
                    else:
                        reports.add(report)
                yield from reports.ready()
        except (PipelineError, RuntimeError, MemoryError, OSError):  # such as a loss that is no number, a full GPU
            yield from reports.rest()
            raise
        yield from reports.rest()


@dataclass(frozen=True)
class _Due:
    """What is due at a step."""

    validation: bool
    checkpoint: bool
    report: bool

    @staticmethod
    def at(step: int, config: TrainConfig) -> _Due:
        """The same wherever a run is taken up, so that its reports are those of one that was never stopped."""
        last = step == config.max_steps
        validation = last or step % config.validate_every == 0
        checkpoint = last or step % (config.checkpoint_every or config.validate_every) == 0
        plain = step == 1 or step % config.report_every == 0
        return _Due(validation, checkpoint, validation or checkpoint or plain)
