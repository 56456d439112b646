"""The champions: versions of registered models, and the aliases people ask for them by.

An alias moves by one write, and the writes come in such an order that a kill between any two of them leaves
either the old champion or the new one, never none. Changes on one machine wait for each other.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from functools import cached_property
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
from pipeline.config import did_you_mean, one_line
from pipeline.data.scenes import open_dataset
from pipeline.errors import CheckpointError, PipelineError
from sweeps.errors import RegistryError
from sweeps.flavours import CHECKPOINT, Flavour, flavour_of
from sweeps.gates import NOT_AVAILABLE, Gate, GateResult, judge
from sweeps.home import Home, is_served
from sweeps.ledger import Objective
from sweeps.tracking import prepare_store
from sweeps.verification import Verification, score
from sweeps.versions import GATES, REASON, SHA256, VERDICT, Version, lineage

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
LINEAGE_FILE = "lineage.json"
IMPORTED = "imported"
# How MLflow says that there is nothing of a name.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_LOOK = " — see `mouselift model list`."
_AGAIN = " — register it again."


@dataclass(frozen=True)
class Verdict:
    """The outcome of a promotion: the alias the version now has, what the gates found, and why."""

    version: Version
    alias: str
    gates: list[GateResult]
    reason: str


class Registry:
    """The model registry of a home's MLflow store; `clock` gives unix seconds.

    Methods raise RegistryError for names, versions and aliases that do not exist.
    """

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._home, self._clock = home, clock

    def register(
        self, name: str, run_id: str, verification: Verification, tags: Mapping[str, str] | None = None
    ) -> Version:
        """Log the verified checkpoint as a pyfunc model of its run, and make it a version of `name`.

        tags: lineage that only the sweep knows, such as its name and the git commit. A checkpoint that is a
        version of `name` already is not registered again: that version is returned.
        """
        with self._locked():
            known = self._find(name, verification)
            if known is not None:
                return known
            if not self._client.search_registered_models(f"name='{name}'"):
                self._client.create_registered_model(name)
            model = self._log_model(name, run_id, verification)
            facts = lineage(verification) | dict(tags or {})
            created = self._client.create_model_version(
                name, model.artifact_location, run_id, facts, model_id=model.model_id
            )
            link = json.dumps([{"name": name, "version": created.version}])
            self._client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: link})
        return _version(created, {})

    def import_checkpoint(
        self, name: str, verification: Verification, tags: Mapping[str, str] | None = None
    ) -> Version:
        """Register a checkpoint that no run of ours made, under a finished run in `imported`."""
        known = self._find(name, verification)
        if known is not None:
            return known
        folder = verification.checkpoint.folder.name
        run = self._client.create_run(self._imports(), run_name=folder, tags={"source": IMPORTED})
        self._client.set_terminated(run.info.run_id, "FINISHED")
        return self.register(name, run.info.run_id, verification, {"source": IMPORTED} | dict(tags or {}))

    def promote(
        self,
        version: Version,
        gates: Iterable[Gate],
        objective: Objective,
        dataset_root: str | Path | None = None,
        device: str = "cpu",
    ) -> Verdict:
        """Make `version` champion if it passes every gate and beats the champion, else challenger.

        The objective's `val/` metric is compared by its `test/` figure. Figures of another protocol or data
        digest are not: that champion is scored again, on the dataset at `dataset_root` with the views that
        `version` was scored on. Raises RegistryError where that cannot be done.
        """
        with self._locked():
            version = self.resolve(version.ref)
            results = judge(gates, version.metrics)
            champion = self._champion(version.name)
            if champion is not None and champion.version == version.version:
                self._crown(version, None)  # ends what a kill may have left undone
                return Verdict(version, CHAMPION, results, "it is the champion already")
            reason = _shortfall(version, results, objective)
            if not reason and champion is not None:
                rival = self._comparable(champion, version, _test_metric(objective), dataset_root, device)
                reason = _defeat(version, champion, rival, objective)
            alias = CHALLENGER if reason else CHAMPION
            reason = reason or "it passed its gates" + (" and beat the champion" if champion else "")
            self._record(version, results, alias, reason)
            self._crown(version, champion) if alias == CHAMPION else self._alias(version, CHALLENGER)
        return Verdict(self.resolve(version.ref), alias, results, reason)

    def rollback(self, name: str) -> Version:
        """Swap `champion` and `previous`. Raises RegistryError when there is no previous version."""
        self._aliases(name)  # refuses an unknown name before anything is written
        with self._locked():
            aliases = self._aliases(name)
            if PREVIOUS not in aliases or aliases[PREVIOUS] == aliases.get(CHAMPION):
                raise RegistryError(f"{name}: expected a version with alias {PREVIOUS}, got none{_LOOK}")
            restored, replaced = self.resolve(f"{name}@{PREVIOUS}"), self._champion(name)
            self._alias(restored, CHAMPION)
            if replaced is not None:
                self._alias(replaced, PREVIOUS)
        return self.resolve(restored.ref)

    def resolve(self, ref: str) -> Version:
        """The version named by `name@alias`, `name/3`, or `name` alone, which means its champion."""
        stem, slash, number = ref.partition("/")
        name, at, alias = stem.partition("@")
        alias, aliases = alias if at else CHAMPION, self._aliases(name)
        if not slash and alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            hint = did_you_mean(alias, aliases) or _LOOK
            raise RegistryError(f"{ref}: expected an alias of {name} ({known}), got {alias}{hint}")
        versions = {str(version.version): version for version in self.list_versions(name)}
        wanted = number if slash else str(aliases[alias])
        if wanted not in versions:
            known = ", ".join(versions) or "none"
            raise RegistryError(f"{ref}: expected a version of {name} ({known}), got {wanted}{_LOOK}")
        return versions[wanted]

    def pull(self, ref: str, out: Path) -> Path:
        """Download a version's checkpoint folder to `out`, with `lineage.json`; every hash is compared.

        A folder that holds this checkpoint already is kept. Raises RegistryError when `out` holds anything
        else, or the files are gone or are not those that were registered.
        """
        version, out = self.resolve(ref), Path(out)
        if not _is_free(out, version):
            _write_lineage(out, version)
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = self._download(version, Path(temporary))
            _write_lineage(folder, version)
            folder.replace(out)
        return out

    def list_versions(self, name: str | None = None) -> list[Version]:
        """Versions of one registered model, or of all; newest first within a name."""
        known = {} if name is None else {name: self._aliases(name)}
        if not self._home.has_store:
            return []
        found = self._client.search_model_versions(f"name='{name}'" if known else None)
        known |= {other: self._aliases(other) for other in {item.name for item in found} - known.keys()}
        versions = [_version(item, known[item.name]) for item in found]
        return sorted(versions, key=lambda version: (version.name, -version.version))

    @cached_property
    def _client(self) -> MlflowClient:
        prepare_store(self._home.tracking_uri)
        return MlflowClient(self._home.tracking_uri, registry_uri=self._home.tracking_uri)

    def _find(self, name: str, verification: Verification) -> Version | None:
        """The version of `name` that has these weights."""
        sha256 = verification.checkpoint.sha256
        same = self._client.search_model_versions(f"name='{name}' and tags.`{SHA256}` = '{sha256}'")
        return self.resolve(f"{name}/{same[0].version}") if same else None

    def _log_model(self, name: str, run_id: str, verification: Verification) -> LoggedModel:
        """A logged model of the run, with files and figures. Opens no run, so the run's state stays."""
        run, step = self._client.get_run(run_id), verification.checkpoint.step
        model = self._client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as temporary:
            release, target = Path(temporary) / CHECKPOINT, Path(temporary) / "model"
            shutil.copytree(verification.checkpoint.folder, release, ignore=shutil.ignore_patterns(checkpoint.TRAINING))
            flavour = flavour_of(verification.checkpoint.recipe.model.kind)
            _save_pyfunc(target, release, model, run_id, flavour)
            self._client.log_model_artifacts(model.model_id, str(target))
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        now = int(self._clock() * 1000)
        figures = [Metric(key, value, now, step, model.model_id) for key, value in verification.metrics.items()]
        self._client.log_batch(run_id, metrics=figures)
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _imports(self) -> str:
        """The id of the experiment that holds the runs of imported checkpoints."""
        experiment = self._client.get_experiment_by_name(IMPORTED)
        if experiment is not None:
            return experiment.experiment_id
        folder = None if is_served(self._home.tracking_uri) else (self._home.artifacts / IMPORTED).as_uri()
        return self._client.create_experiment(IMPORTED, folder)

    def _comparable(
        self, champion: Version, version: Version, metric: str, root: str | Path | None, device: str
    ) -> float | None:
        """The champion's figure by the protocol and on the data of `version`."""
        if champion.measured == version.measured:
            return champion.metrics.get(metric)
        try:
            return self._score_again(champion, version, metric, root, device)
        except (RegistryError, PipelineError) as error:
            raise RegistryError(
                f"{version.ref}: expected a champion scored {_how(version)}, got {champion.ref} scored "
                f"{_how(champion)}, and scoring it again failed — {error}"
            ) from error

    def _score_again(
        self, champion: Version, version: Version, metric: str, root: str | Path | None, device: str
    ) -> float | None:
        if root is None:
            raise RegistryError("no dataset was given; name its folder.")
        dataset = open_dataset(root)
        with tempfile.TemporaryDirectory() as temporary:
            data = checkpoint.inspect(self._download(version, Path(temporary) / "version")).recipe.data
            rival = checkpoint.load(self._download(champion, Path(temporary) / "champion"), device)
        evaluation = score(rival, data, dataset, "test", self._home.cache)
        if (evaluation.protocol.id, dataset.digest) != version.measured:
            raise RegistryError(f"{root} is not the dataset that {version.ref} was scored on; name that one.")
        return evaluation.metrics.get(metric)

    def _download(self, version: Version, folder: Path) -> Path:
        """The version's checkpoint in a new folder below `folder`, every hash compared."""
        folder.mkdir(exist_ok=True)
        source = f"{version.source}/artifacts/{CHECKPOINT}"
        try:
            path = mlflow.artifacts.download_artifacts(
                source, dst_path=str(folder), tracking_uri=self._home.tracking_uri
            )
            found = checkpoint.inspect(path).sha256
        except (MlflowException, OSError, CheckpointError) as error:
            came = one_line(error)
            raise RegistryError(f"{version.ref}: expected its checkpoint at {source}, got {came}{_AGAIN}") from error
        if found != version.sha256:
            wanted = version.sha256[:12]
            raise RegistryError(f"{version.ref}: expected weights {wanted}, got {found[:12]}{_AGAIN}")
        return Path(path)

    def _record(self, version: Version, results: list[GateResult], alias: str, reason: str) -> None:
        gates = json.dumps([result.as_plain() for result in results])
        for key, value in {GATES: gates, VERDICT: alias, REASON: reason}.items():
            self._client.set_model_version_tag(version.name, str(version.version), key, value)

    def _crown(self, version: Version, champion: Version | None) -> None:
        """The old champion becomes `previous` before it is replaced: a kill between changes no champion."""
        if champion is not None:
            self._alias(champion, PREVIOUS)
        self._alias(version, CHAMPION)
        if self._aliases(version.name).get(CHALLENGER) == version.version:
            self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def _alias(self, version: Version, alias: str) -> None:
        self._client.set_registered_model_alias(version.name, alias, str(version.version))

    def _champion(self, name: str) -> Version | None:
        return self.resolve(f"{name}@{CHAMPION}") if CHAMPION in self._aliases(name) else None

    def _aliases(self, name: str) -> dict[str, int]:
        """Alias -> version of a registered model."""
        if not self._home.has_store:
            raise _unknown(name, [])
        try:
            model = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise _unknown(name, [model.name for model in self._client.search_registered_models()]) from None
        return {alias: int(version) for alias, version in model.aliases.items()}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change of the registry at a time on this machine; the lock goes with the process."""
        self._home.root.mkdir(parents=True, exist_ok=True)
        with (self._home.root / "registry.lock").open("w") as file:
            flock(file, LOCK_EX)
            yield


def _test_metric(objective: Objective) -> str:
    """The `test/` figure that answers for the sweep's objective."""
    return f"test/{objective.metric.partition('/')[2]}"


