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
from sweeps.book.journal import Journal
from sweeps.book.record import record_of
from sweeps.conclusions.importance import importance_of
from tests.support.recorded import OPENED, write

TRIALS, REPORTS, REPEATS = 1000, 20, 3
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
            {"what": "the record, from the journal", **reading},
            {"what": "the importance", **judging},
            {"what": "the page", **making, "MB": len(html.encode()) / 1e6},
        ]
        return made + _opened(path)


def _timed(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it makes, and the medians of a few times: of the clock, and of the processor, which others do not share."""
    seconds, busy = [], []
    for _ in range(REPEATS):
        began, began_busy = time.perf_counter(), time.process_time()
        made = make()
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - began_busy)
    return made, {"seconds": median(seconds), "CPU seconds": median(busy)}


def _opened(path: Path) -> list[dict[str, object]]:
    """From the address to tables and pictures, to the first chart and to the last, at 1280 × 800."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    times: dict[str, list[tuple[float, float]]] = {"read": [], "first": [], "all": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(REPEATS):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(path.as_uri())
            for name, shown in times.items():
                page.wait_for_selector(f"html[data-{name}-ms]", timeout=PATIENCE)
                figures = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
                clock = float(page.get_attribute("html", f"data-{name}-ms") or "nan") / 1000
                shown.append((clock, figures["ThreadTime"]))
            page.close()
    return [
        {"what": f"opened, until {what}", "seconds": median(clock), "CPU seconds": median(busy)}
        for what, shown in zip(
            ("tables and pictures are there", "the first chart is drawn", "all charts are drawn"),
            times.values(),
            strict=True,
        )
        for clock, busy in [zip(*shown, strict=True)]
    ]


if __name__ == "__main__":
    print(table(rows()))
