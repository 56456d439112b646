"""The record of a sweep: what its windows show, from its journal."""

from __future__ import annotations

from pathlib import Path

from sweeps.book.journal import Event, Journal, Reported, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import read
from sweeps.book.record import Point, Recorder, record_of

SPACE = {
    "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True}},
    "objective": {"metric": "val/psnr", "mode": "max"},
    "trials": {"count": 2, "gpus": 0.5},
}


def opened(trial: int, attempt: int = 1) -> TrialOpened:
    return TrialOpened(trial, f"r{trial}", attempt, {}, {"optim.lr": 1e-4}, f"f{trial}", {"data.digest": "d"})


def reported(trial: int, step: int, psnr: float, image: str = "") -> Reported:
    images = {"preview": image} if image else {}
    return Reported(
        trial, step, {"val/psnr": psnr, "time/step_seconds": step / 10}, images, {"checkpointing": str(step)}
    )


def written(folder: Path, *happened: tuple[float, Event]) -> Journal:
    times = iter([time for time, _ in happened])
    journal = Journal(folder, clock=times.__next__)
    for _, event in happened:
        journal.append(event)
    return journal


def interrupted_and_resumed(folder: Path) -> Journal:
    """Trial 0 reports steps 1 to 3, is interrupted, and goes on from step 2; trial 1 is pruned."""
    return written(
        folder,
        (100, SweepOpened("s", "gslrm_tiny", SPACE, {}, {})),
        (110, opened(0)),
        (120, reported(0, 1, 10.0, "blobs/a.png")),
        (130, reported(0, 2, 11.0)),
        (140, reported(0, 3, 12.0)),
        (150, TrialClosed(0, "KILLED", "SIGINT")),
        (150, SweepClosed("KILLED", "SIGINT")),
        (500, SweepOpened("s", "gslrm_tiny", SPACE, {}, {})),
        (510, opened(0, attempt=2)),
        (520, reported(0, 3, 99.0, "blobs/late.png")),
        (530, reported(0, 4, 13.0, "blobs/b.png")),
        (531, TrialClosed(0, "COMPLETE")),
        (540, opened(1)),
        (545, reported(1, 1, 5.0)),
        (550, TrialClosed(1, "PRUNED", "rung 1")),
        (560, SweepClosed("COMPLETE")),
    )


def test_a_step_counts_as_it_was_first_reported(tmp_path: Path) -> None:
    first = record_of(interrupted_and_resumed(tmp_path), 600).trial(0)
    assert first.metrics["val/psnr"] == (Point(1, 10, 120), Point(2, 11, 130), Point(3, 12, 140), Point(4, 13, 530))
    assert [(preview.step, preview.path) for preview in first.previews] == [
        (1, tmp_path / "blobs/a.png"),
        (4, tmp_path / "blobs/b.png"),
    ]
    assert first.last("val/psnr") == 13.0 and first.last("val/ssim") is None
    assert first.tags == {"data.digest": "d", "checkpointing": "4"}


def test_the_time_of_an_interruption_is_nobodys_work(tmp_path: Path) -> None:
    record = record_of(interrupted_and_resumed(tmp_path), 600)
    first, second = record.trials
    assert (first.opened, first.ended, first.busy_seconds) == (110, 531, 40 + 21)
    assert (second.opened, second.ended, second.busy_seconds) == (540, 550, 10)
    assert record.gpu_hours == 0.5 * 71 / 3600
    assert first.step_seconds == 0.25
    assert record.ended == 560


def test_the_record_has_the_ledger_and_its_order(tmp_path: Path) -> None:
    journal = interrupted_and_resumed(tmp_path)
    record = record_of(journal, 600)
    assert record.ledger == read(journal)
    assert [one.trial.number for one in record.ranked] == [0, 1]


def test_events_given_one_by_one_add_up_to_the_same(tmp_path: Path) -> None:
    journal, recorder = interrupted_and_resumed(tmp_path), Recorder(tmp_path)
    for _, event in journal.events():
        recorder.add([event])
        recorder.record(0)
    assert recorder.record(600) == record_of(journal, 600)
