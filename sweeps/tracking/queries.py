"""Questions about sweeps, answered as small values.

`status` reads the journal of one sweep of this home; `sweeps` reads MLflow, which also has the sweeps of other homes.
`Reader` is for a window that stays open: it keeps what it has read, and reads only what came since.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from sweeps.book.delivery import undelivered
from sweeps.book.journal import Journal, RunOpened, State
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.book.record import Recorder, SweepRecord, TrialRecord, record_of
from sweeps.book.remaining import seconds_left_of, seconds_of_budget, spending_of
from sweeps.conclusions.pareto import front_of
from sweeps.errors import OutageError, StudyError, cause
from sweeps.home import Home, is_made, store_file
from sweeps.tracking.elsewhere import TrialElsewhere, home_of_run, is_number, record_elsewhere, trials_elsewhere
from sweeps.tracking.mlflow_client import STORE_ERRORS, environment, mlflow_client, runs_of, shown
from sweeps.tracking.mlflow_layout import HOME_TAG, PLANNED_TAG, view_key
from sweeps.tracking.pages import Links

INTERRUPTED = "INTERRUPTED"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
# How a trial is named: as the windows do, or by the name of its run.
_TRIAL = (r"(?P<sweep>[^/]+)/t?(?P<number>[0-9]{1,12})", r"t(?P<number>[0-9]{1,12}) · (?P<sweep>[^/]+)")
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


def trial_of(home: Home, text: str) -> tuple[Journal, int]:
    """The trial of this home that a text names: MLflow's id of its run, SWEEP/NUMBER, or the name that MLflow shows.

    Raises StudyError where there is none, and for the run of another home.
    """
    named = next(filter(None, (re.fullmatch(form, text) for form in _TRIAL)), None)
    if named is not None:
        sweep, number = named["sweep"], int(named["number"])
        if number not in ledger_of(home, sweep).trials:
            raise StudyError(
                f"{text}: expected a trial of {sweep}, got none of this number — `mouselift sweep status {sweep} "
                "--all` lists them."
            )
        return Journal(home.journal(sweep)), number
    for name in sorted(_written(home)):
        journal = Journal(home.journal(name))
        if text.encode() in journal.path.read_bytes():
            opened = (event for _, event in journal.events() if isinstance(event, RunOpened))
            for event in (event for event in opened if event.run_id == text):
                return journal, _number(event, name)
    raise StudyError(_no_run(home, text))


def _number(event: RunOpened, sweep: str) -> int:
    if event.trial is None:
        raise StudyError(
            f"{event.run_id}: expected the run of a trial, got that of the sweep {sweep} — name one of its trials, "
            f"such as {sweep}/0."
        )
    return event.trial


def _no_run(home: Home, text: str) -> str:
    """Why a text names no run of this home."""
    expected, mend = f"{text}: expected a run of {home.root}", "name it by MLflow's id of it, or as SWEEP/NUMBER."
    if re.fullmatch("[0-9a-f]{32}", text) is None:
        return f"{expected}, got another text — {mend}"
    try:
        with environment(IMPATIENT), answers(home.tracking_uri):
            there = home_of_run(home.tracking_uri, text) if home.has_store else None
    except OutageError as error:
        return f"{expected}, got none, and whether another home has it is not known ({error}) — {mend}"
    if there is None:
        return f"{expected}, got none, and MLflow has no run of this id — {mend}"
    return f"{expected}, got one of another home, {there or 'which it does not name'} — set MOUSELIFT_HOME to that one."


def status(home: Home, sweep: str) -> dict[str, Any]:
    """What `mouselift sweep status --json` prints. Raises StudyError when this home has no such sweep.

    A sweep that is not closed and has no driver is INTERRUPTED; its open trials wait, like those not begun.
    """
    ledger_of(home, sweep)
    journal = Journal(home.journal(sweep))
    record = record_of(journal, now := time.time())
    book = record.ledger
    state = state_of(journal, book)
    interrupted = state == INTERRUPTED
    counts = {state.lower(): book.count(state) for state in State if state.is_final}
    counts["running"] = 0 if interrupted else book.count(State.RUNNING)
    counts["waiting"] = 0 if book.state == State.COMPLETE else max(0, book.planned - sum(counts.values()))
    found = {
        "name": book.name,
        "state": state,
        "trials": counts,
        "best": _best(book),
        "reason": book.reason,
        "undelivered": undelivered(journal),
        "seconds_left": None if interrupted else seconds_left_of(record),
        "confirmed": [one.as_plain() for one in book.confirmed],
        "taken": sum(bool(trial.taken_from) for trial in book.trials.values()),
        "continued": sum(bool(trial.steps_elsewhere) for trial in book.trials.values()),
        "budget": spending_of(book, None if interrupted else now),
    }
    return found | _end_of(record, interrupted) | _front(book)


def _end_of(record: SweepRecord, interrupted: bool) -> dict[str, Any]:
    """When a running sweep ends, about (UTC), and whether it is its budget that ends it before its trials do."""
    left, budget = seconds_left_of(record), seconds_of_budget(record.ledger, record.now)
    if interrupted or left is None:
        return {"eta": None, "ends_by_budget": False}
    until = datetime.fromtimestamp(record.now + min(left, left if budget is None else budget), UTC)
    return {"eta": until.isoformat(timespec="seconds"), "ends_by_budget": budget is not None and budget < left}


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


def _front(book: Ledger) -> dict[str, Any]:
    """Of several objectives."""
    front = front_of(book)
    return {} if front is None else {"front": front.as_plain()}


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
