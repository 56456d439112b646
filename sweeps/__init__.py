"""The memory: runs recipes many times, chooses the next one, writes down what happened, keeps the champions.

The names below are what scripts rely on, and docs/python.md shows them at work. They are imported when first used:
`import sweeps` imports no torch, Ray, MLflow or Optuna, and changes nothing in the process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.home import Home
    from sweeps.launch import resume_sweep, run_sweep, sweep_status
    from sweeps.registry.promotion import promote_best
    from sweeps.registry.registry import Registry
    from sweeps.space.space import load_space

__all__ = ["Home", "Registry", "load_space", "promote_best", "resume_sweep", "run_sweep", "sweep_status"]

_HOMES = {
    "Home": "sweeps.home",
    "Registry": "sweeps.registry.registry",
    "load_space": "sweeps.space.space",
    "promote_best": "sweeps.registry.promotion",
    "resume_sweep": "sweeps.launch",
    "run_sweep": "sweeps.launch",
    "sweep_status": "sweeps.launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
