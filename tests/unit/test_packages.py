"""The list of packages that a sweep keeps: those of the interpreter, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.book.provenance import packages

BEFORE_AND_AFTER = """
import sys
from sweeps.book.provenance import packages
before, path = packages(), list(sys.path)
import ray
print([entry for entry in sys.path if entry not in path])
print(sorted({*before.split()} ^ {*packages().split()}))
"""


def distribution(folder: Path, name: str) -> str:
    """A folder for the path of imports with one distribution in it."""
    (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return str(folder)


def test_what_a_library_brings_along_is_no_package_of_the_interpreter(tmp_path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site-packages"
    for path in (distribution(site, "own"), distribution(site / "library/thirdparty_files", "brought")):
        monkeypatch.syspath_prepend(path)
    assert {"own==1.0", "brought==1.0"} & set(packages().split()) == {"own==1.0"}


def test_the_list_is_the_same_before_and_after_ray_is_imported():
    """Else a trial that is run again is told that packages changed, by whoever had imported Ray or not."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_AND_AFTER],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    added, differing = done.stdout.splitlines()
    assert "thirdparty_files" in added and differing == "[]"
