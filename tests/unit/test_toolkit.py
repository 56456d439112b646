"""What a build of CUDA code needs of a machine, looked for in folders with programs that run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import MachineError
from pipeline.machine.toolkit import find_toolkit, require_toolkit

WHAT = "gsplat's CUDA kernels"


def program(path: Path, says: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def toolkit(home: Path, version: str = "13.0", headers: str = "include") -> Path:
    program(home / "bin/nvcc", f"Cuda compilation tools, release {version}, V{version}.88")
    if headers:
        (home / headers).mkdir(parents=True)
        (home / headers / "cuda_runtime.h").touch()
    return home


class Machine:
    """Folders of a machine with a C++ compiler, ninja and Python.h, and no toolkit."""

    def __init__(self, root: Path) -> None:
        self.root, self.standard = root, root / "usr/local/cuda"
        self.programs, self.python = root / "usr/bin", root / "usr/include/python"
        for name in ("c++", "ninja"):
            program(self.programs / name)
        self.python.mkdir(parents=True)
        (self.python / "Python.h").touch()

    def found(self, **environment: str):
        path = environment.pop("PATH", "")
        return find_toolkit({"PATH": f"{path}:{self.programs}", **environment}, self.standard, self.python)

    def home(self, **environment: str) -> str:
        return require_toolkit(self.found(**environment), "13.2", WHAT).relative_to(self.root).as_posix()

    def refusal(self, **environment: str) -> str:
        with pytest.raises(MachineError) as error:
            require_toolkit(self.found(**environment), "13.2", WHAT)
        return str(error.value).replace(str(self.root), "ROOT")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_toolkit_in_its_standard_place_is_found(machine):
    toolkit(machine.standard)
    assert machine.home() == "usr/local/cuda"


def test_the_one_that_a_variable_names_comes_first(machine, tmp_path):
    toolkit(machine.standard)
    toolkit(tmp_path / "own", "13.4")
    assert machine.home(CUDA_HOME=str(tmp_path / "own")) == machine.home(CUDA_PATH=str(tmp_path / "own")) == "own"


def test_the_one_on_path_comes_before_the_standard_one_unless_it_is_not_whole(machine, tmp_path):
    toolkit(machine.standard)
    toolkit(tmp_path / "whole")
    assert machine.home(PATH=str(tmp_path / "whole/bin")) == "whole"
    toolkit(tmp_path / "wrapper", headers="")  # as a script that calls the standard one
    assert machine.home(PATH=str(tmp_path / "wrapper/bin")) == "usr/local/cuda"


def test_a_link_to_nvcc_leads_to_its_toolkit(machine, tmp_path):
    home = toolkit(tmp_path / "opt/cuda")
    (machine.programs / "nvcc").symlink_to(home / "bin/nvcc")
    assert machine.home() == "opt/cuda"


def test_headers_of_conda_lie_by_system(machine):
    toolkit(machine.standard, headers="targets/x86_64-linux/include")
    assert machine.home() == "usr/local/cuda"


def test_no_nvcc_is_said_with_the_package_that_has_it(machine):
    assert machine.refusal() == (
        "gsplat's CUDA kernels: expected nvcc of CUDA 13 to build them, got none on PATH, by CUDA_HOME or at "
        "/usr/local/cuda — apt-get install cuda-toolkit-13-2 (from NVIDIA's repository), or export CUDA_HOME=FOLDER "
        "where it is, or take cpu."
    )


@pytest.mark.parametrize("broken", [False, True])
def test_a_variable_that_names_no_working_toolkit_is_named(machine, tmp_path, broken):
    toolkit(machine.standard)
    if broken:
        program(tmp_path / "own/bin/nvcc").write_text("#!/bin/sh\nexit 1\n")
    said = machine.refusal(CUDA_HOME=str(tmp_path / "own"))
    assert "got none that runs at CUDA_HOME=ROOT/own/bin — export CUDA_HOME=FOLDER of a toolkit of CUDA 13" in said


def test_an_nvcc_of_another_cuda_than_torch_is_refused(machine):
    toolkit(machine.standard, "12.8")
    assert "expected nvcc of torch's CUDA 13 to build them, got 12.8 at ROOT/usr/local/cuda — " in (machine.refusal())


def test_a_toolkit_without_headers_is_refused(machine):
    toolkit(machine.standard, headers="")
    assert "got one without cuda_runtime.h at ROOT/usr/local/cuda — " in machine.refusal()


@pytest.mark.parametrize(
    ("missing", "mend"),
    [
        ("usr/bin/c++", "apt-get install g++"),
        ("usr/bin/ninja", "pip install ninja"),
        ("usr/include/python/Python.h", "apt-get install python3."),
    ],
)
def test_what_else_is_missing_is_said_with_what_installs_it(machine, missing, mend):
    toolkit(machine.standard)
    (machine.root / missing).unlink()
    assert f" — {mend}" in machine.refusal()


def test_a_compiler_may_be_named_with_words_behind_it(machine):
    toolkit(machine.standard)
    assert machine.home(CXX="c++ -m64") == "usr/local/cuda"
    assert "none on PATH (c++, or what CXX names)" in machine.refusal(CXX="ccache c++")


def test_another_minor_version_will_do(machine):
    toolkit(machine.standard, "13.0")
    found = machine.found()
    assert require_toolkit(replace(found, nvcc="13.9"), "13.0", WHAT) == found.home
