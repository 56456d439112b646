"""Closing sweeps without a living driver: those of this home, and silent runs of other homes.

In this home the lock on the journal is the proof: a living driver holds it, and the kernel drops it with the process.
For sweeps of other homes the heartbeats in MLflow are the proof.
"""

from __future__ import annotations

from sweeps.book.delivery import delivered
from sweeps.book.journal import Journal, State
from sweeps.book.ledger import closing, read
from sweeps.book.optuna_copy import COPIED, OptunaDelivery
from sweeps.book.spending import DIED
from sweeps.errors import DamagedError, StudyError
from sweeps.home import Home
from sweeps.tracking.mlflow_heartbeats import close_silent
from sweeps.tracking.mlflow_writer import MLflowDelivery, utc
from sweeps.tracking.pages import Pages

_DELIVERY_SECONDS, _COPY_SECONDS = 30.0, 10.0
_COPY_PATIENCE = 2.0  # seconds for a storage of Optuna that is away: nothing needs its copy


def reap(home: Home, pages: Pages | None = None) -> list[str]:
    """Close dead sweeps as KILLED with the reason, and deliver what the stores lack. Returns a line for each sweep.

    pages: makes the texts that MLflow shows of them.
    """
    done: list[str] = []
    for folder in sorted(home.journals.glob("*")):
        journal = Journal(folder)
        if not journal.path.is_file() or _is_settled(journal):
            continue
        try:
            with journal.claim():
                done += _close(journal, home, pages)
        except DamagedError as error:  # which concerns no other sweep
            done.append(str(error))
        except (StudyError, PermissionError):  # its driver lives, or it is another user's
            continue
    return done + close_silent(home)


def _is_settled(journal: Journal) -> bool:
    """Whether the sweep is closed and delivered. Sweeps of older versions wrote to Optuna's storage directly."""
    size, copied = journal.path.stat().st_size, (journal.folder / COPIED).exists()
    return journal.is_closed and delivered(journal) == size and not (copied and delivered(journal, COPIED) < size)


def _close(journal: Journal, home: Home, pages: Pages | None) -> list[str]:
    ledger, done = read(journal), []
    if not ledger.name:
        return []
    if ledger.state == State.RUNNING:
        reason = f"{DIED}; last heard of at {utc(ledger.last_event_time)}"
        for event in closing(ledger, State.KILLED, reason):
            journal.append(event)
        done.append(f"{ledger.name}: KILLED: {reason} — `mouselift sweep resume {ledger.name}` goes on with it")
    mlflow = MLflowDelivery(journal, home.tracking_uri, home.artifacts, pages=pages).start()
    optuna = OptunaDelivery(journal, home).start()
    if not mlflow.close(_DELIVERY_SECONDS):
        done.append(f"{ledger.name}: MLflow at {home.tracking_uri} does not answer; the journal keeps what it lacks")
    optuna.close(_COPY_SECONDS, patience=_COPY_PATIENCE)
    return done
