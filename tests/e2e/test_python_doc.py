"""docs/python.md: its script, run as a user would run it, sweeps, promotes, and leaves Gaussians."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline import Gaussians
from tests.e2e.conftest import Seat

(SCRIPT,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/python.md").read_text(), re.DOTALL)
_SETTINGS = ("data.image_size=32", "model.dim=32", "model.head_dim=16", "train.max_steps=40", "train.validate_every=10")
SHORT = ["scheduler.kind=none", "trials.count=1", *(f"fixed.{setting}" for setting in _SETTINGS)]
IN_A_THREAD = textwrap.dedent("""
    import os, sys
    from concurrent.futures import ThreadPoolExecutor
    from sweeps import Home, load_space, resume_sweep, run_sweep
    from sweeps.book.journal import Reported

    data, *overrides = sys.argv[1:]
    heard = []

    def stop(event):
        if isinstance(event, Reported) and not heard:
            heard.append(event)
            (Home.from_environment(os.environ).journal("aside") / "stop").touch()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_sweep, load_space("gslrm_tiny", overrides), "aside", data, listen=stop).result()
        print(first.state, first.reason)
        print(pool.submit(resume_sweep, "aside").result().state)
""")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seat, subprocess.CompletedProcess[str]]:
    seat = Seat(tmp_path_factory.mktemp("python"))
    (seat.folder / "script.py").write_text(SCRIPT)
    return seat, seat.run(sys.executable, "script.py")


def test_the_script_ends_well_and_says_nothing_else(followed) -> None:
    _, done = followed
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_watches_sweeps_and_promotes(followed) -> None:
    seat, done = followed
    lines = done.stdout.splitlines()
    reports = [line for line in lines if re.fullmatch(r"trial [01] at step (20|40): 0\.\d{3}", line)]
    assert len(reports) == 4
    assert lines[4].startswith("COMPLETE: 2 trials, best {'")
    assert lines[5] == "mouse-gslrm/1 is champion: it passed its gates"
    assert re.fullmatch(r"\d+ Gaussians, held-out views \d+\.\d dB", lines[6]) and len(lines) == 7
    assert seat.ledger("first").state == "COMPLETE"


def test_the_script_leaves_gaussians_of_a_scene(followed) -> None:
    seat, _ = followed
    assert Gaussians.load_ply(seat.folder / "mouse.ply").means.shape[-1] == 3


def test_the_command_line_knows_the_sweep(followed) -> None:
    seat, _ = followed
    assert seat.answer_here("sweep", "status", "first")["trials"]["complete"] == 2


def test_a_sweep_in_another_thread_is_stopped_and_goes_on(mice_folder: Path, tmp_path: Path) -> None:
    seat = Seat(tmp_path)
    (seat.folder / "aside.py").write_text(IN_A_THREAD)
    done = seat.run(sys.executable, "aside.py", mice_folder, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["KILLED stopped by `mouselift sweep stop`", "COMPLETE"]
