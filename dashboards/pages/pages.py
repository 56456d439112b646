"""What MLflow's pages are given: `sweeps.tracking.pages.Pages`, made of the pages of this room."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from dashboards.pages.saved_view import experiment_note, saved_view
from dashboards.pages.splat import splat_page
from dashboards.pages.table_tags import trial_tags
from dashboards.pages.trial_notes import trial_note
from dashboards.thumbnails import thumbnails
from pipeline.cameras import Cameras, facelift_ring
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.tracking.pages import Links, Shown

_MOST_GAUSSIANS = 120_000  # of a page in MLflow, all steps together: 4.5 MB
_FACELIFT_PX = 64  # any size: the angle of view is the rig's


class MlflowPages:
    """Each page is a function of the record of a sweep. What takes seconds to compute is kept for the next page."""

    def __init__(self) -> None:
        self._known: tuple[Ledger, Importance] | None = None

    def saved_view(self, record: SweepRecord) -> str:
        """The saved view of the runs table."""
        return saved_view(record)

    def experiment_note(self, record: SweepRecord, links: Links) -> str:
        """The description of the sweep's experiment."""
        return experiment_note(record, links)

    def trial_tags(self, record: SweepRecord) -> dict[int, dict[str, str]]:
        """The tags that the saved view shows as columns."""
        return trial_tags(record)

    def sweep_note(self, record: SweepRecord, links: Links) -> str:
        """The description of the sweep's own run."""
        return sweep_note(record, links, self._importance(record) if record.ended is not None else None)

    def trial_note(self, record: SweepRecord, number: int, links: Links) -> str:
        """The description of a trial's run."""
        return trial_note(record, number, links)

    def report(self, record: SweepRecord, links: Links) -> str:
        """The report on the sweep."""
        return report_page(record, links, self._importance(record), thumbnails(record))

    def splat(self, title: str, shown: Sequence[Shown], inputs: Cameras | None, note: str = "") -> str:
        """A scene to orbit. Where its cameras are not known, it is seen as FaceLift's first camera would see it."""
        begin = facelift_ring(_FACELIFT_PX, 1) if inputs is None else inputs
        return splat_page(shown, begin, title, inputs, _MOST_GAUSSIANS, note)

    def _importance(self, record: SweepRecord) -> Importance:
        if self._known is None or self._known[0] is not record.ledger:
            self._known = record.ledger, importance_of(record.ledger)
        return self._known[1]
