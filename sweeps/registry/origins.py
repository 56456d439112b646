"""Where a version of a registered model comes from, back to its recording; and how two versions differ.

A version's run, and the datasets of which only the digest is known, are looked for in this home: in its journals, among
its registered datasets, those that its sweeps were trained on, and the variants in its cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import bases, checkpoint
from pipeline.data.incoming.names import MANIFEST_FILE
from pipeline.errors import DataError
from pipeline.recipe import LOCAL_PATHS
from pipeline.reconstruction.models import GAUSSIANS, VIEWS
from pipeline.text.yaml_file import read_yaml
from sweeps.book.journal import Journal
from sweeps.book.ledger import read
from sweeps.book.record import SweepRecord, TrialRecord, record_of
from sweeps.conclusions.two_trials import differences, settings_apart, shown
from sweeps.datasets import registered
from sweeps.errors import DamagedError, StudyError
from sweeps.home import Home
from sweeps.registry.held import PairInfo, inspect
from sweeps.registry.named import located
from sweeps.registry.registry import Registry
from sweeps.registry.verification import LICENCE, SCENES
from sweeps.registry.versions import DIGEST, FINGERPRINT, PARENT, PROTOCOL, RECIPE, SHA256, STEP, Version
from sweeps.tracking.mlflow_layout import run_name
from sweeps.tracking.queries import trial_of

_START, _ROOT = "train.init_from", "data.root"
_ARTEFACT = "artefact."
_COMMIT = "mlflow.source.git.commit"
_EDITED = "edited"  # a step of a dataset's chain that has no parent of its own
Step = Mapping[str, Any]  # of a dataset's chain, as its manifest has it
_MADE_OF = {"convert": "recording", "generated": "pictures"}  # the parent of a dataset whose chain begins so


@dataclass(frozen=True)
class Node:
    """Something that a version comes from, with what that comes from in turn. name: empty where none is known."""

    kind: str
    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[Node, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """As `--json` prints it."""
        parents = [one.as_plain() for one in self.parents]
        return {"kind": self.kind, "name": self.name, "facts": dict(self.facts), "parents": parents}

    def lines(self, depth: int = 0) -> Iterator[str]:
        """An indented tree: a line for itself, then those of what it comes from."""
        said = ", ".join(f"{key} {shown(value)}" for key, value in self.facts.items() if value)
        yield "  " * depth + " ".join(filter(None, [self.kind, shown(self.name)])) + (f": {said}" if said else "")
        for one in self.parents:
            yield from one.lines(depth + 1)


def lineage_of(home: Home, ref: str) -> Node:
    """A version, and all that it comes from. Raises RegistryError for one that is not there."""
    search = _Search(home)
    return search.version(search.registry.resolve(ref), frozenset())


class _Search:
    """Follows what a version comes from, as far as a home knows it."""

    def __init__(self, home: Home) -> None:
        self.registry, self._home = Registry(home), home

    @cached_property
    def _versions(self) -> list[Version]:
        return sorted(self.registry.list_versions(), key=lambda one: (one.name, one.version))

    @cached_property
    def _bases(self) -> dict[str, Node]:
        """The bases of the package by the hash of their weights."""
        held = {name: checkpoint.inspect(bases.FOLDER / name) for name in bases.names()}
        return {
            info.sha256: Node("base", bases.PREFIX + name, {"weights": info.sha256, "step": str(info.step)})
            for name, info in held.items()
        }

    def version(self, version: Version, seen: frozenset[str]) -> Node:
        """seen: versions on the way to it, which are not followed again."""
        tags, seen = version.tags, seen | {version.ref}
        facts = {
            "aliases": " ".join(version.aliases),
            "weights": tags.get(SHA256, ""),
            "step": tags.get(STEP, ""),
            "licence": tags.get(LICENCE, ""),
        }
        if version.kind == "pair":
            facts["given"] = version.given
            return Node("version", version.ref, facts, tuple(self._member(ref, seen) for ref in version.members))
        if tags.get("source.name"):
            source = Node("import", tags["source.name"], {"sha256": tags.get("source.sha256", "")})
            start = (self._weights("", tags[PARENT], seen),) if PARENT in tags else ()
            return Node("version", version.ref, facts, (source, *start))
        return Node("version", version.ref, facts, (self._run(version, seen),) if version.run_id else ())

    def parent(self, version: Version) -> str:
        """What a version's training began with, in a word; empty where that is nothing that its tags tell."""
        if version.kind == "pair":
            return " and ".join(version.members)
        if PARENT not in version.tags:
            return ""
        found = self._weights("", version.tags[PARENT], frozenset({one.ref for one in self._versions}))
        return found.name or version.tags[PARENT]

    def _member(self, ref: str, seen: frozenset[str]) -> Node:
        found = next((one for one in self._versions if one.ref == ref), None)
        return (
            Node("version", ref, {"note": "it is not registered any more"})
            if found is None
            else (self.version(found, seen))
        )

    def _run(self, version: Version, seen: frozenset[str]) -> Node:
        """The run that made a version: by this home's journal, or else as far as the version's tags tell."""
        try:
            journal, number = trial_of(self._home, version.run_id)
        except StudyError:
            return self._run_elsewhere(version, seen)
        record = record_of(journal, 0.0)
        one, ledger = record.trial(number), record.ledger
        facts = {"run": version.run_id, "recipe": ledger.recipe, "fingerprint": one.trial.fingerprint}
        data = self._data_of_run(record, one)
        files = tuple(self._files(record, one, version.tags.get(PARENT, ""), seen))
        return Node("run", run_name(ledger.name, number), facts, (_sweep(record), data, *files))

    def _run_elsewhere(self, version: Version, seen: frozenset[str]) -> Node:
        tags = version.tags
        facts = {"run": version.run_id, "recipe": tags.get(RECIPE, ""), "fingerprint": tags.get(FINGERPRINT, "")}
        number, sweep = tags.get("trial.number", ""), tags.get("sweep.name", "")
        name = run_name(sweep, int(number)) if sweep and number.isdecimal() else ""
        parents = [Node("sweep", sweep, {"code": tags.get(_COMMIT, "")})] if sweep else []
        parents += [self._data(tags[DIGEST], tags.get("data.name", ""))] if DIGEST in tags else []
        parents += [self._weights("", tags[PARENT], seen)] if PARENT in tags else []
        return Node("run", name, facts | {"note": "no run of this home"}, tuple(parents))

    def _files(self, record: SweepRecord, one: TrialRecord, parent: str, seen: frozenset[str]) -> Iterator[Node]:
        """The weights that training began with, and other files that its recipe names beside the data."""
        said = record.ledger.tags
        start = one.recipe_params.get(_START)
        if start is not None:
            yield self._weights(str(start), parent or said.get(_ARTEFACT + _START, ""), seen)
        for tag in sorted(said):
            setting = tag.removeprefix(_ARTEFACT)
            if tag != setting != _START:
                yield Node("file", setting, {"sha256": said[tag], "path": str(one.recipe_params.get(setting) or "")})

    def _weights(self, path: str, sha256: str, seen: frozenset[str]) -> Node:
        """Weights that training began with: a base, a version, which is followed, or a file."""
        facts = {"weights": sha256, "path": path}
        if sha256 in self._bases:
            return self._bases[sha256]
        for one in self._versions:
            if sha256 and one.tags.get(SHA256) == sha256:
                again = {"note": "it is followed above"}
                return Node("version", one.ref, again) if one.ref in seen else self.version(one, seen)
        return Node("weights", "", facts | {"note": "no version of this store has them"})

    def _data_of_run(self, record: SweepRecord, one: TrialRecord) -> Node:
        tags = record.ledger.tags | one.tags
        return self._data(tags.get(DIGEST, ""), tags.get("data.name", ""), str(one.recipe_params.get(_ROOT) or ""))

    def _data(self, digest: str, name: str = "", root: str = "", seen: frozenset[str] = frozenset()) -> Node:
        """A dataset by its digest. root: where it was trained from, for one that is not there any more."""
        found = self._datasets.get(digest)
        if found is None or digest in seen:
            note = "no dataset of this digest is known here"
            return Node("data", name, {"digest": digest, "path": root, "note": note})
        folder, manifest = found
        chain = [dict(step) for step in manifest.get("transforms") or ()]
        own = _own(chain)
        facts = {"digest": digest, "path": str(folder), "made by": _made_by(own)}
        parent = manifest.get("parent")
        if parent is None:
            return Node("data", str(manifest["name"]), facts | {"note": "it is made of no other data"})
        before = chain[: len(chain) - len(own)]
        return Node("data", str(manifest["name"]), facts, (self._parent(str(parent), before, own, seen | {digest}),))

    def _parent(self, digest: str, chain: Sequence[Step], after: Sequence[Step], seen: frozenset[str]) -> Node:
        """What a dataset was made from. chain: the steps by which that came to be; after: those of the dataset."""
        if digest in self._datasets:
            return self._data(digest, seen=seen)
        if not chain:  # no dataset stands before the first step
            facts = {key: str(after[0][key]) for key in ("recording_frames", "fps") if after and key in after[0]}
            return Node(_source(after), "", {"digest": digest, **facts})
        known = self._data(digest)
        first = Node(_source(chain), "", {"note": "its digest is in a manifest that is not known here"})
        return Node("data", "", {**known.facts, "made by": _made_by(chain)}, (first,) if _source(chain) else ())

    @cached_property
    def _datasets(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Folder and manifest of every dataset that this home knows, by digest."""
        found: dict[str, tuple[Path, dict[str, Any]]] = {}
        for folder in self._folders():
            file = folder / MANIFEST_FILE
            if file.is_file():
                manifest = dict(read_yaml(file, DataError).values or {})
                found.setdefault(str(manifest.get("digest")), (folder, manifest))
        return found

    def _folders(self) -> Iterator[Path]:
        yield from (Path(entry.path) for entry in registered(self._home).values())
        for folder in sorted(self._home.journals.glob("*")):
            try:
                root = read(Journal(folder)).params.get(_ROOT)
            except (DamagedError, OSError):  # which concerns no other sweep
                continue
            yield from [] if root is None else [Path(root)]
        yield from sorted((self._home.cache / "variants").glob("*"))


def _sweep(record: SweepRecord) -> Node:
    ledger = record.ledger
    began = datetime.fromtimestamp(ledger.opened).strftime("%Y-%m-%d %H:%M")
    facts = {"began": began, "trials": str(len(ledger.trials)), "code": ledger.tags.get(_COMMIT, "")}
    return Node("sweep", ledger.name, facts)


def _own(chain: Sequence[Step]) -> list[Step]:
    """The steps of a chain that a dataset does not have from its parent: the last, and what was edited after it."""
    edits = 0
    while edits < len(chain) and chain[-1 - edits].get("kind") == _EDITED:
        edits += 1
    return list(chain[-1 - edits :])


def _source(chain: Sequence[Step]) -> str:
    """What the first dataset of a chain was made from; empty where that is nothing."""
    return _MADE_OF.get(str(chain[0].get("kind")), "") if chain else "data"


def _made_by(steps: Sequence[Step]) -> str:
    return "; ".join(map(_words, reversed(steps)))


def _words(step: Step) -> str:
    """A step of a dataset's chain: its kind, and settings of one word."""
    plain = {key: value for key, value in step.items() if isinstance(value, str | int | float) and key != "kind"}
    return " ".join([str(step.get("kind", "unknown")), *(f"{key}={shown(str(value))}" for key, value in plain.items())])


# ---------------------------------------------------------------- two versions


def diff(home: Home, first: str, second: str) -> dict[str, Any]:
    """What `mouselift model diff --json` prints. `alike`: whether their figures were measured alike.

    Raises RegistryError for a version that is not there, or whose recipe is nowhere.
    """
    search = _Search(home)
    versions = [search.registry.resolve(ref) for ref in (first, second)]
    told = [_told(search, one) for one in versions]
    names = dict.fromkeys(name for one in versions for name in one.metrics)
    return {
        "versions": [_plain(one, facts) for one, facts in zip(versions, told, strict=True)],
        "alike": versions[0].measured == versions[1].measured,
        "facts": differences(told)[0],
        "settings": settings_apart([_settings(home, one) for one in versions]),
        "figures": [{"name": name, "values": [one.metrics.get(name) for one in versions]} for name in names],
    }


def tables(found: Mapping[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Figures of what `diff` found, as columns and rows: one table of versions that were measured alike, else one for
    each. A figure is a mean over scenes, with its standard deviation where the version has it.
    """
    versions = found["versions"]
    for group in [versions] if found["alike"] else [[one] for one in versions]:
        names = dict.fromkeys(name for one in group for name in one["figures"])
        columns = ["figure", *(f"{one['ref']} (n = {one['facts'].get('scenes', 'unknown')})" for one in group)]
        yield columns, [[name, *(_cell(one, name) for one in group)] for name in names]


def _cell(version: Mapping[str, Any], name: str) -> str:
    value, spread = version["figures"].get(name), version["spread"].get(name.removeprefix("test/"))
    if value is None:
        return ""
    return f"{value:.6g}" if spread is None else f"{value:.6g} ± {spread:.2g}"


def _plain(version: Version, facts: Mapping[str, str]) -> dict[str, Any]:
    found = {"ref": version.ref, "aliases": list(version.aliases), "run_id": version.run_id}
    return found | {"facts": dict(facts), "figures": version.metrics, "spread": version.spread}


def _told(search: _Search, version: Version) -> dict[str, str]:
    """What is told of a version beside its settings and figures."""
    tags = version.tags
    parent = search.parent(version)
    found = {
        "recipe": tags.get(RECIPE, ""),
        "fingerprint": tags.get(FINGERPRINT, ""),
        "weights": tags.get(SHA256, ""),
        "given": version.given,
        "step": tags.get(STEP, ""),
        "data": tags.get("data.name", ""),
        "data digest": tags.get(DIGEST, ""),
        "protocol": tags.get(PROTOCOL, ""),
        "precision": version.precision,
        "scenes": tags.get(SCENES, ""),
        "parent": parent,
        "licence": tags.get(LICENCE, ""),
        "sweep": tags.get("sweep.name", ""),
        "trial": tags.get("trial.number", ""),
        "code": tags.get(_COMMIT, ""),
    }
    return {key: value for key, value in found.items() if value}


def _settings(home: Home, version: Version) -> dict[str, Any]:
    """The settings of the recipe that a version was made by; of a pair, those of both under their roles."""
    try:
        journal, number = trial_of(home, version.run_id)
        return record_of(journal, 0.0).trial(number).recipe_params
    except StudyError:  # another home's, or an import: its files have the recipe
        pass
    with located(version.ref, home) as named:
        held = inspect(named.path)
    if not isinstance(held, PairInfo):
        return held.recipe.params
    of_both = {VIEWS: held.views.recipe, GAUSSIANS: held.gaussians.recipe}
    return {
        f"{role}.{path}": value
        for role, recipe in of_both.items()
        for path, value in recipe.params.items()
        if path not in LOCAL_PATHS
    }
