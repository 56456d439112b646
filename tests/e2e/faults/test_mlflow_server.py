"""MLflow's server dies, is away, refuses, keeps silent, is slow: training never waits, and all arrives once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.e2e.faults.servers import MLflowServer, Proxy, mlflow_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    with mlflow_server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def proxy(server: MLflowServer) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


def at(server: MLflowServer | Proxy) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": server.uri}


@pytest.mark.faults
def test_kill_9_of_the_server_in_the_middle(bench, note, server):
    hurt = bench(at(server), trials={"count": 3, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    server.kill()
    killed, before = time.monotonic(), hurt.reports()
    hurt.until(lambda: hurt.reports() >= before + 6 or time.monotonic() - killed > 20, "training goes on")
    assert hurt.reports() >= before + 6, "training waited for MLflow"
    time.sleep(max(0.0, 20 - (time.monotonic() - killed)))
    server.start()
    assert hurt.finish() == 0, hurt.said
    books = hurt.check()
    run = MlflowClient(server.uri).get_run(hurt.seat.runs("hurt")[None])
    assert " s until " in run.data.tags["tracking.late"]
    note("`kill -9` of MLflow's server in mid-sweep, back after 20 s", books, "training never paused")


@pytest.mark.faults
def test_the_server_is_away_when_the_sweep_ends(bench, note, server):
    hurt = bench(at(server), trials={"count": 2, "concurrent": 2})
    hurt.start()
    hurt.until_reports(3)
    server.kill()
    hurt.until(lambda: len(ended(hurt)) == 2, "both trials ended")
    began = time.monotonic()
    assert hurt.finish() == 0, hurt.said
    assert time.monotonic() - began < 120
    assert f"MLflow at {server.uri} did not take everything: " in hurt.said
    assert "and `mouselift sweep status hurt` delivers them once it answers." in hurt.said
    status = json.loads(hurt.seat.mouselift("sweep", "status", "hurt", "--json").stdout)
    assert status["state"] == "COMPLETE" and status["undelivered"] > 0
    server.start()
    assert hurt.seat.answer("sweep", "status", "hurt")["undelivered"] == 0
    note("MLflow's server away when the sweep ends", hurt.check(), "exit code 0; `sweep status` delivers the rest")


def ended(hurt) -> list[int]:
    return [trial.number for trial in hurt.seat.ledger("hurt").trials.values() if trial.state == "COMPLETE"]


@pytest.mark.faults
def test_whether_it_takes_writes_is_asked_by_many_commands_at_once(server):
    """One removed the tag that another was about to change: MLflow refused that one, and its command with it."""
    script = "import sys\nfrom sweeps.tracking.mlflow_client import require_writable\n"
    script += "for _ in range(15): require_writable(sys.argv[1], 20)"
    words = [sys.executable, "-c", script, server.uri]
    asking = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [one.communicate()[1] for one in asking]
    assert [one.returncode for one in asking] == [0] * 6, said


@pytest.mark.faults
def test_the_server_is_away_at_run_and_at_resume(bench, note, server):
    hurt = bench(at(server), trials={"count": 2, "concurrent": 2})
    server.kill()
    began = time.monotonic()
    hurt.start()
    assert hurt.finish() == 2
    assert time.monotonic() - began < 60
    assert hurt.said.splitlines()[-1].startswith("mouselift: MLFLOW_TRACKING_URI: expected an MLflow at "), hurt.said
    assert not hurt.seat.home.journal("hurt").exists()
    server.start()
    hurt.start()
    hurt.until_reports(3)
    hurt.kill()
    server.kill()
    hurt.resume()
    hurt.until_reports(4)
    server.start()
    assert hurt.finish() == 0, hurt.said
    note("MLflow's server away at `resume`", hurt.check(), "the sweep goes on without it; `run` is refused in one line")


@pytest.mark.faults
def test_a_server_that_answers_500_or_503_or_not_at_all(bench, note, server, proxy):
    hurt = bench(at(proxy) | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}, trials={"count": 2, "concurrent": 2})
    proxy.loses = 2 * ["/runs/create"]  # made, and the answer says otherwise
    hurt.start()
    hurt.until_reports(1)
    proxy.errors, proxy.silence = 0.2, 0.03
    hurt.until(lambda: hurt.seat.ledger("hurt").state != "RUNNING", "the trials ended")
    time.sleep(5)
    proxy.errors = proxy.silence = 0.0
    assert hurt.finish() == 0, hurt.said
    assert proxy.refused > 3 and proxy.loses == []
    hurt.seat.mouselift("sweep", "status", "hurt")
    note("one call in five answered 500 or 503, one in thirty not at all", hurt.check(), "no stray run")


@pytest.mark.faults
def test_a_slow_server_costs_no_training_time(bench, note, server, proxy):
    hurt = bench(at(proxy), trials={"count": 2, "concurrent": 1})
    hurt.start()
    hurt.until(lambda: len(ended(hurt)) == 1, "one trial ended")
    proxy.delay = 2.0
    hurt.until(lambda: len(ended(hurt)) == 2, "both trials ended")
    proxy.delay = 0.0
    assert hurt.finish() == 0, hurt.said
    swift, slow = (seconds(hurt, number) for number in (0, 1))
    assert slow < 2 * swift + 5
    note("MLflow's server takes 2 s for every call", hurt.check(), "a trial takes as long as before")


def seconds(hurt, number: int) -> float:
    """Between the first and the last report of a trial."""
    times = [report.time for report in hurt.seat.reports("hurt") if report.trial == number]
    return times[-1] - times[0]
