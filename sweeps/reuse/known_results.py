"""The trials of the other sweeps of a home, found by what decides their figures: nothing is trained twice.

Two trials have one result where recipe, data, files, code and kind of machine are the same, each by its digest; one
that ended earlier has the first steps of it, where the learning rate does not depend on the number of steps. A home
may hold hundreds of sweeps of a thousand trials, so of each journal the first line is read, then, where that sweep may
hold such a trial, the lines that begin and end its trials, once in a process; reports are read of what is taken alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS, Recipe
from pipeline.recipes import override
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
_RELEASED = "CheckpointReleased"
_STEPS = "train.max_steps"
_FINGERPRINT = re.compile(rb'"fingerprint": "([0-9a-f]+)", "tags": ')
_REPORTED = b'{"kind": "Reported", '
_KIND = re.compile(rb'\{"kind": "(\w+)", "time": [^,]+, (?:"trial": (\d+),)?')
_ENDS = (b"TrialClosed", _RELEASED.encode(), b"GaussiansKept", b"RunOpened")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A trial of another sweep. reports: of each step as it was first reported. origin: `SWEEP t0003`, where it was
    trained, be it through others that took it. fingerprint and max_steps: of its recipe.
    """

    origin: str
    run_id: str  # empty where MLflow has no run of it yet
    journal: Journal
    number: int
    reports: tuple[Reported, ...]
    fingerprint: str
    max_steps: int


@dataclass(frozen=True)
class Known(Made):
    """One that finished. The folders hold what it released."""

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
        if (wanted := self._wanted(recipe, data, tags)) is not None:
            for name, other in self._readable():
                with self._left_out_if_damaged(name):
                    yield from other.finished(wanted)

    def begun(self, recipe: Recipe, data: str, tags: Mapping[str, str]) -> list[Made]:
        """The trials that made the first steps of this recipe and ended before its last one, the furthest first."""
        found: list[Made] = []
        wanted: dict[int | None, _Wanted | None] = {}
        for name, other in self._readable():
            if other.max_steps not in wanted:
                earlier = _as_begun(recipe, other.max_steps)
                wanted[other.max_steps] = None if earlier is None else self._wanted(earlier, data, tags)
            if (one := wanted[other.max_steps]) is not None:
                with self._left_out_if_damaged(name):
                    found += other.begun(one, or_ended=one.max_steps < recipe.train.max_steps)
        return sorted(found, key=lambda made: -made.reports[-1].step)

    def _wanted(self, recipe: Recipe, data: str, tags: Mapping[str, str]) -> _Wanted | None:
        """What a trial has to be; None where nothing says by what code, or from which files, this one is made."""
        files = _hashes(recipe.params, tags)
        if CODE not in self._made_by or not all(files.values()):
            return None
        plain, made_by = json.loads(json.dumps(recipe.params)), self._made_by | {DATA: data}
        return _Wanted(recipe.fingerprint, recipe.train.max_steps, plain, made_by, files, self._aims)

    def _readable(self) -> list[tuple[str, _Other]]:
        for folder in self._home.journals.glob("*"):
            if folder.name != self._own and folder.name not in self._others and Journal(folder).path.is_file():
                try:
                    self._others[folder.name] = _Other(folder)
                except (DamagedError, OSError) as error:
                    self._leave_out(folder.name, error)
        found = [(name, other) for name, other in self._others.items() if other is not None]
        return sorted(found, key=lambda item: (item[1].opened, item[0]))

    @contextlib.contextmanager
    def _left_out_if_damaged(self, name: str) -> Iterator[None]:
        try:
            yield
        except (DamagedError, OSError) as error:
            self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._others[name] = None
        _log.warning("%s: no result is taken from this sweep: %s", name, error)


def described(ledger: Ledger) -> str:
    """How many trials of a sweep took their results, or their first steps, from which sweeps, and how many ran; empty
    where none took any.
    """
    trials = ledger.trials.values()
    taken = Counter(_sweep_of(trial.taken_from) for trial in trials if trial.taken_from)
    continued = Counter(_sweep_of(one.continued_from) for one in trials if one.steps_elsewhere and not one.taken_from)
    others = [(how.total(), word, how) for how, word in ((taken, "taken"), (continued, "continued")) if how]
    if not others:
        return ""
    (count, word, sweeps), *rest = others
    said = [f"{count} of {counted(len(trials), 'trial')} {word} from {_named(sweeps)}"]
    said += [f"{count} {word} from {_named(sweeps)}" for count, word, sweeps in rest]
    ran = sum(trial.begun for trial in trials) - sum(count for count, _, _ in others)
    return ", ".join([*said, f"{ran} {'begun' if continued else 'trained'} here"])


