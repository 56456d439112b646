"""`python -m benchmarks.activations`: what `model.checkpoint` saves of GS-LRM's memory, and what it costs, on the CPU.

Forward and backward of the network alone, float32, one thread, the modes taking turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from benchmarks.memory import peak_mib
from pipeline.cameras import facelift_six
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import GSLRMConfig

Mode = Literal["none", "attention", "layers"]
MODES: tuple[Mode, ...] = ("none", "attention", "layers")
LAYERS, WIDTH, SIZE = 12, 256, 128  # six views of 128 px: 1,538 tokens
REPEATS = 5


def rows() -> list[dict[str, object]]:
    """Peak above the resting network and CPU seconds of each mode: medians, with the least and the most."""
    peaks: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    times: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    for _ in range(REPEATS):
        for mode in MODES:
            peaks[mode].append(peak_mib(prepared, mode))
            times[mode].append(_seconds(prepared(mode)))
    base = statistics.median(times["none"])
    return [
        {
            "what": f"model.checkpoint: {mode}",
            "peak MiB": _spread(peaks[mode], ".0f"),
            "CPU s": _spread(times[mode], ".2f"),
            "of none": statistics.median(times[mode]) / base,
            "n": REPEATS,
        }
        for mode in MODES
    ]


def prepared(mode: Mode) -> Callable[[], object]:
    """A pass of a network that has made a small one already, so that what is allocated once is there."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = GSLRM(GSLRMConfig(dim=WIDTH, head_dim=64, num_layers=LAYERS, checkpoint=mode))

    def step(size: int = SIZE) -> None:
        network.zero_grad()
        images, cameras = torch.rand(1, 6, 3, size, size), facelift_six(size)[None]
        network(images, cameras).means.square().mean().backward()

    step(network.config.patch_size)
    return step


def _seconds(step: Callable[[], object]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    from benchmarks.tables import table

    print(table(rows()))
