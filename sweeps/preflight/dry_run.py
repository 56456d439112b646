"""The dry run of a sweep: two steps of its first and of its largest configuration, which this module chooses.

A verdict is remembered under the hash of all that could change it: the recipes, the content of their data and
artefacts, the code of the science, torch, and the machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

import pipeline
from pipeline.errors import RecipeError
from pipeline.files import write_whole
from pipeline.progress import Tell, silent, told
from pipeline.recipe import Recipe
from pipeline.recipes import override
from pipeline.vgg import lpips_weights_file
from sweeps.errors import StudyError
from sweeps.preflight.artefacts import Artefact
from sweeps.preflight.dry_run_messages import Job, Measured
from sweeps.preflight.dry_run_process import DryRunProcess
from sweeps.preflight.footprint import footprint
from sweeps.space.distributions import is_searched
from sweeps.space.space import Scalar, SearchSpace

_DIGITS = 16
_CODE = Path(pipeline.__file__).parent

Candidates = list[tuple[Scalar, Recipe]]


class DryRun:
    """Two steps of the first and of the largest configuration of a space.

    Call in this order: `begin`, as early as possible, because the process imports for seconds; `ask`, once the files
    are known to be good; `outcome`; and `remember`, if the sweep can run. Where the trials need a GPU and this machine
    has none, as the driver of a cluster may, no step is taken. paced: more steps are made, if they are short, to know
    how long one takes.
    """

    def __init__(
        self, space: SearchSpace, cache: Path, threads: int, process: DryRunProcess, paced: bool = False
    ) -> None:
        self.first, self.largest = first_of(space), largest_of(space)
        self._space, self._cache, self._process = space, cache, process
        named = {"first": self.first} | ({"largest": self.largest} if self.largest != self.first else {})
        self._recipes = {name: override(space.base, params) for name, params in named.items()}
        self._gpu = bool(space.trials.taken_gpus)
        self._possible = torch.cuda.is_available() or not self._gpu
        self._threads, self._paced = threads, paced
        self._prefix = f"dry-run-{_hash([*self._circumstances()])}"
        self._file: Path | None = None
        self._remembered: dict[str, Measured] | None = None
        self._measured: dict[str, Measured] = {}

    def begin(self) -> None:
        """Let the process import what it needs, unless it is probably not needed."""
        if self._possible and not list(self._cache.glob(f"{self._prefix}-*.json")):
            self._process.start()

    def ask(self, artefacts: Iterable[Artefact], digest_of: Callable[[Recipe], str]) -> None:
        """Send the configurations, unless a verdict on the same files and data is remembered.

        digest_of: the digest of the data that a recipe trains on.
        """
        if not self._possible:
            return
        data = [digest_of(recipe) for recipe in self._recipes.values()]
        files = [f"{one.setting} {one.sha256}" for one in artefacts]
        self._file = self._cache / f"{self._prefix}-{_hash(data + files)}.json"
        self._remembered = _read(self._file, self._paced)
        if self._remembered is None:
            self._process.send([self._job(recipe) for recipe in self._recipes.values()])

    def outcome(self, tell: Tell = silent) -> Measured | None:
        """What the configurations need, each figure that of the neediest; None where no step is taken.

        Raises StudyError for a configuration that fails, or that does not report what objectives and constraints name.
        """
        if not self._possible:
            return None
        self._measured = self._remembered or {
            name: self._process.receive(self._where(name))
            for name in told(self._recipes, "two steps", len(self._recipes), tell)
        }
        for name, found in self._measured.items():
            for metric in self._space.aims.metrics:
                if metric not in found.figures:
                    setting = (
                        "objective.metric" if metric == self._space.objective.metric else "objectives or constraints"
                    )
                    raise StudyError(
                        f"{self._where(name)}: expected {metric} among the figures of a validation, got "
                        f"{', '.join(found.figures)} — set {setting} to one of them."
                    )
        every = list(self._measured.values())
        return replace(
            every[-1],
            memory=max(found.memory for found in every),
            checkpoint=max(found.checkpoint for found in every),
            release=max(found.release for found in every),
            pace=None if any(found.pace is None for found in every) else max(found.pace or 0.0 for found in every),
        )

    @property
    def configurations(self) -> dict[str, dict[str, Scalar]]:
        return {"first": self.first, "largest": self.largest}

    @property
    def told(self) -> str:
        """What a row says of the outcome."""
        if not self._possible:
            return "left to the first trial: this machine has no GPU"
        figures = [f"{name} {found.step_seconds:.2g} s a step" for name, found in self._measured.items()]
        return ", ".join(figures) + (", as measured before" if self._remembered else "")

    def remember(self) -> None:
        """Keep the verdict, so that the same configurations need no process next time."""
        if self._file is not None and self._remembered is None:
            self._cache.mkdir(parents=True, exist_ok=True)
            verdict = {name: asdict(measured) for name, measured in self._measured.items()}
            write_whole(self._file, json.dumps(verdict, indent=1))

    def _job(self, recipe: Recipe) -> Job:
        return Job(recipe, str(self._cache), self._threads, self._gpu, self._paced)

    def _where(self, name: str) -> str:
        params = self.configurations[name]
        values = ", ".join(f"{path} {value}" for path, value in params.items())
        return f"{self._space.name}: the {name} configuration{f' ({values})' if values else ''}"

    def _circumstances(self) -> Iterable[str]:
        yield from (f"{name} {recipe.fingerprint}" for name, recipe in self._recipes.items())
        has_lpips = lpips_weights_file().is_file()
        yield f"{platform.node()} {torch.__version__} gpu {self._gpu} threads {self._threads} lpips {has_lpips}"
        for path in sorted([*_CODE.rglob("*.py"), *Path(__file__).parent.glob("dry_run_[ms]*.py")]):
            yield hashlib.sha256(path.read_bytes()).hexdigest()


def first_of(space: SearchSpace) -> dict[str, Scalar]:
    """Each parameter whose conditions hold at the first of its ends or choices that the recipe takes."""
    return _chosen(space, {}, lambda candidates: candidates[0][0])


def largest_of(space: SearchSpace) -> dict[str, Scalar]:
    """Each parameter at that end or choice with which a training step needs most memory, by `footprint`.

    Parameter after parameter, from the first configuration on, and again until nothing changes, so that one may grow
    where another made room. Of values that cost the same the last is taken: with the first configuration, both ends
    are then seen.
    """
    chosen = first_of(space)
    for _ in range(len(space.space) + 1):
        before, chosen = chosen, _chosen(space, chosen, _costliest)
        if chosen == before:
            break
    return chosen


def _chosen(space: SearchSpace, start: Mapping[str, Scalar], pick: Callable[[Candidates], Scalar]) -> dict[str, Scalar]:
    """A value for each path whose conditions hold; those not yet reached stand as in `start`."""
    chosen: dict[str, Scalar] = {}
    for path, found in space.ordered.items():
        if not is_searched(found, chosen):
            continue
        others = {other: value for other, value in start.items() if other != path} | chosen
        candidates = _accepted(space.base, others, path, found.ends)
        if candidates:
            chosen[path] = pick(candidates)
    return chosen


def _accepted(base: Recipe, others: Mapping[str, Scalar], path: str, values: tuple[Scalar, ...]) -> Candidates:
    """The values that go together with the others, each with its recipe."""
    found: Candidates = []
    for value in values:
        try:
            found.append((value, override(base, {**others, path: value})))
        except RecipeError:
            continue
    return found


def _costliest(candidates: Candidates) -> Scalar:
    """The last of those that cost most."""
    costs = [footprint(recipe) for _, recipe in candidates]
    return candidates[max(range(len(costs)), key=lambda index: (costs[index], index))][0]


def _read(file: Path, paced: bool) -> dict[str, Measured] | None:
    """A verdict, or None for one that is not there, was damaged, or does not say what is asked for."""
    try:
        found = TypeAdapter(dict[str, Measured]).validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return None if paced and any(one.pace is None for one in found.values()) else found


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]
