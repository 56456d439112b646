"""Writes what MLflow's pages say of a sweep: descriptions, the saved view, the report.

They are for readers; the figures do not depend on them. A page that cannot be made, or that MLflow refuses, is left out
and logged, and nothing waits longer for them than a bound. A description that a person changed by hand stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from mlflow.entities import RunTag
from mlflow.tracking import MlflowClient

from sweeps.book.delivery import RefusedError
from sweeps.book.journal import Journal
from sweeps.book.record import Recorder, SweepRecord
from sweeps.tracking import mlflow_layout as layout
from sweeps.tracking.mlflow_client import delivery_errors
from sweeps.tracking.pages import LONGEST_NOTE, Links, Pages
from sweeps.tracking.splats import SPLAT, splat_of

NOTE, REPORT = "mlflow.note.content", "report.html"
_SECONDS_A_ROUND, _SECONDS_AT_THE_END = 2.0, 8.0  # for descriptions of trials; `reap` gives a whole delivery 30 s
_SIGNATURE = "\n\n[//]: # (mouselift {})"  # MLflow's Markdown shows nothing of it
_log = logging.getLogger(__name__)
T = TypeVar("T")


class PageWriter:
    """Writes the pages of one sweep. Every method raises UnansweredError where MLflow does not answer.

    runs: of its trials, and of the sweep itself (None), as the writer of runs knows them.
    """

    def __init__(self, journal: Journal, client: MlflowClient, pages: Pages, runs: Mapping[int | None, str]) -> None:
        self._journal, self._client, self._pages, self._runs = journal, client, pages, runs
        self._recorder, self._recorded = Recorder(journal.folder), 0  # and how many bytes of the journal it has
        self._shown: dict[str, str] = {}  # the digest of what each place was last given
        self._failed: set[str] = set()  # what was logged as failing
        self._touched: set[int] = set()  # trials with news since their description was written
        self._rounds: dict[int, int] = {}  # when the description of a trial was last looked at
        self._round = 0

    def opened(self, experiment: str, now: float) -> None:
        """Texts of a sweep that begins, or goes on; of one that has ended meanwhile they are written at its end."""
        record = self._record(now)
        if record.ended is None:
            self._sweep(record, Links(experiment))

    def running(self, experiment: str, now: float) -> None:
        """Texts of a sweep that runs: its own, and those of its trials as far as the time goes, news first."""
        record, links = self._record(now), Links(experiment)
        self._sweep(record, links)
        self._round += 1
        numbers = sorted(self._with_runs(record), key=lambda n: (n not in self._touched, self._rounds.get(n, 0), n))
        self._trials(record, links, numbers, _SECONDS_A_ROUND)

    def gaussians_kept(self, number: int, folder: Path, title: str, best: int | None) -> None:
        """The page of the Gaussians of a trial, whose kept checkpoints left them in `folder`. best: its best step."""
        run_id = self._runs[number]

        def log(text: str) -> None:
            self._client.log_text(run_id, text, SPLAT)

        self._write(f"{run_id} {SPLAT}", lambda: splat_of(self._pages, folder, title, best), log)

    def trial_ended(self, experiment: str, number: int, now: float) -> None:
        """The description of a trial that has ended."""
        self._trials(self._record(now), Links(experiment), [number], _SECONDS_A_ROUND)

    def ended(self, experiment: str, now: float) -> None:
        """Texts and report of a sweep that has ended; of its trials those with news first, then the best."""
        record, links = self._record(now), Links(experiment)
        self._sweep(record, links)
        self._write(REPORT, lambda: self._pages.report(record, links), self._log_report)
        known = self._with_runs(record)
        ranked = [one.trial.number for one in record.ranked if one.trial.number in known]
        numbers = sorted(ranked, key=lambda number: number not in self._touched)
        left = self._trials(record, links, numbers, _SECONDS_AT_THE_END)
        if left:
            _log.info("%s: the descriptions of %d trials are as of an earlier time.", record.ledger.name, left)

    def _record(self, now: float) -> SweepRecord:
        for end, event in self._journal.events(self._recorded):
            self._recorder.add([event])
            self._recorded = end
            if isinstance(number := getattr(event, "trial", None), int):
                self._touched.add(number)
        return self._recorder.record(now)

    def _with_runs(self, record: SweepRecord) -> set[int]:
        return {number for number in self._runs if number is not None and number in record.ledger.trials}

    def _sweep(self, record: SweepRecord, links: Links) -> None:
        tag = layout.view_tag(record.ledger)

        def set_view(text: str) -> None:
            self._client.set_experiment_tag(links.experiment_id, tag, text)

        def set_note(text: str) -> None:
            known = self._client.get_experiment(links.experiment_id).tags.get(NOTE, "")
            if known != signed(text) and is_ours(known) and self._is_latest(links.experiment_id, record):
                self._client.set_experiment_tag(links.experiment_id, NOTE, signed(text))

        self._write(tag, lambda: self._pages.saved_view(record), set_view)
        self._write(f"{tag} {NOTE}", lambda: self._pages.experiment_note(record, links), set_note)
        self._describe(self._runs[None], lambda: self._pages.sweep_note(record, links))

    def _is_latest(self, experiment: str, record: SweepRecord) -> bool:
        """Whether no sweep of the experiment began after this one, which may have been resumed or closed late."""
        later = f"tags.`{layout.PLANNED_TAG}` != '' AND attributes.start_time > {int(record.ledger.opened * 1000)}"
        found = self._client.search_runs([experiment], later, max_results=2)
        return all(run.info.run_id == self._runs[None] for run in found)

    def _trials(self, record: SweepRecord, links: Links, numbers: Iterable[int], seconds: float) -> int:
        """Describe trials in this order until the time is over. Returns how many are left."""
        until, left = time.monotonic() + seconds, 0
        columns = self._made("the columns of trials", lambda: self._pages.trial_tags(record)) or {}
        for number in numbers:
            if time.monotonic() > until:
                left += 1
                continue
            self._tag(self._runs[number], columns.get(number, {}))
            self._describe(self._runs[number], partial(self._pages.trial_note, record, number, links))
            self._touched.discard(number)
            self._rounds[number] = self._round
        return left

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        def write(_: str) -> None:
            self._client.log_batch(run_id, tags=[RunTag(key, layout.tag_text(value)) for key, value in tags.items()])

        if tags:
            self._write(f"{run_id} columns", lambda: json.dumps(dict(tags)), write)

    def _describe(self, run_id: str, make: Callable[[], str]) -> None:
        def write(text: str) -> None:
            known = self._client.get_run(run_id).data.tags.get(NOTE, "")
            if known != signed(text) and is_ours(known):
                self._client.log_batch(run_id, tags=[RunTag(NOTE, signed(text))])

        self._write(run_id, make, write)

    def _log_report(self, text: str) -> None:
        self._client.log_text(self._runs[None], text, REPORT)

    def _write(self, place: str, make: Callable[[], str], write: Callable[[str], None]) -> None:
        """Make a text, and write it unless it reads as it did."""
        text = self._made(place, make)
        if text is None or self._shown.get(place) == (digest := _digest(text)):
            return
        try:
            with delivery_errors():
                write(text)
        except RefusedError as error:
            self._left_out(place, error)
        self._shown[place] = digest

    def _made(self, place: str, make: Callable[[], T]) -> T | None:
        """What a page's function makes; None where it breaks."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a page, the figures are to arrive
            self._left_out(place, error)
            return None

    def _left_out(self, place: str, error: Exception) -> None:
        """Once for each place: the next minute is likely to bring the same."""
        if place not in self._failed:
            self._failed.add(place)
            _log.warning("%s: expected a page for MLflow, got %r — it is left out.", place, error)


def signed(text: str) -> str:
    """A description, cut to what MLflow keeps, with a line behind it that tells whether a person changed it."""
    text = text[:LONGEST_NOTE].rstrip()
    return text + _SIGNATURE.format(_digest(text))


def is_ours(note: str) -> bool:
    """Whether a description is empty, or reads as `signed` made it."""
    text, _, _ = note.rpartition(_SIGNATURE.partition("{}")[0])
    return not note.strip() or note.strip() == (text + _SIGNATURE.format(_digest(text))).strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
