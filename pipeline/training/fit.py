"""A training run that logs nothing: checkpoints in a folder, reports for the caller, one process or several."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path

from pipeline.data.pictures import write_png
from pipeline.errors import MachineError
from pipeline.machine.devices import CUDA, require_device
from pipeline.recipe import Recipe
from pipeline.training.loop import train
from pipeline.training.processes import World, launched
from pipeline.training.saving import Report

KEPT = 2


def fit(
    recipe: Recipe, out: Path, device: str, environment: Mapping[str, str], cache: Path | None = None, splits: int = 1
) -> Generator[Report, None, None]:
    """Train `recipe` in the folder `out`, from its newest checkpoint where it has one; the leader's reports.

    Where `environment` is that of torchrun, its processes train together. Keeps the newest two checkpoints and the
    last pictures; what a process that was killed left half written is removed. Raises as `train` does, and MachineError
    for a device that is not there.
    """
    with launched(environment, _own_device(device, environment)) as own:
        world = World.here()
        training = train(recipe, out, newest(out), own, cache or out / "cache", splits)
        with contextlib.closing(training) as reports:
            for report in reports:
                if not world.leads:
                    continue
                for name, picture in report.images.items():
                    write_png(picture, out / f"{name.replace('/', '-')}.png")
                if report.checkpoint is not None:
                    for old in [*_checkpoints(out)[:-KEPT], *out.glob(".step-*")]:
                        shutil.rmtree(old)
                yield report


def newest(out: Path) -> Path | None:
    """The checkpoint of the last step in a folder, or None."""
    folders = _checkpoints(out)
    return folders[-1] if folders else None


def _own_device(device: str, environment: Mapping[str, str]) -> str:
    """The device, once it is known that this process, one of torchrun's or alone, has it."""
    if "WORLD_SIZE" not in environment or not device.startswith(CUDA):
        return require_device(device)
    if device != CUDA:
        raise MachineError(
            f"--device: expected cpu or cuda under torchrun, got {device} — it gives each process a GPU."
        )
    require_device(f"{CUDA}:{environment['LOCAL_RANK']}", "torchrun --nproc-per-node")
    return device


def _checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints, oldest first; one that is being written has a hidden name."""
    return sorted(out.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
