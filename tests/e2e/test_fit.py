"""A run without a memory, by the real command: alone, by torchrun on two processes, and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import checkpoint
from tests.conftest import TINY
from tests.e2e.conftest import Seat

TORCHRUN = Path(sys.executable).with_name("torchrun")


@pytest.fixture(scope="module")
def seat(tmp_path_factory) -> Seat:
    seat = Seat(tmp_path_factory.mktemp("fit"))
    (seat.folder / "tiny.yaml").write_text(TINY)
    return seat


def fit(
    seat: Seat, mice: Path, out: str, *more: str, launcher: tuple[str | Path, ...] = ()
) -> subprocess.CompletedProcess:
    command = (*launcher, "-m", "mouselift", "fit", "tiny.yaml", "--data", mice, "--out", out)
    set_all = [word for pair in (*more, "train.batch_size=2") for word in ("--set", pair)]
    return seat.run(*(command if launcher else (sys.executable, *command)), *set_all)


def reports(done: subprocess.CompletedProcess) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def alone(seat, mice_folder):
    return reports(fit(seat, mice_folder, "alone"))


@pytest.fixture(scope="module")
def together(seat, mice_folder):
    launcher = (TORCHRUN, "--standalone", "--nproc-per-node", "2")
    return reports(fit(seat, mice_folder, "together", launcher=launcher))


def test_reports_are_json_lines_and_files_lie_in_the_folder(seat, alone) -> None:
    assert [report["step"] for report in alone] == [1, 2, 4, 6, 8]
    names = {path.name for path in (seat.folder / "alone").iterdir()}
    assert names == {"cache", "step-000004", "step-000008", "val-preview.png"}
    assert not seat.home.root.exists()


def test_torchrun_on_two_processes_makes_the_run_of_one(seat, alone, together) -> None:
    assert [report["step"] for report in together] == [1, 2, 4, 6, 8]
    for name in ("train/loss", "train/grad_norm", "val/psnr", "val/psnr_fg"):
        assert together[-1][name] == pytest.approx(alone[-1][name], rel=5e-3), name
    first, second = (checkpoint.inspect(seat.folder / name / "step-000008") for name in ("alone", "together"))
    assert first.recipe.fingerprint == second.recipe.fingerprint


def test_a_folder_with_a_checkpoint_is_gone_on_with_on_another_number_of_processes(seat, mice_folder, together) -> None:
    (seat.folder / "again").mkdir()
    (seat.folder / "together/step-000004").rename(seat.folder / "again/step-000004")
    again = reports(fit(seat, mice_folder, "again"))
    assert [report["step"] for report in again] == [6, 8]
    assert again[-1]["val/psnr"] == pytest.approx(together[-1]["val/psnr"], rel=5e-3)
