"""How far long work is: bars in a terminal, a line now and then elsewhere, and nobody's reading is waited for."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import mouselift
from pipeline import progress
from pipeline.data.mice.mice import write_mice

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Clock:
    """Seconds that go by when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(steps: Iterator[tuple[float, str, float, float]]) -> list[str]:
    """What is said without a terminal of steps (seconds since the one before, part, done, total)."""
    clock, console = Clock(), Console(file=io.StringIO(), width=80)
    with progress.shown(console, clock) as tell:
        for seconds, *step in steps:
            clock.now += seconds
            tell(*step)
    return console.file.getvalue().splitlines()


def test_short_work_is_silent_where_there_is_no_terminal():
    assert lines_of((0.2, "scenes", n, 50) for n in range(51)) == []


def test_long_work_says_a_line_now_and_then_with_the_time_that_is_left():
    lines = lines_of((1.0, "scenes", n, 240) for n in range(241))
    assert lines[0] == "scenes: 15 of 240, 3 min 45 s left"
    assert len(lines) == 240 / progress.LINE_SECONDS


def test_a_part_that_begins_again_has_its_own_time_left():
    steps = [(1.0, "views", n, 50) for n in range(51)] + [(2.0, "views", n, 50) for n in range(31)]
    assert lines_of(iter(steps))[-1] == "views: 28 of 50, 44 s left"


def test_work_of_unknown_length_says_what_it_is():
    assert lines_of(iter([(0, "upload", 0, 0), (20, "upload", 0, 0)])) == ["upload"]


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_gets_a_bar_for_each_part(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with progress.shown(console) as tell:
        for _ in progress.told(range(12), "val scenes", 12, tell):
            pass
        tell("download", 1.2e9, 2.0e9)
    seen = ESCAPES.sub("", console.file.getvalue()).splitlines()
    assert any(re.search(r"val scenes .*100% 12 of 12", line) for line in seen)
    assert any(re.search(r"download .*60% 1\.2 of 2\.0 GB", line) for line in seen)
    assert max(map(len, seen)) <= width


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (7199, "2 h"),
        (86399, "24 h"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_has_the_two_units_that_matter(seconds, said):
    assert progress.duration(seconds) == said


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_that_went_away_ends_no_work(number):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, os.strerror(number))

    console = Console(file=progress.LastingError(Gone()), force_terminal=True)
    with progress.shown(console) as tell:
        assert list(progress.told(range(3), "scenes", 3, tell)) == [0, 1, 2]


def test_a_full_disk_under_the_standard_error_is_no_reader_that_went_away():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="space"):
        progress.LastingError(Full()).write("a line")


def test_a_folder_that_fills_is_told_in_bytes(tmp_path):
    heard = []
    with progress.filling(tmp_path, "download", 2_000, lambda *step: heard.append(step)):
        (tmp_path / "weights").write_bytes(bytes(2_000))
    assert heard[0] == ("download", 0, 2_000) and heard[-1] == ("download", 2_000, 2_000)


def test_mice_tell_of_each_scene_and_of_the_gate(tmp_path):
    heard = []
    write_mice(tmp_path / "mice", scenes=3, size=16, tell=lambda *step: heard.append(step))
    assert [step for step in heard if step[0] == "scenes"] == [("scenes", n, 3) for n in range(4)]
    assert heard[-1] == ("gate", 3, 3)


def test_progress_is_never_on_the_standard_output(tmp_path: Path, mice_folder: Path):
    done = CliRunner().invoke(mouselift.app, ["data", "ingest", str(mice_folder), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "out")
