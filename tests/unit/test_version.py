"""The version is known where the code is on the path alone, as beside a registered model in a serving environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from pipeline.machine.version import VERSION

ROOT = Path(__file__).parents[2]
WORK = """
import importlib.metadata, json, sys
import pipeline
from pipeline.data.scenes import open_dataset

known = {found.metadata["Name"] for found in importlib.metadata.distributions()}
software = open_dataset(sys.argv[1]).manifest.software
print(json.dumps({"from": pipeline.__file__, "torch": "torch" in known, "ours": "mouselift" in known, "is": software}))
"""


def test_the_version_is_that_of_the_installed_package():
    assert importlib.metadata.version("mouselift") == VERSION


def test_a_scene_is_opened_where_nothing_of_ours_is_installed(tmp_path, mice_folder):
    """A copy of the code on the path, and every package but ours. All that reads a scene asks for the version."""
    (packages := tmp_path / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "mouselift" not in path.name:
            (packages / path.name).symlink_to(path)
    shutil.copytree(ROOT / "pipeline", tmp_path / "code/pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, "-S", "-c", WORK, mice_folder / "scene_000006"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'code'}{os.pathsep}{packages}"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("from").startswith(str(tmp_path))
    assert found == {"torch": True, "ours": False, "is": f"mouselift {VERSION}"}


def test_the_command_says_its_version_where_the_code_is_on_the_path_alone(tmp_path):
    """Far from the checkout, whose folder Python would look into first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "mouselift", "--version"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mouselift {VERSION}\n", "")
