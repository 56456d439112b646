"""Two real steps of a recipe: they run, and what they take in time, memory and disk.

Trains, validates one scene, writes a checkpoint after each step and loads the last one again.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline import checkpoint, kinds
from pipeline.config import one_line
from pipeline.errors import PipelineError
from pipeline.files import size_of
from pipeline.recipe import LossConfig, Recipe
from pipeline.recipes import override
from pipeline.training.loop import train
from pipeline.training.saving import Report
from sweeps.preflight.dry_run_messages import STEPS, Fault, Job, Measured
from sweeps.space.objective import COSTS

_LONG_STEP_SECONDS = 3.0  # beside which what is done once counts little
_PACED = 9  # steps, of which the first two and the last, with its validation, do not count
# What keeps fewest activations, by the kind of model.
_SAVING = {"gslrm": "model.checkpoint=layers", "mvdiffusion": "model.gradient_checkpointing=true"}


def warm_up() -> None:
    """Have torch import now what the first step would import, which takes a second or more."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with two steps, a validation of one scene after them, and every loss term from the first on.

    The first step has a checkpoint, too: as in a trial, a copy of the weights is being written while the next step is
    made. A loss that is no number ends it at once. Of train.accumulate passes a step has two at most: the second needs
    most memory, beside the gradients of the first. The learning rate is too small to do harm: whether the recipe's own
    is too large is not decided here. Where training draws how many views it shows, these steps show the most.
    """
    changes: dict[str, Any] = {
        "train.max_steps": STEPS,
        "train.validate_every": STEPS,
        "train.checkpoint_every": 1,
        "train.report_every": 1,
        "train.max_val_scenes": 1,
        "train.accumulate": min(2, recipe.train.accumulate),
        "data.min_input_views": None,
        "optim.lr": 1.0e-6,
        "optim.warmup_steps": 0,
        "optim.max_nonfinite_updates": 0,
    }
    if isinstance(recipe.loss, LossConfig):
        changes |= {"loss.warmup_steps": 0, "loss.pointsdist_warmup_steps": 0}
    return override(recipe, changes)


def measure(job: Job, folder: Path) -> Measured:
    """Do the steps here and now, with `folder` for the checkpoint."""
    device = torch.device("cuda" if job.gpu else "cpu")
    torch.set_num_threads(job.threads)
    with _watched_memory(device) as peak:
        last = _last_of(train(shortened(job.recipe), folder, device=device, cache=Path(job.cache)))
        assert last.checkpoint is not None
        kinds.load(last.checkpoint, device)
        checkpoint.load_training(last.checkpoint)
    whole, state = size_of(last.checkpoint), (last.checkpoint / checkpoint.TRAINING).stat().st_size
    return Measured(
        step_seconds=last.metrics["time/step_seconds"],
        memory=peak[0],
        memory_total=torch.cuda.get_device_properties(device).total_memory if job.gpu else None,
        checkpoint=whole,
        release=whole - state,
        figures=tuple(sorted(name for name in last.metrics if name.startswith("val/") or name in COSTS)),
        pace=_pace(job, folder, device, last.metrics["time/step_seconds"]) if job.paced else None,
    )


def _pace(job: Job, folder: Path, device: torch.device, second: float) -> float:
    """Seconds of a step when what is done once is done: the median of a few steps, that of the second step, in
    seconds, where that is long enough to be one.
    """
    if second > _LONG_STEP_SECONDS:
        return second
    longer = {"train.max_steps": _PACED, "train.validate_every": _PACED, "train.checkpoint_every": _PACED}
    recipe = override(shortened(job.recipe), longer | {"train.accumulate": job.recipe.train.accumulate})
    with contextlib.closing(train(recipe, folder / "pace", device=device, cache=Path(job.cache))) as reports:
        seconds = [report.metrics["time/step_seconds"] for report in itertools.islice(reports, _PACED - 1)]
    return statistics.median(seconds[STEPS:])


def attempt(job: Job, folder: Path) -> Measured | Fault:
    """`measure`, or why it failed and what the user can do about it."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        try:
            return measure(job, Path(workdir))
        except PipelineError as error:
            return Fault(one_line(error))
        except torch.cuda.OutOfMemoryError as error:
            return Fault(
                f"expected {STEPS} steps to fit the GPU, got {one_line(error).partition('. ')[0]} — lower "
                "train.batch_size, data.num_views or data.image_size, or set "
                f"{_SAVING[job.recipe.model.kind]}."
            )
        except OSError as error:
            return Fault(
                f"expected files that can be read and written, got {one_line(error)} — make room, "
                "or make them writable."
            )


def _last_of(reports: Iterable[Report]) -> Report:
    """The last report. The checkpoints before it are removed: a second one might find no room."""
    for report in reports:
        if report.step < STEPS and report.checkpoint is not None:
            shutil.rmtree(report.checkpoint)
    return report


@contextlib.contextmanager
def _watched_memory(device: torch.device) -> Iterator[list[int]]:
    """Gives a list that holds, once the block is left, the bytes that it needed at most."""
    found = [0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak so far is forgotten
    yield found
    found[0] = _peak_bytes()


def _peak_bytes() -> int:
    """The process's own memory at its peak: without pages of files, which processes share and the system can drop."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return int(psutil.Process().memory_info().rss)
    kilobytes = {}
    for line in status.read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssFile"):
            kilobytes[name] = int(value.split()[0])
    return 1024 * (kilobytes["VmHWM"] - kilobytes["RssFile"])
