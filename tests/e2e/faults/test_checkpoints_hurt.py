"""Checkpoints that are damaged, or whose report nobody heard: a trial goes on from the newest sound one it reported."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import checkpoint
from tests.e2e.faults.patches import at_step, hold_at, patched

pytestmark = pytest.mark.faults
STEPS = {"train.max_steps": 24, "train.validate_every": 8, "train.report_every": 4}
ALL_STEPS = [1, 4, 8, 12, 16, 20, 24]
ONE = {"fixed": STEPS, "trials": {"count": 1, "concurrent": 1}, "retention": {"best": 1, "last": 2}}


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "training.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "training.pt").write_bytes(content)


def tear_the_index(folder: Path) -> None:
    index = folder / "checkpoint.json"
    index.write_bytes(index.read_bytes()[:100])


def tags_of(hurt) -> dict[str, str]:
    return MlflowClient(hurt.seat.home.tracking_uri).get_run(hurt.seat.runs("hurt")[0]).data.tags


def killed_at_step_21(hurt, tmp_path) -> Path:
    """Where the checkpoints of steps 8 and 16 lie."""
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-21").exists, "the trial is at its step 21")
    hurt.until(lambda: hurt.seat.ledger("hurt").trials[0].last_step == 20, "step 20 is written down")
    hurt.kill()
    return Path(hurt.seat.home.checkpoints) / "hurt" / "t0000"


def resumed(hurt) -> None:
    """To the end; what was reported before and is again, to the bit the same, stands once."""
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    said: dict[int, list[float]] = {}
    for report in hurt.seat.reports("hurt"):
        if "val/psnr_fg" in report.metrics:
            said.setdefault(report.step, []).append(report.metrics["val/psnr_fg"])
    assert sorted(said) == [8, 16, 24] and len(said[16]) == 2
    assert all(len(set(values)) == 1 for values in said.values())


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, tear_the_index])
def test_a_damaged_checkpoint(bench, note, tmp_path, damage):
    hurt = bench(at_step(tmp_path / "patch", hold_at(21)), **ONE)
    damage(killed_at_step_21(hurt, tmp_path) / "step-000016")
    resumed(hurt)
    tags = tags_of(hurt)
    assert "step-000016" in tags["checkpoint.damaged"]
    assert tags["trial.resumed_from"] == "step-000008"
    what = damage.__name__.replace("_", " ")
    note(f"the last checkpoint damaged ({what})", hurt.check(), "goes on from the one before; the run says so")


def test_every_checkpoint_damaged(bench, note, tmp_path):
    hurt = bench(at_step(tmp_path / "patch", hold_at(21)), **ONE)
    folder = killed_at_step_21(hurt, tmp_path)
    truncate(folder / "step-000008")
    flip_a_bit(folder / "step-000016")
    resumed(hurt)
    tags = tags_of(hurt)
    assert "step-000016" in tags["checkpoint.damaged"] and "step-000008" in tags["checkpoint.damaged"]
    assert "trial.resumed_from" not in tags
    assert sum(report.step == 1 for report in hurt.seat.reports("hurt")) == 2
    note("every checkpoint of a trial damaged", hurt.check(), "from the first step; what was reported stands once")


UNHEARD = """
from sweeps.run.checkpoints import Checkpoints
keep_ = Checkpoints.keep
def keep(self, folder):
    keep_(self, folder)
    if folder.name == "step-000016" and once("kept"):
        time.sleep(600)
Checkpoints.keep = keep
"""


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_between_a_checkpoint_and_its_report(bench, note, tmp_path, victim):
    hurt = bench(patched(tmp_path / "patch", UNHEARD), **ONE)
    hurt.start()
    hurt.until((tmp_path / "patch" / "kept").exists, "the checkpoint of step 16 is kept")
    hurt.until(lambda: hurt.seat.ledger("hurt").trials[0].last_step == 12, "step 12 is written down")
    if victim == "driver":
        hurt.kill()
        hurt.resume()
    else:
        [worker] = hurt.workers()
        worker.send_signal(signal.SIGKILL)
    assert hurt.finish() == 0, hurt.said
    assert tags_of(hurt)["trial.resumed_from"] == "step-000008"
    steps = [report.step for report in hurt.seat.reports("hurt")]
    assert sorted({*steps} - {9}) == ALL_STEPS and steps.count(16) == 1
    note(f"`kill -9` of the {victim} between a checkpoint and its report", hurt.check(), "from the last step reported")


HALF_WRITTEN = """
from pipeline import checkpoint
from pipeline.training import trainer
hash_, step_ = checkpoint.sha256_of, trainer.Trainer.step
def sha256_of(path):
    if "step-000016" in str(path) and once("writing"):
        while not (HERE / "may-end").exists():
            time.sleep(0.05)
    return hash_(path)
def step(self, number):
    step_(self, number)
    if number == 20:
        (HERE / "at-20").touch()
checkpoint.sha256_of, trainer.Trainer.step = sha256_of, step
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_signal_while_a_checkpoint_is_written(bench, note, tmp_path, victim, number):
    patch = tmp_path / "patch"
    hurt = bench(patched(patch, HALF_WRITTEN), **ONE)
    hurt.start()
    hurt.until((patch / "writing").exists, "the checkpoint of step 16 is being written")
    hurt.until((patch / "at-20").exists, "training is at step 20")
    trial = Path(hurt.seat.home.checkpoints) / "hurt" / "t0000"
    assert hurt.seat.ledger("hurt").trials[0].last_step == 12
    assert [folder.name for folder in trial.glob("step-*")] == ["step-000008"]
    if victim == "driver":
        hurt.kill(number)
        assert number == signal.SIGKILL or hurt.seat.ledger("hurt").state == "KILLED"
        hurt.resume()
    else:
        [worker] = hurt.workers()
        worker.send_signal(number)
        (patch / "may-end").touch()  # a process that was asked to end waits for the file in hand
    assert hurt.finish() == 0, hurt.said
    assert tags_of(hurt)["trial.resumed_from"] == "step-000008"
    assert list(trial.glob(".*")) == []
    assert {checkpoint.inspect(folder).step for folder in trial.iterdir()} >= {16, 24}
    name = f"{number.name} of the {victim} while a checkpoint is written"
    note(name, hurt.check(), "that checkpoint is lost, nothing of it stays")


def test_a_trial_goes_on_from_a_checkpoint_between_validations(bench, note, tmp_path):
    saved = {"fixed": STEPS | {"train.checkpoint_every": 4}}
    hurt = bench(at_step(tmp_path / "patch", hold_at(15)), **ONE | saved)
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-15").exists, "the trial is at its step 15")
    hurt.until(lambda: hurt.seat.ledger("hurt").trials[0].last_step == 12, "step 12 is written down")
    trial = Path(hurt.seat.home.checkpoints) / "hurt" / "t0000"
    assert "val/psnr_fg" not in checkpoint.inspect(trial / "step-000012").metrics
    hurt.kill()
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    assert tags_of(hurt)["trial.resumed_from"] == "step-000012"
    steps = [report.step for report in hurt.seat.reports("hurt")]
    assert sorted({*steps} - {13}) == ALL_STEPS and len(hurt.seat.curve("hurt", 0)) == 3
    released = checkpoint.inspect(str(hurt.seat.ledger("hurt").trials[0].released))
    assert released.step in (8, 16, 24)
    note("`kill -9` between a checkpoint and the next validation", hurt.check(), "goes on from that checkpoint")
