"""What a registered model of each kind is served by, and what that needs installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any

from sweeps.registry import pyfunc_gslrm, pyfunc_views

# What both and the part of pipeline that they use import.
_COMMON = ("jaxtyping", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "torch")


@dataclass(frozen=True)
class Flavour:
    """A models-from-code file, and the packages it imports beside the common ones."""

    module: ModuleType
    packages: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        return Path(str(self.module.__file__))

    @property
    def signature(self) -> Any:
        return self.module.SIGNATURE

    @property
    def requirements(self) -> list[str]:
        """Every package at the version that is installed here."""
        return [f"{name}=={installed_version(name)}" for name in sorted((*_COMMON, *self.packages))]


_FLAVOURS = {
    "gslrm": Flavour(pyfunc_gslrm),
    "mvdiffusion": Flavour(pyfunc_views, ("accelerate", "diffusers", "peft", "scikit-image", "scipy", "transformers")),
}
CHECKPOINT = pyfunc_gslrm.CHECKPOINT
assert CHECKPOINT == pyfunc_views.CHECKPOINT


def flavour_of(kind: str) -> Flavour:
    """By the kind of a recipe's model."""
    return _FLAVOURS[kind]
