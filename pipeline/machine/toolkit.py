"""What a machine has to compile CUDA code with, looked into before a compiler is called. Imports no library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import MachineError

STANDARD_HOME = Path("/usr/local/cuda")
_HEADER = "cuda_runtime.h"
_SECONDS = 60


@dataclass(frozen=True)
class Toolkit:
    """A compiler for CUDA and what it needs beside it.

    home: the folder of NVIDIA's toolkit that torch would take, None where there is none; named_by: the variable that
    names it, empty where it was found. nvcc: its version, None where it is missing or does not run.
    """

    home: Path | None
    named_by: str
    nvcc: str | None
    has_headers: bool
    has_compiler: bool  # for C++
    has_ninja: bool
    has_python_headers: bool


def find_toolkit(
    environment: Mapping[str, str], standard: Path = STANDARD_HOME, python_include: Path | None = None
) -> Toolkit:
    """What this environment has. Of several toolkits that no variable names, the first that is whole.

    PATH should have the folder of this Python's programs, in which pip installs ninja.
    """
    path = environment.get("PATH")
    named_by, homes = _homes(environment, standard)
    whole = [home for home in homes if _has_headers(home) and _nvcc(home).is_file()]
    home = next(iter([*whole, *(home for home in homes if _nvcc(home).is_file()), *homes]), None)
    return Toolkit(
        home=home,
        named_by=named_by,
        nvcc=None if home is None else _version(_nvcc(home)),
        has_headers=home is not None and _has_headers(home),
        has_compiler=shutil.which((environment.get("CXX", "").split() or ["c++"])[0], path=path) is not None,
        has_ninja=shutil.which("ninja", path=path) is not None,
        has_python_headers=((python_include or Path(sysconfig.get_path("include"))) / "Python.h").is_file(),
    )


def require_toolkit(found: Toolkit, cuda: str, what: str) -> Path:
    """The folder of a toolkit that can compile for a torch with this version of CUDA.

    what: what is to be built, with which the message begins. Raises MachineError for the first thing that is missing.
    """
    major = cuda.partition(".")[0]
    toolkit = f"apt-get install cuda-toolkit-{cuda.replace('.', '-')} (from NVIDIA's repository)"
    elsewhere = f"export CUDA_HOME=FOLDER of a toolkit of CUDA {major}, or {toolkit}"

    def lacks(expected: str, got: str, mend: str) -> MachineError:
        return MachineError(f"{what}: expected {expected} to build them, got {got} — {mend}, or take cpu.")

    if found.home is None:
        got = f"none on PATH, by CUDA_HOME or at {STANDARD_HOME}"
        raise lacks(f"nvcc of CUDA {major}", got, f"{toolkit}, or export CUDA_HOME=FOLDER where it is")
    where = f"{found.named_by}={found.home}" if found.named_by else str(found.home)
    if found.nvcc is None:
        raise lacks(f"nvcc of CUDA {major}", f"none that runs at {where}/bin", elsewhere)
    if found.nvcc.partition(".")[0] != major:
        raise lacks(f"nvcc of torch's CUDA {major}", f"{found.nvcc} at {where}", elsewhere)
    if not found.has_headers:
        raise lacks("a whole CUDA toolkit", f"one without {_HEADER} at {where}", elsewhere)
    if not found.has_compiler:
        raise lacks("a C++ compiler", "none on PATH (c++, or what CXX names)", "apt-get install g++")
    if not found.has_ninja:
        raise lacks("ninja", "none on PATH", "pip install ninja")
    if not found.has_python_headers:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise lacks("Python.h", "none of this Python", f"apt-get install python{version}-dev")
    return found.home


def _homes(environment: Mapping[str, str], standard: Path) -> tuple[str, list[Path]]:
    """The variable that names a toolkit, if one does, and the folders in the order in which torch looks there."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if environment.get(variable):
            return variable, [Path(environment[variable])]
    found = shutil.which("nvcc", path=environment.get("PATH"))
    beside = [] if found is None else [Path(found).parents[1], Path(found).resolve().parents[1]]
    return "", [*beside, *([standard] if standard.is_dir() else [])]


def _nvcc(home: Path) -> Path:
    return home / "bin" / "nvcc"


def _has_headers(home: Path) -> bool:
    """NVIDIA's packages have them in `include`, those of conda for each system in `targets`."""
    return (home / "include" / _HEADER).is_file() or any(home.glob(f"targets/*/include/{_HEADER}"))


def _version(nvcc: Path) -> str | None:
    """The version of CUDA that an nvcc is of, such as 13.0; None for one that does not run."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"release (\d+\.\d+)", said.stdout)
    return None if said.returncode or release is None else release[1]
