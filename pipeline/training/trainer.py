"""One run in training: its stage, optimizer, loader and counters, and what it does in an optimizer step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline import checkpoint
from pipeline.data.batch import Batch, HostBatch
from pipeline.data.gate.checks import require_geometry
from pipeline.data.variants import prepared
from pipeline.errors import CheckpointError, DivergedError
from pipeline.kinds import kind_of
from pipeline.precision import autocast
from pipeline.recipe import Recipe
from pipeline.recipes import check_artefacts
from pipeline.rules import divide
from pipeline.training.prefetch import Prefetch
from pipeline.training.processes import World
from pipeline.training.saving import Report, copied, written
from pipeline.training.update import Part, Updates, percentile_95


class Trainer:
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
        self._batches: Iterator[list[HostBatch]] = iter(())

    def join(self, start: int) -> None:
        """See that all processes are about to make the same step of the same run, on the leader's weights."""
        self.world.expect_same("recipe", self.recipe.fingerprint)
        self.world.expect_same("dataset", self.dataset.digest)
        self.world.expect_same("step to go on from", str(start))
        self.world.share_weights(self.stage.model)

    @contextlib.contextmanager
    def working_ahead(self, start: int) -> Iterator[None]:
        """Have the batches of each step after `start` made during the step before it, until the block ends."""
        steps = range(start + 1, self.recipe.train.max_steps + 1)
        with Prefetch(self._made, steps) as self._batches:
            try:
                yield
            finally:
                self._batches = iter(())  # or the two would hold each other, and the weights with them

    def step(self, step: int) -> None:
        """One optimizer step: `accumulate` passes, clipping, the skip rules. Waits for the device once, at its end, and
        where gsplat asks how much it draws.
        """
        started = time.perf_counter()
        pieces = self._pieces(step)
        with self.world.agreed():
            batches = next(self._batches)
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

    def _pieces(self, step: int) -> list[int]:
        """The piece that this process has of each pass of a step in which it takes part, counted in the run."""
        accumulate = self.recipe.train.accumulate
        passes = ((step - 1) * accumulate + n for n in self.division.passes(self.world.rank, accumulate))
        return [self.division.piece(self.world.rank, index) for index in passes]

    def _made(self, step: int) -> list[HostBatch]:
        """The batches of this process in a step, a piece each; called in a thread."""
        size, pieces = self.division.size, self.division.pieces
        batches = [self.loader.training_batch(piece, size, pieces) for piece in self._pieces(step)]
        return [batch.pinned(self.device) for batch in batches] if self.device.type == "cuda" else batches

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

    def report(self, step: int, validates: bool) -> tuple[Report, Mapping[str, Any]]:
        """What there is to say of a step, and what a checkpoint keeps of its validation. Raises DivergedError."""
        metrics = self.take_metrics()
        if not validates:
            return Report(step, metrics), {}
        limit = self.recipe.train.max_val_scenes
        try:
            validation = self.stage.validate(self.dataset, self.cache, limit, self.world)
        except DivergedError as error:
            raise self._at(step, error) from None
        pictures = {"val/preview": validation.picture} if self.world.leads else {}
        found = validation.evaluation
        scenes = [{**row, **self._frames.get(str(row["scene"]), {})} for row in found.scenes]
        by = found.protocol
        report = Report(step, metrics | found.metrics, pictures, protocol=by.id, targets=by.targets_id, scenes=scenes)
        return report, validation.attachments

    @cached_property
    def _frames(self) -> dict[str, dict[str, float]]:
        """By the scene's name, the frame of the recording that it was taken from, where it says one."""
        frames = {scene.name: scene.notes.frame for scene in self.dataset.scenes.values()}
        return {name: {"frame": float(frame)} for name, frame in frames.items() if frame is not None}

    def save(self, workdir: Path, report: Report, attachments: Mapping[str, Any]) -> Callable[[], Report]:
        """Copy what the checkpoint of this step holds. Returns what writes it and gives the report with it."""
        training = {
            **self.updates.state(),
            "step": report.step,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "stage": self.stage.state(),
        }
        weights, training = copied((self.stage.deployed_model().state_dict(), training))
        files = {**self.stage.attachments(), **attachments}
        content = checkpoint.Content(weights, self.recipe, report.step, report.metrics, training, files)
        return partial(written, workdir / f"step-{report.step:06d}", content, report)

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
            except DivergedError as error:
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

    def _at(self, step: int, error: DivergedError) -> DivergedError:
        return type(error)(f"step {step}: {str(error).rstrip('.')}{self.updates.norm_before(step)}.")


def generator_of(seed: int, index: int) -> torch.Generator:
    """The chance of the run's scene `index`, which a resumed run meets again, whatever else is in its batch."""
    state = np.random.SeedSequence((seed, 2, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


def _memory(device: torch.device) -> tuple[str, float]:
    """Peak memory of the device in GB, or the process's resident memory on the CPU."""
    if device.type == "cuda":
        return "system/peak_gpu_memory_gb", torch.cuda.max_memory_allocated(device) / 1e9
    return "system/process_memory_gb", psutil.Process().memory_info().rss / 1e9
