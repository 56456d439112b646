"""The batch script of docs/cluster.md, with a stand-in that does to it what Slurm does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import SECONDS

pytestmark = pytest.mark.faults
PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"
KILL_WAIT = 30  # seconds from Slurm's SIGTERM to its SIGKILL, by default


def test_a_job_is_ended_by_slurm_twice_and_comes_to_its_end(bench, note):
    """First by --signal=B:USR1@120, then at its time limit, by SIGTERM to all its processes and SIGKILL."""
    hurt = bench(trials={"count": 2, "concurrent": 1})
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.S)
    script = script.replace("lr.yaml", str(hurt.space)).replace("/data/mice", str(hurt.mice))
    here = hurt.seat.folder
    (here / "sweep.sh").write_text(script.replace("lr-$SLURM_JOB_ID", "hurt"))
    (here / "team.env").touch()
    (here / "scontrol").write_text(f'#!/bin/sh\necho "$*" >> {here}/queued\n')
    (here / "scontrol").chmod(0o755)

    job = submit(hurt, 0)
    hurt.until_reports(2)
    everything = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(120) == 1
    assert psutil.wait_procs(everything, timeout=5)[1] == []
    assert (here / "queued").read_text() == "requeue 7\n"
    assert hurt.seat.ledger("hurt").reason == "interrupted by SIGUSR1"
    assert hurt.check(ended=False).wrong == []

    job = submit(hurt, 1)
    hurt.until_reports(2)
    everything = psutil.Process(job.pid).children(recursive=True)
    os.killpg(job.pid, signal.SIGTERM)
    gone = psutil.wait_procs(everything, timeout=KILL_WAIT)[1] == []
    if not gone:
        os.killpg(job.pid, signal.SIGKILL)
    assert job.wait(10) == 1 and gone
    assert hurt.seat.ledger("hurt").reason == "interrupted by SIGTERM"

    assert submit(hurt, 2).wait(SECONDS) == 0
    note("Slurm ends a job by SIGUSR1, then at its time limit", hurt.check(), "queued again by its script; to the end")
    assert submit(hurt, 3).wait(SECONDS) == 0, "a job that is done says so again"


def submit(hurt, restarts: int) -> subprocess.Popen[str]:
    """The job as Slurm starts it, for the first time or again."""
    environment = {"PATH": f"{hurt.seat.folder}:{hurt.seat.environment['PATH']}", "SLURM_JOB_ID": "7"}
    again = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    hurt.process = replace(hurt.seat, extra=environment | again).start("bash", "sweep.sh")
    return hurt.process
