"""The science: recipes, cameras, Gaussians, the networks and the loop that trains them.

Knows nothing of sweeps, tracking or registries. The names below are what scripts rely on; they are imported
when first used, so that commands which only read recipes do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cameras import Cameras
    from pipeline.gaussians import Gaussians
    from pipeline.gslrm.model import GSLRM
    from pipeline.recipe import Recipe
    from pipeline.recipes import load_recipe
    from pipeline.splatting.rendering import render

__all__ = ["GSLRM", "Cameras", "Gaussians", "Recipe", "load_recipe", "render"]

_HOMES = {
    "Cameras": "pipeline.cameras",
    "Gaussians": "pipeline.gaussians",
    "GSLRM": "pipeline.gslrm.model",
    "Recipe": "pipeline.recipe",
    "load_recipe": "pipeline.recipes",
    "render": "pipeline.splatting.rendering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
