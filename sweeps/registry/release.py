"""A checkpoint in MLflow: the logged model of a run, its files and figures; written by one process, whole or marked.

Until a version of a registered model points to it, a logged model carries the tag `release.unfinished`. A process that
has the turn to change that registered model and finds such a tag knows that its writer is dead: a logged model whose
files were all there is taken up, any other is marked FAILED.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import pipeline
from pipeline import bases, checkpoint
from pipeline.config import one_line
from pipeline.errors import CheckpointError
from pipeline.files import size_of, write_whole
from pipeline.machine.outputs import require_folder
from pipeline.progress import Tell, filling, silent
from pipeline.text.json_file import read_json
from sweeps.errors import RegistryError, counted
from sweeps.home import Home, is_served
from sweeps.pyfuncs import pyfunc_gslrm, pyfunc_pair, pyfunc_views
from sweeps.registry.cards import example_picture
from sweeps.registry.held import Held, inspect, kind_name
from sweeps.registry.verification import Verification
from sweeps.registry.versions import MODEL_ID, SHA256, Version, described, from_store

LINEAGE_FILE = "lineage.json"
IMPORTED = "imported"  # the experiment of imported checkpoints, and their tag `source`
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_UNFINISHED = "release.unfinished"
_AGAIN = " — register it again."
_MAY_NOT = " — its owner must let this user read the file."
# What the pyfunc files, and the part of pipeline that they use, import.
_VIEWS = ("accelerate", "diffusers", "peft", "scikit-image", "scipy", "transformers")
_COMMON = ("jaxtyping", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "torch")


@dataclass(frozen=True)
class Flavour:
    """A models-from-code file, and the packages it imports beside the common ones."""

    module: ModuleType
    packages: tuple[str, ...] = ()
    example: Callable[[], Any] | None = None  # input to try it with, and params

    @property
    def requirements(self) -> list[str]:
        """Every package at the version that is installed here."""
        return [f"{name}=={installed_version(name)}" for name in sorted((*_COMMON, *self.packages))]


_FLAVOURS = {
    "gslrm": Flavour(pyfunc_gslrm, ("scipy",)),
    "mvdiffusion": Flavour(pyfunc_views, _VIEWS),
    "pair": Flavour(pyfunc_pair, _VIEWS, lambda: ([example_picture()], pyfunc_pair.SETTINGS)),
}
CHECKPOINT = pyfunc_gslrm.CHECKPOINT
assert pyfunc_views.CHECKPOINT == pyfunc_pair.CHECKPOINT == CHECKPOINT


def taken_up(client: MlflowClient, name: str, run_id: str, sha256: str) -> LoggedModel | None:
    """A whole logged model of these weights and this run that a dead process left; others it left are marked FAILED."""
    experiment_id = client.get_run(run_id).info.experiment_id
    left = client.search_logged_models([experiment_id], f"tags.`{_UNFINISHED}` = '{name}'")
    for model in left:
        if model.status == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")
            client.delete_logged_model_tag(model.model_id, _UNFINISHED)
    fit = (m for m in left if m.status == "READY" and (m.tags[SHA256], m.source_run_id) == (sha256, run_id))
    return next(fit, None)


def log_model(
    client: MlflowClient,
    name: str,
    run_id: str,
    verification: Verification,
    clock: Callable[[], float],
    tell: Tell = silent,
) -> LoggedModel:
    """A new logged model of the run with this checkpoint, READY. Opens no run, so the run's state stays.

    The checkpoint's files go from its folder to MLflow's in one copy, and none is hashed.
    """
    info = verification.checkpoint
    experiment_id = client.get_run(run_id).info.experiment_id
    tags = {_UNFINISHED: name, SHA256: info.sha256}
    model = client.create_logged_model(experiment_id, name, source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as temporary:
        _upload(client, model, run_id, info, Path(temporary), tell)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, info.step)])
    now = int(clock() * 1000)
    figures = [Metric(key, value, now, info.step, model.model_id) for key, value in verification.metrics.items()]
    client.log_batch(run_id, metrics=figures)
    return client.finalize_logged_model(model.model_id, "READY")


def bind(client: MlflowClient, version: ModelVersion) -> None:
    """Write on a version's logged model, and so on MLflow's pages, which version it is."""
    model_id = from_store(version.tags).get(MODEL_ID)
    if model_id is None:  # registered before versions said so
        return
    tags = client.get_logged_model(model_id).tags
    if MLFLOW_MODEL_VERSIONS not in tags:
        link = json.dumps([{"name": version.name, "version": version.version}])
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: link})
    if _UNFINISHED in tags:
        client.delete_logged_model_tag(model_id, _UNFINISHED)


def download(version: Version, folder: Path, tracking_uri: str, tell: Tell = silent) -> Held:
    """A version's checkpoint or pair in a new folder below `folder`, every hash compared, once.

    Raises RegistryError when files are gone or are not those that were registered.
    """
    folder.mkdir(exist_ok=True)
    source = f"{version.source}/artifacts/{CHECKPOINT}"
    try:
        with filling(folder, "download", _bytes_at(source, tracking_uri), tell):
            path = mlflow.artifacts.download_artifacts(source, dst_path=str(folder), tracking_uri=tracking_uri)
        found = inspect(Path(path))
    except (MlflowException, OSError, CheckpointError) as error:
        came = one_line(error)
        mend = _MAY_NOT if os.strerror(errno.EACCES) in came else _AGAIN  # MLflow hands on the words alone
        raise RegistryError(f"{version.ref}: expected its checkpoint at {source}, got {came}{mend}") from error
    if found.sha256 != version.sha256:
        wanted = version.sha256[:12]
        raise RegistryError(f"{version.ref}: expected weights {wanted}, got {found.sha256[:12]}{_AGAIN}")
    return found


def _bytes_at(source: str, tracking_uri: str) -> int:
    """The size of all files below an address; 0 where that is not known."""
    found, left = 0, [source]
    with contextlib.suppress(MlflowException, OSError):  # the download says what is wrong
        while left:
            place = left.pop()
            for item in mlflow.artifacts.list_artifacts(artifact_uri=place, tracking_uri=tracking_uri):
                if item.is_dir:
                    left.append(f"{place}/{item.path.rpartition('/')[2]}")
                else:
                    found += item.file_size or 0
    return found


def pull(version: Version, out: Path, tracking_uri: str, tell: Tell = silent) -> Path:
    """A version's checkpoint as the folder `out`, with `lineage.json`; one that is there already is kept.

    Raises RegistryError when `out` holds anything else, and as `download`.
    """
    if _is_free(out, version):
        require_folder(out.parent)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = download(version, Path(temporary), tracking_uri, tell).folder
            _write_lineage(folder, version)
            if _settle(folder, out, version):
                return out
    _write_lineage(out, version)
    return out


def _upload(client: MlflowClient, model: LoggedModel, run_id: str, info: Held, temporary: Path, tell: Tell) -> None:
    """Put the pyfunc model in its place, and the checkpoint's files below it.

    MLflow's `save_model` copies what it is given, so it is given an empty folder where the checkpoint will be.
    """
    folder, empty, target = info.folder, temporary / "empty" / CHECKPOINT, temporary / "model"
    if (folder / checkpoint.TRAINING).exists():  # a pair was written without
        folder = checkpoint.strip_training(folder, temporary / CHECKPOINT)
    empty.mkdir(parents=True)
    about = _save_pyfunc(target, empty, model, run_id, _FLAVOURS[kind_name(info)])
    about.model_size_bytes = (about.model_size_bytes or 0) + size_of(folder)
    about.save(str(target / MLMODEL_FILE_NAME))
    tell("upload", 0, 0)
    client.log_model_artifacts(model.model_id, str(target))
    client.log_model_artifacts(model.model_id, str(folder), f"artifacts/{CHECKPOINT}")
    _require_arrived(client, model, folder)


def _require_arrived(client: MlflowClient, model: LoggedModel, folder: Path) -> None:
    """Raises RegistryError unless every file of a folder is in the store, with its size."""
    sent = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    place = f"artifacts/{CHECKPOINT}"
    arrived: dict[str, int] = {}
    left = [place]
    while left:
        for item in client.list_logged_model_artifacts(model.model_id, left.pop()):
            if item.is_dir:
                left.append(item.path)
            else:
                arrived[item.path.removeprefix(f"{place}/")] = item.file_size
    if missing := sorted(name for name, size in sent.items() if arrived.get(name) != size):
        raise RegistryError(
            f"{model.name}: expected {counted(len(sent), 'file')} of the checkpoint in MLflow, got none, or another "
            f"size, of {', '.join(missing[:3])}{_AGAIN}"
        )


def _save_pyfunc(path: Path, folder: Path, model: LoggedModel, run_id: str, flavour: Flavour) -> Model:
    """Write the MLflow model: its pyfunc file, the artifact `folder` and the source of `pipeline`."""
    place = model.artifact_location
    about = Model(run_id=run_id, artifact_path=place, model_uuid=model.model_id, model_id=model.model_id)
    with _source() as source, warnings.catch_warnings():
        # Of posed views an example would be long; the signature says what is expected.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(flavour.module.__file__),
            artifacts={CHECKPOINT: str(folder)},
            code_paths=[str(source)],
            signature=flavour.module.SIGNATURE,
            input_example=None if flavour.example is None else flavour.example(),
            pip_requirements=flavour.requirements,
            mlflow_model=about,
        )
    return about


@contextlib.contextmanager
def _source() -> Iterator[Path]:
    """The source of `pipeline`, without the bases: a model that was trained from one has its own weights."""
    package = Path(pipeline.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        left_out = shutil.ignore_patterns("__pycache__", *bases.names())
        yield Path(shutil.copytree(package, Path(folder) / package.name, ignore=left_out))


def _is_free(out: Path, version: Version) -> bool:
    """True when `out` is absent or empty, False when it holds this version; RegistryError otherwise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    with contextlib.suppress(CheckpointError):
        if inspect(out).sha256 == version.sha256 and _said(out) in (None, described(version.tags)):
            return False
    raise RegistryError(f"{out}: expected no folder, or one with {version.ref}, got something else — choose another.")


