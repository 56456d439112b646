"""How often a training step waits for the device, which it does wherever Python asks a tensor for a number."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.recipe import Recipe
from pipeline.training.loop import train

ASKING = {
    "__array__", "__bool__", "__complex__", "__contains__", "__float__", "__format__", "__index__", "__int__",
    "allclose", "cpu", "equal", "is_nonzero", "item", "masked_select", "nonzero", "numpy", "tolist", "unique",
}  # fmt: skip
STEPS = 3


class Waits(TorchFunctionMode):
    """The places in a step of the loop where a tensor is asked for a number, or made from numbers of Python's, which
    a GPU fetches only once it has nothing else to do.

    Not counted: bytes that are composited by numpy, since they lie on the host and stay there; the rasterizer of the
    CPU, in whose place gsplat draws on a GPU; torch's optimizers, whose counts of steps lie on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if asks(getattr(function, "__name__", ""), args):
            stack = [frame for frame in traceback.extract_stack() if "__torch_function__" not in frame.name]
            if any(frame.name == "step" and "pipeline" in Path(frame.filename).parts for frame in stack):
                self.places += [f"{stack[-1].filename}:{stack[-1].lineno}"] * (not any(map(is_of_the_host, stack)))
        return function(*args, **(kwargs or {}))


def asks(name: str, args: Sequence[Any]) -> bool:
    if name in ("new_tensor", "tensor", "as_tensor") or (name == "__getitem__" and isinstance(args[1], list)):
        return True
    if name == "__getitem__":  # by a mask: how many there are decides the shape
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
    return name in ASKING or (name == "to" and "cpu" in [arg for arg in args[1:] if isinstance(arg, str)])


def is_of_the_host(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    draws = path.parent.name == "splatting" and path.name != "rendering.py"
    composites = path.name == "batch.py" and "numpy()" in (frame.line or "")
    return draws or composites or "optim" in path.parts


def waits_of(recipe: Recipe, folder: Path, cache: Path, splits: int = 1) -> list[str]:
    with Waits() as waits:
        list(train(recipe, folder, cache=cache, splits=splits))
    return waits.places


BUSY = (
    "model.reference_marker=true",
    "loss.masked=true",
    "loss.ssim=0.5",
    "loss.background=0.5",
    "loss.alpha=0.1",
    "loss.pointsdist=0.1",
)
LONG = (f"train.max_steps={STEPS}", f"train.validate_every={STEPS}")


@pytest.mark.parametrize(
    ("overrides", "splits"),
    [((), 1), (BUSY, 1), ((*BUSY, "train.batch_size=2", "train.accumulate=2"), 2)],
    ids=["plain", "every term", "in parts"],
)
def test_a_step_waits_for_the_device_once(tiny_recipe, tmp_path: Path, frames_cache: Path, overrides, splits) -> None:
    places = waits_of(tiny_recipe(*overrides, *LONG), tmp_path, frames_cache, splits)
    assert len(places) == STEPS and len(set(places)) == 1, places


def test_a_step_of_stage_1_waits_for_the_device_once(views_recipe, tmp_path: Path, frames_cache: Path) -> None:
    places = waits_of(views_recipe(*LONG), tmp_path, frames_cache)
    assert len(places) == STEPS and len(set(places)) == 1, places
