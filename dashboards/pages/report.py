"""The report on a sweep: one HTML file that needs nothing but itself."""

from __future__ import annotations

from html import escape

from sweeps.book.record import SweepRecord
from sweeps.tracking.pages import Links


def report_page(record: SweepRecord, links: Links | None) -> str:  # noqa: ARG001
    """The page. links: of MLflow's pages; None where the page lies elsewhere."""
    return f"<!doctype html><title>{escape(record.ledger.name)}</title>"
