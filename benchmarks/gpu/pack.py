"""`python -m benchmarks.gpu --pack FOLDER`: this checkout and the packages it needs, for a machine without network.

The packages are those of the environment that packs, in the same versions, as wheels for the Python of the machine;
PyTorch and what belongs to CUDA are left out, and so is what `--has FILE` names. There, `FOLDER/run.sh` does the rest.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.processes import COMMIT, ROOT

PYTHON = "3.12"  # of the machine
ASKED = ("mouselift", "pytest", "setuptools", "ninja")  # ninja builds gsplat, and setuptools knows how
# Whatever PyTorch was built with has to be there: a card's driver decides which one can run.
LEFT_OUT = ("torch", "torchvision", "torchaudio", "triton", "mouselift")
LEFT_OUT_FAMILIES = ("nvidia-", "cuda-")
KEPT_FAMILIES = ("nvidia-ml-py",)
# Folders that no part imports; they are most of the size.
PRUNED = (
    "**/__pycache__",
    "**/tests",
    "include",
    "ray/dashboard/client",
    "ray/rllib",
    "ray/cpp",
    "ray/jars",
    "ray/serve",
    "ray/llm",
    "mlflow/server/js",
    "pyarrow/include",
    "pyarrow/src",
    "diffusers/commands",
)
NEEDED = ("numpy", "scipy", "pandas")  # whose `tests` are imported by their own code
RUN = """#!/bin/sh
# Everything that needs a GPU: builds gsplat's kernels, runs tests/gpu, measures. Reports are written beside this file.
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$PATH:$here/packages/bin"  # ninja, where the machine has none
export PYTHONPATH="$here/checkout:$here/packages${PYTHONPATH:+:$PYTHONPATH}"
"${PYTHON:-python3}" -m compileall -q -j 0 "$here/packages" > /dev/null 2>&1  # or every process would do it
cd "$here/checkout" && exec "${PYTHON:-python3}" -m benchmarks.gpu --out "$here" "$@"
"""


def pack(folder: Path, has: frozenset[str]) -> None:
    """Write `folder/checkout`, `folder/packages` and `folder/run.sh`. The folder must not be there.

    has: normal names of distributions that the machine has. Raises FileExistsError, CalledProcessError of git and pip.
    """
    folder.mkdir(parents=True)
    _checkout(folder / "checkout")
    wanted = sorted(needed(has))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--target", str(folder / "packages"), *wanted]
    subprocess.run(command, check=True)
    for path in _pruned(folder / "packages"):
        shutil.rmtree(path, ignore_errors=True)
    script = folder / "run.sh"
    script.write_text(RUN)
    script.chmod(0o755)


def names_in(file: Path | None) -> frozenset[str]:
    """Normal names of the packages in a list, one a line, with versions or without, as `pip freeze` writes them."""
    if file is None:
        return frozenset()
    lines = (line.split("#")[0].split("@")[0].strip() for line in file.read_text().splitlines())
    return frozenset(canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("-"))


def _checkout(folder: Path) -> None:
    """What is committed, and the commit's name."""
    folder.mkdir()
    with tempfile.TemporaryFile() as archive:
        subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], stdout=archive, check=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            files.extractall(folder, filter="data")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (folder / COMMIT).write_text(commit.stdout)


def needed(has: frozenset[str]) -> Iterator[str]:
    """`name==version` of each distribution that is needed, directly or through others, as it is installed here."""
    seen: set[str] = set()
    waiting = [Requirement(name) for name in ASKED]
    while waiting:
        wanted = waiting.pop()
        key = f"{canonicalize_name(wanted.name)}[{','.join(sorted(wanted.extras))}]"
        if key in seen:
            continue
        seen.add(key)
        name = canonicalize_name(wanted.name)
        if (_left_out(name) or name in has) and name != "mouselift":
            continue
        found = importlib.metadata.distribution(name)
        if name not in LEFT_OUT and f"{name}=" not in seen:
            seen.add(f"{name}=")
            yield f"{name}=={found.version}"
        waiting += [one for one in map(Requirement, found.requires or ()) if _applies(one, wanted.extras)]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether a requirement counts on the machine, with these extras asked for."""
    there = default_environment() | {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    marker = requirement.marker
    return marker is None or any(marker.evaluate(there | {"extra": extra}) for extra in ("", *extras))


def _left_out(name: str) -> bool:
    return name not in KEPT_FAMILIES and (name in LEFT_OUT or name.startswith(LEFT_OUT_FAMILIES))


def _pruned(packages: Path) -> Iterator[Path]:
    for pattern in PRUNED:
        for path in sorted(packages.glob(pattern)):
            if path.is_dir() and not (path.name == "tests" and path.relative_to(packages).parts[0] in NEEDED):
                yield path
