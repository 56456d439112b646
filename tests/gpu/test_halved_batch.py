"""A batch too large for its share of the GPU is halved, and the trial completes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.recipes import load_recipe
from pipeline.training.loop import train
from tests.e2e.conftest import SMALL, write_space
from tests.e2e.faults.patches import at_step
from tests.gpu.test_sweep import PathSeat
from tests.gpu.test_training import first_of, peak_bytes

pytestmark = pytest.mark.gpu
BATCH = 4  # scenes, of which a quarter fits where the whole does not
# Activations of gigabytes, beside which it does not matter what the allocator leaves unused.
LARGER = {"data.image_size": 256, "model.dim": 256, "model.num_layers": 4}


def test_a_batch_that_does_not_fit_is_halved_and_the_trial_completes(
    device, gpus, tmp_path, mice_folder, frames_cache
) -> None:
    fixed = {"train.max_steps": 4, "train.validate_every": 4, "train.batch_size": BATCH, "data.num_input_views": 4}
    fixed |= LARGER if device.type == "cuda" else {}
    seat = PathSeat(tmp_path, at_step(tmp_path / "patch", _too_small(device, fixed, mice_folder, tmp_path)))
    space = {"space": {"optim.lr": {"float": [1.0e-4, 1.0e-3]}}, "scheduler": {"kind": "none"}}
    trials = {"count": 1, "concurrent": 1, "gpus": gpus}
    path = write_space(tmp_path / "large.yaml", **space, fixed=fixed, trials=trials)
    done = seat.mouselift("sweep", "run", path, "--data", mice_folder, "--name", "large")
    assert done.returncode == 0, done.stderr
    trial = seat.ledger("large").trials[0]
    assert trial.state == "COMPLETE" and set(trial.faults) == {"halve"}, trial


def _too_small(device: torch.device, fixed: dict[str, object], mice_folder: Path, tmp_path: Path) -> str:
    """Code that limits a worker's share of the GPU to what a batch in parts needs, and the whole exceeds.

    A CPU has no such limit: there the error is raised.
    """
    if device.type != "cuda":
        return (
            'import torch\nif self.splits == 1: raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")'
        )
    settings = [f"{path}={value}" for path, value in {**SMALL, **fixed, "data.root": mice_folder}.items()]
    recipe = load_recipe("gslrm_tiny", settings)
    whole, parts = (
        peak_bytes(device, lambda n=n: first_of(train(recipe, tmp_path / "tried", device=device, splits=n)))
        for n in (1, BATCH)
    )
    assert parts < 0.8 * whole
    share = (whole + parts) / 2 / torch.cuda.get_device_properties(device).total_memory
    return f"import torch\ntorch.cuda.set_per_process_memory_fraction({share})"
