"""What MLflow's pages are given: `sweeps.tracking.pages.Pages`, made of the pages of this room."""

from __future__ import annotations

from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from dashboards.pages.saved_view import saved_view
from dashboards.pages.trial_notes import trial_note
from sweeps.book.record import SweepRecord
from sweeps.tracking.pages import Links


class MlflowPages:
    """Each page is a function of the record of a sweep."""

    def saved_view(self, record: SweepRecord) -> str:
        """The saved view of the runs table."""
        return saved_view(record)

    def sweep_note(self, record: SweepRecord, links: Links) -> str:
        """The description of the sweep's own run."""
        return sweep_note(record, links)

    def trial_note(self, record: SweepRecord, number: int, links: Links) -> str:
        """The description of a trial's run."""
        return trial_note(record, number, links)

    def report(self, record: SweepRecord, links: Links) -> str:
        """The report on the sweep."""
        return report_page(record, links)
