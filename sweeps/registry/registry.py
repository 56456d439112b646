"""The champions: versions of registered models, and the aliases people ask for them by.

Files come before the version that points to them. Before it gets an alias their hashes have been compared, or, of files
that this process has just sent, the store's list of them has been. Aliases change in turns, one process at a time, and
each change is written in the model's history. See `lock` and `aliases`.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config import did_you_mean
from pipeline.data.scenes import open_dataset
from pipeline.errors import PipelineError
from pipeline.progress import Tell, silent
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    SEE_LIST,
    Aliases,
    ModelTags,
    Move,
    Standing,
    signature,
    unknown,
)
from sweeps.registry.cards import Describer
from sweeps.registry.held import Held, kind_name
from sweeps.registry.lock import Turn, take_turn
from sweeps.registry.release import (
    IMPORTED,
    bind,
    download,
    imported_run,
    log_model,
    pull,
    taken_up,
    unless_it_exists,
    version_of,
)
from sweeps.registry.verification import Verification, score_like
from sweeps.registry.versions import (
    MODEL_ID,
    Version,
    described,
    from_store,
    judged,
    lineage,
    misplaced,
    replacing,
    shortfall,
    test_metric,
    to_store,
    writes_of,
)
from sweeps.space.gates import NOT_AVAILABLE, Gate, GateResult, apart, judge
from sweeps.space.objective import Objective
from sweeps.tracking.mlflow_client import mlflow_client, prepare_store
from sweeps.tracking.pages import Pages


@dataclass(frozen=True)
class Verdict:
    """The outcome of a promotion: the alias the version now has, what the gates found, and why.

    displaced: the version that had this alias before, where another had it.
    """

    version: Version
    alias: str
    gates: list[GateResult]
    reason: str
    displaced: int | None = None

    @property
    def line(self) -> str:
        """The outcome in one line."""
        before = "" if self.displaced is None else f" in place of {self.version.name}/{self.displaced}"
        return f"{self.version.ref} is {self.alias}{before}: {self.reason}"


class Registry:
    """The model registry of a home's MLflow store; `clock` gives unix seconds, `tell` hears of what takes long.

    Methods raise RegistryError for names, versions and aliases that do not exist.
    """

    def __init__(
        self,
        home: Home,
        clock: Callable[[], float] = time.time,
        tell: Tell = silent,
        pages: Pages | None = None,
    ) -> None:
        self._home, self._clock, self._tell, self._pages = home, clock, tell, pages
        # What those versions hold whose hashes this object compared, or whose files it copied from a proven folder.
        self._whole: dict[str, Held] = {}

    def register(
        self, name: str, run_id: str, verification: Verification, tags: Mapping[str, str] | None = None
    ) -> Version:
        """Log the verified checkpoint as a pyfunc model of its run, and make it a version of `name`.

        tags: lineage that only the sweep knows, such as its name and the git commit. A checkpoint that is a
        version of `name` already is not registered again: that version is returned, as long as its files are there.
        """
        self._ensure_model(name)
        with self._turn(name):
            known = self._find(name, verification)
            if known is not None:  # it may be of a release that made no pictures
                self._describer.illustrate(known.run_id, name, verification)
            return known or self._create(name, run_id, verification, dict(tags or {}))

    def import_checkpoint(
        self, name: str, verification: Verification, tags: Mapping[str, str] | None = None
    ) -> Version:
        """Register what was made elsewhere, under a finished run in the experiment `imported`.

        The same weights with another recipe, rig, framing or licence are another version.
        """
        self._ensure_model(name)
        with self._turn(name):
            known = self._find(name, verification, described(lineage(verification)))
            if known is not None:
                return known
            run_id = imported_run(self._client, self._home, name, verification.checkpoint.folder.name)
            return self._create(name, run_id, verification, {"source": IMPORTED} | dict(tags or {}))

    def refresh(self, version: Version, verification: Verification) -> Version:
        """Give a version that was registered before the figures that were taken now, in place of its own.

        In a turn, so that nobody compares a part of them.
        """
        with self._turn(version.name):
            self._describer.illustrate(version.run_id, version.name, verification)
            stored = self._client.get_model_version(version.name, str(version.version)).tags
            self._write(version, [*misplaced(stored), *replacing(from_store(stored), lineage(verification))])
            self._describe(self.resolve(version.ref))
        return self.resolve(version.ref)

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
        `version` was scored on. Where the champion was deleted, `previous` stands in for it. Raises RegistryError
        where that cannot be done, and where the files of `version` are not whole.
        """
        aliases = self._aliases(version.name)
        with self._turn(version.name) as turn:
            standing = aliases.complete(turn)
            version = self.resolve(version.ref)
            results = judge(gates, version.metrics)
            if standing.champion == version.version:
                self._describe(version)
                return Verdict(version, CHAMPION, results, "it is the champion already")
            reason, won = shortfall(version, results, objective), False
            if not reason:
                self._require_files(version)
                won, reason = self._compare(version, standing, objective, dataset_root, device)
            aliases.require(turn, standing)
            alias = CHAMPION if won else CHALLENGER
            self._write(version, judged(version.tags, results, alias, reason))
            change = aliases.crown if won else aliases.challenge
            change(turn, standing, version.version, reason)
            self._describe(self.resolve(version.ref))
        before = standing.aliases.get(alias)
        displaced = None if before == version.version else before
        return Verdict(self.resolve(version.ref), alias, results, reason, displaced)

    def rollback(self, name: str, reason: str = "") -> Version:
        """Swap `champion` and `previous`; where the champion was deleted, `previous` takes its place.

        Raises RegistryError when there is no previous version, or its files are not whole.
        """
        aliases = self._aliases(name)
        aliases.standing()  # refuses an unknown name before anything is written
        with self._turn(name) as turn:
            standing = aliases.complete(turn)
            if standing.previous is None:
                raise RegistryError(f"{name}: expected a version with alias {PREVIOUS}, got none{SEE_LIST}")
            restored = self.resolve(f"{name}/{standing.previous}")
            self._require_files(restored)
            aliases.restore(turn, standing, restored.version, reason or "asked for")
            self._describe(self.resolve(restored.ref))
        return self.resolve(restored.ref)

    def history(self, name: str) -> list[Move]:
        """Every change of the aliases of `name`, oldest first. Raises RegistryError for an unknown name."""
        return self._standing(name).history

    def vacancies(self, name: str | None = None) -> list[str]:
        """One line for each registered model whose champion was deleted: what happened and what helps."""
        names = {version.name for version in self.list_versions(name)} | ({name} if name else set())
        return [vacancy for one in sorted(names) if (vacancy := self._standing(one).vacancy)]

    def resolve(self, ref: str) -> Version:
        """The version named by `name@alias`, `name/3`, or `name` alone, which means its champion."""
        stem, slash, number = ref.partition("/")
        name, at, alias = stem.partition("@")
        standing = self._standing(name)
        alias, aliases = alias if at else CHAMPION, standing.aliases
        if not slash and alias not in aliases:
            if alias == CHAMPION and standing.vacancy:
                raise RegistryError(standing.vacancy)
            known = ", ".join(sorted(aliases)) or "none"
            hint = did_you_mean(alias, aliases) or SEE_LIST
            raise RegistryError(f"{ref}: expected an alias of {name} ({known}), got {alias}{hint}")
        wanted = number if slash else str(aliases[alias])
        found = [item for item in self._client.search_model_versions(f"name='{name}'") if str(item.version) == wanted]
        if not found:
            known = ", ".join(map(str, sorted(standing.versions, reverse=True))) or "none"
            raise RegistryError(f"{ref}: expected a version of {name} ({known}), got {wanted}{SEE_LIST}")
        return version_of(found[0], aliases)

    def pull(self, ref: str, out: Path) -> Path:
        """Download a version's checkpoint folder to `out`, with `lineage.json`; every hash is compared.

        A folder that holds this checkpoint already is kept. Raises RegistryError when `out` holds anything
        else, or the files are gone or are not those that were registered.
        """
        return pull(self.resolve(ref), Path(out), self._home.tracking_uri, self._tell)

    def list_versions(self, name: str | None = None) -> list[Version]:
        """Versions of one registered model, or of all; newest first within a name."""
        known = {} if name is None else {name: self._standing(name).aliases}
        if not self._home.has_store:
            return []
        found = self._client.search_model_versions(f"name='{name}'" if known else None)
        known |= {other: self._standing(other).aliases for other in {item.name for item in found} - known.keys()}
        versions = [version_of(item, known[item.name]) for item in found]
        return sorted(versions, key=lambda version: (version.name, -version.version))

    @cached_property
    def _client(self) -> MlflowClient:
        prepare_store(self._home.tracking_uri)
        return mlflow_client(self._home.tracking_uri)

    @cached_property
    def _describer(self) -> Describer:
        return Describer(self._client, self._pages)

    def _describe(self, version: Version) -> None:
        """Say on MLflow's pages what a version is, and what its registered model is."""
        self._describer.version(version)
        self._describer.model(version.name, self.list_versions(version.name), self.history(version.name))

    def _aliases(self, name: str) -> Aliases:
        if not self._home.has_store:
            raise unknown(name, [])
        return Aliases(self._client, name, self._clock)

    def _standing(self, name: str) -> Standing:
        return self._aliases(name).standing()

    def _turn(self, name: str) -> contextlib.AbstractContextManager[Turn]:
        return take_turn(self._home.tracking_uri, name, ModelTags(self._client, name), signature())

    def _ensure_model(self, name: str) -> None:
        if not self._client.search_registered_models(f"name='{name}'"):
            with unless_it_exists():
                self._client.create_registered_model(name)

    def _find(self, name: str, verification: Verification, content: Mapping[str, str] | None = None) -> Version | None:
        """The newest version of `name` that has these weights, and their files; this content, where it is given."""
        sha256 = verification.checkpoint.sha256
        same = self._describer.with_weights(sha256, name)
        for item in sorted(same, key=lambda item: -int(item.version)):
            version = self.resolve(f"{name}/{item.version}")
            if content not in (None, described(version.tags)):
                continue
            with contextlib.suppress(RegistryError):
                self._require_files(version)
                bind(self._client, item)
                return version
        return None

    def _create(self, name: str, run_id: str, verification: Verification, tags: dict[str, str]) -> Version:
        left = taken_up(self._client, name, run_id, verification.checkpoint.sha256)
        model = left or log_model(self._client, name, run_id, verification, self._clock, self._tell)
        facts = lineage(verification) | tags | {MODEL_ID: model.model_id}
        self._describer.illustrate(run_id, name, verification)
        said = {"model_id": model.model_id}
        created = self._client.create_model_version(name, model.artifact_location, run_id, to_store(facts), **said)
        bind(self._client, created)
        version = version_of(created, {})
        if left is None:
            self._whole[version.ref] = verification.checkpoint
        self._describe(version)
        return version

    def _require_files(self, version: Version) -> Held:
        """What the version holds; its folder may be gone. Raises RegistryError unless all its files are there and are
        those that were registered.

        They are downloaded and hashed at most once by this object, and not where it has just created the version.
        """
        if version.ref not in self._whole:
            with tempfile.TemporaryDirectory() as temporary:
                self._whole[version.ref] = download(
                    version, Path(temporary) / "version", self._home.tracking_uri, self._tell
                )
        return self._whole[version.ref]

    def _compare(
        self, version: Version, standing: Standing, objective: Objective, root: str | Path | None, device: str
    ) -> tuple[bool, str]:
        """Whether a version that passed its gates beats the champion, and why; a tie keeps the champion."""
        number = standing.champion if standing.champion is not None else standing.previous
        if number in (None, version.version):
            return True, "it passed its gates"
        rival = self.resolve(f"{version.name}/{number}")
        metric = test_metric(objective)
        figure = self._figure(rival, version, metric, root, device)
        value, role = version.metrics[metric], CHAMPION if standing.champion is not None else PREVIOUS
        won = objective.better(value, than=figure)
        if figure is None:
            return won, f"it passed its gates; {metric} of the {role} {rival.ref} is {NOT_AVAILABLE}"
        ours, theirs = apart(value, figure)
        if not won:
            return False, f"{metric} {ours} does not beat {theirs} of the {role} {rival.ref}"
        return True, f"it passed its gates and {metric} {ours} beats {theirs} of the {role} {rival.ref}"

    def _figure(
        self, rival: Version, version: Version, metric: str, root: str | Path | None, device: str
    ) -> float | None:
        """The rival's figure by the protocol and on the data of `version`; None where it is not a number."""
        figure = rival.metrics.get(metric) if rival.measured == version.measured else None
        if figure is None:
            try:
                figure = self._score_again(rival, version, metric, root, device)
            except (RegistryError, PipelineError) as error:
                raise RegistryError(
                    f"{version.ref}: expected a champion scored {version.how}, got {rival.ref} scored "
                    f"{rival.how}, and scoring it again failed — {error}"
                ) from error
        return figure if figure is not None and math.isfinite(figure) else None

    def _score_again(
        self, champion: Version, version: Version, metric: str, root: str | Path | None, device: str
    ) -> float | None:
        if root is None:
            raise RegistryError("expected the dataset, got none — name its folder.")
        dataset = open_dataset(root)
        with tempfile.TemporaryDirectory() as temporary:
            theirs = download(champion, Path(temporary) / "champion", self._home.tracking_uri, self._tell)
            ours = self._require_files(version)
            if kind_name(theirs) != kind_name(ours):
                raise RegistryError(
                    f"expected a {kind_name(ours)}, got a {kind_name(theirs)} — register under another name."
                )
            evaluation = score_like(theirs, ours, dataset, self._home.cache, device, version.precision, self._tell)
        if evaluation.protocol.precision != version.precision:
            raise RegistryError(
                f"device {device}: expected one that computes {version.precision}, in which {version.ref} was scored, "
                f"got {evaluation.protocol.precision} there — name a GPU."
            )
        if (evaluation.protocol.id, dataset.digest) != version.measured:
            raise RegistryError(
                f"{root}: expected the dataset that {version.ref} was scored on, got another — name it."
            )
        return evaluation.metrics.get(metric)

    def _write(self, version: Version, tags: Iterable[tuple[str, str | None]]) -> None:
        """Set tags of a version one by one, in this order; None: remove it."""
        stored = self._client.get_model_version(version.name, str(version.version)).tags
        for key, value in writes_of(tags, stored):
            if value is None:
                self._client.delete_model_version_tag(version.name, str(version.version), key)
            else:
                self._client.set_model_version_tag(version.name, str(version.version), key, value)
