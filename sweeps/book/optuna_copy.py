"""A copy of the study in Optuna's storage, for optuna-dashboard and for scripts; the sweep itself never reads it.

A thread makes the copy equal to the ledger, so a database that is away delays the copy and nothing else. The next
session or `sweep status` writes what is missing. A running sweep or the next session writes a deleted study again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.config import one_line
from sweeps.book import journal as events
from sweeps.book.delivery import Delivery, Send, UnansweredError
from sweeps.book.journal import Event, Journal, State, append_whole
from sweeps.book.ledger import Ledger, fold_all
from sweeps.book.study import began_with, directions, frozen_trial
from sweeps.errors import StudyError, cause
from sweeps.home import Home
from sweeps.space.space import SearchSpace

COPIED = "copied.json"  # a file beside the journal: how much of it is in the copy
OWNER = "sweep"  # a user attribute of the study: the home and the beginning of its sweep
_OF_TRIALS = (events.TrialProposed, events.TrialOpened, events.Reported, events.AttemptFailed, events.TrialClosed)
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60  # after which a PostgreSQL that stays silent counts as gone


class OptunaDelivery(Delivery):
    """Brings a journal to Optuna's storage while it grows."""

    def __init__(self, journal: Journal, home: Home) -> None:
        def connect() -> Send:
            with _as_unanswered():
                return _Writer(open_storage(home), home).send

        super().__init__(journal, "Optuna's storage", connect, file=COPIED)


def open_storage(home: Home) -> BaseStorage:
    """The file of Optuna's journal in the home, or the database of MOUSELIFT_STORAGE. Raises StudyError."""
    if home.storage is None:
        home.optuna_journal.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(_WholeLines(home.optuna_journal))
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.CRITICAL)  # the delivery logs errors
    try:
        return get_storage(RDBStorage(home.storage, engine_kwargs=_engine(home.storage)))
    except (ImportError, ArgumentError) as error:
        raise StudyError(
            f"MOUSELIFT_STORAGE: expected the URL of a database, got {one_line(error)} — set one, such as "
            "postgresql://user@host/name."
        ) from None


class _Writer:
    """Makes the study in the storage equal to the ledger. Each call may be repeated and then changes nothing."""

    def __init__(self, storage: BaseStorage, home: Home) -> None:
        self._storage, self._home = storage, home
        self._study: int | None = None
        self._space: SearchSpace | None = None

    def send(self, ledger: Ledger, news: Iterable[Event]) -> Ledger:
        """The ledger after these events. Raises UnansweredError."""
        events_read = list(news)
        ledger = fold_all(ledger, events_read)
        with _as_unanswered():
            if self._space is None or any(isinstance(event, events.SweepOpened) for event in events_read):
                space = began_with(ledger)
                self._study = self._opened(ledger, space)
                self._write(ledger, space, range(ledger.next_number))
                self._space = space
            else:
                self._write(ledger, self._space, _touched(ledger, events_read))
        return ledger

    def _write(self, ledger: Ledger, space: SearchSpace, numbers: Iterable[int]) -> None:
        """Make these trials equal to the ledger's; numbers are in order."""
        stored = self._storage.get_all_trials(self._study, deepcopy=False)
        for number in numbers:
            trial = frozen_trial(ledger, space, number)
            trial.state = _shown_state(ledger, number, trial.state)
            if number >= len(stored):
                self._storage.create_new_trial(self._study, template_trial=trial)
            elif not stored[number].state.is_finished():
                self._update(stored[number], trial)

    def _opened(self, ledger: Ledger, space: SearchSpace) -> int:
        """The id of the sweep's study. Where another study has its name, ours has its beginning in its name, too."""
        owner = f"{self._home.root} {ledger.opened:.3f}"
        for name in (ledger.name, f"{ledger.name}@{ledger.opened:.3f}"):
            with suppress(DuplicatedStudyError):
                optuna.create_study(storage=self._storage, study_name=name, directions=directions(space))
            study = self._storage.get_study_id_from_name(name)
            if self._is_of(owner, study, ledger, space):
                self._storage.set_study_user_attr(study, OWNER, owner)
                break
        return study

    def _is_of(self, owner: str, study: int, ledger: Ledger, space: SearchSpace) -> bool:
        """Whether a study is the sweep's. One that says no owner, as of an older version, must have its very trials."""
        attributes = self._storage.get_study_user_attrs(study)
        if OWNER in attributes:
            return bool(attributes[OWNER] == owner)
        stored = self._storage.get_all_trials(study, deepcopy=False)
        own = [frozen_trial(ledger, space, number).params for number in range(ledger.next_number)]
        return [trial.params for trial in stored] == own[: len(stored)]

    def _update(self, stored: FrozenTrial, wanted: FrozenTrial) -> None:
        number = self._storage.get_trial_id_from_study_id_trial_number(self._study, stored.number)
        for key in stored.user_attrs.keys() | wanted.user_attrs.keys():
            if stored.user_attrs.get(key, "") != (value := wanted.user_attrs.get(key, "")):
                self._storage.set_trial_user_attr(number, key, value)
        for key in wanted.system_attrs.keys() - stored.system_attrs.keys():  # Optuna keeps constraints there
            self._storage.set_trial_system_attr(number, key, wanted.system_attrs[key])
        for step in sorted(wanted.intermediate_values.keys() - stored.intermediate_values.keys()):
            self._storage.set_trial_intermediate_value(number, step, wanted.intermediate_values[step])
        if wanted.state != stored.state:
            with suppress(UpdateFinishedTrialError):  # it was done before, and the answer was lost
                self._storage.set_trial_state_values(number, wanted.state, wanted.values)


