"""The finished trials of the other sweeps of a home, found by what decides their figures: nothing is trained twice.

Two trials have one result where recipe, data, files, code and kind of machine are the same, each by its digest. A home
may hold hundreds of sweeps of a thousand trials, so of each journal the first line is read, then, where that sweep may
hold such a trial, the lines that begin and end its trials, once in a process; reports are read of what is taken alone.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.recipe import LOCAL_PATHS, Recipe
from sweeps.book.journal import TAKEN_FROM, Journal, Reported, State, TrialOpened
from sweeps.book.ledger import Ledger
from sweeps.book.record import PROTOCOL
from sweeps.errors import DamagedError, RegistryError, counted
from sweeps.home import Home
from sweeps.reuse.code_version import CODE, CODE_CHANGED
from sweeps.space.objective import Aims, aims_of
from sweeps.space.plan import SEED

ARTEFACT = "artefact."  # and a setting: the tag of a sweep with the hash of the file or folder that it names
DATA = "data.digest"
PARTS = "trial.batch_parts"  # the tag of a trial whose batches went through the network in parts
_FINGERPRINT = re.compile(rb'"fingerprint": "([0-9a-f]+)", "tags": ')
_REPORTED = b'{"kind": "Reported", '
_KIND = re.compile(rb'\{"kind": "(\w+)", "time": [^,]+, (?:"trial": (\d+),)?')
_ENDS = (b"TrialClosed", b"CheckpointReleased", b"GaussiansKept", b"RunOpened")
_log = logging.getLogger(__name__)


class Known(NamedTuple):
    """A finished trial of another sweep. reports: of each step as it was first reported. origin: `SWEEP t0003`, where
    it was trained, be it through others that took it.
    """

    origin: str
    run_id: str  # empty where MLflow has no run of it yet
    journal: Journal
    reports: tuple[Reported, ...]
    protocol: str
    released: Path
    gaussians: Path | None


class KnownResults:
    """What the sweeps of a home but `own` have; made_by: tags of code and machine, which have to be those of a trial.

    A journal that cannot be read is named in a line of the log, once, and left out.
    """

    def __init__(self, home: Home, own: str, aims: Aims, made_by: Mapping[str, str]) -> None:
        self._home, self._own, self._aims, self._made_by = home, own, aims, dict(made_by)
        self._others: dict[str, _Other | None] = {}  # None: it cannot be read

    def find(self, recipe: Recipe, data: str, tags: Mapping[str, str]) -> Iterator[Known]:
        """The finished trials of this recipe, the oldest sweep's first. data: the digest of what it trains on. tags: of
        the sweep, with the hashes of the files that the recipe names.
        """
        files = _hashes(recipe.params, tags)
        if CODE not in self._made_by or not all(files.values()):
            return
        plain, made_by = json.loads(json.dumps(recipe.params)), self._made_by | {DATA: data}
        wanted = _Wanted(recipe.fingerprint, recipe.train.max_steps, plain, made_by, files, self._aims)
        for name, other in self._readable():
            try:
                yield from other.found(wanted)
            except (DamagedError, OSError) as error:
                self._leave_out(name, error)

    def _readable(self) -> list[tuple[str, _Other]]:
        for folder in self._home.journals.glob("*"):
            if folder.name != self._own and folder.name not in self._others and Journal(folder).path.is_file():
                try:
                    self._others[folder.name] = _Other(folder)
                except (DamagedError, OSError) as error:
                    self._leave_out(folder.name, error)
        found = [(name, other) for name, other in self._others.items() if other is not None]
        return sorted(found, key=lambda item: (item[1].opened, item[0]))

    def _leave_out(self, name: str, error: Exception) -> None:
        self._others[name] = None
        _log.warning("%s: no result is taken from this sweep: %s", name, error)


def described(ledger: Ledger) -> str:
    """How many trials of a sweep took their results, from which sweeps, and how many ran; empty where none did."""
    taken = Counter(trial.taken_from.partition(" ")[0] for trial in ledger.trials.values() if trial.taken_from)
    if not taken:
        return ""
    names = ", ".join(f"{name} ({count})" if len(taken) > 1 else name for name, count in taken.items())
    ran = sum(trial.begun and not trial.taken_from for trial in ledger.trials.values())
    return f"{taken.total()} of {counted(len(ledger.trials), 'trial')} taken from {names}, {ran} trained here"


@dataclass(frozen=True)
class _Wanted:
    """What a trial has to be."""

    fingerprint: str
    max_steps: int
    params: Mapping[str, Any]  # of the recipe, as JSON gives them back
    tags: Mapping[str, str]
    files: Mapping[str, str]
    aims: Aims


@dataclass
class _Lines:
    """Where in its journal a trial is told of, in bytes, and what became of it."""

    number: int
    tags: Mapping[str, str]  # of the sweep
    first: int
    last: int = 0
    paths: dict[str, str] = field(default_factory=dict)  # kind of event -> the folder or run that it names
    state: str = ""


class _Other:
    """Another sweep. Raises DamagedError for a line that is no event, OSError for a journal that may not be read."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder)
        with self._journal.path.open("rb") as file:
            values = self._decoded(file.readline(), 0)
        try:
            self.opened = float(values["time"])
            self._params, self._space = values["params"], values["space"]
            searched = self._space.get("space", {})
            self._open = {*searched, *LOCAL_PATHS, *([SEED] if self._space.get("confirm", {}).get("seeds") else [])}
            self._kept_by = _kept_by(aims_of(self._space))
        except (KeyError, TypeError, AttributeError, ValueError, RegistryError):
            raise self._damage(0, b"no sweep that opens") from None
        self._forget()

    def found(self, wanted: _Wanted) -> list[Known]:
        """Its finished trials that are what is wanted."""
        if self._kept_by != _kept_by(wanted.aims) or any(
            self._params.get(path) != value for path, value in wanted.params.items() if path not in self._open
        ):
            return []
        self._read(wanted.tags[CODE].encode())
        lines = (self._trials[number] for number in self._numbers.get(wanted.fingerprint, []))
        ended = [one for one in lines if one and one.state == State.COMPLETE and "CheckpointReleased" in one.paths]
        return [known for one in ended if (known := self._known(one, wanted)) is not None]

    def _forget(self) -> None:
        self._inode, self._offset, self._tags = -1, 0, dict[str, str]()
        self._trials: dict[int, _Lines | None] = {}  # None: an attempt had other code
        self._numbers: dict[str, list[int]] = {}  # of those, by fingerprint

    def _read(self, code: bytes) -> None:
        """Take in what came since the last time. A last line without its newline is being written, and waits."""
        status = self._journal.path.stat()
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._forget()
            self._inode = status.st_ino
        if status.st_size == self._offset:
            return
        with self._journal.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                if not line.startswith(_REPORTED):
                    self._take_in(line, self._offset, code)
                self._offset += len(line)

    def _take_in(self, line: bytes, start: int, code: bytes) -> None:
        match = _KIND.match(line)
        if match is None:
            raise self._damage(start, line)
        kind, number = match[1], int(match[2] or -1)
        if kind == b"SweepOpened":
            self._tags = self._decoded(line, start)["tags"]
        elif kind == b"TrialOpened" and (found := _FINGERPRINT.search(line)) and code in line:
            if number not in self._trials:
                self._trials[number] = _Lines(number, self._tags, start)
                self._numbers.setdefault(found[1].decode(), []).append(number)
        elif kind == b"TrialOpened":
            self._trials[number] = None
        elif kind in _ENDS and self._trials.get(number) is not None:
            self._end_trial(self._decoded(line, start), start)

    def _end_trial(self, values: dict[str, Any], start: int) -> None:
        one = self._trials[values["trial"]]
        assert one is not None
        one.last = start
        if values["kind"] == "TrialClosed":
            one.state = values["state"] if one.state in ("", State.KILLED) else one.state
        else:
            one.paths[values["kind"]] = values["run_id" if values["kind"] == "RunOpened" else "path"]

    def _known(self, one: _Lines, wanted: _Wanted) -> Known | None:
        """A trial with its reports, if it was made as is wanted, these are whole, and its checkpoint is there."""
        news = list(self._events(one))
        openings = [event for event in news if isinstance(event, TrialOpened)]
        reports: list[Reported] = []
        for event in news:
            if isinstance(event, Reported) and (not reports or event.step > reports[-1].step):
                reports.append(event)
        protocols = {event.tags[PROTOCOL] for event in reports if PROTOCOL in event.tags}
        changed = any(CODE_CHANGED in event.tags for event in news if isinstance(event, Reported))
        released = Path(one.paths["CheckpointReleased"])
        is_alike = all(_is_alike(event, one.tags, wanted) for event in openings) and not changed
        if not is_alike or len(protocols) != 1 or not _is_whole(reports, wanted) or not released.is_dir():
            return None
        gaussians = Path(one.paths["GaussiansKept"]) if "GaussiansKept" in one.paths else None
        return Known(
            origin=openings[-1].tags.get(TAKEN_FROM) or f"{self._journal.folder.name} t{one.number:04d}",
            run_id=one.paths.get("RunOpened", ""),
            journal=self._journal,
            reports=tuple(reports),
            protocol=protocols.pop(),
            released=released,
            gaussians=gaussians if gaussians is not None and gaussians.is_dir() else None,
        )

    def _events(self, one: _Lines) -> Iterator[TrialOpened | Reported]:
        for end, event in self._journal.events(one.first):
            if isinstance(event, TrialOpened | Reported) and event.trial == one.number:
                yield event
            if end > one.last:
                return

    def _decoded(self, line: bytes, start: int) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(line)
            _ = values["kind"], values["time"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damage(start, line) from None
        return values

    def _damage(self, start: int, line: bytes) -> DamagedError:
        return DamagedError(
            f"{self._journal.path}, byte {start}: expected an event of a sweep, got {line[:60]!r} — restore it."
        )


def _hashes(params: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, str]:
    """The hash of each file beside the data that a recipe names, by its setting; empty where the sweep told none."""
    named = [path for path in LOCAL_PATHS if path != "data.root" and params.get(path) is not None]
    return {path: tags.get(ARTEFACT + path, "") for path in named}


def _is_alike(opened: TrialOpened, of_sweep: Mapping[str, str], wanted: _Wanted) -> bool:
    """Whether an attempt was made as is wanted. One whose batches were in parts has another rounding."""
    tags, files = opened.tags, _hashes(opened.recipe_params, of_sweep)
    return PARTS not in tags and tags.items() >= wanted.tags.items() and files == wanted.files


def _kept_by(aims: Aims) -> tuple[Any, ...]:
    """What decides which checkpoint of a trial is its best, which is released."""
    return aims.first, frozenset(aims.validated)


def _is_whole(reports: list[Reported], wanted: _Wanted) -> bool:
    """Whether the last report is of the last step and has a finite objective."""
    if not reports or reports[-1].step != wanted.max_steps:
        return False
    return math.isfinite(reports[-1].metrics.get(wanted.aims.first.metric, math.nan))
