"""gsplat's kernels are built once: by one of several processes, wherever the others are; a dead one blocks nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import gsplat
import pytest
import torch

from pipeline.errors import MachineError
from pipeline.splatting.gsplat_build import (
    BUILDING,
    PROVEN,
    WAITING,
    build_once,
    cards_of,
    draw_in,
    first_error,
    kernels_folder,
    require_kernels,
)
from sweeps.preflight.kernels import build_apart, ready_kernels

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
PROCESSES = multiprocessing.get_context("fork")
NINJA = """Error building extension 'gsplat_cuda': [1/3] nvcc -c AdamCUDA.cu
[2/3] c++ -c ext.cpp
FAILED: ext.o
ext.cpp:1:10: fatal error: cuda_runtime.h: No such file or directory
compilation terminated.
ninja: build stopped: subcommand failed.
"""


def note(file: Path, word: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{word}\n")


def build(folder: Path, notes: Path, seconds: float = 0.0) -> bool:
    """A build that takes time, by `build_once`; it and its lines are noted."""

    def made(place: Path) -> None:
        if (place / "kernels.so").exists():
            note(notes, "loaded")
            return
        note(notes, "begins")
        time.sleep(seconds)
        (place / "kernels.so").touch()
        note(notes, "ends")

    return build_once(folder, made, lambda line: note(notes, line))


def started(*words: object) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=build, args=words)
    process.start()
    return process


def wait_for(file: Path, word: str) -> None:
    deadline = time.monotonic() + 30
    while not (file.exists() and word in file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_processes_that_build_at_once_one_does_and_the_others_wait_and_load(tmp_path):
    folder, first, second = tmp_path / "kernels", tmp_path / "first", tmp_path / "second"
    one = started(folder, first, 0.5)
    wait_for(first, "begins")
    other = started(folder, second, 0.0)
    one.join(30)
    other.join(30)
    assert first.read_text().splitlines() == [BUILDING, "begins", "ends"]
    assert second.read_text().splitlines() == [WAITING, "loaded"]


def test_a_process_that_is_killed_half_way_blocks_nobody_and_leaves_nothing(tmp_path):
    folder, notes = tmp_path / "kernels", tmp_path / "notes"
    process = started(folder, notes, 600.0)
    wait_for(notes, "begins")
    (half,) = folder.glob("build-*")
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert build(folder, tmp_path / "again")
    assert (tmp_path / "again").read_text().splitlines() == [BUILDING, "begins", "ends"]
    assert len(list(folder.glob("build-*"))) == 1 and not half.exists()


def test_what_was_built_is_loaded_the_next_time_and_nothing_is_said(tmp_path):
    assert build(tmp_path / "kernels", tmp_path / "first")
    assert not build(tmp_path / "kernels", tmp_path / "second")
    assert (tmp_path / "second").read_text() == "loaded\n"


def test_a_build_that_fails_is_made_anew_and_so_is_one_that_no_longer_loads(tmp_path):
    def fails(place: Path) -> None:
        raise MachineError("gsplat's CUDA kernels: no")

    folder = tmp_path / "kernels"
    for attempt in range(2):
        with pytest.raises(MachineError):
            build_once(folder, fails, lambda line: None)
        assert not (folder / PROVEN).exists()
        assert build(folder, tmp_path / f"notes-{attempt}")


def test_the_folder_is_another_for_other_cards_and_below_the_one_that_torch_is_told(tmp_path):
    told = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    folder = kernels_folder(told, "9.0")
    assert folder.parent == tmp_path and torch.__version__ in folder.name and folder.name.endswith("sm-9.0")
    assert kernels_folder(told, "8.6;9.0").name.endswith("sm-8.6-9.0")
    assert kernels_folder(told | {"TORCH_CUDA_ARCH_LIST": "8.9+PTX"}, "9.0").name.endswith("sm-8.9+PTX")


def test_a_process_that_sees_one_of_two_cards_takes_what_was_built_for_both(tmp_path):
    told = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    both, other = kernels_folder(told, "8.0;9.0"), kernels_folder(told, "8.9;12.0")
    assert build(both, tmp_path / "notes") and build(other, tmp_path / "notes")
    assert kernels_folder(told, "9.0") == kernels_folder(told, "8.0") == both and cards_of(both) == "8.0;9.0"
    assert kernels_folder(told, "7.5").name.endswith("sm-7.5")
    assert build(kernels_folder(told, "9.0").with_name(both.name.replace("8.0-9.0", "9.0")), tmp_path / "notes")
    assert kernels_folder(told, "9.0") != both


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (NINJA, "ext.cpp:1:10: fatal error: cuda_runtime.h: No such file or directory"),
        (
            "ld: cannot find -lcudart: No such file\ncollect2",
            "ld: cannot find -lcudart: No such file",
        ),
        ("CUDA error: no kernel image is available\nCompile with", "CUDA error: no kernel image is available"),
        ("one\ntwo\n", "two"),
    ],
)
def test_the_line_that_says_what_is_wrong_is_found(output, line):
    assert first_error(output) == line


@no_gpu  # where another test may have loaded them
def test_gsplat_builds_with_the_toolkit_that_was_found_and_its_first_error_is_the_line(tmp_path):
    """Whatever torch had found before. This nvcc takes no file."""
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME, before = "/nowhere", dict(os.environ)
    nvcc = tmp_path / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'AdamCUDA.cu(3): error: no such thing' >&2; exit 2\n")
    nvcc.chmod(0o755)
    home = {"CUDA_HOME": str(tmp_path / "cuda"), "TORCH_CUDA_ARCH_LIST": "9.0", "MAX_JOBS": "1"}
    quats, scales = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.ones(1, 3)
    (tmp_path / "place").mkdir()
    with pytest.raises(MachineError, match=r"got AdamCUDA\.cu\(3\): error: no such thing — .*build\.log has all of it"):
        draw_in(
            tmp_path / "place",
            home,
            tmp_path / "build.log",
            lambda: gsplat.quat_scale_to_covar_preci(quats, scales),
        )
    assert f"{nvcc} -MD" in (tmp_path / "build.log").read_text()
    assert dict(os.environ) == before


@no_gpu
def test_without_a_gpu_the_refusal_is_one_line_in_this_process_and_out_of_another(tmp_path):
    with pytest.raises(MachineError) as here:
        require_kernels()
    with pytest.raises(MachineError) as apart:
        build_apart()
    assert str(here.value) == str(apart.value)
    assert str(here.value).startswith("gsplat's CUDA kernels: expected a GPU for cuda, got ")


@no_gpu
def test_the_driver_of_a_cluster_builds_none_where_it_has_no_gpu():
    said: list[str] = []
    line = "the first trial on a node builds those that it lacks, about a minute"
    assert ready_kernels(True, said.append) == line
    assert said == [f"gsplat's CUDA kernels: {line}"]
