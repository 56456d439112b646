"""Questions about sweeps, answered as small values.

`status` reads the journal of one sweep of this home; `sweeps` reads MLflow, which also has the sweeps of other homes.
`Reader` is for a window that stays open: it keeps what it has read, and reads only what came since.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from sweeps.book.delivery import undelivered
from sweeps.book.journal import Journal, State
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.book.record import Recorder, SweepRecord, TrialRecord, record_of
from sweeps.book.remaining import seconds_left_of
from sweeps.errors import OutageError, StudyError, cause
from sweeps.home import Home, is_made, store_file
from sweeps.tracking.elsewhere import TrialElsewhere, is_number, record_elsewhere, trials_elsewhere
from sweeps.tracking.mlflow_client import STORE_ERRORS, mlflow_client, runs_of, shown
from sweeps.tracking.mlflow_layout import HOME_TAG, PLANNED_TAG, view_key
from sweeps.tracking.pages import Links

INTERRUPTED = "INTERRUPTED"
_ENDING = 1024  # bytes of a journal by which it is known again
_QUIET_SECONDS = 10.0  # after which a sweep of which nothing is heard is asked whether it lives


@dataclass(frozen=True)
class Sweep:
    """A sweep as its journal, or its run in MLflow alone, describes it."""

    name: str
    recipe: str
    state: str
    ui_path: str  # of its trials, behind the address of MLflow's UI; empty where MLflow has no run of it
    charts_path: str  # of their charts
    home: str = ""  # machine:folder; empty where its run does not say
    began: float = 0.0  # unix seconds
    done: int | None = None  # trials that ended for good; None where MLflow does not say
    planned: int | None = None
    metric: str = ""  # the objective
    best: float | None = None
    data: str = ""
    run_id: str = ""

    def as_plain(self) -> dict[str, Any]:
        """What `mouselift sweep list --json` prints of it."""
        return asdict(self)


def sweeps(uri: str) -> list[Sweep]:
    """Every sweep in the store, newest first; `done` is not asked for."""
    if (file := store_file(uri)) is not None and not is_made(file):
        return []
    client = mlflow_client(uri)
    names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    found = runs_of(client, list(names), "tags.`sweep.state` != '' AND tags.`sweep.name` != ''")
    return [_of_run(run, names[run.info.experiment_id]) for run in found]


class Reader:
    """The sweeps of a home, each read from its journal as far as it has grown; `clock` gives unix seconds.

    Nothing is written, and any number of threads may ask. What could not be read is tried again when asked for again.
    """

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._home, self._clock = home, clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._elsewhere: dict[str, tuple[SweepRecord, TrialRecord]] = {}  # by run id, of those that have ended

    def names(self) -> list[str]:
        """Every sweep of the home that has begun, the one to which something happened last first."""
        return sorted(_written(self._home), key=lambda name: -_changed(self._home.journals / name))

    def folder(self, name: str) -> Path:
        """Where a sweep's journal and pictures lie."""
        return self._home.journal(name).resolve()

    def record(self, name: str) -> SweepRecord:
        """All that is known of a sweep now. Raises StudyError where there is none, DamagedError for its journal."""
        journal = Journal(self._home.journal(name))
        if not journal.path.is_file():
            raise StudyError(f"{name}: expected a sweep of {self._home.root}, got none — choose one of the overview.")
        with self._lock:
            kept = self._kept.setdefault(name, _Kept(journal))
        return kept.record(self._clock())

    def elsewhere(self) -> list[TrialElsewhere]:
        """The newest trials of other homes that MLflow has. Raises OutageError."""
        own = {trial.run_id for name in self.names() for trial in self._ledger(name).trials.values() if trial.run_id}
        with answers(self._home.tracking_uri):
            return trials_elsewhere(self._home.tracking_uri, own)

    def one_elsewhere(self, run_id: str) -> tuple[SweepRecord, TrialRecord]:
        """A trial by its run in MLflow, and its sweep as far as the trial tells. Raises StudyError, OutageError."""
        if run_id not in self._elsewhere:
            with answers(self._home.tracking_uri):
                found = record_elsewhere(self._home.tracking_uri, run_id)
            if found is None:
                raise StudyError(f"mlflow:{run_id}: expected a trial of a sweep, got none — choose one of the list.")
            if found[1].ended is None:
                return found
            self._elsewhere[run_id] = found
        return self._elsewhere[run_id]

    def _ledger(self, name: str) -> Ledger:
        with contextlib.suppress(StudyError, OSError):  # its page says it
            return self.record(name).ledger
        return Ledger()

    def news(self, name: str) -> int:
        """A number that is another one when there is news of a sweep whose record was read."""
        return self._kept[name].offset

    def is_interrupted(self, name: str, record: SweepRecord) -> bool:
        """Whether a sweep whose record was read, and that is not closed, has lost its driver."""
        if record.ledger.state != State.RUNNING:
            return False
        kept = self._kept[name]
        return self._clock() - record.ledger.last_event_time > _QUIET_SECONDS and not kept.is_written(self._clock())


