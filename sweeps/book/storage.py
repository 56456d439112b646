"""Optuna's storage: a file for its journal, or a database that may go away for a while and is then asked again.

A call that failed on the way back may have been done: each is one that may be made twice, but for the making of a
trial, which then leaves one that nobody runs (`StudySearcher.suggest` takes it up).
"""

from __future__ import annotations

import abc
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from pipeline.config import one_line
from sweeps.book.journal import append_whole
from sweeps.errors import OutageError, StudyError

PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_NAP_SECONDS = 0.5  # a signal does not end a longer one
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60  # for a PostgreSQL whose machine is gone without a word
_log = logging.getLogger(__name__)


def never() -> bool:
    """Nobody is in a hurry."""
    return False


def open_storage(storage: str, hurried: Callable[[], bool] = never) -> BaseStorage:
    """Optuna's storage: a file for its journal, or a database URL. Raises StudyError.

    hurried: whether somebody has said meanwhile that a database which is away is not to be waited for.
    """
    if "://" not in storage:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(_WholeLines(storage))
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)  # ours says what is not answered
    try:
        inner = get_storage(RDBStorage(storage, engine_kwargs=_engine(storage)))
    except (ImportError, SQLAlchemyError) as error:
        raise StudyError(
            f"MOUSELIFT_STORAGE: expected the URL of a database, got {one_line(error)} — mend it."
        ) from None
    found: BaseStorage = PatientStorage(inner, PATIENCE_SECONDS, hurried)
    return found


class _WholeLines(JournalFileBackend):
    """Optuna's file of lines. Its own way lets a line that a kill or a full disk cut off spoil the one that follows,
    and with it every study in the file.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with get_lock_file(self._lock), open(self._file_path, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            append_whole(file, content)


def _engine(url: str) -> dict[str, Any]:
    """Connections are tried before they are used, and a machine that says nothing is not waited for."""
    try:
        kind, driver = make_url(url).get_backend_name(), make_url(url).get_driver_name()
    except ArgumentError:
        return {}
    limits: dict[str, Any] = {}
    if kind == "postgresql" and driver.startswith("psycopg"):
        limits = {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": _ANSWER_SECONDS * 1000}
    elif kind == "mysql":
        limits = {"connect_timeout": _CONNECT_SECONDS}
    return {"pool_pre_ping": True, "connect_args": limits}


class PatientStorage(BaseStorage):
    """Asks another storage, and again with growing pauses while its database does not answer.

    Once it has been waited for in vain, it is asked only once a call, until it answers. Raises OutageError.
    """

    def __init__(
        self,
        inner: BaseStorage,
        patience: float,
        hurried: Callable[[], bool] = never,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner, self._patience, self._hurried = inner, patience, hurried
        self._clock, self._sleep = clock, sleep
        self._away = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_hurried": never}  # a copy in another process is nobody's to hurry

    def _ask(self, name: str, *words: Any, **options: Any) -> Any:
        began, pause = self._clock(), _FIRST_PAUSE_SECONDS
        patience, asked_before = (0.0 if self._away else self._patience), False
        while True:
            try:
                answer = getattr(self._inner, name)(*words, **options)
            except UpdateFinishedTrialError:
                if not asked_before:
                    raise
                answer = True  # it had been done, or another process closed the trial: its word stands
            except StorageInternalError as error:
                if not _is_outage(error):
                    raise
                self._despair(error, self._clock() - began, patience)
                self._rest(pause)
                pause, asked_before = min(2 * pause, _LONGEST_PAUSE_SECONDS), True
                continue
            if self._away:
                _log.warning("The study's database answers again.")
            self._away = False
            return answer

    def _rest(self, pause: float) -> None:
        while pause > 0 and not self._hurried():
            self._sleep(_NAP_SECONDS)
            pause -= _NAP_SECONDS

    def _despair(self, error: StorageInternalError, waited: float, patience: float) -> None:
        cause = one_line(error.__cause__ or error).partition(" [SQL")[0].partition(" (Background")[0][:200]
        if not self._away:
            _log.warning("The study's database does not answer; trials that report wait for it: %s", cause)
        self._away = True
        if waited >= patience or self._hurried():
            raise OutageError(
                f"MOUSELIFT_STORAGE: expected a database that answers, got {cause} for {waited:.0f} s — "
                "start it; `mouselift sweep resume` then goes on."
            ) from None


def _is_outage(error: StorageInternalError) -> bool:
    """Whether the database may answer the same call later."""
    cause = error.__cause__
    return isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _asked(name: str) -> Callable[..., Any]:
    def call(self: PatientStorage, *words: Any, **options: Any) -> Any:
        return self._ask(name, *words, **options)

    return call


# Every call that a storage must answer; Optuna builds its others on these.
for _name in sorted(BaseStorage.__abstractmethods__ | {"remove_session"}):
    setattr(PatientStorage, _name, _asked(_name))
abc.update_abstractmethods(PatientStorage)
