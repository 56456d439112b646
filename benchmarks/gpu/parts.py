"""The parts of the benchmark by name, each with its limit; a part yields rows as soon as it has them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings

PACKAGES = ("torch", "gsplat", "diffusers", "transformers", "numpy", "numba", "ray", "mlflow", "optuna")


@dataclass(frozen=True)
class Part:
    """Work in a process of its own: a function of `module` from Settings to rows, and what its table says above."""

    name: str
    function: str  # module:function
    seconds: float  # after which its process is ended
    title: str
    needs: tuple[str, ...] = ()  # parts that have to have succeeded

    def rows(self, settings: Settings) -> Iterator[Row]:
        """Do the work here."""
        module, _, function = self.function.partition(":")
        work: Callable[[Settings], Iterator[Row]] = getattr(import_module(f"benchmarks.gpu.{module}"), function)
        yield from work(settings)


def machine(settings: Settings) -> Iterator[Row]:
    """Card, driver and versions, for the heading."""
    import torch

    yield Row("machine", note=f"{platform.platform()}, {os.cpu_count()} cores")
    yield Row("Python", note=sys.version.split()[0])
    if settings.cuda:
        card = torch.cuda.get_device_properties(0)
        yield Row("card", note=f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
        yield Row("driver", note=_driver())
        yield Row("CUDA of torch", note=str(torch.version.cuda))
    for name in PACKAGES:
        yield Row(name, note=_version(name))


def kernels(settings: Settings) -> Iterator[Row]:
    """Draw the least scene there is, for which gsplat builds its kernels where they are not built yet."""
    import time

    import torch

    from pipeline.gaussians import Gaussians
    from pipeline.splatting.rendering import render

    started = time.perf_counter()
    one = {"device": settings.device, "dtype": torch.float32}
    quats = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]], **one)
    means, scales, opacities = (torch.full(shape, 0.1, **one) for shape in ((1, 1, 3), (1, 1, 3), (1, 1)))
    drawn = render(Gaussians(means, quats, scales, opacities, means[:, :, None]), settings.ring(32, 2))
    settings.settle()
    if not bool(drawn.alphas.any()):
        raise ArithmeticError("one Gaussian before two cameras: expected it in their images, got nothing drawn")
    yield Row("gsplat's kernels, built where they were not, and a scene drawn", time.perf_counter() - started, "s")


def data(settings: Settings) -> Iterator[Row]:
    """Write the procedural mice that steps and the sweep train on."""
    import time

    from pipeline.data.mice.mice import write_mice

    started = time.perf_counter()
    size = 32 if settings.small else 256
    write_mice(settings.data, scenes=7, size=size, rig="mouse_centred")
    yield Row(f"7 procedural mice at {size} px", time.perf_counter() - started, "s")


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return "nvidia-smi is not there"
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or found.stderr.strip()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not there"


# These begin at once, the kernels and the data beside each other and beside what needs neither.
MACHINE = Part("machine", "parts:machine", 60, "The machine")
KERNELS = Part("kernels", "parts:kernels", 200, "gsplat's kernels")
DATA = Part("data", "parts:data", 120, "Data")
FIRST = (
    Part("ceilings", "networks:ceilings", 40, "Ceilings"),
    Part(
        "network",
        "networks:network",
        90,
        "GS-LRM's network alone, forward and backward, six views at 512 px, by the mode of activation checkpoints",
    ),
)
# These begin once the kernels are there and the tests have ended, one after the other.
THEN = (
    # Its launches wait for the CPU: beside the compiler it took a fifth longer.
    Part("stage1", "views:stage1", 90, "Stage 1's UNet, 870 M weights, against diffusers' own"),
    Part("step", "steps:step", 60, "A training step of gslrm_mouse at its released size", ("kernels", "data")),
    Part("parts", "steps:parts", 60, "Where its time goes", ("kernels", "data")),
    Part("nothing", "steps:from_nothing", 60, "From random weights at 512 px", ("kernels",)),
    Part("drawing", "steps:drawing", 40, "Drawing at once and view by view", ("kernels",)),
    Part(
        "waits",
        "waits:waits",
        40,
        "How often a step waits for the GPU, gslrm_tiny and mvdiffusion_tiny",
        ("kernels", "data"),
    ),
    Part("sweep", "sweep:utilisation", 100, "A sweep of six trials, two to a GPU", ("kernels", "data")),
)
ALL = (MACHINE, KERNELS, DATA, *FIRST, *THEN)