def _said(folder: Path) -> dict[str, str] | None:
    """How an earlier pull to this folder said that its weights are used, and on what terms; None without one."""
    file = folder / LINEAGE_FILE
    if not file.is_file():
        return None
    said = read_json(file, RegistryError)
    return described(said["tags"]) if isinstance(said, dict) and isinstance(said.get("tags"), dict) else None


def _write_lineage(folder: Path, version: Version) -> None:
    write_whole(folder / LINEAGE_FILE, json.dumps(version.as_plain(), indent=1))


def _settle(folder: Path, out: Path, version: Version) -> bool:
    """Rename the whole download to `out`; False when another process has put the same version there meanwhile.

    `files.whole_folder` would replace whatever that process has put there.
    """
    try:
        folder.replace(out)
    except OSError:
        if _is_free(out, version):
            raise
        return False
    return True


def imported_run(client: MlflowClient, home: Home, name: str, folder: str) -> str:
    """A new finished run for an import as `name`; one that a killed import left running is closed."""
    experiment_id = _imports(client, home)
    mine = f"tags.`{IMPORTED}.as` = '{name}' and attributes.status = 'RUNNING'"
    for left in client.search_runs([experiment_id], mine):
        client.set_terminated(left.info.run_id, "KILLED")
    tags = {"source": IMPORTED, f"{IMPORTED}.as": name}
    run = client.create_run(experiment_id, run_name=folder, tags=tags)
    client.set_terminated(run.info.run_id, "FINISHED")
    return run.info.run_id


def _imports(client: MlflowClient, home: Home) -> str:
    """The id of the experiment that holds the runs of imported checkpoints."""
    experiment = client.get_experiment_by_name(IMPORTED)
    if experiment is None:
        folder = None if is_served(home.tracking_uri) else (home.artifacts / IMPORTED).as_uri()
        with unless_it_exists():
            client.create_experiment(IMPORTED, folder)
        experiment = client.get_experiment_by_name(IMPORTED)
    return experiment.experiment_id


@contextlib.contextmanager
def unless_it_exists() -> Iterator[None]:
    """Make something that another process may be making at this moment."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise


def version_of(item: ModelVersion, aliases: Mapping[str, int]) -> Version:
    """A version as MLflow has it, with the aliases of its registered model."""
    return Version(
        name=item.name,
        version=int(item.version),
        run_id=item.run_id or "",
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == int(item.version))),
        tags=from_store(item.tags),
        source=item.source or "",
        created=item.creation_timestamp / 1000,
    )
