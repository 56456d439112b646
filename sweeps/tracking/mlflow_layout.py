"""The layout of a sweep in MLflow: names and contents of its runs, tags and files.

Tags on every run: those of SweepOpened (`data.name`, `data.digest`, `mlflow.source.git.commit`...), and
    sweep.name  sweep.key        the key also has the time at which the sweep began, so that it is unique
    sweep.state  sweep.reason    of the parent
    sweep.home  sweep.planned    machine:folder of its home, and how many trials it may have; of the parent
    objective.metric  objective.mode  best.trial  best.run_id    of the parent
    trial.number  trial.attempt  trial.params (JSON: what the sampler chose)  ray.trial_id  fingerprint
    trial.state                  RUNNING COMPLETE PRUNED FAIL KILLED; MLflow's status knows no PRUNED
    trial.reason                 why it was pruned or killed; trial.fail_reason: why it failed
    trial.fault.<attempt>        why an attempt broke, and what was done; its traceback is faults/<attempt>.txt
    trial.resumed_from           the checkpoint with which an attempt began
    checkpoint.damaged           newer checkpoints that were damaged
    checkpointing                the last step kept, or `paused` and why
    heartbeat                    UTC time of the last report; of a sweep: when its driver was last known to live
    tracking.late                of a sweep: for how long MLflow did not take its events
Our metrics: `best/<objective>` and `best/step`, because the UI shows the last value of each metric. On the
parent `best/<objective>` advances with each trial that ends (step = trials ended).
"""

from __future__ import annotations

import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from PIL import Image

from pipeline.config import unflatten
from sweeps.book.journal import Reported, TrialOpened
from sweeps.book.ledger import Ledger
from sweeps.tracking.pages import Links

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "KILLED": "KILLED"}
HOME_TAG, PLANNED_TAG = "sweep.home", "sweep.planned"
_VIEW_TAG = "mlflow.sharedViewState."
_THUMBNAIL_PX = 256


def run_name(sweep: str, trial: int | None = None) -> str:
    """The name of a trial's run, or of the sweep's own."""
    return sweep if trial is None else f"{sweep}/t{trial:04d}"


def run_key(ledger: Ledger, trial: int | None = None) -> str:
    """`run_name` and the time at which the sweep began: unique, where an earlier sweep had the same name."""
    return f"{run_name(ledger.name, trial)}@{ledger.opened:.3f}"


def view_key(sweep: str) -> str:
    """The key under which the UI finds a sweep's saved view."""
    return quote(sweep, safe="").replace("%", "_")


def view_tag(ledger: Ledger) -> str:
    """The tag of the experiment that holds the saved view of a sweep."""
    return _VIEW_TAG + view_key(ledger.name)


def ui_path(experiment_id: str, sweep: str) -> str:
    """The part behind the UI's address that shows a sweep's trials in model-training mode."""
    return Links(experiment_id).sweep(view_key(sweep))


def home_text(root: Path) -> str:
    """A home as those of other machines are told of it."""
    return f"{platform.node()}:{root}"


def sweep_tags(ledger: Ledger, root: Path) -> dict[str, str]:
    """Tags of a sweep's own run. root: of its home."""
    tags = {"mlflow.runName": ledger.name, "sweep.key": run_key(ledger), "sweep.state": "RUNNING"}
    tags |= {HOME_TAG: home_text(root), PLANNED_TAG: str(ledger.planned)}
    if ledger.objective is not None:
        tags |= {"objective.metric": ledger.objective.metric, "objective.mode": ledger.objective.mode}
    return tags


def trial_tags(event: TrialOpened) -> dict[str, str]:
    """Tags of a trial's run."""
    return event.tags | {
        "trial.number": str(event.trial),
        "trial.attempt": str(event.attempt),
        "trial.params": json.dumps(event.params),
        "trial.state": "RUNNING",
        "ray.trial_id": event.ray_trial_id,
        "fingerprint": event.fingerprint,
    }


def best_metrics(ledger: Ledger, event: Reported) -> dict[str, float]:
    """`best/...` when this report is its trial's best so far, else nothing."""
    trial = ledger.trials[event.trial]
    if ledger.objective is None or trial.best_value is None or trial.best_step != event.step:
        return {}
    return {f"best/{ledger.objective.metric}": trial.best_value, "best/step": float(event.step)}


def experiment_tags(ledger: Ledger) -> dict[str, str]:
    """Tags of the experiment: its kind, its objective, and a saved view of this sweep."""
    tags = {"mlflow.experimentKind": "custom_model_development", view_tag(ledger): saved_view(ledger)}
    if ledger.objective is not None:
        tags["mlflow.experiment.primaryMetric.name"] = ledger.objective.metric
        tags["mlflow.experiment.primaryMetric.greaterIsBetter"] = str(ledger.objective.mode == "max")
    return tags


def stage_image(blob: Path, folder: Path, name: str, step: int, milliseconds: int) -> None:
    """The two files that `MlflowClient.log_image` uploads, under names that stay the same when sent again."""
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {step} {milliseconds} {blob.name}")
    stem = f"{name.replace('/', '~')}+step+{step}+timestamp+{milliseconds}+{unique}"
    shutil.copyfile(blob, folder / f"{stem}{blob.suffix}")
    with Image.open(blob) as image:
        image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        image.save(folder / f"{stem}+compressed.webp")


def param_text(value: Any) -> str:
    """A value as MLflow shows it: text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def recipe_yaml(params: Mapping[str, Any]) -> str:
    """Values by dotted path as the YAML file that `load_recipe` reads."""
    return yaml.safe_dump(unflatten(params, "recipe"), sort_keys=False)


def saved_view(ledger: Ledger) -> str:
    """The UI's runs table with this sweep's trials, best first, and the columns in which they differ."""
    columns = [*(f"params.`{path}`" for path in ledger.searched), "tags.`trial.state`", "attributes.`Models`"]
    state: dict[str, Any] = {"searchFilter": f"tags.`sweep.name` = '{ledger.name}' AND tags.`trial.number` != ''"}
    if ledger.objective is not None:
        order = f"metrics.`best/{ledger.objective.metric}`"
        columns = [order, *columns]
        state |= {"orderByKey": order, "orderByAsc": ledger.objective.mode == "min"}
    stamp = int(ledger.opened * 1000)
    state_text = json.dumps(state | {"selectedColumns": columns})
    return json.dumps({"name": ledger.name, "createdAt": stamp, "updatedAt": stamp, "state": state_text})
