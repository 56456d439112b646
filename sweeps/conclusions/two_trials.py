"""Two trials side by side, as their journals have them: what each ran under, and what each came to.

A trial that is run again has to come to the same figures, to the last bit, where all that it runs under is the same and
it runs on a CPU. Where something differs, or on a GPU, figures may differ, and nothing here says by how much they may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.machine.devices import CPU
from pipeline.recipe import LOCAL_PATHS
from sweeps.book.journal import Journal, Reported, SweepOpened, TrialOpened
from sweeps.book.ledger import read
from sweeps.book.provenance import COMMIT, COMPUTING, MACHINE, PACKAGES, PATCH, UNKNOWN
from sweeps.book.record import Point, SweepRecord, TrialRecord

ABSENT, NOT_RECORDED, NOT_INSTALLED = "absent", "not recorded", "not installed"
# Names of facts; those that end in a space go on with a name of theirs.
DATA, IN_PARTS, ARTEFACT, ON_MACHINE, PACKAGE = "data", "batch in parts", "artefact ", "machine ", "package "
# Packages of which another version may compute other figures, or choose or run trials in another way; with those whose
# names begin with one of the latter, which are parts of CUDA.
_DECIDING = {*COMPUTING, "av", "llvmlite", "mouselift", "optuna", "ray", "safetensors", "triton"}
_PARTS_OF_CUDA = ("nvidia-", "cuda-")
_COMPARED = ("train", "val")  # groups of metrics that a repeated trial has to come to; times and loads are no figures
_HASH = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class Conditions:
    """What a trial ran under, or would run under here.

    facts: by name, those that decide figures; what is not recorded is not among them. others: packages that decide
    none, by name.
    """

    facts: Mapping[str, str]
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One fact, then and now; None where it is not recorded, or not known yet."""

    name: str
    then: str | None
    now: str | None

    @property
    def is_same(self) -> bool:
        """Whether both are known, and the same."""
        return self.then is not None and self.then == self.now

    @property
    def line(self) -> str:
        """`package torch: then 2.11.0, now 2.12.1`."""
        return f"{self.name}: then {shown(self.then)}, now {shown(self.now)}"

    def as_plain(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self) | {"same": self.is_same}


@dataclass(frozen=True)
class Figure:
    """One metric of a trial and of its repetition, over the steps that the first of them made.

    step: the last at which both reported it. steps: how many both reported. differing: at how many of them the values
    are not the same to the last bit. largest: the largest difference. missing: steps of one of the two alone.
    """

    metric: str
    step: int | None
    then: float | None
    now: float | None
    steps: int
    differing: int
    largest: float
    missing: int

    @property
    def is_same(self) -> bool:
        """Whether each value came out again to the last bit."""
        return not self.differing and not self.missing


@dataclass(frozen=True)
class Outcome:
    """Whether a repetition agrees with its trial; None where nothing says by how much figures may differ."""

    agrees: bool | None
    reason: str


# ---------------------------------------------------------------- conditions


def conditions(
    fingerprint: str, seed: str, tags: Mapping[str, str], artifacts: Mapping[str, str], packages: str
) -> Conditions:
    """What decides figures. tags: of data, artefacts, code and machine, as a journal has them.

    artifacts: of the sweep, by path: blobs. packages: `name==version`, one a line; empty where they are not recorded.
    """
    installed = _installed(packages)
    known = {
        "recipe": fingerprint,
        "seed": seed,
        DATA: tags.get("data.digest"),
        **{ARTEFACT + tag.removeprefix("artefact."): tags[tag] for tag in sorted(tags) if tag.startswith("artefact.")},
        "code": tags.get(COMMIT),
        "uncommitted changes": _uncommitted(tags, artifacts),
        **{ON_MACHINE + tag.removeprefix(MACHINE): tags[tag] for tag in sorted(tags) if tag.startswith(MACHINE)},
        **{PACKAGE + name: version for name, version in installed.items() if _decides(name)},
    }
    others = {name: version for name, version in installed.items() if not _decides(name)}
    return Conditions({name: value for name, value in known.items() if value is not None}, others)


