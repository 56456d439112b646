"""Two homes on one MLflow: who lives is left alone, who died is closed after a lease, and who wakes up has the word."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.run.orphans import reap
from sweeps.tracking import mlflow_heartbeats
from tests.e2e.conftest import SECONDS, Seat
from tests.e2e.faults.servers import MLflowServer, mlflow_server
from tests.e2e.faults.settings import patched

pytestmark = pytest.mark.faults
LEASE = 6.0
BEATS = {"sweeps.tracking.mlflow_writer": {"BEAT_SECONDS": 1.0}}
Look = Callable[[], list[str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    with mlflow_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def look(tmp_path: Path, server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> Look:
    """What `sweep status` of another home on the same server does first: what it closed, a line each."""
    monkeypatch.setattr(mlflow_heartbeats, "LONGEST_SILENCE_SECONDS", LEASE)
    seat = Seat(tmp_path / "neighbour", {"MLFLOW_TRACKING_URI": server.uri})
    return lambda: reap(seat.home)


def at(server: MLflowServer, folder: Path, clock_ahead: float = 0.0) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": server.uri} | patched(folder, BEATS, clock_ahead)


def look_until_closed(look: Look) -> list[str]:
    until = time.monotonic() + SECONDS
    while not (closed := look()):
        assert time.monotonic() < until, "nothing was ever closed"
        time.sleep(0.5)
    return closed


def statuses(server: MLflowServer, hurt) -> set[str]:
    client = MlflowClient(server.uri)
    return {client.get_run(run_id).info.status for run_id in hurt.seat.runs("hurt").values()}


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_living_sweep_of_another_home_is_left_alone(bench, note, server, look, tmp_path, ahead):
    hurt = bench(at(server, tmp_path, ahead), trials={"count": 2, "concurrent": 2}, fixed={"train.max_steps": 960})
    hurt.start()
    hurt.until_reports(1)
    until = time.monotonic() + 2 * LEASE
    while hurt.process.poll() is None and time.monotonic() < until:
        assert look() == []
        time.sleep(0.5)
    assert hurt.process.poll() is None, "the sweep was too short"
    assert hurt.finish() == 0, hurt.said
    fault = f"another home looks on for two leases; the sweep's clock is {ahead / 60:+.0f} minutes off"
    note(fault, hurt.check(), "a living sweep is left alone")


def test_a_dead_sweep_of_another_home_is_closed_after_a_lease(bench, note, server, look, tmp_path):
    hurt = bench(at(server, tmp_path), trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    hurt.until(lambda: len(hurt.seat.runs("hurt")) == 3, "all have runs")
    hurt.kill()
    began = time.monotonic()
    assert [line.partition(": no heartbeat since ")[0] for line in look_until_closed(look)] == ["hurt: KILLED"]
    assert time.monotonic() - began >= LEASE
    assert statuses(server, hurt) == {"KILLED"}
    hurt.resume()
    hurt.until(lambda: "RUNNING" in statuses(server, hurt), "its runs are RUNNING again")
    assert hurt.finish() == 0, hurt.said
    note("`kill -9` of a driver; another home closes its runs after a lease", hurt.check(), "resumed in the same runs")


def test_a_driver_that_slept_longer_than_its_lease(bench, note, server, look, tmp_path):
    hurt = bench(at(server, tmp_path), trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    hurt.until(lambda: len(hurt.seat.runs("hurt")) == 3, "all have runs")
    hurt.process.send_signal(signal.SIGSTOP)
    try:
        assert reap(hurt.seat.home) == [], "its own home's lock says that it lives"
        assert len(look_until_closed(look)) == 1
        assert reap(hurt.seat.home) == []
    finally:
        hurt.process.send_signal(signal.SIGCONT)
    assert hurt.finish() == 0, hurt.said
    note(
        "the driver is stopped for longer than its lease, and another home closes its runs",
        hurt.check(),
        "it wakes up and ends well",
    )
