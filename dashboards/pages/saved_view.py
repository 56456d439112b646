"""A sweep's saved view of MLflow's runs table."""

from __future__ import annotations

from sweeps.book.record import SweepRecord
from sweeps.tracking import mlflow_layout


def saved_view(record: SweepRecord) -> str:
    """The runs table with the sweep's trials, best first."""
    return mlflow_layout.saved_view(record.ledger)
