"""A sweep on a GPU: two trials share it, the best is promoted, pulled and served there; too large a batch is halved."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pipeline import kinds
from pipeline.data.scenes import open_dataset
from pipeline.recipes import load_recipe
from pipeline.training.loop import train
from tests.e2e.conftest import SMALL, Seat, write_space
from tests.e2e.faults.patches import at_step
from tests.gpu.test_training import first_of, peak_bytes

pytestmark = pytest.mark.gpu
PREDICT = """
import json, sys
import mlflow, pandas
rows = pandas.read_json(sys.argv[1])
rows["image"] = [bytes.fromhex(text) for text in rows["image"]]
model = mlflow.pyfunc.load_model("models:/mouse-gslrm@champion")
found = model.predict(rows, params={"min_opacity": 0.0, "max_scale": 10.0})
device = str(model.unwrap_python_model().loaded.model.gaussian_position_embeddings.device)
print(json.dumps({"device": device, "num_gaussians": int(found["num_gaussians"][0])}))
"""
BATCH = 4  # scenes, of which a quarter fits where the whole does not
# Activations of gigabytes, beside which it does not matter what the allocator leaves unused.
LARGER = {"data.image_size": 256, "model.dim": 256, "model.num_layers": 4}


@dataclass(frozen=True)
class PathSeat(Seat):
    """Somebody whose code is on Python's path, and not installed."""

    def mouselift(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "mouselift", *words)


class Sweep(NamedTuple):
    """A finished sweep of two trials side by side, its best promoted."""

    seat: PathSeat
    promoted: dict


@pytest.fixture(scope="module")
def sweep(device, gpus, tmp_path_factory, mice_folder) -> Sweep:
    seat = PathSeat(tmp_path_factory.mktemp("shared"))
    changes = {"trials": {"count": 2, "concurrent": 2, "gpus": gpus}, "scheduler": {"kind": "none"}}
    space = write_space(seat.root / "small.yaml", **changes)
    done = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "shared")
    assert done.returncode == 0, done.stderr
    return Sweep(seat, seat.answer("model", "promote", "shared"))


def test_two_trials_share_a_gpu(sweep, device) -> None:
    trials = sweep.seat.ledger("shared").trials.values()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 2
    measured = {r.trial for r in sweep.seat.reports("shared") if "system/gpu_0_memory_usage_megabytes" in r.metrics}
    assert measured == ({trial.number for trial in trials} if device.type == "cuda" else set())


def test_the_best_is_verified_promoted_and_pulled(sweep, device) -> None:
    assert sweep.promoted["alias"] == "champion"
    folder = sweep.seat.root / "pulled"
    assert sweep.seat.answer("model", "pull", "mouse-gslrm@champion", "--out", folder) == {"folder": str(folder)}
    assert next(kinds.load(folder, device).model.parameters()).device.type == device.type


def test_the_registered_model_answers_on_the_gpu(sweep, device, mice_folder) -> None:
    scene = open_dataset(mice_folder).split("test")[0]
    rows = [
        {
            "scene": scene.name,
            "image": (scene.folder / file).read_bytes().hex(),
            "c2w": scene.cameras.c2w[i].flatten().tolist(),
            "fxfycxcy": scene.cameras.fxfycxcy[i].tolist(),
        }
        for i, file in enumerate(scene.files[:4])
    ]
    asked = sweep.seat.root / "rows.json"
    asked.write_text(json.dumps(rows))
    uri = {"MLFLOW_TRACKING_URI": sweep.seat.home.tracking_uri}
    done = PathSeat(sweep.seat.root, uri).run(sys.executable, "-c", PREDICT, asked)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert answer["num_gaussians"] > 0


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