def recorded(journal: Journal, number: int) -> Conditions:
    """What a trial ran under, by its journal: where its attempts differ in a fact, every value, joined by `and`."""
    session: SweepOpened | None = None
    attempts: list[tuple[SweepOpened, TrialOpened, dict[str, str]]] = []
    for _, event in journal.events():
        match event:
            case SweepOpened():
                session = event
            case TrialOpened() if event.trial == number and session is not None:
                attempts.append((session, event, {}))
            case Reported() if event.trial == number and attempts:
                attempts[-1][2].update(event.tags)
    every = [_of_attempt(journal, *attempt) for attempt in attempts]
    splits = {IN_PARTS: str(read(journal).trials[number].splits)}
    return Conditions(_joined([one.facts for one in every]) | splits, _joined([one.others for one in every]))


def checks(then: Conditions, now: Conditions) -> list[Check]:
    """Every fact that either of the two has, in order."""
    listed = [any(name.startswith(PACKAGE) for name in one.facts) for one in (then, now)]
    names = dict.fromkeys((*then.facts, *now.facts))
    if not all(listed):
        names = dict.fromkeys(name for name in names if not name.startswith(PACKAGE))
    known = [Check(name, _of(then, name), _of(now, name)) for name in names]
    if listed[0] != listed[1]:
        known.append(Check("packages", *("recorded" if one else None for one in listed)))
    return known


def other_packages(then: Conditions, now: Conditions) -> list[Check]:
    """Packages that decide no figure and differ; none where one of the two has none recorded."""
    if not then.others or not now.others:
        return []
    names = sorted({**then.others, **now.others})
    pairs = (Check(n, then.others.get(n, NOT_INSTALLED), now.others.get(n, NOT_INSTALLED)) for n in names)
    return [pair for pair in pairs if not pair.is_same]


def _of_attempt(journal: Journal, session: SweepOpened, opened: TrialOpened, said: Mapping[str, str]) -> Conditions:
    listed = session.artifacts.get(PACKAGES)
    path = None if listed is None else journal.blob(listed)
    packages = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    tags = {**session.tags, **opened.tags, **said}
    seed = str(opened.recipe_params.get("train.seed", NOT_RECORDED))
    return conditions(opened.fingerprint, seed, tags, session.artifacts, packages)


def _joined(every: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for one in every for name in one)
    return {name: " and ".join(dict.fromkeys(one.get(name, NOT_RECORDED) for one in every)) for name in names}


def _of(one: Conditions, name: str) -> str | None:
    return one.facts.get(name, NOT_INSTALLED if name.startswith(PACKAGE) else None)


def _installed(packages: str) -> dict[str, str]:
    pairs = (line.partition("==") for line in packages.splitlines() if "==" in line)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs}


def _decides(package: str) -> bool:
    return package in _DECIDING or package.startswith(_PARTS_OF_CUDA)


def _uncommitted(tags: Mapping[str, str], artifacts: Mapping[str, str]) -> str | None:
    """Of the code of the packages: the hash of its changes, and that of files that git does not know."""
    if COMMIT not in tags:
        return None
    changes = {path: Path(artifacts[path]).stem for path in (PATCH, UNKNOWN) if path in artifacts}
    if UNKNOWN in changes:
        changes[UNKNOWN] = f"files {changes[UNKNOWN]} that git does not know"
    return " and ".join(changes.values()) or "none"


def shown(value: str | None) -> str:
    """A fact in a line or table: a hash by its first digits, anything else as it is."""
    if value is None:
        return NOT_RECORDED
    return value[:_HASH] if re.fullmatch("[0-9a-f]{16,}", value) else value


# ---------------------------------------------------------------- figures


def figures(then: TrialRecord, now: TrialRecord) -> list[Figure]:
    """Each metric of training and validation, over the steps that the first trial made."""
    names = dict.fromkeys((*then.metrics, *now.metrics))
    chosen = sorted(name for name in names if name.partition("/")[0] in _COMPARED)
    until = then.trial.last_step
    return [_figure(name, then.metrics.get(name, ()), now.metrics.get(name, ()), until) for name in chosen]


def outcome(checked: Sequence[Check], compared: Sequence[Figure]) -> Outcome:
    """Whether a repetition agrees."""
    differing = [one for one in compared if not one.is_same]
    if not compared:
        return Outcome(None, "neither of the two has figures")
    steps = max(one.steps for one in compared)
    if not differing:
        return Outcome(True, f"{len(compared)} metrics over {steps} steps are the same to the last bit")
    among = f"{len(differing)} of {len(compared)} metrics differ"
    apart = [one.name for one in checked if not one.is_same]
    if apart:
        return Outcome(None, f"{among}, and so does, or is not known, {', '.join(apart)}: no band is established")
    if next((one.now for one in checked if one.name == f"{ON_MACHINE}device"), None) != CPU:
        return Outcome(None, f"{among}: no band is established for a GPU, which adds in an order of its own")
    return Outcome(False, f"{among}, though nothing else does: on a CPU they are to be the same to the last bit")