def _sweep_of(origin: str) -> str:
    return origin.partition(" ")[0]


def _named(sweeps: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" if len(sweeps) > 1 else name for name, count in sweeps.items())


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
            self.max_steps = None if _STEPS in searched else self._params.get(_STEPS)
        except (KeyError, TypeError, AttributeError, ValueError, RegistryError):
            raise self._damage(0, b"no sweep that opens") from None
        self._forget()

    def finished(self, wanted: _Wanted) -> list[Known]:
        """Its finished trials that are what is wanted."""
        lines = [one for one in self._alike(wanted) if one.state == State.COMPLETE and _RELEASED in one.paths]
        return [known for one in lines if (known := self._known(one, wanted)) is not None]

    def begun(self, wanted: _Wanted, or_ended: bool) -> list[Made]:
        """Its trials that were begun as is wanted and stopped; and those that came to their end, where that counts."""
        states = {State.PRUNED, State.KILLED} | ({State.COMPLETE} if or_ended else set())
        lines = [one for one in self._alike(wanted) if one.state in states]
        found = [made for one in lines if (made := self._made(one, wanted)) is not None]
        return [made for made in found if made.reports]

    def _alike(self, wanted: _Wanted) -> list[_Lines]:
        """Where trials of the wanted recipe are told of."""
        if self._kept_by != _kept_by(wanted.aims) or any(
            self._params.get(path) != value for path, value in wanted.params.items() if path not in self._open
        ):
            return []
        self._read(wanted.tags[CODE].encode())
        lines = (self._trials[number] for number in self._numbers.get(wanted.fingerprint, []))
        return [one for one in lines if one is not None]

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
            elif (again := self._trials[number]) is not None and again.state == State.KILLED:
                again.state = ""  # it goes on
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
        made, released = self._made(one, wanted), Path(one.paths[_RELEASED])
        if made is None or not _is_whole(made.reports, wanted) or not released.is_dir():
            return None
        gaussians = Path(one.paths["GaussiansKept"]) if "GaussiansKept" in one.paths else None
        is_there = gaussians is not None and gaussians.is_dir()
        return Known(**vars(made), released=released, gaussians=gaussians if is_there else None)

    def _made(self, one: _Lines, wanted: _Wanted) -> Made | None:
        """A trial with its reports, if it was made as is wanted, and measured in one way."""
        news = list(self._events(one))
        openings = [event for event in news if isinstance(event, TrialOpened)]
        reports: list[Reported] = []
        for event in news:
            if isinstance(event, Reported) and (not reports or event.step > reports[-1].step):
                reports.append(event)
        protocols = {event.tags[PROTOCOL] for event in reports if PROTOCOL in event.tags}
        changed = any(CODE_CHANGED in event.tags for event in news if isinstance(event, Reported))
        is_alike = all(_is_alike(event, one.tags, wanted) for event in openings) and not changed
        if not is_alike or len(protocols) != 1:
            return None
        return Made(
            origin=openings[-1].tags.get(TAKEN_FROM) or f"{self._journal.folder.name} t{one.number:04d}",
            run_id=one.paths.get("RunOpened", ""),
            journal=self._journal,
            number=one.number,
            reports=tuple(reports),
            fingerprint=wanted.fingerprint,
            max_steps=wanted.max_steps,
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


def _as_begun(recipe: Recipe, max_steps: int | None) -> Recipe | None:
    """The recipe of trials of so many steps that make the first steps of this one; None where there is none. A cosine
    brings the learning rate to its least at the last step, so that another number of steps is another training.
    """
    if max_steps is None or max_steps == recipe.train.max_steps:
        return recipe
    if max_steps > recipe.train.max_steps or recipe.optim.schedule != "constant":
        return None
    with contextlib.suppress(RecipeError):  # none of so few steps
        return override(recipe, {_STEPS: max_steps})
    return None


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


def _is_whole(reports: Sequence[Reported], wanted: _Wanted) -> bool:
    """Whether the last report is of the last step and has a finite objective."""
    if not reports or reports[-1].step != wanted.max_steps:
        return False
    return math.isfinite(reports[-1].metrics.get(wanted.aims.first.metric, math.nan))
