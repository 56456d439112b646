"""A version of a registered model as the registry's tags tell it. Pure; knows no MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pipeline.checkpoint import CheckpointInfo
from pipeline.recipe import PRECISIONS, Precision
from pipeline.reconstruction.models import Member, Pair
from sweeps.book.record import PROTOCOL
from sweeps.errors import RegistryError
from sweeps.registry.held import Held
from sweeps.registry.verification import LICENCE, SHOWN, SPREAD, Verification
from sweeps.space.gates import NOT_AVAILABLE, GateResult
from sweeps.space.objective import Objective

SHA256, STEP, DIGEST = "checkpoint.sha256", "checkpoint.step", "data.digest"
PRECISION, PARENT = "eval.precision", "checkpoint.parent"
RECIPE, FINGERPRINT = "recipe.name", "recipe.fingerprint"
MODEL_ID = "logged_model"  # MLflow keeps no link from a version to it
_DESCRIBED = ("recipe.", "rig.", "prompts.", "framing.", "views.", "gaussians.")
GIVEN = "gaussians.given"
GATE, GATES, VERDICT, REASON = "gate.", "gates", "gate.verdict", "gate.reason"
# A page of MLflow's that shows one version or model leaves out tags whose name begins with `mlflow.`, and the table of
# versions shows them in the order in which they were written: what no reader looks for is kept under such a name, last.
ASIDE = "mlflow.mouselift."
_SAID = 60  # characters of a tag in a message
_ASIDE = (SHA256, PARENT, FINGERPRINT, DIGEST, MODEL_ID, GATES, SPREAD)


T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as it was when read."""

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    source: str  # where MLflow keeps its files
    created: float  # unix seconds

    @property
    def ref(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def kind(self) -> Literal["gslrm", "mvdiffusion", "pair", ""]:
        """Of its model, by what its tags tell; empty of a version that someone made without mouselift."""
        if SHA256 not in self.tags:
            return ""
        if "views.version" in self.tags:
            return "pair"
        return "mvdiffusion" if "rig.name" in self.tags else "gslrm"

    @property
    def members(self) -> tuple[str, str]:
        """The versions of a pair that draw views and make Gaussians."""
        return self.tags["views.version"], self.tags["gaussians.version"]

    @property
    def given(self) -> str:
        """What a pair's GS-LRM is given of a photo; empty of another model."""
        return self.tags.get(GIVEN, "views") if self.kind == "pair" else ""

    @property
    def sha256(self) -> str:
        """Of the weights. Raises RegistryError for a version that someone made without mouselift."""
        if SHA256 not in self.tags:
            raise RegistryError(
                f"{self.ref}: expected the tag {SHA256}, got none — it was not registered by mouselift."
            )
        return self.tags[SHA256]

    @property
    def metrics(self) -> dict[str, float]:
        """The verified `test/*` figures. Raises RegistryError for one that is no number."""
        return {name: self._read(name, float, "a number") for name in self.tags if name.startswith("test/")}

    @property
    def spread(self) -> dict[str, float]:
        """The standard deviations over scenes of some figures, by plain name; empty of versions from before.

        Raises RegistryError where they cannot be read.
        """
        return self._read(SPREAD, _spread, "JSON of numbers by name") if SPREAD in self.tags else {}

    @property
    def gates(self) -> list[dict[str, Any]]:
        """What each gate found when promotion was last asked for. Raises RegistryError where it cannot be read."""
        return self._read(GATES, _gates, "JSON of a promotion's gates") if GATES in self.tags else []

    @property
    def measured(self) -> tuple[str | None, str | None]:
        """(protocol, data digest): figures are compared only when both are the same."""
        return self.tags.get(PROTOCOL), self.tags.get(DIGEST)

    @property
    def how(self) -> str:
        """`by protocol 1a2b on data 3c4d`."""
        protocol, digest = self.measured
        return f"by protocol {protocol} on data {str(digest)[:12]}"

    @property
    def precision(self) -> Precision:
        """What the network computed in for its figures; always float32 before there was a choice."""
        named = self.tags.get(PRECISION, "fp32")
        for known in PRECISIONS:
            if named == known:
                return known
        raise RegistryError(
            f"{self.ref}: expected {PRECISION} {' or '.join(PRECISIONS)}, got {named} — correct the tag."
        )

    def _read(self, tag: str, read: Callable[[str], T], wanted: str) -> T:
        """What a tag says; anybody with access to the store can write one. Raises RegistryError."""
        try:
            return read(self.tags[tag])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise RegistryError(
                f"{self.ref}: expected {wanted} in the tag {tag}, got {self.tags[tag][:_SAID]!r} — correct the tag."
            ) from None

    def as_plain(self) -> dict[str, Any]:
        """The form of `mouselift model list --json`; tags hold the lineage."""
        known = (*self.metrics, GATES, SPREAD)
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "metrics": self.metrics,
            "spread": self.spread,
            "gates": self.gates,
            "run_id": self.run_id,
            "created": self.created,
            "tags": {key: value for key, value in self.tags.items() if key not in known},
        }


def _spread(text: str) -> dict[str, float]:
    return {str(name): float(value) for name, value in json.loads(text).items()}


