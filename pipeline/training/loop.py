"""The one training loop: `train(recipe, workdir)` yields Reports and does not know who reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline import checkpoint
from pipeline.data.gate.checks import require_geometry
from pipeline.data.loader import Batch
from pipeline.data.variants import prepared
from pipeline.errors import CheckpointError, DiskFullError, NonFiniteError
from pipeline.kinds import kind_of
from pipeline.metrics import import_ahead
from pipeline.precision import autocast
from pipeline.recipe import Recipe
from pipeline.recipes import check_artefacts
from pipeline.rules import divide
from pipeline.stages import Validation
from pipeline.training.processes import World
from pipeline.training.update import Part, Updates, percentile_95


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
        validation = trainer.validate(step)
        metrics |= validation.evaluation.metrics
        if not world.leads:
            yield Report(step, metrics)
            continue
        unsaved, folder = lacks_room(), None
        if not unsaved:
            folder = trainer.save(workdir / f"step-{step:06d}", step, metrics, validation)
            unsaved = "" if folder else f"the disk of {workdir} is full"
        yield Report(step, metrics, {"val/preview": validation.picture}, folder, unsaved)


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
        self.updates = Updates(recipe, self.stage.model, device, world)
        self.seconds = 0.0
        self._terms: dict[str, list[Tensor]] = {}
        self._passes: dict[str, int] = {}
        self._norms: list[float] = []
        self._since_report = 0
        self._seconds_before = 0.0

    def join(self, start: int) -> None:
        """See that all processes are about to make the same step of the same run, on the leader's weights."""
        self.world.expect_same("recipe", self.recipe.fingerprint)
        self.world.expect_same("dataset", self.dataset.digest)
        self.world.expect_same("step to go on from", str(start))
        self.world.share_weights(self.stage.model)

    def step(self, step: int) -> None:
        """One optimizer step: `accumulate` passes, clipping, the skip rules. Waits for the device once, at its end."""
        started = time.perf_counter()
        config = self.recipe.train
        mine = [(step - 1) * config.accumulate + n for n in self.division.passes(self.world.rank, config.accumulate)]
        with self.world.agreed():
            pieces = [self.division.piece(self.world.rank, index) for index in mine]
            batches = [self.loader.training_batch(piece, self.division.size) for piece in pieces]
        passes = [[part.to(self.device) for part in batch.split(self.splits)] for batch in batches]
        shares = self._shares(step, passes)
        done: list[Part] = []
        with self.world.agreed():
            for piece, parts, shares_of_parts in zip(pieces, passes, shares, strict=True):
                done += self._backward(step, parts, piece * self.division.size, shares_of_parts)
        norm = self.updates.make(step, done, self.stage.updated)
        if norm is not None:
            self._record(done, norm)
        self._since_report += 1
        self.seconds += time.perf_counter() - started

    def take_metrics(self) -> dict[str, float]:
        """Means and p95 since the last report over the steps with finite numbers, and the counters.

        Where no step had finite numbers, there are no means.
        """
        passes = self._since_report * self.recipe.train.accumulate
        summed = [torch.stack(values).sum() for values in self._terms.values()]
        sums = self.world.total(torch.stack(summed).tolist() if summed else [])
        counts = [count * self.division.groups for count in self._passes.values()]
        means = [float(np.float32(value / n)) for value, n in zip(sums, counts, strict=True)]
        metrics = {f"train/{name}": mean for name, mean in zip(self._terms, means, strict=True)}
        spent = self.seconds - self._seconds_before
        scenes = passes * self.recipe.train.batch_size
        name, memory = _memory(self.device)
        if self._norms:
            metrics |= {"train/grad_norm": self._norms[-1], "train/grad_norm_p95": percentile_95(self._norms)}
        metrics |= self.updates.metrics() | {
            "time/step_seconds": spent / self._since_report,
            "time/scenes_per_second": scenes / spent,
            "time/train_seconds": self.seconds,
            name: self.world.highest([memory])[0],
        }
        self._terms, self._passes, self._norms = {}, {}, []
        self._since_report, self._seconds_before = 0, self.seconds
        return metrics

    def validate(self, step: int) -> Validation:
        """What the stage says of `val`, in every process. Raises NonFiniteError with the step."""
        try:
            return self.stage.validate(self.dataset, self.cache, self.recipe.train.max_val_scenes, self.world)
        except NonFiniteError as error:
            raise self._at(step, error) from None

    def save(self, folder: Path, step: int, metrics: dict[str, float], validation: Validation) -> Path | None:
        """The checkpoint, or None where the disk has no room for it."""
        training = {
            **self.updates.state(),
            "step": step,
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
        self.updates.restore(training)
        self.seconds = self._seconds_before = training["seconds"]
        torch.set_rng_state(training["random"])
        return info.step

    def _shares(self, step: int, passes: list[list[Batch]]) -> list[list[Mapping[str, Tensor]]]:
        """For each part of each pass of this process: what share of the pixels of the whole pass, all processes
        together, it has, for each term that is a mean over pixels. Empty where a part is the whole pass.
        """
        if self.division.pieces == 1 and all(len(parts) == 1 for parts in passes):
            return [[{}] for _ in passes]
        counted = [[self.stage.pools(part, step) for part in parts] for parts in passes]
        names = list(counted[0][0])
        if not names:
            return [[{} for _ in parts] for parts in counted]
        counts = [torch.stack([torch.stack([pools[name] for name in names]) for pools in parts]) for parts in counted]
        whole = self._pooled(torch.stack([parts.sum(0) for parts in counts])).clamp(min=1)
        shares = [(parts.double() / whole[n].double()).float() for n, parts in enumerate(counts)]
        return [[dict(zip(names, part, strict=True)) for part in parts] for parts in shares]

    def _pooled(self, counts: Int[Tensor, "own term"]) -> Int[Tensor, "own term"]:
        """Counts of the passes of this process, with those of the processes that share them."""
        if self.division.pieces == 1:
            return counts
        accumulate = self.recipe.train.accumulate
        rows = self.division.passes(self.world.rank, accumulate)
        everywhere = counts.new_zeros(accumulate, counts.shape[-1])
        everywhere[rows] = counts
        return self.world.summed(everywhere)[rows]

    def _backward(
        self, step: int, parts: list[Batch], first: int, shares: list[Mapping[str, Tensor]]
    ) -> Iterator[Part]:
        """Gradients of the parts of a pass, which start with the run's scene `first`, as their shares of the pass.

        shares: of each part's terms that are means over pixels; the others are means over scenes.
        """
        recipe, weights = self.recipe, self.stage.weights(step)
        for part, of_pixels in zip(parts, shares, strict=True):
            chance = [generator_of(recipe.train.seed, first + i) for i in range(len(part.scenes))]
            first += len(part.scenes)
            try:
                with autocast(self.device, recipe.train.precision):
                    terms = self.stage.losses(part, step, chance)
            except NonFiniteError as error:
                raise self._at(step, error) from None
            of_scenes = len(part.scenes) / recipe.train.batch_size
            if of_scenes != 1:
                shared = {name: term * of_pixels.get(name, of_scenes) for name, term in terms.items()}
            else:
                shared = terms
            total = torch.stack([weights[name] * share for name, share in shared.items()]).sum()
            self.updates.scaler.scale(total / recipe.train.accumulate).backward()
            yield Part.of(total, terms, shared)

    def _record(self, parts: list[Part], norm: float) -> None:
        """Keep what a step with finite numbers adds to the next report, on the device."""
        for part in parts:
            for name, value in {"loss": part.total, **part.shares}.items():
                self._terms.setdefault(name, []).append(value)
        passes = self.recipe.train.accumulate // self.division.groups
        for name in ("loss", *parts[0].shares):
            self._passes[name] = self._passes.get(name, 0) + passes
        self._norms.append(norm)

    def _at(self, step: int, error: NonFiniteError) -> NonFiniteError:
        return NonFiniteError(f"step {step}: {str(error).rstrip('.')}{self.updates.norm_before(step)}.")


def _memory(device: torch.device) -> tuple[str, float]:
    """Peak memory of the device in GB, or the process's resident memory on the CPU."""
    if device.type == "cuda":
        return "system/peak_gpu_memory_gb", torch.cuda.max_memory_allocated(device) / 1e9
    return "system/process_memory_gb", psutil.Process().memory_info().rss / 1e9
