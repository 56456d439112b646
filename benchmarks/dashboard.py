"""The dashboard on a recorded sweep of many trials: CPU seconds that each page takes, reading and answering.

python -m benchmarks.dashboard [TRIALS]        1,000 trials of 20 reports, unless told
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from starlette.testclient import TestClient

from benchmarks.tables import table
from dashboards.app.app import make_app
from sweeps.book.journal import Journal, Reported
from sweeps.home import Home
from tests.support import recorded

PAGES = {
    "overview": "/",
    "a sweep": "/sweep?name=large",
    "its charts": "/charts?name=large&group=0",
    "its JSON": "/sweep.json?name=large",
    "a run": "/run?run=large/7",
    "six runs compared": "/compare?" + "&".join(f"run=large/{number}" for number in range(6)),
}
REPEATS = 5


def rows(trials: int = 1000, reports: int = 20) -> list[dict[str, object]]:
    """A row a page: the first time that anything is asked, later, and after one more report; CPU seconds and kB."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home.from_environment({"MOUSELIFT_HOME": folder})
        recorded.write(home.journals / "large", trials, reports, "large", is_closed=False)
        return [_row(home, name, address) for name, address in PAGES.items()]


def _row(home: Home, name: str, address: str) -> dict[str, object]:
    client = TestClient(make_app(home), base_url="http://127.0.0.1")
    first, size = _asked(client, address)
    later = statistics.median(_asked(client, address)[0] for _ in range(REPEATS))
    with Journal(Path(home.journals / "large")) as journal:
        last = 10_000 + int(time.monotonic() * 1000) % 1_000_000
        journal.append(Reported(0, last, {recorded.METRIC: 1.0}))
    news, _ = _asked(client, address)
    return {"page": name, "first, s": first, "later, s": later, "with news, s": news, "kB": size}


def _asked(client: TestClient, address: str) -> tuple[float, float]:
    begun = time.process_time()
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return round(time.process_time() - begun, 3), round(len(answer.content) / 1000)


if __name__ == "__main__":
    print(table(rows(*map(int, sys.argv[1:]))))
