"""Closing what has no living owner: sweeps of this home whose driver is gone, and silent runs of other homes.

Here the lock on the journal is the proof: a living driver holds it, and the kernel drops it with the process. What
MLflow says of a sweep of another home is believed only when its heartbeat has stood still for a lease, measured
between two looks by our own clock, so that clocks which differ close nobody's runs.
"""

from __future__ import annotations

from sweeps.book.delivery import delivered
from sweeps.book.journal import Journal, SweepClosed, TrialClosed
from sweeps.book.ledger import read
from sweeps.book.mlflow_writer import Tracker, utc
from sweeps.book.study import put_back
from sweeps.errors import StudyError, SweepError
from sweeps.home import Home
from sweeps.run.leases import close_silent

_DELIVERY_SECONDS = 30.0


def reap(home: Home) -> list[str]:
    """Close dead sweeps as KILLED with the reason, deliver what MLflow lacks, and say what was done, a line each."""
    done: list[str] = []
    for folder in sorted(home.journals.glob("*")):
        journal = Journal(folder)
        if not journal.path.is_file() or _is_settled(journal):
            continue
        try:
            journal.claim()
        except StudyError:  # its driver lives
            continue
        with journal:
            done += _close(journal, home)
    return done + close_silent(home)


def _is_settled(journal: Journal) -> bool:
    return journal.is_closed and delivered(journal) == journal.path.stat().st_size


def _close(journal: Journal, home: Home) -> list[str]:
    ledger = read(journal)
    if not ledger.name:
        return []
    done = []
    reason = f"its driver died; last heard of at {utc(ledger.heard)}"
    if ledger.state != "COMPLETE":  # on a full disk a driver may have closed the journal and not the study
        try:
            put_back(home.storage or home.optuna_journal, ledger.name)
        except SweepError as error:  # the next look closes it
            return [f"{ledger.name}: {reason}, and it is not closed yet: {error}"]
    if ledger.state == "RUNNING":
        for number in sorted(ledger.open):
            journal.append(TrialClosed(number, "KILLED", reason))
        journal.append(SweepClosed("KILLED", reason))
        done.append(f"{ledger.name}: KILLED: {reason} — `mouselift sweep resume {ledger.name}` goes on with it")
    tracker = Tracker(journal, home.tracking_uri, home.artifacts).start()
    if not tracker.close(_DELIVERY_SECONDS):
        done.append(f"{ledger.name}: MLflow at {home.tracking_uri} does not answer; its news wait in the journal")
    return done