def _gates(text: str) -> list[dict[str, Any]]:
    """As `GateResult.as_plain` writes them."""
    rows = json.loads(text)
    for row in rows:
        if not isinstance(row["passed"], bool) or not isinstance(row["value"], int | float | None):
            raise TypeError
    return [dict(row, metric=str(row["metric"]), target=str(row["target"])) for row in rows]


def stored_as(key: str) -> str:
    """The name under which MLflow keeps a version's tag: another one for hashes, JSON, and figures of less interest."""
    is_figure = key.startswith("test/") and key.removeprefix("test/") not in dict(SHOWN)
    return ASIDE + key if key in _ASIDE or key.endswith(".sha256") or is_figure else key


def from_store(tags: Mapping[str, str]) -> dict[str, str]:
    """A version's tags by their own names. Versions from before have all of them under these."""
    plain = {key: value for key, value in tags.items() if not key.startswith(ASIDE)}
    return plain | {key.removeprefix(ASIDE): value for key, value in tags.items() if key.startswith(ASIDE)}


def to_store(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a new version as MLflow keeps them, those first that a reader looks for."""
    shown = {key: value for key, value in tags.items() if stored_as(key) == key}
    return shown | {stored_as(key): value for key, value in tags.items()}


def writes_of(writes: Iterable[tuple[str, str | None]], stored: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Writes of a version's tags as those that the store needs, in order, where it has the tags `stored`.

    What an earlier release kept under the plain name goes after the new value is there, and before it is removed: a
    kill between the two brings no old value back.
    """
    for key, value in writes:
        aside = stored_as(key)
        if value is not None:
            yield aside, value
        if aside != key and key in stored:
            yield key, None
        if value is None and aside in stored:
            yield aside, None


def misplaced(stored: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Tags that an earlier release kept under names that are shown."""
    known = from_store(stored)
    return [(key, known[key]) for key in stored if not key.startswith(ASIDE) and stored_as(key) != key]


def lineage(verification: Verification) -> dict[str, str]:
    """Where a version comes from and what it scored, as tags."""
    info = verification.checkpoint
    facts = {
        SHA256: info.sha256,
        STEP: str(info.step),
        PARENT: verification.parent,
        **_contents(info),
        "data.name": verification.data_name,
        DIGEST: verification.data_digest,
        PROTOCOL: verification.protocol,
        PRECISION: verification.precision,
    }
    figures = {name: f"{value!r}" for name, value in verification.metrics.items()}
    return {key: value for key, value in facts.items() if value is not None} | verification.facts | figures


def described(tags: Mapping[str, str]) -> dict[str, str]:
    """What tags say of how a version's weights are used, and on what terms."""
    return {key: value for key, value in tags.items() if key == LICENCE or key.startswith(_DESCRIBED)}


def replacing(tags: Mapping[str, str], facts: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The writes, in order, that put `facts` in the place of a version's tags; None: the tag is removed.

    Figures are replaced where the facts have some. The protocol is removed first and written last: figures that a kill
    leaves half replaced have none, and are not compared.
    """
    changed = {key: value for key, value in facts.items() if tags.get(key) != value}
    if PROTOCOL not in facts:
        return list(changed.items())
    gone = [key for key in tags if key.startswith("test/") and key not in facts]
    if not changed and not gone:
        return []
    first = [PROTOCOL] if PROTOCOL in tags else []
    between = [(key, value) for key, value in changed.items() if key != PROTOCOL]
    return [*((key, None) for key in (*first, *gone)), *between, (PROTOCOL, facts[PROTOCOL])]


def judged(tags: Mapping[str, str], results: list[GateResult], alias: str, reason: str) -> list[tuple[str, str | None]]:
    """The writes that say what was found: one tag for the machine, one line a gate for the reader of MLflow's page."""
    lines = {f"{GATE}{result.gate.metric}": result.line for result in results}
    gates = json.dumps([result.as_plain() for result in results])
    gone = [key for key in tags if key.startswith(GATE) and "/" in key and key not in lines]
    return [*((key, None) for key in gone), *{GATES: gates, **lines, VERDICT: alias, REASON: reason}.items()]


def test_metric(objective: Objective) -> str:
    """The `test/` figure that answers for the sweep's objective."""
    return f"test/{objective.metric.partition('/')[2]}"


def shortfall(version: Version, results: list[GateResult], objective: Objective) -> str:
    """Why a version cannot be champion on its own account, or nothing."""
    failed = "; ".join(result.reason for result in results if not result.passed)
    available = math.isfinite(version.metrics.get(test_metric(objective), math.nan))
    return failed or ("" if available else f"{test_metric(objective)} {NOT_AVAILABLE}")


def _contents(held: Held) -> dict[str, str | None]:
    """What a version's checkpoint or pair says of itself."""
    if isinstance(held, CheckpointInfo):
        return {RECIPE: held.recipe.name, FINGERPRINT: held.recipe.fingerprint}
    pair = held.pair
    said = {f"{name}.{key}": value for name, one in _members(pair) for key, value in _member(one).items()}
    given = {} if pair.given == "views" else {GIVEN: pair.given}  # versions from before have none
    return said | {"rig.name": pair.rig, LICENCE: pair.licence} | given


def _members(pair: Pair) -> tuple[tuple[str, Member], ...]:
    return ("views", pair.views), ("gaussians", pair.gaussians)


def _member(member: Member) -> dict[str, str]:
    return {"version": f"{member.name}/{member.version}", "sha256": member.sha256, "recipe": member.recipe}
