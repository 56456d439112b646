"""Stage 1: one image becomes six views. The one door to diffusers, transformers and peft.

The names below are what scripts rely on; they are imported when first used, because diffusers takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.mvdiffusion.attention import MultiViewUNet
    from pipeline.mvdiffusion.sampler import MVDiffusionPipeline

__all__ = ["MVDiffusionPipeline", "MultiViewUNet"]

_HOMES = {"MVDiffusionPipeline": "pipeline.mvdiffusion.sampler", "MultiViewUNet": "pipeline.mvdiffusion.attention"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline.mvdiffusion' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