def _touched(ledger: Ledger, news: Iterable[Event]) -> list[int]:
    """The trials that these events are about, and those that repeat them."""
    numbers = {event.trial for event in news if isinstance(event, _OF_TRIALS)}
    if any(isinstance(event, events.SweepClosed) for event in news):  # it also ends the trials that ran
        numbers |= ledger.trials.keys()
    repeats = {number for number, one in ledger.not_run.items() if one.repeats in numbers}
    return sorted(numbers | repeats)


def _shown_state(ledger: Ledger, number: int, state: TrialState) -> TrialState:
    """The state in the copy: of a trial without an end, RUNNING if a worker trains it, else WAITING."""
    one = ledger.not_run.get(number)
    trial = ledger.trials.get(number if one is None or one.repeats is None else one.repeats)
    if state is TrialState.RUNNING and trial is not None and trial.state != State.RUNNING:
        return TrialState.WAITING
    return state


class _WholeLines(JournalFileBackend):
    """Optuna's file of lines, in which a torn line is removed before the next one is written.

    Optuna itself appends to a line that a kill or a full disk has cut off, and then no study in the file can be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._one_at_a_time = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._one_at_a_time)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._one_at_a_time.acquire()
        try:
            with self._path.open("r+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if size and file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
                append_whole(file, content)
        finally:
            self._one_at_a_time.release()


def _engine(url: str) -> dict[str, Any]:
    """Options of the engine: each connection is tested before its use, and a silent machine counts as away."""
    kind, driver = make_url(url).get_backend_name(), make_url(url).get_driver_name()
    limits: dict[str, Any] = {}
    if kind == "postgresql" and driver.startswith("psycopg"):
        limits = {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": _ANSWER_SECONDS * 1000}
    elif kind == "mysql":
        limits = {"connect_timeout": _CONNECT_SECONDS}
    return {"pool_pre_ping": True, "connect_args": limits}


@contextmanager
def _as_unanswered() -> Iterator[None]:
    """Errors of a storage or of its file as UnansweredError, after which the delivery tries again."""
    try:
        yield
    except (StudyError, StorageInternalError, SQLAlchemyError, OSError, KeyError, ValueError) as error:
        database = error.__cause__
        raise UnansweredError(cause(database if isinstance(database, SQLAlchemyError) else error)) from error
