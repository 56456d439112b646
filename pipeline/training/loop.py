"""The one training loop: `train(recipe, workdir)` yields Reports and does not know who reads them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.data.gate.checks import require_geometry
from pipeline.data.loader import Batch
from pipeline.data.variants import prepared
from pipeline.errors import CheckpointError, DiskFullError, NonFiniteError
from pipeline.kinds import kind_of
from pipeline.metrics import import_ahead
from pipeline.recipe import OptimConfig, Recipe
from pipeline.recipes import check_artefacts
from pipeline.rules import divide
from pipeline.stages import Validation
from pipeline.training.processes import World

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Report:
    """What the loop has to say at an optimizer step.

    metrics: `train/…`, `val/…`, `time/…`, `system/…`; images: uint8 RGB [H, W, 3] by name; checkpoint: a folder
    under the workdir, present whenever the step was validated, unless `unsaved` says why there is none.
    """

    step: int
    metrics: dict[str, float]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    checkpoint: Path | None = None
    unsaved: str = ""


def train(
    recipe: Recipe,
    workdir: Path,
    resume: Path | None = None,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    splits: int = 1,
    lacks_room: Callable[[], str] = str,
) -> Iterator[Report]:
    """Train `recipe` and yield reports: every `report_every` steps, and with figures, pictures and a checkpoint
    every `validate_every` steps and at the last.

    resume: a checkpoint folder of the same recipe; on the CPU the steps that follow are bit-identical to those of
    a run never stopped. cache: folder for decoded frames, shared by runs. splits: each batch goes through the network
    in so many parts, one after the other: the same optimizer step in less memory. lacks_room: asked before a checkpoint
    is written; a reason makes it wait for the next validation, as a full disk does.
    Raises RecipeError, DataError, CheckpointError before the first step; NonFiniteError with step and term.

    Where torch.distributed is set up, each process calls this with a device of its own and they make the same steps
    together, a share of the scenes each; all yield at the same steps, and what the leader (rank 0) yields has the
    content.
    """
    world = World.here()
    with world.agreed():
        trainer = _Trainer(recipe, torch.device(device), cache or workdir / "cache", splits, world)
        start = trainer.resume(resume) if resume is not None else 0
        if start >= recipe.train.max_steps:
            raise CheckpointError(
                f"{resume}: expected a step below train.max_steps {recipe.train.max_steps}, got {start} — "
                "it is finished."
            )
    trainer.join(start)
    import_ahead()  # now: what the stage itself imports is there
    for step in range(start + 1, recipe.train.max_steps + 1):
        trainer.step(step)
        validates = step % recipe.train.validate_every == 0 or step == recipe.train.max_steps
        if not validates:
            if step % recipe.train.report_every == 0 or step == start + 1:
                yield Report(step, trainer.take_metrics())
            continue
        metrics = trainer.take_metrics()
        validation = trainer.stage.validate(trainer.dataset, trainer.cache, recipe.train.max_val_scenes, world)
        metrics |= validation.evaluation.metrics
        if not world.leads:
            yield Report(step, metrics)
            continue
        unsaved, folder = lacks_room(), None
        if not unsaved:
            folder = trainer.save(workdir / f"step-{step:06d}", step, metrics, validation)
            unsaved = "" if folder else f"the disk of {workdir} is full"
        yield Report(step, metrics, {"val/preview": validation.picture}, folder, unsaved)


def learning_rate(config: OptimConfig, updates: int, max_steps: int) -> float:
    """Lr after `updates` optimizer steps: linear warm-up from 0, then constant or a cosine to 0 (FaceLift)."""
    if updates < config.warmup_steps:
        return config.lr * updates / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (updates - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters: matrices and embeddings with weight decay, norm weights without (FaceLift)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed, plain = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def percentile_95(norms: Sequence[float]) -> float:
    """The least norm that 95 % of the finite ones do not exceed; fp16 overflows on its way to a loss scale."""
    finite = sorted(norm for norm in norms if math.isfinite(norm)) or list(norms)
    return finite[-(-95 * len(finite) // 100) - 1]


def generator_of(seed: int, index: int) -> torch.Generator:
    """The chance of the run's scene `index`, which a resumed run meets again, whatever else is in its batch."""
    state = np.random.SeedSequence((seed, 2, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


class _Trainer:
    """The state of one run: stage, optimizer, loaders, counters."""

    def __init__(self, recipe: Recipe, device: torch.device, cache: Path, splits: int, world: World) -> None:
        check_artefacts(recipe)
        torch.manual_seed(recipe.train.seed)
        self.recipe, self.device, self.cache, self.splits, self.world = recipe, device, cache, splits, world
        self.division = divide(recipe.train.batch_size, recipe.train.accumulate, world.size)
        with world.leader_first():
            self.dataset = prepared(recipe.data, cache)
            require_geometry(self.dataset, cache, recipe.allows_inconsistent_geometry)
        self.stage = kind_of(recipe).train(recipe, device, self.dataset)
        with world.leader_first():
            self.loader = self.stage.loader(self.dataset, "train", cache)
        groups = parameter_groups(self.stage.model, recipe.optim.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.optim.betas, eps=1e-8, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16")
        self.skipped = 0
        self.seconds = 0.0
        self._terms: dict[str, list[Tensor]] = {}
        self._passes: dict[str, int] = {}
        self._norms: list[float] = []
        self._since_report = 0
        self._seconds_before = 0.0
        self._last: dict[str, float] = {}

    def join(self, start: int) -> None:
        """See that all processes are about to make the same step of the same run, on the leader's weights."""
        self.world.expect_same("recipe", self.recipe.fingerprint)
        self.world.expect_same("dataset", self.dataset.digest)
        self.world.expect_same("step to go on from", str(start))
        self.world.share_weights(self.stage.model)

    def step(self, step: int) -> None:
        """One optimizer step: `accumulate` passes, clipping, the skip rule."""
        started = time.perf_counter()
        config = self.recipe.train
        lr = learning_rate(self.recipe.optim, step - 1, config.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        mine = [(step - 1) * config.accumulate + n for n in self.division.passes(self.world.rank, config.accumulate)]
        with self.world.agreed():
            pieces = [self.division.piece(self.world.rank, index) for index in mine]
            batches = [self.loader.training_batch(piece, self.division.size) for piece in pieces]
        pooled = self._pooled(step, mine, batches)
        with self.world.agreed():
            for piece, batch, pools in zip(pieces, batches, pooled, strict=True):
                self._backward(step, batch, piece * self.division.size, pools)
        norm = self._update(step)
        self._norms.append(norm)
        self._last = {"train/lr": lr, "train/grad_norm": norm, "train/skipped_updates": float(self.skipped)}
        self._since_report += 1
        self.seconds += time.perf_counter() - started

    def take_metrics(self) -> dict[str, float]:
        """Means and p95 since the last report, and the counters; the only place that waits for the device."""
        passes = self._since_report * self.recipe.train.accumulate
        sums = self.world.total([float(torch.stack(values).sum()) for values in self._terms.values()])
        counts = [count * self.division.groups for count in self._passes.values()]
        means = [float(np.float32(value / n)) for value, n in zip(sums, counts, strict=True)]
        metrics = {f"train/{name}": mean for name, mean in zip(self._terms, means, strict=True)}
        spent = self.seconds - self._seconds_before
        scenes = passes * self.recipe.train.batch_size
        name, memory = _memory(self.device)
        metrics |= self._last | {
            "train/grad_norm_p95": percentile_95(self._norms),
            "time/step_seconds": spent / self._since_report,
            "time/scenes_per_second": scenes / spent,
            "time/train_seconds": self.seconds,
            name: self.world.highest([memory])[0],
        }
        self._terms, self._passes, self._norms = {}, {}, []
        self._since_report, self._seconds_before = 0, self.seconds
        return metrics

    def save(self, folder: Path, step: int, metrics: dict[str, float], validation: Validation) -> Path | None:
        """The checkpoint, or None where the disk has no room for it."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "stage": self.stage.state(),
        }
        deployed = self.stage.deployed_model()
        try:
            return checkpoint.save(folder, deployed, self.recipe, step, metrics, training, validation.attachments)
        except DiskFullError:
            return None

    def resume(self, folder: Path) -> int:
        """Take up a checkpoint of this recipe; returns its step."""
        info = checkpoint.inspect(folder)
        if info.recipe.fingerprint != self.recipe.fingerprint:
            raise CheckpointError(
                f"{folder}: expected a checkpoint of recipe {self.recipe.fingerprint}, got one of "
                f"{info.recipe.fingerprint} — set train.init_from to start a new run from its weights."
            )
        training = checkpoint.load_training(info)
        self.stage.resume(folder, training["stage"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.scaler.load_state_dict(training["scaler"])
        self.skipped, self.seconds = training["skipped"], training["seconds"]
        self._seconds_before = self.seconds
        torch.set_rng_state(training["random"])
        return info.step

    def _pooled(self, step: int, passes: list[int], batches: list[Batch]) -> list[dict[str, float]]:
        """For each pass of this process, what each term is a mean over in the whole pass, all processes together."""
        names = list(self.stage.weights(step))
        pooled = np.zeros((self.recipe.train.accumulate, len(names)))
        rows = [index % self.recipe.train.accumulate for index in passes]
        for row, batch in zip(rows, batches, strict=True):
            pools = self.stage.pools(batch)
            pooled[row] = [pools[name] for name in names]
        pooled = np.reshape(self.world.total(pooled.ravel().tolist()), pooled.shape)
        return [dict(zip(names, pooled[row].tolist(), strict=True)) for row in rows]

    def _backward(self, step: int, batch: Batch, first: int, pooled: dict[str, float]) -> None:
        """Gradients of a piece of a pass, which starts with the run's scene `first`, as its share of the pass.

        pooled: what each term is a mean over in the whole pass.
        """
        recipe, weights = self.recipe, self.stage.weights(step)
        for part in batch.split(self.splits):
            chance = [generator_of(recipe.train.seed, first + i) for i in range(len(part.scenes))]
            first += len(part.scenes)
            pools = self.stage.pools(part)
            try:
                with self._autocast():
                    terms = self.stage.losses(part.to(self.device), step, chance)
            except NonFiniteError as error:
                raise NonFiniteError(f"step {step}: {str(error).rstrip('.')}{self._last_norm()}.") from None
            shares = {name: term * (pools[name] / max(pooled[name], 1.0)) for name, term in terms.items()}
            total = torch.stack([weights[name] * share for name, share in shares.items()]).sum()
            if not bool(torch.isfinite(total)):
                culprits = ", ".join(f"{name} {float(term.detach()):g}" for name, term in terms.items())
                got = f"{float(total.detach()):g} from {culprits}"
                raise NonFiniteError(f"step {step}: expected a finite loss, got {got}{self._last_norm()}.")
            self.scaler.scale(total / recipe.train.accumulate).backward()
            for name, value in {"loss": total, **shares}.items():
                self._terms.setdefault(name, []).append(value.detach())
        for name in ("loss", *weights):
            self._passes[name] = self._passes.get(name, 0) + 1

    def _last_norm(self) -> str:
        norm = self._last.get("train/grad_norm")
        return "" if norm is None else f"; the gradient norm was {norm:.3g} a step before"

    def _update(self, step: int) -> float:
        """Clip and apply the gradients, or skip the update when their norm is beyond the limit."""
        config = self.recipe.optim
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.world.sum_gradients(trained)
        self.scaler.unscale_(self.optimizer)
        own = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        norm = self.world.leaders(float(own))  # so that all decide the same
        nn.utils.clip_grads_with_norm_(trained, config.grad_clip_norm, own.new_tensor(norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise NonFiniteError(f"step {step}: expected a finite gradient, got norm {norm} with a finite loss.")
        skips = not norm <= config.grad_clip_norm * config.skip_factor
        self.skipped += skips
        if not skips:
            self.scaler.step(self.optimizer)
            self.stage.updated()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = _DTYPES.get(self.recipe.train.precision)
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


def _memory(device: torch.device) -> tuple[str, float]:
    """Peak memory of the device in GB, or the process's resident memory on the CPU."""
    if device.type == "cuda":
        return "system/peak_gpu_memory_gb", torch.cuda.max_memory_allocated(device) / 1e9
    return "system/process_memory_gb", psutil.Process().memory_info().rss / 1e9
