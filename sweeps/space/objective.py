"""The objective of a sweep: which figure it improves, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.recipe import strict


@strict
@dataclass(frozen=True)
class Objective:
    """The figure to improve: a validation metric of held-out views. A finished trial counts with its last value."""

    metric: str = "val/psnr_fg"  # val/psnr_fg and so on; docs/conventions.md has the list
    mode: Literal["max", "min"] = "max"  # which way is better

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` beats what was best so far; a value that is not finite never does."""
        if not math.isfinite(value):
            return False
        return than is None or (value > than if self.mode == "max" else value < than)
