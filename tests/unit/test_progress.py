"""What a sweep looks like while it runs, in a terminal and anywhere else."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys

import pytest
from rich.console import Console

from sweeps.book.journal import Reported, SweepOpened, TrialClosed, TrialOpened
from sweeps.cli.progress import Progress, Screen

SPACE = {"space": {"optim.lr": {}}, "objective": {"metric": "val/psnr", "mode": "max"}}


def events(count: int) -> list:
    return [
        SweepOpened("mine", "gslrm_tiny", SPACE | {"trials": {"count": count}}, {}, {}),
        TrialOpened(0, "ray-0", 1, {"optim.lr": 0.001}, {}, "f", {}),
        Reported(0, 12, {"val/psnr": 20.0}, {}, {}),
        TrialClosed(0, "COMPLETE", "", {}),
    ]


def shown(count: int, in_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=in_terminal, width=100, color_system=None)
    progress = Progress(console, max_steps=12)
    with progress.shown():
        for event in events(count):
            progress(event)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


@pytest.mark.parametrize(("count", "trials"), [(1, "1 trial"), (4, "4 trials")])
def test_each_event_is_a_line_where_there_is_no_terminal(count: int, trials: str) -> None:
    lines = [line.partition("] ")[2] for line in shown(count, in_terminal=False).splitlines()]
    assert lines == [
        f"sweep mine: recipe gslrm_tiny, {trials}",
        "t0000 starts: lr=0.001",
        "t0000 step 12/12: val/psnr 20.000",
        "t0000 COMPLETE",
    ]


@pytest.mark.parametrize(("count", "trials"), [(1, "1/1 trial,"), (4, "1/4 trials,")])
def test_a_terminal_gets_a_table_that_lives(count: int, trials: str) -> None:
    said = shown(count, in_terminal=True)
    assert f"mine: {trials}" in said
    assert re.search(r"t0000 +COMPLETE +12/12 +20\.000 +lr=0\.001", said)


def test_a_reader_that_is_gone_ends_nothing(monkeypatch) -> None:
    """As `mouselift sweep run … 2>&1 | tee log` does when Ctrl-C ends `tee` first."""
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        screen = Screen()
        progress = Progress(screen, max_steps=12)
        for event in events(1):
            progress(event)
        assert screen.quiet
