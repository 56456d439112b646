"""Checkpoints that a thread writes while training goes on, and the reports that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import checkpoint
from pipeline.errors import DiskFullError


@dataclass(frozen=True)
class Report:
    """What the loop has to say at an optimizer step.

    metrics: `train/…`, `time/…`, `system/…`, and `val/…` of a validated step; images: uint8 RGB [H, W, 3] by name;
    checkpoint: a folder under the workdir, whole; where one is due, `unsaved` says why there is none. protocol: the id
    of the `metrics.Protocol` by which `val/…` was measured; targets: its `targets_id`. scenes: the figures of each
    validated scene, under plain names, with its `scene` and, where its recording tells it, its `frame`.
    """

    step: int
    metrics: dict[str, float]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    checkpoint: Path | None = None
    unsaved: str = ""
    protocol: str = ""
    targets: str = ""
    scenes: Sequence[Mapping[str, float | str]] = ()


class Reports:
    """Reports in their order. Those made while a thread writes a checkpoint wait until it is in its place.

    Whenever one is handed out, nothing is being written. As a context it ends with its thread, which comes to the end
    of the checkpoint in hand, whatever ended the context.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[Report] | None = None
        self._behind: list[Report] = []

    def __enter__(self) -> Reports:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def add(self, report: Report) -> None:
        """A report that has no checkpoint."""
        self._behind.append(report)

    def write(self, work: Callable[[], Report]) -> None:
        """Have the thread write a checkpoint; `work` returns its report. Call when `rest` has handed out the others."""
        assert self._written is None and not self._behind, "a checkpoint is written after the reports before it"
        self._written = self._thread.submit(work)

    def ready(self) -> Iterator[Report]:
        """The reports that need not wait. Raises what the thread raised."""
        if self._written is None or self._written.done():
            yield from self.rest()

    def rest(self) -> Iterator[Report]:
        """All reports, once the checkpoint in hand is written. Raises what the thread raised; no report follows it."""
        written, behind = self._written, self._behind
        self._written, self._behind = None, []
        if written is not None:
            yield written.result()
        yield from behind


def written(folder: Path, content: checkpoint.Content, report: Report) -> Report:
    """Write a checkpoint; its report says where it is, or that the disk has no room for it."""
    try:
        return replace(report, checkpoint=checkpoint.write(folder, content))
    except DiskFullError:
        return replace(report, unsaved=f"the disk of {folder.parent} is full")


def copied(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors lie on the CPU and are nobody else's. A tensor that stands
    in several places is copied once: a running mean is both what is deployed and a part of the state.

    A GPU's tensors come into pinned memory, behind the work that the GPU was given before, with one wait for all.
    """
    copies = _Copies()
    copy = copies.of(value)
    for stream in copies.streams.values():
        stream.synchronize()
    return copy


class _Copies:
    """Copies that were begun, and the streams that make them."""

    def __init__(self) -> None:
        self.streams: dict[torch.device, torch.cuda.Stream] = {}
        self._begun: dict[Hashable, Tensor] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._of_tensor(value.detach())
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(item) for item in value)
        return value

    def _of_tensor(self, tensor: Tensor) -> Tensor:
        numbers = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if numbers not in self._begun:
            self._begun[numbers] = self._on_the_cpu(tensor)
        return self._begun[numbers]

    def _on_the_cpu(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True)
        if tensor.device not in self.streams:
            self.streams[tensor.device] = torch.cuda.current_stream(tensor.device)
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
