"""Several processes to a trial: the trial's own is rank 0, its companions are actors in the trial's placement group.

Ray Tune sees one trial with one function that reports, and reserves room for all the processes at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from pipeline.machine.devices import require_device
from pipeline.training.processes import SILENCE, leave
from sweeps.run.nodes import Seat

_PATIENCE = 10.0  # seconds in which Ray notices what the process group has noticed
Work = Callable[[torch.device], None]  # a companion's work: the same training, without reports


def resources(seats: list[Seat]) -> tune.PlacementGroupFactory:
    """The resources of a trial, as Ray reserves them: a seat per process, on one node where that can be."""
    labels = [seat.labels for seat in seats]
    selectors = {"bundle_label_selector": labels} if any(labels) else {}
    return tune.PlacementGroupFactory([seat.resources for seat in seats], strategy="PACK", **selectors)


@contextlib.contextmanager
def companions(work: Work, seats: list[Seat]) -> Iterator[torch.device]:
    """Make this process rank 0 of a torch.distributed group as large as the trial; yields its device.

    The other processes run `work` (pickled) meanwhile, and end with the context. When one of them fails, the next
    exchange of this process fails too, and the context raises the error of that process, or ChildProcessError where it
    was killed or its node lost. For one seat no process is started.
    """
    device = _device_of(seats[0].gpus)
    if len(seats) == 1:
        yield device
        return
    started = _started(seats)
    try:
        address = f"tcp://{get_node_ip_address()}:{_free_port()}"
        runs = [c.run.remote(work, rank, len(seats), address, seats[rank].cpus) for rank, c in enumerate(started, 1)]
        watch = _Watch(started, runs)
        watch.start()
        try:
            _join(device, 0, len(seats), address)
            yield device
        except RuntimeError as error:  # what gloo and NCCL raise when the other end is gone
            cause = watch.failure(patience=_PATIENCE)
            if cause is None:
                raise
            raise cause from error
    finally:
        for companion in started:
            ray.kill(companion)
        if distributed.is_initialized() and device.type == "cpu":
            leave()  # Ray may use this process again; one with a GPU it does not


def _started(seats: list[Seat]) -> list[Any]:
    """The companions, once all of them live: an exchange would wait long for a dead one. Raises ChildProcessError."""
    group = get_current_placement_group()
    started = [
        _Companion.options(  # type: ignore[attr-defined]
            num_cpus=seat.cpus,
            num_gpus=seat.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        ).remote()
        for rank, seat in enumerate(seats)
        if rank
    ]
    try:
        ray.get([companion.ready.remote() for companion in started])
    except RayError as error:
        for companion in started:
            ray.kill(companion)
        raise ChildProcessError("a process of the trial did not start: it was killed, or its node is gone") from error
    return started


@dataclass
class _Watch:
    """Watches the companions from a thread. When one fails, it ends all, so that none waits for the dead one."""

    companions: list[Any]
    runs: list[Any]
    _failure: BaseException | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._look, name="companions", daemon=True).start()

    def failure(self, patience: float) -> BaseException | None:
        """Why the companions ended, where one of them failed."""
        self._ended.wait(patience)
        return self._failure

    def _look(self) -> None:
        waiting = self.runs
        while waiting and self._failure is None:
            done, waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except RayTaskError as error:
                self._failure = error.cause
            except RayError:
                self._failure = ChildProcessError(
                    f"process {self.runs.index(done[0]) + 1} of the trial was lost: it was killed, or its node is gone"
                )
        if self._failure is not None:
            for companion in self.companions:
                ray.kill(companion)
        self._ended.set()


@ray.remote(max_restarts=0)
class _Companion:
    """A process of a trial that reports nothing."""

    def ready(self) -> None:
        """Does nothing. An answer shows that the process lives."""

    def run(self, work: Work, rank: int, size: int, address: str, cpus: int) -> None:
        torch.set_num_threads(cpus)
        device = _device_of(len(ray.get_gpu_ids()))
        _join(device, rank, size, address)
        work(device)


def _device_of(gpus: float) -> torch.device:
    """Raises MachineError on a node whose GPU torch cannot use: the trial would train on the CPU in silence."""
    return torch.device(require_device("cuda" if gpus else "cpu", "trials.gpus"))


def _join(device: torch.device, rank: int, size: int, address: str) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=SILENCE)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
