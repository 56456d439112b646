"""What an optimizer step does with its gradients: the rate, what decays, and which updates are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.recipe import OptimConfig

WINDOW = 100  # steps of which optim.max_nonfinite_updates may be left out


def learning_rate(config: OptimConfig, updates: int, max_steps: int) -> float:
    """Lr after `updates` optimizer steps: linear warm-up from 0, then constant or a cosine to 0 (FaceLift)."""
    if updates < config.warmup_steps:
        return config.lr * updates / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (updates - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: Literal["matrices", "all"] = "matrices"
) -> list[dict[str, Any]]:
    """Trained parameters: what decays, and what does not.

    matrices: weight matrices and embeddings decay, norm weights do not (FaceLift's GS-LRM); all: every one does (its
    MVDiffusion).
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 or decay == "all"]
    plain = [p for p in trained if p.ndim < 2 and decay != "all"]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def percentile_95(norms: Sequence[float]) -> float:
    """The least norm that 95 % of the finite ones do not exceed; fp16 overflows on its way to a loss scale."""
    finite = sorted(norm for norm in norms if math.isfinite(norm)) or list(norms)
    return finite[-(-95 * len(finite) // 100) - 1]


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay out an optimizer's state in memory as its weights are: a checkpoint may come from a device where convolutions
    lie differently, and fused optimizers pair numbers by their places in memory.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@dataclass(frozen=True)
class Part:
    """What one forward-backward pass computed, on the device and without a graph.

    total: the weighted sum of the shares; terms: unweighted means over the part; shares: the same as shares of the
    whole pass, which add up to its means.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    shares: Mapping[str, Tensor]

    @property
    def words(self) -> str:
        """`nan from mse 0.1, ssim nan`; waits for the device."""
        terms = ", ".join(f"{name} {float(term):g}" for name, term in self.terms.items())
        return f"{float(self.total):g} from {terms}"


class NonFiniteUpdates:
    """The updates that were left out because a loss or gradient was no number: how many, and how many of late.

    A resumed run meets the same batch again; so one such batch must not end it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._recent: list[int] = []

    def add(self, step: int) -> bool:
        """Count one at a step; whether the run can go on."""
        self._recent = [other for other in self._recent if step - WINDOW < other] + [step]
        self.total += 1
        return len(self._recent) <= self.limit

    def words(self, step: int) -> str:
        """Which updates of the window were left out before a step, for a message."""
        others = [str(other) for other in self._recent if other < step]
        return f"; the updates of steps {', '.join(others)} were left out for the same reason" if others else ""

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "recent": list(self._recent)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.total, self._recent = state["total"], list(state["recent"])
