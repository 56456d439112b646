"""How kernels for the CPU are compiled and how their work is shared among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from numba import njit

from pipeline.machine import account

Result = TypeVar("Result")

# Kernels compute in float64 whatever their arrays hold: scalar code is no slower for it. Without fast maths a forward
# and a backward pass take identical decisions, so that gradients are those of exactly what was drawn. Threads run them
# at once, since they hold no lock of the interpreter. What numba keeps on the disk is made anew when the kernel's own
# file changes: a kernel calls kernels of its file only.
account.settle()  # numba looks for a folder for what it compiles when it is told of a function, and ends without one
compiled = njit(nogil=True, cache=True, error_model="numpy")
# For what a loop is made of: a loop that calls anything becomes no vector instructions.
inlined = njit(nogil=True, cache=True, error_model="numpy", forceinline=True)


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """Run `work` for 0 … count - 1, on as many threads as torch is allowed; a pool per call survives fork."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [work(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))
