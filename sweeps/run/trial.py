"""One trial, in a Ray worker: params -> Recipe -> Reports -> tune.report.

The worker writes checkpoints and nothing else. It sends a report after the report's checkpoint is in its place.
"""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from ray import tune

from pipeline import checkpoint
from pipeline.recipe import Recipe
from pipeline.recipes import override
from pipeline.training.loop import train
from pipeline.training.saving import Report
from sweeps.book.provenance import device_name, machine
from sweeps.book.record import PROTOCOL, TARGETS
from sweeps.errors import OutageError
from sweeps.reuse.code_version import CODE_CHANGED, code_version
from sweeps.run.checkpoints import Checkpoints
from sweeps.run.nodes import Seat
from sweeps.run.processes import companions
from sweeps.space.objective import Aims
from sweeps.space.space import Retention

IMAGES = "images"  # PNG bytes by name; the driver takes them out of the result before Ray stores it
TAGS = "tags"  # of the run, by key; likewise taken out
SCENES = "scenes"  # the figures of each validated scene; likewise taken out
CHECKPOINTING = "checkpointing"
METRIC_GROUPS = ("train", "val", "time", "system")


@dataclass(frozen=True)
class TrialSettings:
    """What every trial of a sweep shares and no recipe holds."""

    sweep: str
    recipe: Recipe
    aims: Aims
    cache: str
    checkpoints: str
    retention: Retention
    seats: list[Seat]
    code: str  # its version, as the driver has it


def run_trial(config: dict[str, Any], settings: TrialSettings) -> None:
    """Ray Tune's function trainable.

    config: the trial's `number`, its `params` by dotted path, the `attempt`, the last step that earlier attempts have
    `reported` (-1: none), and the number of `splits` in which each batch goes through the network.
    """
    gc.collect()  # the trial before may have left cycles in this process, and a worker looks for garbage seldom
    recipe = override(settings.recipe, config["params"])
    torch.set_num_threads(settings.seats[0].cpus)
    process, began = psutil.Process(), time.perf_counter()
    process.cpu_percent()
    kept = Checkpoints(settings.checkpoints, settings.sweep, config["number"])
    splits: int = config["splits"]
    with kept.workspace() as folder, kept.newest(at_most=config["reported"]) as (start, damaged):
        said = _said(start, damaged) | _changed_since(settings.code)
        step = None if start is None else checkpoint.inspect(start).step
        work = partial(_follow, recipe, kept, step, Path(settings.cache), splits)
        with companions(work, settings.seats) as device:
            said |= machine(device_name(device.type), settings.seats[0].cpus, len(settings.seats))
            lacks_room = partial(kept.lacks_room, settings.retention.disk_floor_gb)
            training = train(recipe, folder, start, device, Path(settings.cache), splits, lacks_room)
            with contextlib.closing(training) as reports:
                for report in reports:
                    said |= _kept(kept, report, settings) | _measured_by(report)
                    spent = {"time/trial_seconds": time.perf_counter() - began}  # of this attempt, with its validations
                    tune.report(as_result(report) | spent | _system(process, device.type) | {TAGS: said})
                    said = {}


def _follow(
    recipe: Recipe, kept: Checkpoints, step: int | None, cache: Path, splits: int, device: torch.device
) -> None:
    """The work of a trial's other processes: the same training, from the same step. Only rank 0 reports."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mouselift-")))
        start = None if step is None else stack.enter_context(kept.fetched(step))
        reports = stack.enter_context(contextlib.closing(train(recipe, folder, start, device, cache, splits)))
        for _ in reports:
            pass


def _said(start: Path | None, damaged: list[str]) -> dict[str, str]:
    """Tags of the run: the checkpoint from which the attempt starts, and later ones that are damaged."""
    tags = {} if start is None else {"trial.resumed_from": start.name}
    return tags | ({"checkpoint.damaged": "; ".join(damaged)} if damaged else {})


def _measured_by(report: Report) -> dict[str, str]:
    """Tags of the run: how its figures are measured, and on what."""
    return {PROTOCOL: report.protocol, TARGETS: report.targets} if report.protocol else {}


def _changed_since(code: str) -> dict[str, str]:
    """A tag of the run where this process found other code than its driver: an edit since, or another machine's."""
    return {} if (own := code_version()) == code else {CODE_CHANGED: own}


def _kept(kept: Checkpoints, report: Report, settings: TrialSettings) -> dict[str, str]:
    """Keep the report's checkpoint and remove older ones. Returns the outcome, as tags of the run."""
    if report.unsaved:
        return {CHECKPOINTING: f"paused: {report.unsaved}"}
    if report.checkpoint is None:
        return {}
    try:
        kept.keep(report.checkpoint)
        kept.thin(settings.aims, settings.retention.best, settings.retention.last)
    except OutageError as error:  # training goes on; the store may answer when the next checkpoint is written
        return {CHECKPOINTING: f"paused: {error}"}
    return {CHECKPOINTING: f"step {report.step} is kept"}


def as_result(report: Report) -> dict[str, Any]:
    """A Report as Ray carries it: flat metrics, the step, pictures as PNG bytes, the figures of its scenes."""
    pictures = {name: _png(picture) for name, picture in report.images.items()}
    return {"step": report.step, **report.metrics, IMAGES: pictures, SCENES: list(report.scenes)}


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of a result, without what Ray adds."""
    return {
        name: float(value)
        for name, value in result.items()
        if name.partition("/")[0] in METRIC_GROUPS and "/" in name and isinstance(value, int | float)
    }


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _system(process: psutil.Process, device: str) -> dict[str, float]:
    """The load of this trial's process and of its GPU, if it has one, under MLflow's names."""
    values = {
        "system/cpu_utilization_percentage": process.cpu_percent(),
        "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
    }
    if device == "cuda":
        values |= gpu_utilization()
        values["system/gpu_0_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 1e6
    return values


def gpu_utilization() -> dict[str, float]:
    """How busy the GPU is, where its driver says so: for a part of a card (MIG) and for a virtual one it does not."""
    from pynvml import NVMLError  # needed where there is a GPU alone

    try:
        return {"system/gpu_0_utilization_percentage": float(torch.cuda.utilization())}
    except (NVMLError, RuntimeError):
        return {}
