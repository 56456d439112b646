"""The layout of a sweep in MLflow: names and contents of its runs, tags and files.

Runs are named after the sweep, and `t0003 · <sweep>` after a trial of it. A trial's params are its whole recipe; the
sweep's are what it searches, as ranges, what it fixes, and how it searches: the recipe is its file config/recipe.yaml.

Tags on every run: those of SweepOpened that a reader looks for (`data.name`, `mlflow.source.git.commit`...), and
    lineage                      recipe, data and code by the first digits of their hashes; lineage.json has them whole,
                                 with Ray's id of a trial and what the sampler chose
    sweep.name  sweep.key        the key also has the time at which the sweep began, so that it is unique
    sweep.state  sweep.reason    of the parent
    sweep.home  sweep.planned    machine:folder of its home, and how many trials it may have; of the parent
    objective.metric  objective.mode  best.trial  best.run_id    of the parent
    best.confirmed               of the parent: what the best reached with other seeds, where it was confirmed
    trial.number  trial.attempt
    trial.confirms               of a run with another seed: the trial whose settings it has
    eval.protocol                of a trial: how its validations measured, as on registered versions
    trial.state                  RUNNING COMPLETE PRUNED FAIL KILLED; MLflow's status knows no PRUNED
    trial.reason                 why it was pruned or killed; trial.fail_reason: why it failed
    trial.fault.<attempt>        why an attempt broke, and what was done; its traceback is faults/<attempt>.txt
    machine.cpu  machine.device  machine.threads  machine.processes  machine.python    what a trial's attempt ran on
    trial.computed_on            of a trial: `cpu, 2 threads`, `cuda`
    trial.taken_from             where it was trained, if another sweep did that: `lr t0003`; its run: .run_id
    trial.continued_from         where its first steps were made, if in another sweep: `lr t0003`; its run: .run_id
    code.changed                 of a trial whose process had other code than its driver: the digest of that code
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
from sweeps.book.journal import CONTINUED_FROM, Reported, TrialOpened
from sweeps.book.ledger import Ledger
from sweeps.reuse.code_version import CODE
from sweeps.reuse.known_results import ARTEFACT
from sweeps.reuse.warm_start import FIGURES
from sweeps.space import words

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "KILLED": "KILLED"}
LINEAGE, LINEAGE_FILE = "lineage", "lineage.json"
_FINGERPRINT = "fingerprint"
_LINEAGE = {"recipe": _FINGERPRINT, "data": "data.digest", "code": "mlflow.source.git.commit"}
_HASH_SHOWN = 12  # digits
_NOT_SHOWN = (_FINGERPRINT, "data.digest", "data.geometry.rests_on", CODE, FIGURES)
HOME_TAG, PLANNED_TAG = "sweep.home", "sweep.planned"
CONFIRMS_TAG = "trial.confirms"  # of a run that has the settings of this trial, with another seed
CONFIRMED_TAG = "best.confirmed"  # of the parent, and of a registered version: the best's mean with other seeds
_VIEW_TAG = "mlflow.sharedViewState."
_THUMBNAIL_PX = 256


def run_name(sweep: str, trial: int | None = None) -> str:
    """The name of a trial's run, or of the sweep's own. The UI cuts names off at their end."""
    return sweep if trial is None else f"t{trial:04d} · {sweep}"


def run_key(ledger: Ledger, trial: int | None = None) -> str:
    """What finds a run again: the sweep, the trial, and the time at which the sweep began, so that it is unique."""
    place = ledger.name if trial is None else f"{ledger.name}/t{trial:04d}"
    return f"{place}@{ledger.opened:.3f}"


def view_key(sweep: str) -> str:
    """The key under which the UI finds a sweep's saved view."""
    return quote(sweep, safe="").replace("%", "_")


def view_tag(ledger: Ledger) -> str:
    """The tag of the experiment that holds the saved view of a sweep."""
    return _VIEW_TAG + view_key(ledger.name)


def home_text(root: Path) -> str:
    """A home as those of other machines are told of it."""
    return f"{platform.node()}:{root}"


def sweep_tags(ledger: Ledger, root: Path, again: bool = False) -> dict[str, str]:
    """Tags of a sweep's own run, those that a reader looks for first.

    root: of its home. again: it was interrupted, and goes on.
    """
    tags = {"mlflow.runName": ledger.name, "sweep.state": "RUNNING", "sweep.name": ledger.name}
    if again:
        tags["sweep.reason"] = ""
    tags |= {HOME_TAG: home_text(root), PLANNED_TAG: str(ledger.planned)}
    if ledger.objective is not None:
        tags |= {"objective.metric": ledger.objective.metric, "objective.mode": ledger.objective.mode}
    return tags | _read_first(ledger.tags) | _lineage_tag(ledger.tags) | {"sweep.key": run_key(ledger)}


