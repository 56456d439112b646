"""A disk that fills up under a sweep: where its checkpoints are, or where everything is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline import checkpoint
from sweeps.book.journal import Journal
from tests.e2e.faults.patches import at_step, hold_at

STEPS = {"train.max_steps": 24, "train.validate_every": 4, "train.report_every": 4}
ONE = {"fixed": STEPS, "trials": {"count": 1, "concurrent": 1}}
needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room for another byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while file.write(b"0" * size) == size:
                    pass
            except OSError:
                continue
    return ballast


def until_held(hurt, tmp_path, step: int) -> None:
    hurt.until((tmp_path / "patch" / f"held-{step}").exists, f"the trial is at its step {step}")
    last = max(1, (step - 1) // 4 * 4)
    hurt.until(lambda: hurt.seat.ledger("hurt").trials[0].last_step == last, f"step {last} is written down")


def go_on(tmp_path, step: int) -> None:
    (tmp_path / "patch" / f"go-on-{step}").touch()


@needs_mount
@pytest.mark.faults
def test_a_full_disk_under_the_checkpoints(bench, note, tmp_path, small_disk):
    environment = at_step(tmp_path / "patch", "".join(map(hold_at, (3, 5, 9, 17))))
    hurt = bench(environment | {"MOUSELIFT_CHECKPOINTS": str(small_disk)}, **ONE, retention={"disk_floor_gb": 0.0})
    hurt.start()
    until_held(hurt, tmp_path, 3)
    ballast = fill(small_disk)
    go_on(tmp_path, 3)
    until_held(hurt, tmp_path, 5)
    ballast.unlink()
    go_on(tmp_path, 5)
    until_held(hurt, tmp_path, 9)
    ballast = fill(small_disk)
    go_on(tmp_path, 9)
    until_held(hurt, tmp_path, 17)
    kept = small_disk / "hurt" / "t0000"
    assert [folder.name for folder in sorted(kept.glob("step-*"))][-1] == "step-000008"
    assert checkpoint.inspect(kept / "step-000008").step == 8
    ballast.unlink()
    go_on(tmp_path, 17)
    assert hurt.finish() == 0, hurt.said
    said = {report.step: report.tags.get("checkpointing", "") for report in hurt.seat.reports("hurt")}
    assert said[4].startswith("paused: the disk of ") and said[4].endswith(" is full"), said
    assert all(said[step].startswith("paused: 0 GB free at ") for step in (12, 16)), said
    assert [said[step] for step in (8, 20, 24)] == [f"step {step} is kept" for step in (8, 20, 24)], said
    assert checkpoint.inspect(kept / "step-000024").step == 24
    assert "step 4: no checkpoint; paused: the disk of " in hurt.said
    note("the disk of the checkpoints full", hurt.check(), "no checkpoint until there is room; figures go on")


@pytest.mark.faults
def test_a_disk_below_its_floor(bench, note):
    hurt = bench(**ONE, retention={"disk_floor_gb": 1.0e6})
    hurt.start()
    assert hurt.finish() == 0, hurt.said
    tags = [report.tags.get("checkpointing", "paused: ") for report in hurt.seat.reports("hurt")]
    assert all(tag.startswith("paused: ") for tag in tags)
    trial = hurt.seat.ledger("hurt").trials[0]
    assert trial.state == "COMPLETE"
    refused = hurt.seat.mouselift("model", "promote", "hurt")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "checkpoint" in refused.stderr
    note("less disk than its floor from the start", hurt.check(), "COMPLETE without a checkpoint; promote refuses")


@needs_mount
@pytest.mark.faults
def test_a_full_disk_under_the_journal(bench, note, tmp_path, small_disk):
    home = small_disk / "home"
    hurt = bench(
        at_step(tmp_path / "patch", hold_at(9)) | {"MOUSELIFT_HOME": str(home)}, **ONE, retention={"disk_floor_gb": 0.0}
    )
    hurt.start()
    until_held(hurt, tmp_path, 9)
    ballast = fill(small_disk)
    go_on(tmp_path, 9)
    assert hurt.finish() == 1, hurt.said
    assert "Traceback" not in hurt.said, hurt.said
    *_, last = hurt.said.splitlines()
    assert last.startswith(f"mouselift: {home}/journal/hurt: expected room") and "sweep resume hurt" in last, hurt.said
    assert all(event is not None for _, event in Journal(home / "journal" / "hurt").events())
    ballast.unlink()
    status = hurt.seat.answer("sweep", "status", "hurt")
    # The driver's last words are short, and may have found room where a report did not.
    by_driver, by_status = ("FAIL", "the disk of the sweep was full"), ("KILLED", "its driver died; last heard of at ")
    assert any(status["state"] == state and status["reason"].startswith(why) for state, why in (by_driver, by_status))
    assert hurt.check(ended=False).wrong == []
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    note("the disk of the journal full", hurt.check(), "one line, exit 1; closed by status, resumed to the end")
