"""A two-node Ray cluster on this machine loses a node, or its head."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeps.book.journal import AttemptFailed, Journal
from tests.e2e.conftest import SECONDS
from tests.e2e.faults.servers import free_port

pytestmark = pytest.mark.faults
RAY = Path(sys.executable).with_name("ray")
OPEN = {"RAY_AUTH_MODE": "disabled"}  # otherwise every machine must have the same token
ROOT = Path(__file__).parents[3]


class Cluster:
    """Nodes of one CPU each, every one a `ray start` of its own, as on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""  # of the head, once it is there
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add(self) -> subprocess.Popen[bytes]:
        """Another node; the first is the head. Its note of a running cluster lies where nobody looks for one."""
        where = [f"--address={self.address}"]
        if not self.nodes:
            where = ["--head", f"--port={free_port()}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        fixed = ["--num-cpus=1", "--num-gpus=0", "--block", "--disable-usage-stats", "--object-store-memory=100000000"]
        plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with (self.folder / f"node-{len(self.nodes)}.log").open("ab") as log:
            node = subprocess.Popen(
                [RAY, "start", *where, *fixed],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env=plain | OPEN | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            )
        self.nodes.append(node)
        until = time.monotonic() + SECONDS
        while "Ray runtime started" not in self.said(node):
            assert node.poll() is None and time.monotonic() < until, self.said(node)
            time.sleep(0.2)
        if not self.address:
            self.address = re.findall(r"ray start --address='(.+)'", self.said(node))[0]
        return node

    def said(self, node: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"node-{self.nodes.index(node)}.log").read_text()

    def trains_on(self, node: subprocess.Popen[bytes]) -> bool:
        return any(" ".join(process.cmdline()).startswith("ray::ImplicitFunc") for process in family(node))

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL to everything of a node at once."""
        gone = family(node)
        for process in gone:
            process.kill()
        psutil.wait_procs(gone, timeout=30)
        node.wait(SECONDS)

    def close(self) -> None:
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.kill(node)


def family(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        leader = psutil.Process(node.pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own is too long for the names of sockets
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_is_lost_while_its_trial_trains(bench, note, cluster):
    cluster.add()
    other = cluster.add()
    hurt = bench(OPEN | {"RAY_ADDRESS": cluster.address}, trials={"count": 2, "concurrent": 2, "cpus": 1})
    hurt.start()
    hurt.until(lambda: {report.trial for report in reports(hurt)} == {0, 1}, "both nodes train")
    cluster.kill(other)
    assert hurt.finish() == 0, hurt.said
    faults = [
        event for _, event in Journal(hurt.seat.home.journal("hurt")).events() if isinstance(event, AttemptFailed)
    ]
    assert faults and all(fault.action == "retry" for fault in faults)
    assert {fault.cause for fault in faults} <= {"node_lost", "worker_lost"}
    note("one of two Ray nodes lost while its trial trains", hurt.check(), f"{faults[0].cause}: goes on elsewhere")


def test_the_head_is_lost(bench, note, cluster):
    head = cluster.add()
    hurt = bench(OPEN | {"RAY_ADDRESS": cluster.address}, trials={"count": 2, "concurrent": 1, "cpus": 1})
    hurt.start()
    hurt.until_reports(3)
    cluster.kill(head)
    began = time.monotonic()
    code = hurt.finish()
    assert time.monotonic() - began < 150
    assert code != 0
    if hurt.seat.ledger("hurt").state == "RUNNING":  # Ray ended the driver's process with its own
        hurt.seat.mouselift("sweep", "status", "hurt")
    assert hurt.check(ended=False).wrong == []
    hurt.seat.extra.pop("RAY_ADDRESS")
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("the head of the Ray cluster lost", hurt.check(), "the sweep ends; resumed on this machine")


def reports(hurt):
    return hurt.seat.reports("hurt") if hurt.seat.home.journal("hurt").is_dir() else []


def test_a_cluster_that_is_not_there_is_one_line(bench):
    hurt = bench({"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}, trials={"count": 1, "concurrent": 1})
    hurt.start()
    assert hurt.finish() == 2
    last = hurt.said.strip().splitlines()[-1]
    assert last.startswith("mouselift: RAY_ADDRESS: expected a Ray cluster at 127.0.0.1:"), hurt.said
    assert "Traceback" not in hurt.said