def sweep_params(ledger: Ledger) -> dict[str, str]:
    """Params of a sweep's own run: what it searches, what it fixes, and how it searches."""
    return {
        "recipe": ledger.recipe,
        **words.plan(ledger.space),
        **words.searched(ledger.space),
        **words.fixed(ledger.space),
    }


def trial_tags(ledger: Ledger, event: TrialOpened) -> dict[str, str]:
    """Tags of a trial's run, those that a reader looks for first."""
    known = _of_trial(ledger, event)
    tags = {
        "mlflow.runName": run_name(ledger.name, event.trial),
        "trial.state": "RUNNING",
        "trial.number": str(event.trial),
        "trial.attempt": str(event.attempt),
        "sweep.name": ledger.name,
    }
    if (confirms := ledger.trials[event.trial].confirms) is not None:
        tags[CONFIRMS_TAG] = f"t{confirms:04d}"
    if event.attempt > 1:
        tags["trial.reason"] = ""  # of the interruption before
    return tags | _read_first(known) | _lineage_tag(known)


def sweep_lineage(ledger: Ledger) -> dict[str, Any]:
    """What a sweep was made of, whole: the file lineage.json of its own run."""
    return {"sweep": ledger.name, "recipe": ledger.recipe, "tags": dict(ledger.tags)}


def trial_lineage(ledger: Ledger, event: TrialOpened) -> dict[str, Any]:
    """What a trial was made of, whole: the file lineage.json of its run, as of its latest attempt."""
    return {
        "sweep": ledger.name,
        "trial": event.trial,
        "attempt": event.attempt,
        "ray_trial_id": event.ray_trial_id,
        "chosen": event.params,
        "tags": _of_trial(ledger, event),
    }


def _of_trial(ledger: Ledger, event: TrialOpened) -> dict[str, str]:
    origin = ledger.trials[event.trial].continued_from
    continued = {CONTINUED_FROM: origin} if origin else {}  # whichever attempt this is
    return ledger.tags | event.tags | continued | {_FINGERPRINT: event.fingerprint}


def _read_first(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of a sweep's tags that are no hash and no long remark, which lineage.json has."""
    return {key: value for key, value in tags.items() if key not in _NOT_SHOWN and not key.startswith(ARTEFACT)}


def _lineage_tag(tags: Mapping[str, str]) -> dict[str, str]:
    """Recipe, data and code in a few words, where any of it is known."""
    known = {word: tags[key][:_HASH_SHOWN] for word, key in _LINEAGE.items() if key in tags}
    return {LINEAGE: ", ".join(f"{word} {value}" for word, value in known.items())} if known else {}


def best_metrics(ledger: Ledger, event: Reported) -> dict[str, float]:
    """`best/...` when this report is its trial's best so far, else nothing."""
    trial = ledger.trials[event.trial]
    if ledger.objective is None or trial.best_value is None or trial.best_step != event.step:
        return {}
    return {f"best/{ledger.objective.metric}": trial.best_value, "best/step": float(event.step)}


def experiment_tags(ledger: Ledger) -> dict[str, str]:
    """Tags of the experiment: its kind and its objective."""
    tags = {"mlflow.experimentKind": "custom_model_development"}
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


def tag_text(value: str) -> str:
    """A text as a store can take it: names of files may hold bytes that are no text, which no database encodes."""
    return value.encode(errors="replace").decode()


def param_text(value: Any) -> str:
    """A value as MLflow shows it: text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def recipe_yaml(params: Mapping[str, Any]) -> str:
    """Values by dotted path as the YAML file that `load_recipe` reads."""
    return yaml.safe_dump(unflatten(params, "recipe"), sort_keys=False)


def plain_view(ledger: Ledger) -> str:
    """The saved view of a sweep without pages: its trials, best first, and the columns in which they differ."""
    columns = [*(f"params.`{path}`" for path in ledger.searched), "tags.`trial.state`", "attributes.`Models`"]
    state: dict[str, Any] = {"searchFilter": f"tags.`sweep.name` = '{ledger.name}' AND tags.`trial.number` != ''"}
    if ledger.objective is not None:
        order = f"metrics.`best/{ledger.objective.metric}`"
        columns = [order, *columns]
        state |= {"orderByKey": order, "orderByAsc": ledger.objective.mode == "min"}
    stamp = int(ledger.opened * 1000)
    state_text = json.dumps(state | {"selectedColumns": columns})
    return json.dumps({"name": ledger.name, "createdAt": stamp, "updatedAt": stamp, "state": state_text})
