"""One trial, in a Ray worker: params -> Recipe -> Reports -> tune.report. The driver does all the writing."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from ray import tune

from pipeline.recipe import Recipe, override
from pipeline.train import Report, train

IMAGES = "images"  # PNG bytes by name; the driver takes them out of the result before Ray stores it
METRIC_GROUPS = ("train", "val", "time", "system")


@dataclass(frozen=True)
class TrialSettings:
    """What every trial of a sweep shares and no recipe holds."""

    recipe: Recipe
    cache: str
    cpus: int
    gpus: float


def run_trial(config: dict[str, Any], settings: TrialSettings) -> None:
    """Ray Tune's function trainable; config: `number` of the Optuna trial and its `params` by dotted path."""
    recipe = override(settings.recipe, config["params"])
    torch.set_num_threads(settings.cpus)
    device = "cuda" if settings.gpus and torch.cuda.is_available() else "cpu"
    process = psutil.Process()
    process.cpu_percent()
    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder, _resumed() as resume:
        for report in train(recipe, Path(folder), resume, device, Path(settings.cache)):
            result = as_result(report) | _system(process, device)
            if report.checkpoint is None:
                tune.report(result)
                continue
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(report.checkpoint))
            shutil.rmtree(report.checkpoint)


def as_result(report: Report) -> dict[str, Any]:
    """A Report as Ray carries it: flat metrics, the step, pictures as PNG bytes."""
    return {"step": report.step, **report.metrics, IMAGES: {k: _png(v) for k, v in report.images.items()}}


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The figures of a result that are ours, not Ray's."""
    return {
        name: float(value)
        for name, value in result.items()
        if name.partition("/")[0] in METRIC_GROUPS and "/" in name and isinstance(value, int | float)
    }


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _resumed() -> Iterator[Path | None]:
    """The checkpoint that Ray restarts this trial from, as a local folder."""
    restored = tune.get_checkpoint()
    if restored is None:
        yield None
        return
    with restored.as_directory() as folder:
        yield Path(folder)


def _system(process: psutil.Process, device: str) -> dict[str, float]:
    """Load of this trial's process and, where it has one, of its own GPU; MLflow's names for them."""
    values = {
        "system/cpu_utilization_percentage": process.cpu_percent(),
        "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
    }
    if device == "cuda":
        values["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
        values["system/gpu_0_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 1e6
    return values
