"""What an optimizer step does with its gradients: the rate, what decays, and which updates are not made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from pipeline.errors import NonFiniteError
from pipeline.recipe import OptimConfig, Recipe
from pipeline.training.processes import World

WINDOW = 100  # steps of which optim.max_nonfinite_updates may be left out


class Updates:
    """The optimizer of a run, and the updates that it did not make.

    skipped: because the gradient norm was beyond the limit, or overflowed in float16; nonfinite: because the loss or
    the gradient was no number. Such an update would be met again after a resume, and FaceLift leaves it out, too.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, device: torch.device, world: World) -> None:
        self.config, self.max_steps, self.world = recipe.optim, recipe.train.max_steps, world
        groups = parameter_groups(model, recipe.optim.weight_decay, recipe.optim.decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.optim.betas, eps=1e-8, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16")
        self.skipped = 0
        self.nonfinite = NonFiniteUpdates(recipe.optim.max_nonfinite_updates)
        self._last_norm: tuple[int, float] | None = None  # the last finite one, and its step

    def make(self, step: int, parts: Sequence[Part], made: Callable[[], None]) -> float | None:
        """Apply the gradients of a step, all processes together, or leave the update out.

        Returns the gradient norm before clipping, or None where it or the loss is no number. Waits for the device once;
        nothing else in a step does, but gsplat, which asks how much it draws. made: called after an update. Raises
        NonFiniteError for one too many that could not be made.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step - 1, self.max_steps)
        norm, own_loss = torch.stack([self._clipped(), torch.stack([part.total for part in parts]).sum()]).tolist()
        loss = self.world.total([own_loss])[0]
        finite = math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled())
        if not finite and not self.nonfinite.add(step):
            self._refuse(step, parts, norm, own_loss)
        if finite and math.isfinite(norm) and norm <= self._limit:
            self.scaler.step(self.optimizer)
            made()
        elif finite:
            self.skipped += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if finite and math.isfinite(norm):
            self._last_norm = step, norm
        return norm if finite else None

    def metrics(self) -> dict[str, float]:
        """Of the last step."""
        return {
            "train/lr": self.optimizer.param_groups[0]["lr"],
            "train/skipped_updates": float(self.skipped),
            "train/nonfinite_updates": float(self.nonfinite.total),
        }

    def norm_before(self, step: int) -> str:
        """The last finite gradient norm, for a message about a step."""
        if self._last_norm is None:
            return ""
        at, norm = self._last_norm
        return f"; the gradient norm was {norm:.3g}{' a step' if step - at == 1 else f', {step - at} steps'} before"

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "nonfinite": self.nonfinite.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave. The optimizer stays fused also where it was not when the state was saved."""
        saved = state["optimizer"]
        groups = [group | {"fused": True} for group in saved["param_groups"]]
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
        match_layout(self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]
        if "nonfinite" in state:  # older checkpoints have it not
            self.nonfinite.restore(state["nonfinite"])

    @property
    def _limit(self) -> float:
        factor = self.config.skip_factor
        return math.inf if factor is None else self.config.grad_clip_norm * factor

    def _clipped(self) -> Tensor:
        """Clip the gradients of all processes; their norm before, on the device."""
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.world.sum_gradients(trained)
        self.scaler.unscale_(self.optimizer)
        own = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        norm = self.world.leaders(own)  # so that all make the same update
        nn.utils.clip_grads_with_norm_(trained, self.config.grad_clip_norm, norm)
        return norm

    def _refuse(self, step: int, parts: Sequence[Part], norm: float, loss: float) -> NoReturn:
        """Raise the same NonFiniteError in every process; loss: this one's."""
        before = self.norm_before(step) + self.nonfinite.words(step)
        with self.world.agreed():
            if not math.isfinite(loss):
                found = next((part for part in parts if not math.isfinite(float(part.total))), parts[0])
                raise NonFiniteError(f"step {step}: expected a finite loss, got {found.words}{before}.")
        raise NonFiniteError(f"step {step}: expected a finite gradient, got norm {norm} with a finite loss{before}.")


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

    @staticmethod
    def of(total: Tensor, terms: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> Part:
        """The same without their graph."""
        return Part(total.detach(), *({name: value.detach() for name, value in v.items()} for v in (terms, shares)))

    @property
    def words(self) -> str:
        """`nan from mse 0.1, ssim nan`; waits for the device."""
        terms = ", ".join(f"{name} {float(term):g}" for name, term in self.terms.items())
        return f"{float(self.total):g} from {terms}"


class NonFiniteUpdates:
    """How many updates were left out because a loss or gradient was no number, and which of the last steps'."""

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
