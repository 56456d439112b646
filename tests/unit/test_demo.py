"""What `make demo` says at its end: files that it made, by paths that can be opened from anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_ends_with_paths_of_what_reconstruct_writes():
    """Another name of a file there, and the last lines would name none."""
    # The suite may itself be run by make, which then names the folders that it enters and leaves.
    words = ["make", "--no-print-directory", "-n", "demo"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = [
        Path(path) for line in said.splitlines() if line.startswith("printf") for path in re.findall(r'"(.+?)"', line)
    ]
    (folder,) = {path.parent for path in named if not path.parent.name.startswith("photo")}
    assert folder.is_absolute() and folder.parent == ROOT / "out"
    assert {path.parent for path in named} == {folder, folder / "photo", folder / "photo-alone"}
    outputs = (ROOT / "pipeline/reconstruction/outputs.py").read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in outputs or path.name == "gaussians.ply" for path in named)
    assert f"--out out/{folder.name}\n" in said and "--out out/$(SWEEP)/photo" not in said
    last = said.splitlines()[-1]
    assert str(ROOT / "runs") in last and "mouselift' ui" in last


def test_a_disk_without_room_is_refused_before_anything_is_installed(tmp_path: Path):
    """In one line, in place of pip's hundred after a minute."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    said = subprocess.run(
        ["make", "setup", "ROOM_GB=900000"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    first = said.stderr.splitlines()[0]
    assert said.returncode == 2 and not (tmp_path / ".venv").exists()
    assert re.fullmatch(r"make: \.venv: expected 900000 GB free here, got [\d.]+ - make room, or clone .*\.", first)