class _Kept:
    """What was read of one journal. A journal that another one has replaced is read anew, in the same inode or not."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._file = (-1, 0, 0)  # its inode, size and time of change
        self._ending = b""  # what stood before `offset`
        self.offset = 0
        self._recorder = Recorder(journal.folder)
        self._record: SweepRecord | None = None
        self._written, self._asked = True, 0.0

    def record(self, now: float) -> SweepRecord:
        with self._lock:
            self._read()
            if self._record is None:
                self._record = self._recorder.record(now)
            self._record = replace(self._record, now=now)
            return self._record

    def is_written(self, now: float) -> bool:
        """Whether a driver holds the journal. Asking takes its lock for a moment, so that it is not asked often."""
        with self._lock:
            if now - self._asked >= _QUIET_SECONDS:
                self._asked, self._written = now, self._journal.is_being_written
            return self._written

    def _read(self) -> None:
        found = self._journal.path.stat()
        file = found.st_ino, found.st_size, found.st_mtime_ns
        if file == self._file and found.st_size == self.offset:
            return
        if found.st_ino != self._file[0] or self._before(self.offset) != self._ending:
            self.offset, self._record = 0, None
            self._recorder = Recorder(self._journal.folder)
        try:
            for end, event in self._journal.events(self.offset):
                self._recorder.add([event])
                self.offset, self._record = end, None
        finally:
            self._file, self._ending = file, self._before(self.offset)

    def _before(self, offset: int) -> bytes:
        """The last bytes before `offset`: each event has its time, so that those of two journals differ."""
        with self._journal.path.open("rb") as file:
            file.seek(max(0, offset - _ENDING))
            return file.read(min(offset, _ENDING))


@contextlib.contextmanager
def answers(uri: str) -> Iterator[None]:
    """For questions to MLflow: errors of the store and of the way to it are an OutageError."""
    try:
        yield
    except (*STORE_ERRORS, StudyError) as error:
        raise OutageError(
            f"{shown(uri)}: expected an answer of MLflow's store, got {cause(error)} — see that it runs."
        ) from None


def latest(home: Home) -> str:
    """The sweep of this home to which something happened last. Raises StudyError where there is none."""
    written = _written(home)
    if not written:
        raise StudyError(f"{home.root}: expected a sweep, got none — begin one: `mouselift sweep run SPACE`.")
    return max(written, key=lambda name: _changed(home.journals / name))


def status(home: Home, sweep: str) -> dict[str, Any]:
    """What `mouselift sweep status --json` prints. Raises StudyError when this home has no such sweep.

    A sweep that is not closed and has no driver is INTERRUPTED; its open trials wait, like those not begun.
    """
    ledger_of(home, sweep)
    journal = Journal(home.journal(sweep))
    record = record_of(journal, time.time())
    book = record.ledger
    state = state_of(journal, book)
    interrupted = state == INTERRUPTED
    counts = {state.lower(): book.count(state) for state in State if state.is_final}
    counts["running"] = 0 if interrupted else book.count(State.RUNNING)
    counts["waiting"] = 0 if book.state == State.COMPLETE else max(0, book.planned - sum(counts.values()))
    return {
        "name": book.name,
        "state": state,
        "trials": counts,
        "best": _best(book),
        "reason": book.reason,
        "undelivered": undelivered(journal),
        "seconds_left": None if interrupted else seconds_left_of(record),
        "taken": sum(bool(trial.taken_from) for trial in book.trials.values()),
    }


def state_of(journal: Journal, book: Ledger) -> str:
    """The sweep's state, or INTERRUPTED where it is not closed and no driver writes its journal."""
    interrupted = book.state == State.RUNNING and not journal.is_being_written
    return INTERRUPTED if interrupted else book.state


def _of_run(run: Run, recipe: str) -> Sweep:
    tags, experiment = run.data.tags, run.info.experiment_id
    links, key = Links(experiment), view_key(tags["sweep.name"])
    metric = tags.get("objective.metric", "")
    planned = tags.get(PLANNED_TAG, "")
    return Sweep(
        name=tags["sweep.name"],
        recipe=recipe,
        state=tags["sweep.state"],
        ui_path=links.sweep(key),
        charts_path=links.charts(key),
        home=tags.get(HOME_TAG, ""),
        began=run.info.start_time / 1000,
        planned=int(planned) if is_number(planned) else None,
        metric=metric,
        best=run.data.metrics.get(f"best/{metric}"),
        data=tags.get("data.name", ""),
        run_id=run.info.run_id,
    )


def _written(home: Home) -> list[str]:
    """The sweeps of a home whose journal holds something."""
    paths = [Journal(folder).path for folder in home.journals.glob("*") if folder.is_dir()]
    return [path.parent.name for path in paths if path.is_file() and path.stat().st_size]


def _changed(folder: Path) -> float:
    return Journal(folder).path.stat().st_mtime


def _best(book: Ledger) -> dict[str, Any]:
    best = book.best
    if best is None or book.objective is None:
        return {}
    return {
        "trial": best.number,
        "state": best.state,
        "metric": book.objective.metric,
        "value": best.best_value,
        "step": best.best_step,
        "params": best.params,
        "run_id": best.run_id,
    }
