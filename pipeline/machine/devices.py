"""The device that a model runs on: the one that was named, or the best of this machine."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import MachineError, counted

CPU, CUDA = "cpu", "cuda"
_DRIVER = Path("/proc/driver/nvidia/version")


class Trouble(NamedTuple):
    """Why torch can use no GPU, in words that follow `got`, and what mends it."""

    got: str
    mend: str


@dataclass(frozen=True)
class Gpus:
    """The names of the GPUs that torch can use here, or the trouble where it can use none.

    has_driver: the machine has NVIDIA's driver, and so, most likely, a GPU.
    """

    names: tuple[str, ...] = ()
    trouble: Trouble | None = None
    has_driver: bool = False


def require_device(wanted: str, where: str = "--device", gpus: Gpus | None = None) -> str:
    """A device that torch can use, by torch's name for it. gpus: those of this machine, if None.

    Raises MachineError for another word than cpu, cuda and cuda:N, and for a GPU that is not there.
    """
    form = re.fullmatch(r"cpu|cuda(?::(\d+))?", wanted)
    if form is None:
        mend = "write cuda" if wanted.lower().startswith("gpu") else "name one of them"
        raise MachineError(f"{where}: expected cpu, cuda or cuda:N, got {wanted} — {mend}.")
    if wanted == CPU:
        return CPU
    seen = gpus or seen_gpus()
    if seen.trouble is not None:
        got, mend = seen.trouble
        raise MachineError(f"{where}: expected a GPU for {wanted}, got {got} — {mend}, or take cpu.")
    if form[1] is None:
        return CUDA
    last = len(seen.names) - 1
    if int(form[1]) > last:
        known = "cuda:0" if last == 0 else f"cuda:0 to cuda:{last}"
        raise MachineError(f"{where}: expected {known}, got {wanted} of {counted(last + 1, 'GPU')} — name one of them.")
    return f"cuda:{int(form[1])}"


def best_device(gpus: Gpus | None = None) -> str:
    """`cuda` where torch can use a GPU of this machine, else `cpu`."""
    return CUDA if (gpus or seen_gpus()).names else CPU


def described(device: str, gpus: Gpus | None = None) -> str:
    """A device in a message: a GPU with its name; the CPU with the reason, where the machine has a driver for GPUs."""
    seen = gpus or seen_gpus()
    if device != CPU:
        return f"{device}, {seen.names[int(device.partition(':')[2] or 0)]}"
    if seen.trouble is not None and seen.has_driver:
        return f"cpu: torch can use no GPU, for it has {seen.trouble.got} — {seen.trouble.mend}"
    return CPU


def seen_gpus(driver: Path = _DRIVER, environment: Mapping[str, str] | None = None) -> Gpus:
    """What torch sees of the GPUs of this machine, and why where it sees none; takes none of them into use.

    driver: the file by which the system shows NVIDIA's driver.
    """
    import torch

    with warnings.catch_warnings(record=True) as warned:  # which say why there is none
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
        count = torch.cuda.device_count() if usable else 0
    if count:
        return Gpus(tuple(torch.cuda.get_device_name(index) for index in range(count)), has_driver=True)
    hidden = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    said = " ".join(str(one.message) for one in warned)
    return Gpus((), trouble_of(torch.version.cuda, driver.is_file(), said, hidden), driver.is_file())


def trouble_of(built_for: str | None, has_driver: bool, said: str, hidden: str | None) -> Trouble:
    """Why torch can use no GPU.

    built_for: the version of CUDA that torch is built for, None for CPUs alone. said: what torch warned of when it was
    asked. hidden: CUDA_VISIBLE_DEVICES, if it is set.
    """
    if built_for is None:
        return Trouble("a torch that is built for CPUs alone", "install a torch for CUDA")
    if not has_driver:
        return Trouble("a machine without NVIDIA's driver", "install it, until `nvidia-smi` shows the GPU")
    if "too old" in said:
        major = built_for.partition(".")[0]
        return Trouble(
            f"a driver that is too old for torch's CUDA {built_for}",
            f"install one for CUDA {major} (`nvidia-smi` shows the version), or a torch for an older CUDA",
        )
    if hidden is not None:
        return Trouble(f"none with CUDA_VISIBLE_DEVICES={hidden}", "unset it, or name a GPU that `nvidia-smi -L` lists")
    first = " ".join(said.split()).partition(". ")[0]
    return Trouble(first or "a driver that shows torch no GPU", "see what `nvidia-smi` says")
