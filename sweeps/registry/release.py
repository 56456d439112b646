"""A checkpoint in MLflow: the logged model of a run, its files and figures; written by one process, whole or marked.

Until a version of a registered model points to it, a logged model carries the tag `release.unfinished`. Whoever has the
turn to change that registered model and finds such a tag knows that its writer is dead: a logged model whose files were
all there is taken up, any other is marked FAILED.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import pipeline
from pipeline import checkpoint
from pipeline.config import one_line
from pipeline.errors import CheckpointError
from sweeps.errors import RegistryError
from sweeps.registry.flavours import CHECKPOINT, Flavour, flavour_of
from sweeps.registry.verification import Verification
from sweeps.registry.versions import MODEL_ID, SHA256, Version

_UNFINISHED = "release.unfinished"
_AGAIN = " — register it again."


def release(
    client: MlflowClient, name: str, run_id: str, verification: Verification, clock: Callable[[], float]
) -> LoggedModel:
    """The run's logged model of this checkpoint, READY. Opens no run, so the run's state stays."""
    run = client.get_run(run_id)
    left = _left_over(client, name, run.info.experiment_id, run_id, verification)
    return left or _log_model(client, name, run.info.experiment_id, run_id, verification, clock)


def bind(client: MlflowClient, version: ModelVersion) -> None:
    """Tell a version's logged model, and so MLflow's pages, which version it is."""
    model_id = version.tags.get(MODEL_ID)
    if model_id is None:  # registered before versions said so
        return
    tags = client.get_logged_model(model_id).tags
    if MLFLOW_MODEL_VERSIONS not in tags:
        link = json.dumps([{"name": version.name, "version": version.version}])
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: link})
    if _UNFINISHED in tags:
        client.delete_logged_model_tag(model_id, _UNFINISHED)


def download(version: Version, folder: Path, tracking_uri: str) -> Path:
    """A version's checkpoint in a new folder below `folder`, every hash compared.

    Raises RegistryError when files are gone or are not those that were registered.
    """
    folder.mkdir(exist_ok=True)
    source = f"{version.source}/artifacts/{CHECKPOINT}"
    try:
        path = mlflow.artifacts.download_artifacts(source, dst_path=str(folder), tracking_uri=tracking_uri)
        found = checkpoint.inspect(path).sha256
    except (MlflowException, OSError, CheckpointError) as error:
        came = one_line(error)
        raise RegistryError(f"{version.ref}: expected its checkpoint at {source}, got {came}{_AGAIN}") from error
    if found != version.sha256:
        wanted = version.sha256[:12]
        raise RegistryError(f"{version.ref}: expected weights {wanted}, got {found[:12]}{_AGAIN}")
    return Path(path)


def _left_over(
    client: MlflowClient, name: str, experiment_id: str, run_id: str, verification: Verification
) -> LoggedModel | None:
    """A whole logged model of this checkpoint and run that a dead process left; those that are not whole are marked."""
    left = client.search_logged_models([experiment_id], f"tags.`{_UNFINISHED}` = '{name}'")
    for model in left:
        if model.status == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")
            client.delete_logged_model_tag(model.model_id, _UNFINISHED)
    sha256 = verification.checkpoint.sha256
    fit = (m for m in left if m.status == "READY" and (m.tags[SHA256], m.source_run_id) == (sha256, run_id))
    return next(fit, None)


def _log_model(
    client: MlflowClient,
    name: str,
    experiment_id: str,
    run_id: str,
    verification: Verification,
    clock: Callable[[], float],
) -> LoggedModel:
    step, tags = verification.checkpoint.step, {_UNFINISHED: name, SHA256: verification.checkpoint.sha256}
    model = client.create_logged_model(experiment_id, name, source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = Path(temporary) / CHECKPOINT, Path(temporary) / "model"
        shutil.copytree(verification.checkpoint.folder, folder, ignore=shutil.ignore_patterns(checkpoint.TRAINING))
        flavour = flavour_of(verification.checkpoint.recipe.model.kind)
        _save_pyfunc(target, folder, model, run_id, flavour)
        client.log_model_artifacts(model.model_id, str(target))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    now = int(clock() * 1000)
    figures = [Metric(key, value, now, step, model.model_id) for key, value in verification.metrics.items()]
    client.log_batch(run_id, metrics=figures)
    return client.finalize_logged_model(model.model_id, "READY")


def _save_pyfunc(path: Path, folder: Path, model: LoggedModel, run_id: str, flavour: Flavour) -> None:
    """Write the MLflow model: its pyfunc file, the checkpoint and the source of `pipeline`."""
    place = model.artifact_location
    about = Model(run_id=run_id, artifact_path=place, model_uuid=model.model_id, model_id=model.model_id)
    with warnings.catch_warnings():
        # An example would be a picture; the signature says what is expected.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(flavour.file),
            artifacts={CHECKPOINT: str(folder)},
            code_paths=[str(Path(pipeline.__file__).parent)],
            signature=flavour.signature,
            pip_requirements=flavour.requirements,
            mlflow_model=about,
        )
