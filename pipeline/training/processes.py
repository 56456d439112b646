"""Several processes that train one model: their ranks, what they exchange, and errors that stop all of them.

Gradients and weights travel by the default process group (NCCL between GPUs, gloo between CPUs). Everything that
decides something is small and travels by gloo on the CPU, so that every process decides the same and a process that is
gone is noticed at once.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed.nn.functional  # if imported later, its default arguments would keep a reference to the group
from torch import Tensor, distributed, nn

from pipeline.errors import PipelineError, RecipeError

Item = TypeVar("Item")
SILENCE = timedelta(minutes=30)  # a process may be silent for so long, such as while it saves; then the others give up
_BUCKET = 2**24  # numbers sent at a time


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this is.

    control: the group for what decides, None for the default one: who holds a group keeps it from ending (see leave).
    """

    rank: int = 0
    size: int = 1
    control: Any = None

    @staticmethod
    def here() -> World:
        """The world that torch.distributed has set up, or one process. All processes call it together."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return World()
        own = distributed.get_backend() == "gloo"
        control = None if own else distributed.new_group(backend="gloo", timeout=SILENCE)
        return World(distributed.get_rank(), distributed.get_world_size(), control)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and whose reports are read."""
        return self.rank == 0

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """A PipelineError in one process is raised in all of them, the first in order of rank."""
        if self.size == 1:
            yield
            return
        error: PipelineError | None = None
        try:
            yield
        except PipelineError as raised:
            error = raised
        if not self.total([float(error is not None)])[0]:
            return
        raised_by: list[PipelineError | None] = [None] * self.size
        distributed.all_gather_object(raised_by, error, group=self.control)
        raise next(found for found in raised_by if found is not None)

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader runs the block first, so that the others find on the shared disk what it has made."""
        if not self.leads:
            self._wait()
        try:
            yield
        finally:
            if self.leads:
                self._wait()

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over processes."""
        return self._reduced(numbers, distributed.ReduceOp.SUM)

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """Maxima over processes."""
        return self._reduced(numbers, distributed.ReduceOp.MAX)

    def leaders(self, tensor: Tensor) -> Tensor:
        """The leader's tensor in place of this process's own, where it is: the host does not wait for it."""
        if self.size > 1:
            distributed.broadcast(tensor, 0)
        return tensor

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over processes in its place; the host does not wait for it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def dealt(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process works on, a contiguous share; one that would get none repeats the first item."""
        share = -(-len(items) // self.size)
        return items[self.rank * share : (self.rank + 1) * share] or items[:1]

    def collected(self, results: Sequence[Item], count: int) -> list[Item]:
        """In every process, the results of `count` dealt items in their order."""
        if self.size == 1:
            return list(results)
        parts: list[list[Item]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, list(results), group=self.control)
        return [result for part in parts for result in part][:count]

    def expect_same(self, what: str, value: str) -> None:
        """Raises RecipeError unless every process has the same text."""
        if self.size == 1:
            return
        texts: list[str] = [""] * self.size
        distributed.all_gather_object(texts, value, group=self.control)
        other = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
        if other is not None:
            raise RecipeError(
                f"{what}: expected one in all {self.size} processes, got {texts[0]} in process 0 and {texts[other]} in "
                f"process {other} — give them the same files."
            )

    def share_weights(self, model: nn.Module) -> None:
        """Every process goes on from the leader's weights."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                distributed.broadcast(tensor.data, 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place. A parameter without a gradient counts as 0 if another
        process has one.
        """
        if self.size == 1:
            return
        present = self.highest([float(p.grad is not None) for p in parameters])
        met = [p for p, anywhere in zip(parameters, present, strict=True) if anywhere]
        for parameter in met:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in met if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _reduced(self, numbers: Sequence[float], operation: Any) -> list[float]:
        if self.size == 1:
            return list(numbers)
        sent = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sent, operation, group=self.control)
        return sent.tolist()

    def _wait(self) -> None:
        if self.size > 1:
            distributed.barrier(group=self.control)


ALONE = World()


@contextlib.contextmanager
def launched(environment: Mapping[str, str], device: str, silence: timedelta = SILENCE) -> Iterator[torch.device]:
    """Join the processes that torchrun has started, as its environment says, and leave them; yields this one's device.

    Without torchrun's variables there is nothing to join. device: cpu or cuda.
    """
    if "WORLD_SIZE" not in environment:
        yield torch.device(device)
        return
    own = torch.device(device, int(environment["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=silence)
    try:
        yield own
        if own.type == "cuda":  # not after an error: NCCL's end waits for the others
            leave()
    finally:
        if own.type == "cpu":
            leave()


def leave() -> None:
    """End the process group and the threads of gloo: a process that ends while they live is aborted now and then.

    They live as long as something refers to the group. An error that is travelling out of an exchange does, by the
    local variables in its traceback: these are cleared first.
    """
    error, seen = sys.exception(), set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    distributed.destroy_process_group()


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type, up to so many numbers at a time."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (sum(g.numel() for g in bucket) >= _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
