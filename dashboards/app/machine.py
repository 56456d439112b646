"""What the machine that serves the pages is doing: its GPUs, processor and memory."""

from __future__ import annotations

from typing import Any

import psutil

_GIB = 2**30


def watch_processor() -> None:
    """Begin to count: the share of the processor is that since the last time that it was asked for."""
    psutil.cpu_percent()


def machine() -> dict[str, Any]:
    """Shares are of 1, memory in GiB. `gpus` is empty where there is none, or its driver does not answer."""
    memory = psutil.virtual_memory()
    return {
        "cpu": psutil.cpu_percent() / 100,
        "cores": psutil.cpu_count(),
        "memory_used": (memory.total - memory.available) / _GIB,
        "memory_total": memory.total / _GIB,
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: Any) -> dict[str, Any]:
    import pynvml

    memory, name = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetName(handle)
    try:
        busy: float | None = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except pynvml.NVMLError:  # a part of a divided GPU does not say
        busy = None
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        "busy": busy,
        "memory_used": memory.used / _GIB,
        "memory_total": memory.total / _GIB,
    }
