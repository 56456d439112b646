"""The journal of a sweep: what happened, in order, on disk before anything else is done about it. The one book.

A sweep's folder holds `journal.jsonl`, one event a line, only ever appended to and synced to disk after each,
and `blobs/`, small files named by their content. One process writes (from any thread), any number read.
Everything else that is known of the sweep is derived from it and can be thrown away: the ledger, the study that
chooses the next trial, MLflow's runs, Optuna's storage, ASHA's rungs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from pipeline.files import whole
from pipeline.recipes import renamed
from sweeps.errors import DamagedError, NoRoomError, StudyError

TAKEN_FROM = "trial.taken_from"  # the tag of a trial that took its result from another sweep: `SWEEP t0003`
CONTINUED_FROM = "trial.continued_from"  # likewise, of one that goes on from where another sweep left it
_HASH_LENGTH = 16
_LONGEST_ENDING = 65536  # bytes of a SweepClosed
_log = logging.getLogger(__name__)


class State(StrEnum):
    """The state of a trial or a sweep, in Optuna's words; KILLED: it was interrupted, and can be taken up again."""

    WAITING = "WAITING"  # it is to be started, or started again
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"
    KILLED = "KILLED"

    @property
    def is_open(self) -> bool:
        """Whether no end is written."""
        return self in (State.WAITING, State.RUNNING)

    @property
    def is_final(self) -> bool:
        """Whether a trial in this state never goes on."""
        return self in (State.COMPLETE, State.PRUNED, State.FAIL)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Event:
    """Something that happened. `time` is when it was appended, in unix seconds."""

    time: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class PastTrial:
    """A finished trial of another sweep, that the sampler of this one knows: where it stands, its settings as this
    space has them, and the objective that it reported last.
    """

    sweep: str
    trial: int
    state: State
    params: dict[str, Any]
    step: int
    value: float


@dataclass(frozen=True)
class SweepOpened(Event):
    """A sweep starts, or is taken up again after it was interrupted."""

    sweep: str
    recipe: str  # name of the recipe that is varied
    space: dict[str, Any]  # the search space as its YAML reads
    tags: dict[str, str]
    params: dict[str, Any]  # the recipe's values by dotted path, before any trial changes them
    artifacts: dict[str, str] = field(default_factory=dict)  # path below the run's artifacts -> blob
    past: tuple[PastTrial, ...] = ()  # of a sweep that opens for the first time


@dataclass(frozen=True)
class TrialProposed(Event):
    """The sampler chose values. They are run as a trial of this number, unless `repeats` or `refused` says why not.

    repeats: the trial that runs or ran the same recipe; this proposal gets the same state and value. refused: the
    recipe's message about values that it does not take. confirms: the trial of the search whose settings these are,
    with another seed; no sampler chose them.
    """

    trial: int
    params: dict[str, Any]
    fingerprint: str = ""
    repeats: int | None = None
    refused: str = ""
    confirms: int | None = None


@dataclass(frozen=True)
class TrialOpened(Event):
    """An attempt at a trial starts; attempts count from 1. The first one may have been made in another sweep."""

    trial: int
    ray_trial_id: str
    attempt: int
    params: dict[str, Any]  # what the sampler chose
    recipe_params: dict[str, Any]  # every value of the resolved recipe by dotted path
    fingerprint: str
    tags: dict[str, str] = field(default_factory=dict)  # of the dataset it trains on

    @property
    def is_copied(self) -> bool:
        """Whether its reports, which follow at once, are copies of another sweep's: nothing was trained here."""
        return TAKEN_FROM in self.tags or CONTINUED_FROM in self.tags


@dataclass(frozen=True)
class Reported(Event):
    """A trial reported at an optimizer step."""

    trial: int
    step: int
    metrics: dict[str, float]
    images: dict[str, str] = field(default_factory=dict)  # name -> blob
    tags: dict[str, str] = field(default_factory=dict)  # the worker's news of its checkpoints
    scenes: str | None = None  # blob: the figures of each validated scene, as `scene_figures` reads it


@dataclass(frozen=True)
class AttemptFailed(Event):
    """An attempt at a trial broke. A TrialOpened or TrialClosed of the same trial follows."""

    trial: int
    attempt: int
    cause: str  # one of faults.Cause
    action: str  # one of faults.Action
    reason: str
    traceback: str | None = None  # blob


@dataclass(frozen=True)
class TrialClosed(Event):
    """A trial ended."""

    trial: int
    state: State
    reason: str = ""
    artifacts: dict[str, str] = field(default_factory=dict)  # of older versions, which had no CheckpointReleased
    cause: str = ""  # of a FAIL: one of faults.Cause


@dataclass(frozen=True)
class CheckpointReleased(Event):
    """The best checkpoint of a trial that is COMPLETE is in the local folder `path`, without its training state."""

    trial: int
    path: str


@dataclass(frozen=True)
class GaussiansKept(Event):
    """The Gaussians that a trial's kept checkpoints made of one scene are in the local folder `path`: a folder
    `step-000150` each, as `pipeline.previews` reads it. Of GS-LRM, once the trial is COMPLETE or PRUNED.
    """

    trial: int
    path: str


@dataclass(frozen=True)
class RunOpened(Event):
    """The MLflow run of a trial, or of the sweep itself where `trial` is None."""

    trial: int | None
    run_id: str


@dataclass(frozen=True)
class SweepClosed(Event):
    """The sweep ended; trials still open ended with it."""

    state: State
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


E = TypeVar("E", bound=Event)
_KINDS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in Event.__subclasses__()}