def _shortfall(version: Version, results: list[GateResult], objective: Objective) -> str:
    """Why a version cannot be champion on its own account, or nothing."""
    failed = "; ".join(result.reason for result in results if not result.passed)
    available = math.isfinite(version.metrics.get(_test_metric(objective), math.nan))
    return failed or ("" if available else f"{_test_metric(objective)} {NOT_AVAILABLE}")


def _defeat(version: Version, champion: Version, rival: float | None, objective: Objective) -> str:
    """Why a version does not beat the champion's figure, or nothing; a tie keeps the champion."""
    metric = _test_metric(objective)
    value = version.metrics[metric]
    if objective.better(value, than=rival):
        return ""
    return f"{metric} {value:.4g} does not beat {rival:.4g} of the champion {champion.ref}"


def _save_pyfunc(path: Path, release: Path, model: LoggedModel, run_id: str, flavour: Flavour) -> None:
    """Write the MLflow model: its pyfunc file, the checkpoint and the source of `pipeline`."""
    place = model.artifact_location
    about = Model(run_id=run_id, artifact_path=place, model_uuid=model.model_id, model_id=model.model_id)
    with warnings.catch_warnings():
        # An example would be a picture; the signature says what is expected.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(flavour.file),
            artifacts={CHECKPOINT: str(release)},
            code_paths=[str(Path(pipeline.__file__).parent)],
            signature=flavour.signature,
            pip_requirements=flavour.requirements,
            mlflow_model=about,
        )


