"""The machines on which a trial may run, and the seats that its processes take there.

A node says what it has by Ray labels, `ray start --labels gpu_memory_gb=80`: `gpu_memory_gb` is the memory of its
smallest GPU, and any other name may be used. A number in `trials.needs` is a minimum; a text has to be equal.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pipeline.config import one_line
from pipeline.machine.cpus import usable_cpus
from pipeline.machine.devices import CPU, CUDA, Gpus, described, require_device, seen_gpus
from sweeps.errors import StudyError, counted
from sweeps.space.space import SearchSpace

GPU_MEMORY = "gpu_memory_gb"
COMPUTED_ON = "trial.computed_on"  # the tag of a trial
_ANSWER_SECONDS = 5


@dataclass(frozen=True)
class Node:
    """A machine: its name, its resources by Ray's names, and its labels."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(described: Mapping[str, Any]) -> Node:
        """One of `ray.nodes()`."""
        return Node(described["NodeManagerHostname"], described["Resources"], described.get("Labels") or {})

    def has(self, needs: Mapping[str, float | str]) -> bool:
        return all(_meets(self.labels.get(name), wanted) for name, wanted in needs.items())

    def seats(self, cpus: int, gpus: float) -> int:
        """How many processes of this size it holds at a time."""
        rooms = [int(self.resources.get("CPU", 0) // cpus)]
        if gpus:
            rooms.append(int(self.resources.get("GPU", 0) // gpus))
        return min(rooms)


@dataclass(frozen=True)
class Seat:
    """The share of a node that one process of a trial takes. labels: Ray's selector of fitting nodes, {} for any."""

    cpus: int
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus), "GPU": self.gpus}


def this_machine() -> Node:
    """The machine of this process as a node, without Ray; its label is the memory of its GPUs."""
    import torch

    count = len(seen_gpus().names)
    memory = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
    labels = {GPU_MEMORY: f"{min(memory) / 1e9:.0f}"} if memory else {}
    return Node("this machine", {"CPU": float(usable_cpus()), "GPU": float(count)}, labels)


def require_cluster(address: str) -> str:
    """What was found. Raises StudyError when nothing listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return address
    try:
        with socket.create_connection((host, int(port)), _ANSWER_SECONDS):
            return f"{address} answers"
    except OSError as error:
        raise StudyError(
            f"RAY_ADDRESS: expected a Ray cluster at {address}, got {one_line(error)} — start it, or name another."
        ) from None


def require_usable(space: SearchSpace) -> None:
    """Raises MachineError where trials shall take a GPU of this machine, which has a driver that torch cannot use."""
    seen = seen_gpus()
    if space.trials.gpus and seen.has_driver:
        require_device(CUDA, f"{space.name}: trials.gpus", seen)


class Share(NamedTuple):
    """A space that says how many GPUs a trial takes, and what is said of that.

    surprising: the user may not expect it: there are GPUs that the space did not ask for, or that no trial takes.
    """

    space: SearchSpace
    said: str
    surprising: bool


def share_of(space: SearchSpace, nodes: Sequence[Node] | None) -> Share:
    """The GPUs of a trial: as many as the space says, or else one for each of its processes, where there are any.

    nodes: those of the cluster on which the sweep runs; this machine alone, if None.
    """
    trials, where = space.trials, "this machine" if nodes is None else "the cluster"
    seen = seen_gpus() if nodes is None else Gpus()
    fit = [node for node in ([this_machine()] if nodes is None else nodes) if node.has(trials.needs)]
    there = sum(int(node.resources.get("GPU", 0)) for node in fit)
    if trials.gpus:
        return Share(space, f"{trials.gpus:g} for each trial", False)
    if seen.trouble is not None and seen.has_driver:
        decided = replace(space, trials=replace(trials, gpus=0.0))
        said = described(CPU, seen).removeprefix(f"{CPU}: ")
        return Share(decided, f"none for a trial: {said}", trials.gpus is None)
    if trials.gpus is not None:
        though = f"trials.gpus is 0, though {where} has {counted(there, 'GPU')}" if there else "trials.gpus is 0"
        return Share(space, f"none for a trial: {though}", there > 0)
    each = trials.workers or 1
    decided = replace(space, trials=replace(trials, gpus=float(each) if there >= each else 0.0))
    if there < each:
        why = f"trials.workers {each} would take as many, and {where} has {there}" if there else f"{where} has none"
        return Share(decided, f"none for a trial: {why}", there > 0)
    at_a_time, asked = there // each, min(trials.concurrent, trials.count)
    fewer = f", so {at_a_time} of {counted(asked, 'trial')} can run at a time" if at_a_time < asked else ""
    return Share(decided, f"{each} for each trial, as trials.gpus is not set: {where} has {there}{fewer}", True)


def seats_of(space: SearchSpace, nodes: Sequence[Node]) -> list[Seat]:
    """A seat for each process of a trial of `space`: the same for all of them.

    Raises StudyError when the nodes that fit could never hold a trial, which would otherwise wait for ever.
    """
    trials = space.trials
    fit = [node for node in nodes if node.has(trials.needs)]
    if not fit:
        needs = ", ".join(f"{name} {_plain(wanted)}" for name, wanted in trials.needs.items())
        raise StudyError(
            f"{space.name}: expected a machine with {needs} (trials.needs), got {_having(trials.needs, nodes)} — lower "
            f"it, or start nodes with `ray start --labels`; docs/cluster.md says how."
        )
    total = sum(node.resources.get("CPU", 0) for node in fit)
    cpus = trials.cpus or max(1, int(total) // trials.concurrent)
    each, gpus = max(1, cpus // trials.processes), trials.taken_gpus / trials.processes
    if sum(node.seats(each, gpus) for node in fit) < trials.processes:
        some = "a machine" if trials.processes == 1 else f"{trials.processes} processes"
        needs = f"{counted(each, 'CPU')} and {gpus:g} GPU{'' if gpus == 1 else 's'}"
        raise StudyError(
            f"{space.name}: expected {some} with {needs} for a trial, got none among {len(fit)} — change trials.cpus "
            "or trials.gpus, or set RAY_ADDRESS to a cluster that has it."
        )
    labels = {} if len(fit) == len(nodes) else _selector(trials.needs, fit)
    return [Seat(each, gpus, labels)] * trials.processes


def computed_on(seats: Sequence[Seat]) -> str:
    """The kind of machine as far as figures depend on it, by rounding: `cpu, 2 processes of 4 threads`, `cuda`.

    On a GPU threads change nothing, and which GPU it is changes no more than a second run on the same one.
    """
    processes = "" if len(seats) == 1 else f", {len(seats)} processes"
    if seats[0].gpus:
        return f"cuda{processes}"
    threads = counted(seats[0].cpus, "thread")
    return f"cpu{processes} of {threads}" if processes else f"cpu, {threads}"


def _selector(needs: Mapping[str, float | str], fit: Sequence[Node]) -> dict[str, str]:
    """The values that qualify, as Ray's label selectors name them."""
    return {name: f"in({','.join(sorted({node.labels[name] for node in fit}))})" for name in needs}


def _meets(label: str | None, wanted: float | str) -> bool:
    if label is None:
        return False
    if isinstance(wanted, str):
        return label == wanted
    try:
        return float(label) >= wanted
    except ValueError:
        return False


def _having(needs: Mapping[str, float | str], nodes: Sequence[Node]) -> str:
    said = [f"{node.name} {name} {node.labels.get(name, 'unknown')}" for node in nodes for name in needs]
    return "; ".join(said[:4]) + (f" and {len(said) - 4} more" if len(said) > 4 else "")


def _plain(wanted: float | str) -> str:
    return wanted if isinstance(wanted, str) else f"{wanted:g}"