class Journal:
    """The journal in `folder`; `clock` gives unix seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "journal.jsonl"
        self._clock = clock
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._closed = False

    def claim(self) -> Self:
        """Make this process the only writer until `close`. Raises StudyError when another process is the writer."""
        with self._lock:
            self._writer()
        return self

    def append(self, event: E) -> E:
        """Write the event to the disk and return it with its time.

        Raises StudyError when another process writes this journal, NoRoomError when the disk has no room.
        """
        return self.append_all([event])[0]

    def append_all(self, news: Iterable[E]) -> list[E]:
        """As `append`, of several events at once: where the disk has no room for all of them, none is written."""
        with self._lock:
            timed = [replace(event, time=self._clock()) for event in news]
            lines = (json.dumps({"kind": type(event).__name__, **asdict(event)}, default=_plain) for event in timed)
            content = "".join(f"{line}\n" for line in lines).encode()
            file = self._writer()
            try:
                append_whole(file, content)
            except OSError as error:
                raise no_room(self.folder, error) from error
        return timed

    def events(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """Events from byte `start` on, each with the offset that follows it.

        A last line without its newline is being written, or was cut off by a kill, and is left out.
        Raises DamagedError, naming file and line, for any other line that is no event.
        """
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                yield file.tell(), self._decode(line, file.tell())

    def keep(self, name: str, content: bytes) -> str:
        """Store small content once, named by its hash and the suffix of `name`. Returns its path below the folder.

        Raises NoRoomError when the disk has no room.
        """
        blob = blob_of(name, content)
        path = self.folder / blob
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole(path) as unfinished:
                    unfinished.write_bytes(content)
            except OSError as error:
                raise no_room(self.folder, error) from error
        return blob

    def blob(self, name: str) -> Path:
        """Where a kept blob lies."""
        return self.folder / name

    @property
    def is_closed(self) -> bool:
        """Whether its last event, but for runs opened late, is the end of the sweep. Only the file's end is read."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_ENDING))
            lines = file.read().splitlines(keepends=True)
        while lines and lines[-1].startswith(b'{"kind": "RunOpened"'):  # MLflow came late; the sweep had ended
            lines.pop()
        return bool(lines) and lines[-1].startswith(b'{"kind": "SweepClosed"') and lines[-1].endswith(b"\n")

    @property
    def is_being_written(self) -> bool:
        """Whether a living process is the writer of this journal."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            return not _lock(file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let another process write. This object never does again."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writer(self) -> IO[bytes]:
        """The open file, locked to this process. A torn line that a kill has left at its end is removed."""
        if self._closed:  # a thread that was given up must not take the lock again
            raise StudyError(
                f"{self.path}: expected an open journal, got one that this process has closed — open another."
            )
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab", buffering=0)
            if not _lock(file, fcntl.LOCK_EX):
                file.close()
                raise StudyError(
                    f"{self.path}: expected to be the only writer, but another process runs this sweep — stop it first."
                )
            content = self.path.read_bytes()
            if torn := len(content) - (whole_lines := content.rfind(b"\n") + 1):
                _log.warning("%s: %d bytes of a last line that was cut off are dropped", self.path, torn)
                file.truncate(whole_lines)
            self._file = file
        return self._file

    def _decode(self, line: bytes, end: int) -> Event:
        try:
            values = json.loads(line)
            event: Event = _KINDS[values.pop("kind")].validate_python(values)
            return _under_todays_names(event)
        except (ValidationError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            number = self.path.read_bytes()[:end].count(b"\n")
            raise DamagedError(
                f"{self.path}:{number}: expected an event of a sweep, got {line[:60]!r} — "
                "the journal is damaged; restore it, or start a sweep with another name."
            ) from None


def blob_of(name: str, content: bytes) -> str:
    """The path below a journal's folder at which content is kept that is called `name`."""
    return f"blobs/{hashlib.sha256(content).hexdigest()[:_HASH_LENGTH]}{Path(name).suffix}"


def _under_todays_names(event: Event) -> Event:
    """The event as this version would have written it, where it names a setting of a recipe that was renamed."""
    match event:
        case SweepOpened():
            space, params = renamed.stored_space(event.space), renamed.stored_params(event.params)
            return replace(event, space=space, params=params)
        case TrialProposed():
            return replace(event, params=renamed.stored_params(event.params))
        case TrialOpened():
            recipe = renamed.stored_params(event.recipe_params)
            return replace(event, params=renamed.stored_params(event.params), recipe_params=recipe)
    return event


def append_whole(file: IO[bytes], content: bytes) -> None:
    """Append all of it, synced to the disk, or nothing: a part, left by a full disk, would spoil the next line."""
    size, written = os.fstat(file.fileno()).st_size, False
    try:
        while content:
            content = content[os.write(file.fileno(), content) :]
        os.fsync(file.fileno())
        written = True
    finally:
        if not written:
            os.ftruncate(file.fileno(), size)


def no_room(folder: Path, error: OSError) -> NoRoomError:
    """The error of a sweep whose journal in `folder`, or a file beside it, could not be written."""
    return NoRoomError(
        f"{folder}: expected room for the journal of the sweep, got {error.strerror} — make room, then "
        f"`mouselift sweep resume {folder.name}` goes on with it."
    )


def _lock(file: IO[bytes], kind: int) -> bool:
    """Take the file's lock if it is free; whether it was."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _plain(value: Any) -> Any:
    """A number of numpy, or a path, as JSON can hold it."""
    match value:
        case np.generic():
            return value.item()
        case Path():
            return str(value)
    raise TypeError(f"expected a number, text, list or mapping in an event, got {type(value).__name__}")
