"""What the report on a sweep of 1,000 recorded trials costs: to make, to send, and to open in Chromium.

python -m benchmarks.report            the trials report 20 times each; Chromium where there is one
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.tables import table
from dashboards.pages.report import report_page
from sweeps.book.importance import importance_of
from sweeps.book.journal import Journal
from sweeps.book.record import record_of
from tests.support.recorded import OPENED, write

TRIALS, REPORTS, REPEATS = 1000, 20, 5
PATIENCE = 180_000  # milliseconds


def rows() -> list[dict[str, object]]:
    """A row for each step on the way from the journal to the reader."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(write(Path(folder) / "recorded", TRIALS, REPORTS))
        record, reading = _timed(lambda: record_of(journal, OPENED))
        found, judging = _timed(lambda: importance_of(record.ledger))
        html, making = _timed(lambda: report_page(record, None, found))
        path = Path(folder) / "report.html"
        path.write_text(html, encoding="utf-8")
        made = [
            {"what": "the record, from the journal", "seconds": reading},
            {"what": "the importance", "seconds": judging},
            {"what": "the page", "seconds": making, "MB": len(html.encode()) / 1e6},
        ]
        return made + _opened(path)


def _timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What it makes, and the median of a few times."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        made = make()
        seconds.append(time.perf_counter() - began)
    return made, median(seconds)


def _opened(path: Path) -> list[dict[str, object]]:
    """From the address to the first chart and to the last, at 1280 × 800."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    first, last = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(REPEATS):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-state=drawn]", timeout=PATIENCE)
            first.append(float(page.get_attribute("html", "data-first-ms") or "nan") / 1000)
            last.append(float(page.get_attribute("html", "data-all-ms") or "nan") / 1000)
            page.close()
    return [
        {"what": "opened, until the first chart is drawn", "seconds": median(first)},
        {"what": "opened, until all charts are drawn", "seconds": median(last)},
    ]


if __name__ == "__main__":
    print(table(rows()))
