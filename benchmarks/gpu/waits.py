"""Where training steps wait for the GPU, as PyTorch tells it when it is asked to warn of each wait."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.processes import ROOT
from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings
from pipeline.recipes import load_recipe
from pipeline.training.loop import train

WARNING = "called a synchronizing CUDA operation"
RECIPES = ("gslrm_tiny", "mvdiffusion_tiny")


class Waits:
    """Counts the waits of `Trainer.step` in a `with` block by the innermost line of ours; on a CPU there are none.

    drawn: those of the rasterizer and of gsplat, which count before they draw.
    """

    def __init__(self, device: torch.device) -> None:
        self.places: Counter[str] = Counter()
        self.drawn = 0
        self._cuda, self._thread = device.type == "cuda", threading.get_ident()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Waits:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = self._heard  # called where the wait is, so that the stack says whose it is
        if self._cuda:
            self._stack.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _heard(self, message: Warning | str, *about: Any) -> None:  # noqa: ARG002
        if WARNING not in str(message) or threading.get_ident() != self._thread:
            return
        ours = [
            (Path(frame.filename).relative_to(ROOT), frame)
            for frame in traceback.extract_stack()
            if Path(frame.filename).is_relative_to(ROOT / "pipeline")
        ]
        if not any(path.name == "trainer.py" and frame.name == "step" for path, frame in ours):
            return
        if any("splatting" in path.parts for path, _ in ours):
            self.drawn += 1
        else:
            path, frame = ours[-1]
            self.places[f"{path.as_posix()}:{frame.lineno}"] += 1


def waits(settings: Settings) -> Iterator[Row]:
    """How often a step waits for the device and where, of both stages at their smallest."""
    steps = 2 if settings.small else 4
    for name in RECIPES[:1] if settings.small else RECIPES:
        length = [f"train.max_steps={steps}", "train.max_val_scenes=1", "optim.warmup_steps=1", "train.precision=fp32"]
        recipe = load_recipe(name, [f"data.root={settings.data}", *length])
        with tempfile.TemporaryDirectory() as folder, Waits(torch.device(settings.device)) as found:
            for _ in train(recipe, Path(folder), device=settings.device):
                pass
        yield Row(f"{name}: in drawing", found.drawn / steps, "a step")
        yield Row(f"{name}: elsewhere", found.places.total() / steps, "a step")
        for place, count in found.places.most_common():
            yield Row(f"{name}: {place}", count / steps, "a step")
