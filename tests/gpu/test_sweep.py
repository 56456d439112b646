"""A sweep on a GPU: two trials share it, the best is promoted, pulled and served there."""

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
from tests.e2e.conftest import Seat, write_space

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
