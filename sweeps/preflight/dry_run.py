"""The dry run of a sweep: of its first and its largest configuration, unless their verdict is remembered.

A verdict is kept by what could change it: the recipes, the content of their data and artefacts, the code of the
science, torch, and the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

import pipeline
from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.errors import StudyError
from sweeps.preflight.artefacts import Artefact
from sweeps.preflight.configurations import first_of, largest_of
from sweeps.preflight.dry_run_process import DryRun, Job, Measured
from sweeps.space.space import Scalar, SearchSpace

_DIGITS = 16
_CODE = Path(pipeline.__file__).parent


class Rehearsal:
    """Two steps of the first and of the largest configuration: begun early, asked once files are known to be good.

    Where the trials want a GPU that this machine has not, as the driver of a cluster may, nothing is rehearsed.
    """

    def __init__(self, space: SearchSpace, cache: Path, threads: int, process: DryRun) -> None:
        base = space.base_recipe()
        self.first, self.largest = first_of(space), largest_of(space)
        self._space, self._cache, self._process = space, cache, process
        named = {"first": self.first} | ({"largest": self.largest} if self.largest != self.first else {})
        self._recipes = {name: override(base, params) for name, params in named.items()}
        self._gpu = bool(space.trials.gpus)
        self._possible = torch.cuda.is_available() or not self._gpu
        self._threads = threads
        self._prefix = f"dry-run-{_hash([*self._circumstances()])}"
        self._file: Path | None = None
        self._remembered: dict[str, Measured] | None = None
        self._measured: dict[str, Measured] = {}

    def begin(self) -> None:
        """Let the process import what it needs, unless it is probably not needed."""
        if self._possible and not list(self._cache.glob(f"{self._prefix}-*.json")):
            self._process.start()

    def ask(self, artefacts: Iterable[Artefact], digest_of: Callable[[Recipe], str]) -> None:
        """Send the configurations, unless what they read, by these hashes, was rehearsed before."""
        if not self._possible:
            return
        data = [digest_of(recipe) for recipe in self._recipes.values()]
        files = [f"{one.setting} {one.sha256}" for one in artefacts]
        self._file = self._cache / f"{self._prefix}-{_hash(data + files)}.json"
        self._remembered = _read(self._file)
        if self._remembered is None:
            self._process.send([self._job(recipe) for recipe in self._recipes.values()])

    def outcome(self) -> Measured | None:
        """What the configurations need, each figure that of the neediest; None where nothing is rehearsed.

        Raises StudyError for one that does not come through its steps.
        """
        if not self._possible:
            return None
        self._measured = self._remembered or {name: self._process.receive(self._where(name)) for name in self._recipes}
        for name, found in self._measured.items():
            metric = self._space.objective.metric
            if metric not in found.figures:
                raise StudyError(
                    f"{self._where(name)}: expected {metric} among the figures of a validation, got "
                    f"{', '.join(found.figures)} — set objective.metric to one of them."
                )
        every = list(self._measured.values())
        return replace(
            every[-1],
            memory=max(found.memory for found in every),
            checkpoint=max(found.checkpoint for found in every),
            release=max(found.release for found in every),
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
        """Keep the verdict of configurations that came through."""
        if self._file is not None and self._remembered is None:
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            temporary.write_text(json.dumps({name: asdict(found) for name, found in self._measured.items()}, indent=1))
            temporary.replace(self._file)

    def _job(self, recipe: Recipe) -> Job:
        return Job(recipe, str(self._cache), self._threads, self._gpu)

    def _where(self, name: str) -> str:
        params = self.configurations[name]
        values = ", ".join(f"{path} {value}" for path, value in params.items())
        return f"{self._space.name}: the {name} configuration{f' ({values})' if values else ''}"

    def _circumstances(self) -> Iterable[str]:
        yield from (f"{name} {recipe.fingerprint}" for name, recipe in self._recipes.items())
        yield f"{platform.node()} {torch.__version__} gpu {self._gpu} threads {self._threads}"
        for path in sorted([*_CODE.rglob("*.py"), Path(__file__).with_name("dry_run_steps.py")]):
            yield hashlib.sha256(path.read_bytes()).hexdigest()


def _read(file: Path) -> dict[str, Measured] | None:
    """A verdict, or None for one that is not there or was damaged."""
    try:
        return TypeAdapter(dict[str, Measured]).validate_json(file.read_text())
    except (OSError, ValidationError):
        return None


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]