def _version(item: ModelVersion, aliases: Mapping[str, int]) -> Version:
    return Version(
        name=item.name,
        version=int(item.version),
        run_id=item.run_id or "",
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == int(item.version))),
        tags=dict(item.tags),
        source=item.source or "",
        created=item.creation_timestamp / 1000,
    )


def _unknown(name: str, known: list[str]) -> RegistryError:
    named, hint = ", ".join(known) or "none yet", did_you_mean(name, known) or _LOOK
    return RegistryError(f"{name}: expected a registered model ({named}), got {name}{hint}")


def _how(version: Version) -> str:
    """`by protocol 1a2b on data 3c4d`."""
    protocol, digest = version.measured
    return f"by protocol {protocol} on data {str(digest)[:12]}"


def _is_free(out: Path, version: Version) -> bool:
    """True when `out` is absent or empty, False when it holds this version; RegistryError otherwise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    with contextlib.suppress(CheckpointError):
        if checkpoint.inspect(out).sha256 == version.sha256:
            return False
    raise RegistryError(f"{out}: expected no folder, or one with {version.ref}, got something else — choose another.")


def _write_lineage(folder: Path, version: Version) -> None:
    temporary = folder / f".{LINEAGE_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(version.as_plain(), indent=1))
    temporary.replace(folder / LINEAGE_FILE)
