"""The running mean of weights that a model is validated and released with, on the device or in the CPU's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pipeline.recipe import MVDiffusionConfig


def running_mean(parameters: Sequence[Tensor], config: MVDiffusionConfig) -> RunningMean:
    """The kind of mean that suits where the weights are, and where the recipe wants the mean."""
    beside = config.ema_on_cpu and any(p.is_cuda for p in parameters)
    return RunningMeanBeside(parameters, config) if beside else RunningMean(parameters, config)


class RunningMean:
    """The mean of weights over steps, as diffusers' EMAModel takes it: the first step is copied."""

    def __init__(self, parameters: Iterable[Tensor], config: MVDiffusionConfig) -> None:
        self._decay, self._updates = config.ema_decay, 0
        self._values = [
            p.detach().to("cpu" if config.ema_on_cpu else p.device, torch.float32, copy=True) for p in parameters
        ]

    @property
    def values(self) -> list[Tensor]:
        """The mean of each parameter."""
        return self._values

    def update(self, parameters: Iterable[Tensor]) -> None:
        """Take in the weights of one more step."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 9)) if self._updates > 1 else 0.0
        self._take_in([parameter.detach() for parameter in parameters], 1 - decay)

    def hold(self) -> None:
        """Called between a step's forward and backward pass: the weights are about to change."""

    def state(self) -> dict[str, Any]:
        return {"updates": self._updates, "values": list(self.values)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._updates = state["updates"]
        for mean, value in zip(self.values, state["values"], strict=True):
            mean.copy_(value)

    def _take_in(self, weights: Sequence[Tensor], share: float) -> None:
        for mean, weight in zip(self._values, weights, strict=True):
            mean.lerp_(weight.to(mean.device, mean.dtype), share)


class RunningMeanBeside(RunningMean):
    """The same numbers for weights on a GPU and their mean in the CPU's memory, while the GPU goes on.

    A stream of its own copies the weights to pinned memory, beside the next forward pass; a thread then takes them into
    the mean.
    """

    def __init__(self, parameters: Sequence[Tensor], config: MVDiffusionConfig) -> None:
        super().__init__(parameters, config)
        copies = [torch.empty_like(p, dtype=torch.float32, device="cpu") for p in parameters]
        gpus = [p.device for p in parameters if p.is_cuda]
        self._copies = [copy.pin_memory() for copy in copies] if gpus else copies
        self._stream = torch.cuda.Stream(gpus[0]) if gpus else None
        self._copied: torch.cuda.Event | None = None
        self._thread = ThreadPoolExecutor(1, "running-mean")
        self._pending: Future[None] | None = None

    @property
    def values(self) -> list[Tensor]:
        """The mean of each parameter, once the last update is in it."""
        self._wait()
        return self._values

    def hold(self) -> None:
        """What the GPU is asked for from now on waits for the copy."""
        if self._stream is not None and self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)

    def _take_in(self, weights: Sequence[Tensor], share: float) -> None:
        self._wait()  # the copies are free again
        if self._stream is None:
            self._copy(weights)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                self._copy(weights)
                self._copied = self._stream.record_event()
        self._pending = self._thread.submit(self._follow, self._copied, share)

    def _copy(self, weights: Sequence[Tensor]) -> None:
        for copy, weight in zip(self._copies, weights, strict=True):
            copy.copy_(weight, non_blocking=True)

    @torch.no_grad()
    def _follow(self, copied: torch.cuda.Event | None, share: float) -> None:
        if copied is not None:
            copied.synchronize()
        super()._take_in(self._copies, share)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
