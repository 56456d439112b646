"""In which numbers a network computes: weights, losses and rendering are float32, what lies between is as asked for."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from pipeline.recipe import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device | str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The block in which a network computes in a precision on a device."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(torch.device(device).type, dtype) if dtype else contextlib.nullcontext()


def evaluated_in(precision: Precision, device: torch.device | str) -> Precision:
    """What a model of a recipe with this precision is evaluated in: the same, but for float16 on a CPU.

    There torch computes float16 hundreds of times slower than float32, where it does at all.
    """
    return "fp32" if precision == "fp16" and torch.device(device).type == "cpu" else precision
