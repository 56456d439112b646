"""The values of the first page: every sweep of the home, and the machine. A value becomes a page or JSON as it is."""

from __future__ import annotations

from typing import Any

from dashboards.app.machine import machine
from dashboards.app.progress import progress
from sweeps.book.record import SweepRecord
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.tracking.queries import Reader


def overview(home: Home, reader: Reader) -> dict[str, Any]:
    """The sweep to which something happened last comes first. One that cannot be read says why."""
    return {"home": str(home.root), "sweeps": [_row(reader, name) for name in reader.names()], "machine": machine()}


def _row(reader: Reader, name: str) -> dict[str, Any]:
    try:
        record = reader.record(name)
        return summary(name, record, reader.is_interrupted(name, record))
    except (StudyError, OSError) as error:
        return {"name": name, "problem": str(error)}


def summary(name: str, record: SweepRecord, interrupted: bool) -> dict[str, Any]:
    """What one line says of a sweep."""
    ledger, best = record.ledger, record.ledger.best
    alike = None if best is None else record.group_of(best.number)
    ended = record.ended or (ledger.last_event_time if interrupted else record.now)
    return {
        "name": name,
        "problem": "",
        "recipe": ledger.recipe,
        "data": ledger.tags.get("data.name", ""),
        "geometry": ledger.tags.get("data.geometry", ""),
        "opened": ledger.opened,
        "elapsed": max(0.0, ended - ledger.opened),
        "last_event": ledger.last_event_time,
        "reason": ledger.reason,
        "gpu_hours": record.gpu_hours,
        "objective": None if ledger.objective is None else ledger.objective.metric,
        "mode": None if ledger.objective is None else ledger.objective.mode,
        "best": None
        if best is None
        else {"trial": best.number, "value": best.best_value, "step": best.best_step, "state": best.state.value},
        "none_within": best is None and ledger.is_judged,
        "judged": 0 if alike is None else len(alike.judged),
        **progress(record, interrupted),
    }
