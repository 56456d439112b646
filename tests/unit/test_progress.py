"""What a sweep looks like while it runs, in a terminal and anywhere else."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys

import pytest
from rich.console import Console

from sweeps.book.journal import CONTINUED_FROM, Reported, SweepOpened, TrialClosed, TrialOpened
from sweeps.cli.progress import Progress, Screen

SPACE = {"space": {"optim.lr": {}}, "objective": {"metric": "val/psnr", "mode": "max"}}


def events(count: int) -> list:
    return [
        SweepOpened("mine", "gslrm_tiny", SPACE | {"trials": {"count": count}}, {}, {}),
        TrialOpened(0, "ray-0", 1, {"optim.lr": 0.001}, {}, "f", {}),
        Reported(0, 12, {"val/psnr": 20.0}, {}, {}),
        TrialClosed(0, "COMPLETE", "", {}),
    ]


class Clock:
    """Seconds that go by when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(count: int, in_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=in_terminal, width=100, color_system=None)
    progress = Progress(console, max_steps=12)
    with progress.shown():
        for event in events(count):
            progress(event)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


@pytest.mark.parametrize(("count", "trials", "so_far"), [(1, "1 trial", ""), (4, "4 trials", "; 1 of 4 trials ended")])
def test_each_event_is_a_line_where_there_is_no_terminal(count: int, trials: str, so_far: str) -> None:
    lines = [line.partition("] ")[2] for line in shown(count, in_terminal=False).splitlines()]
    assert lines[:2] == [f"sweep mine: recipe gslrm_tiny, {trials}", "t0000 starts: lr=0.001"]
    assert len(lines) == 3 and lines[2].startswith(f"t0000 COMPLETE; val/psnr 20.000 at step 12{so_far}")


def test_a_trial_that_another_sweep_began_is_told_once_by_where_it_goes_on() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = Progress(console, 12)
    opened, *_ = events(1)
    lr = {"optim.lr": 0.001}
    copied = TrialOpened(0, "", 1, lr, {}, "f", {CONTINUED_FROM: "lr t0003"})
    for event in (opened, copied, Reported(0, 8, {"val/psnr": 20.0}), TrialOpened(0, "ray-0", 2, lr, {}, "f", {})):
        progress(event)
    progress(TrialOpened(0, "ray-1", 3, lr, {}, "f", {}))
    lines = [line.partition("] ")[2] for line in console.file.getvalue().splitlines()]
    assert lines[1:] == ["t0000 goes on from step 8 of lr t0003: lr=0.001", "t0000 starts again, attempt 3: lr=0.001"]


@pytest.mark.parametrize(("count", "trials"), [(1, "1 of 1 trial ended"), (4, "1 of 4 trials ended")])
def test_a_terminal_gets_a_table_that_lives(count: int, trials: str) -> None:
    said = shown(count, in_terminal=True)
    assert f"mine: {trials}" in said
    assert re.search(r"t0000 +COMPLETE +12/12 +20\.000 +20\.000 +lr=0\.001", said)


def test_reports_are_a_line_now_and_then_with_the_best_so_far_and_the_time_that_is_left() -> None:
    """Of 40 reports, one a second, at 10 steps a second: 12 trials of 400 steps, two at a time."""
    clock, console = Clock(), Console(file=io.StringIO(), width=80)
    progress = Progress(console, 400, clock=clock)
    space = SPACE | {"trials": {"count": 12, "concurrent": 2}}
    progress(SweepOpened("mine", "gslrm_tiny", space, {}, {"train.max_steps": 400}, time=0.0))
    progress(TrialOpened(0, "ray-0", 1, {"optim.lr": 0.001}, {}, "f", {}, time=0.0))
    for second in range(1, 41):
        clock.now = float(second)
        progress(Reported(0, 10 * second, {"val/psnr": 10.0 + second}, {}, {}, time=float(second)))
    lines = [line.partition("] ")[2] for line in console.file.getvalue().splitlines()]
    # After 30 s, 100 steps of this trial and 4,400 of the others are left, two trials at a time.
    assert lines[2:] == [
        "t0000 step 150/400; best val/psnr 25.000 (t0000, step 150); 0 of 12 trials ended, about 3 min 52 s left",
        "t0000 step 300/400; best val/psnr 40.000 (t0000, step 300); 0 of 12 trials ended, about 3 min 45 s left",
    ]


def test_the_best_so_far_does_not_fall_when_a_weaker_trial_is_the_first_to_end() -> None:
    clock, console = Clock(), Console(file=io.StringIO(), width=120)
    progress = Progress(console, 12, clock=clock)
    for event in events(4)[:-1]:
        progress(event)
    progress(TrialOpened(1, "ray-1", 1, {"optim.lr": 0.01}, {}, "g", {}))
    clock.now = 20.0
    progress(Reported(1, 12, {"val/psnr": 15.0}, {}, {}))
    progress(TrialClosed(1, "COMPLETE", "", {}))
    clock.now = 40.0
    progress(Reported(0, 11, {"train/loss": 0.1}, {}, {}))
    assert [re.findall(r"best val/psnr (\S+)", line) for line in console.file.getvalue().splitlines()[3:]] == [
        ["20.000"],
        [],
        ["20.000"],
    ]


def test_a_trial_that_was_killed_is_not_done() -> None:
    console = Console(file=io.StringIO(), width=80)
    progress = Progress(console, max_steps=12)
    for event in [*events(4)[:3], TrialClosed(0, "KILLED", "stopped [/by] hand", {})]:
        progress(event)
    assert (
        console.file.getvalue()
        .splitlines()[-1]
        .partition("] ")[2]
        .startswith("t0000 KILLED: stopped [/by] hand; val/psnr 20.000 at step 12; 0 of 4 trials ended")
    )


def test_a_reader_that_is_gone_ends_nothing(monkeypatch) -> None:
    """As `mouselift sweep run … 2>&1 | tee log` does when Ctrl-C ends `tee` first."""
    read, write = os.pipe()
    os.close(read)
    heard = 0
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        progress = Progress(Screen(), max_steps=12)
        for event in events(1):
            progress(event)
            heard += 1
    assert heard == 4