def _figure(metric: str, then: Sequence[Point], now: Sequence[Point], until: int) -> Figure:
    first, second = ({point.step: point.value for point in points if point.step <= until} for points in (then, now))
    both = sorted(first.keys() & second.keys())
    apart = [abs(first[step] - second[step]) for step in both if not _same(first[step], second[step])]
    last = both[-1] if both else None
    before, after = (None, None) if last is None else (first[last], second[last])
    largest = max((math.inf if math.isnan(one) else one for one in apart), default=0.0)
    return Figure(metric, last, before, after, len(both), len(apart), largest, len(first.keys() ^ second.keys()))


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


# ---------------------------------------------------------------- two trials


def differences(columns: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows in which columns of settings differ, those that all have first; and the rows in which they do not."""
    paths = dict.fromkeys(path for column in columns for path in column)
    rows = [{"path": path, "values": [column.get(path, ABSENT) for column in columns]} for path in paths]
    differing = [row for row in rows if any(value != row["values"][0] for value in row["values"])]
    differing.sort(key=lambda row: ABSENT in row["values"])
    return differing, [row for row in rows if row not in differing]


def settings_apart(columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which recipes differ. Where files lie on a machine is none: their contents are compared."""
    return differences([{path: one[path] for path in one if path not in LOCAL_PATHS} for one in columns])[0]


@dataclass(frozen=True)
class Side:
    """One of two trials."""

    sweep: SweepRecord
    one: TrialRecord
    conditions: Conditions

    @property
    def name(self) -> str:
        return f"t{self.one.trial.number:04d} · {self.sweep.ledger.name}"

    @property
    def measured(self) -> tuple[str, str]:
        """What decides whether figures may be compared: the protocol, or the settings where none was told; the data."""
        return self.one.protocol or self.one.measured, self.conditions.facts.get(DATA, "")

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """The objective, last and best, and each validated metric when it was last reported: `value` and `step`."""
        trial, objective = self.one.trial, self.sweep.ledger.objective
        last = {n: points[-1] for n, points in sorted(self.one.metrics.items()) if n.startswith("val/") and points}
        found = {name: {"value": point.value, "step": point.step} for name, point in last.items()}
        if objective is None or trial.best_value is None:
            return found
        best = {f"best {objective.metric}": {"value": trial.best_value, "step": trial.best_step}}
        return best | {n: found[n] for n in (objective.metric,) if n in found} | found

    def as_plain(self) -> dict[str, Any]:
        """As `--json` prints it."""
        trial = self.one.trial
        found = {"sweep": self.sweep.ledger.name, "trial": trial.number, "run_id": trial.run_id, "state": trial.state}
        return found | {"protocol": self.one.protocol, "figures": self.figures}


def diff(first: Side, second: Side) -> dict[str, Any]:
    """What `mouselift run diff --json` prints. `alike`: whether their figures were measured alike."""
    facts = [one for one in checks(first.conditions, second.conditions) if not one.is_same and one.name != "recipe"]
    return {
        "runs": [first.as_plain(), second.as_plain()],
        "alike": first.measured == second.measured,
        "settings": settings_apart([first.one.recipe_params, second.one.recipe_params]),
        "facts": [{"name": one.name, "values": [one.then, one.now]} for one in facts],
        "packages": [
            {"name": one.name, "values": [one.then, one.now]}
            for one in other_packages(first.conditions, second.conditions)
        ],
    }


def tables(first: Side, second: Side) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Figures as columns and rows: one table for trials that were measured alike, else one for each."""
    groups = [[first, second]] if first.measured == second.measured else [[first], [second]]
    for group in groups:
        names = dict.fromkeys(name for one in group for name in one.figures)
        yield (
            ["figure", *(word for one in group for word in (one.name, "at step"))],
            [[name, *(cell for one in group for cell in _cells(one.figures.get(name)))] for name in names],
        )


def _cells(figure: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if figure is None else (f"{figure['value']:.6g}", str(figure["step"]))
