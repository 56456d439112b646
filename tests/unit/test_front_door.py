"""The front door: what is done about a command line before any command reads it, and what is said when one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mouselift
from pipeline.recipes import load_recipe
from sweeps.home import Home

ROOT = Path(__file__).parents[2]


def mouselift_says(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    monkeypatch.setattr(sys, "argv", ["mouselift", *words])
    with pytest.raises(SystemExit) as ended:
        mouselift.main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("data", "check", "~/mice"),
        ("train", "gslrm_tiny", "--data=~/mice"),
        ("train", "gslrm_tiny", "--set", "data.root=~/mice"),
    ],
)
def test_the_home_folder_is_written_out_where_shells_leave_it(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "runs"))
    code, said = mouselift_says(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert f"{tmp_path}/mice" in said


def test_the_home_folder_is_written_out_in_a_recipe_and_in_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: gslrm_tiny\ndata: {root: ~/mice}\n")
    assert load_recipe(recipe).data.root == f"{tmp_path}/mice"
    home = Home.from_environment({"MOUSELIFT_HOME": "~/runs", "MOUSELIFT_CHECKPOINTS": "~/checkpoints"})
    assert (home.root, home.checkpoints) == (tmp_path / "runs", f"{tmp_path}/checkpoints")


def test_a_deleted_working_folder_is_said_in_one_line(tmp_path, monkeypatch, capsys) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, said = mouselift_says("sweep", "list", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, said) == (2, "mouselift: the working folder: expected one, got a deleted one — `cd` to another.\n")


def test_an_output_without_room_is_said_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mouselift", "check", "gslrm_tiny"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    last = (
        "a file or the standard output: expected room to write to, got a full disk — free some and run the command "
        "again."
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"mouselift: {last}")
    assert "Traceback" not in done.stderr
