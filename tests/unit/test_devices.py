"""The device a command works on: what is refused, word for word, and why torch can use no GPU."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import MachineError
from pipeline.machine.devices import Gpus, Trouble, best_device, described, require_device, seen_gpus, trouble_of
from pipeline.recipes import load_recipe
from pipeline.training.fit import fit

TWO = Gpus(("H100", "A100"), has_driver=True)
NONE = Gpus((), Trouble("a machine without NVIDIA's driver", "install it"))
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def refusal(wanted: str, gpus: Gpus) -> str:
    with pytest.raises(MachineError) as error:
        require_device(wanted, gpus=gpus)
    return str(error.value)


@pytest.mark.parametrize(("wanted", "name"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1")])
def test_a_device_that_is_there_is_taken(wanted, name):
    assert require_device(wanted, gpus=TWO) == name


@pytest.mark.parametrize(
    ("wanted", "mend"), [("gpu", "write cuda"), ("GPU:0", "write cuda"), ("tpu", "name one of them")]
)
def test_another_word_is_refused_without_asking_for_gpus(wanted, mend):
    assert refusal(wanted, TWO) == f"--device: expected cpu, cuda or cuda:N, got {wanted} — {mend}."


def test_a_number_that_is_not_there_is_refused_with_those_that_are():
    assert refusal("cuda:7", TWO) == "--device: expected cuda:0 to cuda:1, got cuda:7 of 2 GPUs — name one of them."
    one = Gpus(("H100",))
    assert refusal("cuda:1", one) == "--device: expected cuda:0, got cuda:1 of 1 GPU — name one of them."


def test_a_machine_without_a_gpu_refuses_it_and_says_why():
    assert refusal("cuda", NONE) == (
        "--device: expected a GPU for cuda, got a machine without NVIDIA's driver — install it, or take cpu."
    )
    assert require_device("cpu", gpus=NONE) == "cpu"


@pytest.mark.parametrize(
    ("built_for", "has_driver", "warned", "hidden", "got"),
    [
        (None, True, "", None, "a torch that is built for CPUs alone"),
        ("13.0", False, "", None, "a machine without NVIDIA's driver"),
        (
            "13.0",
            True,
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update",
            None,
            "a driver that is too old for torch's CUDA 13.0",
        ),
        ("13.0", True, "", "", "none with CUDA_VISIBLE_DEVICES="),
        ("13.0", True, "CUDA unknown error. Restart", None, "CUDA unknown error"),
        ("13.0", True, "", None, "a driver that shows torch no GPU"),
    ],
)
def test_why_torch_can_use_no_gpu(built_for, has_driver, warned, hidden, got):
    assert trouble_of(built_for, has_driver, warned, hidden).got == got


def test_the_best_device_is_a_gpu_where_there_is_one_and_a_driver_without_one_is_said():
    assert (best_device(TWO), described("cuda", TWO)) == ("cuda", "cuda, H100")
    assert described("cuda:1", TWO) == "cuda:1, A100"
    assert (best_device(NONE), described("cpu", NONE)) == ("cpu", "cpu")
    broken = Gpus((), Trouble("an old driver", "install another"), has_driver=True)
    assert described("cpu", broken) == "cpu: torch can use no GPU, for it has an old driver — install another"


@no_gpu
def test_this_machine_has_no_gpu_and_a_driver_is_known_by_its_file(tmp_path):
    driver = tmp_path / "version"
    assert seen_gpus(driver, {}).names == () and not seen_gpus(driver, {}).has_driver
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06")
    assert seen_gpus(driver, {}).has_driver


def test_torchrun_gives_each_process_a_gpu_of_its_own(tmp_path):
    torchruns = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    with pytest.raises(MachineError, match="--device: expected cpu or cuda under torchrun, got cuda:1 — "):
        next(fit(load_recipe("gslrm_tiny"), tmp_path, "cuda:1", torchruns))
    with pytest.raises(MachineError, match="torchrun --nproc-per-node: expected "):
        next(fit(load_recipe("gslrm_tiny"), tmp_path, "cuda", torchruns | {"LOCAL_RANK": "99"}))
