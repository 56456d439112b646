"""A home for the dashboard to show: sweeps that never ran, with pictures and Gaussians, and a registered model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline.gaussians import Gaussians
from sweeps.book.journal import GaussiansKept, Journal, Reported, State, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.record import PROTOCOL
from sweeps.home import Home
from sweeps.tracking.mlflow_client import prepare_store
from tests.support import recorded

HOSTILE = '</script><script>document.title="broken"</script>"\'&<b>쥐</b>' + "long" * 40
VIEWS = {"data.num_input_views": 2, "data.num_held_out_views": 1}
SIDE = 96  # pixels of a view


def home_at(root: Path, tracking_uri: str = "") -> Home:
    return Home.from_environment({"MOUSELIFT_HOME": str(root), "MLFLOW_TRACKING_URI": tracking_uri})


def whole_home(root: Path) -> Home:
    """`alpha` ran with two protocols, `live` runs with pictures and Gaussians, `odd` has hostile texts."""
    home = home_at(root)
    recorded.write(home.journals / "alpha", 12, 4, "alpha", image_sizes=(256, 128))
    with Journal(home.journals / "live") as journal:
        live(journal, home.root / "kept")
    with Journal(home.journals / "odd") as journal:
        odd(journal)
    return home


def live(journal: Journal, kept: Path, trials: int = 2, concurrent: int = 1) -> None:
    """Trials that run, each with pictures at two steps and Gaussians at one."""
    space = {
        "space": {"optim.lr": {"float": [1e-4, 1e-3], "log": True}},
        "objective": {"metric": "val/psnr", "mode": "max"},
        "trials": {"count": 4, "gpus": 0.5, "concurrent": concurrent},
    }
    params = {"train.max_steps": 100, "optim.lr": 5e-4, **VIEWS}
    journal.append(SweepOpened("live", "gslrm_tiny", space, {"data.name": "mice", "data.digest": "d" * 64}, params))
    for number in range(trials):
        chosen = {"optim.lr": 1e-4 * (number + 1)}
        tags = {PROTOCOL: "p" * 12}
        journal.append(TrialOpened(number, f"r{number}", 1, chosen, params | chosen, f"f{number}", tags))
        for step in (10, 20):
            report(journal, number, step, 20.0 + number + step / 10)
        folder = kept / f"t{number:04d}"
        write_gaussians(folder / "step-000020" / "preview.ply", number)
        journal.append(GaussiansKept(number, str(folder)))


def report(journal: Journal, number: int, step: int, psnr: float) -> None:
    picture = journal.keep("preview.png", png(step + 7 * number))
    metrics = {"val/psnr": psnr, "train/loss": 1 / step, "time/step_seconds": 0.25}
    journal.append(Reported(number, step, metrics, {"val/preview": picture}))


def png(shade: int) -> bytes:
    """Four rows of three views."""
    buffer = io.BytesIO()
    Image.new("RGB", (3 * SIDE, 4 * SIDE), (shade % 256, 90, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def write_gaussians(path: Path, seed: int, count: int = 200) -> None:
    chance = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Gaussians(
        means=0.3 * torch.randn(count, 3, generator=chance),
        quats=torch.randn(count, 4, generator=chance),
        scales=torch.full((count, 3), 0.05),
        opacities=torch.full((count,), 0.8),
        sh=torch.randn(count, 1, 3, generator=chance) - 1.0,
    ).save_ply(path)


def odd(journal: Journal) -> None:
    """Every text from outside is hostile, a picture lies elsewhere, and a figure is no number."""
    space = {"space": {HOSTILE: {"choice": [1, 2]}}, "objective": {"metric": HOSTILE, "mode": "min"}}
    journal.append(SweepOpened("odd", HOSTILE, space, {"data.name": HOSTILE}, {HOSTILE: HOSTILE}))
    journal.append(TrialOpened(0, "r", 1, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, "f", {HOSTILE: HOSTILE}))
    journal.append(Reported(0, 1, {HOSTILE: 1.0, "train/loss": float("nan")}, {HOSTILE: "../../secret.png"}))
    journal.append(TrialClosed(0, State.FAIL, HOSTILE))


def register(home: Home) -> None:
    """Two versions of a model; the second is champion, came from trial 1 of `live`, and failed a gate."""
    prepare_store(home.tracking_uri)
    client = MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)
    client.create_registered_model("mouse-gslrm")
    for number in (1, 2):
        gate = {"metric": "test/psnr", "target": ">= 21", "value": 20.0 + number, "passed": number == 2}
        tags = {
            "test/psnr": f"{20.0 + number}", "eval.protocol": "q" * 12, "data.digest": "d" * 64, "eval.scenes": "24",
            "checkpoint.step": "20", "checkpoint.sha256": str(number) * 64, "sweep.name": "live",
            "trial.number": str(number - 1), "gates": json.dumps([gate]), "licence": HOSTILE,
        }  # fmt: skip
        client.create_model_version("mouse-gslrm", f"file:///nowhere/{number}", None, tags)
    client.set_registered_model_alias("mouse-gslrm", "champion", "2")


def trial_elsewhere(home: Home) -> str:
    """The run id of a trial that another home sent to this store."""
    client = MlflowClient(home.tracking_uri)
    experiment = client.create_experiment("gslrm_mouse")
    tags = {"objective.metric": "val/psnr", "objective.mode": "max", "sweep.name": "far"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    tags = {"trial.number": "7", "trial.state": "PRUNED", "trial.reason": HOSTILE, "sweep.name": "far"}
    tags |= {"mlflow.parentRunId": parent, PROTOCOL: "p" * 12}
    run = client.create_run(experiment, tags=tags).info.run_id
    for step, value in ((10, 21.0), (20, 22.5)):
        client.log_metric(run, "val/psnr", value, step=step)
    for name, value in (("best/val/psnr", 22.5), ("best/step", 20.0)):
        client.log_metric(run, name, value, step=20)
    client.log_param(run, "optim.lr", "0.0003")
    client.set_terminated(run)
    return run
