"""The files that a recipe reads beside its data: found on this machine, and known by the hash of their content; and
the network that LPIPS figures are taken with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import checkpoint
from pipeline.data.hashes import hashes_of
from pipeline.recipe import LOCAL_PATHS, Recipe
from pipeline.recipes import check_artefacts
from pipeline.weights.known import LPIPS, weights_named
from sweeps.errors import StudyError
from sweeps.space.space import SearchSpace

_DATA = "data.root"  # has a digest of its own


@dataclass(frozen=True)
class Artefact:
    """A file or folder that recipes name at `setting`; of a checkpoint folder the hash is that of its weights."""

    setting: str
    path: Path
    sha256: str
    step: int | None  # that a checkpoint folder was saved at

    def __str__(self) -> str:
        step = "" if self.step is None else f" of step {self.step}"
        return f"{self.setting} {self.sha256[:12]}{step}"


def artefacts_of(recipes: Iterable[Recipe], cache: Path) -> list[Artefact]:
    """The artefacts that any of the recipes names. Where `cache` exists, a file that did not change is not read again.

    Raises RecipeError for what is not there, CheckpointError for a checkpoint folder whose files are not those that
    its index names.
    """
    named: dict[tuple[str, Path], None] = {}
    for recipe in recipes:
        check_artefacts(recipe)
        for setting in LOCAL_PATHS:
            value = recipe.params.get(setting)
            if value is not None and setting != _DATA:
                named[setting, Path(value)] = None
    read = {path: _read(path, cache) for _, path in named}
    return [Artefact(setting, path, *read[path]) for setting, path in named]


@dataclass(frozen=True)
class Lpips:
    """Whether the figures of LPIPS that a space asks for can be taken on this machine.

    settings: of the space, that ask for one. note: a line for the user, where a gate's figure cannot be taken yet.
    """

    settings: tuple[str, ...]
    found: str
    note: str = ""


def require_lpips(space: SearchSpace, environment: Mapping[str, str], on_cluster: bool) -> Lpips:
    """Look for LPIPS's weights where the objective or a gate asks for its figures.

    A gate asks only when a trial is promoted, so that it is told and not refused: the weights may be fetched until
    then. The machines of a cluster are not looked into. Raises StudyError for an objective that no trial could report.
    """
    settings, weights = tuple(_asking_for_lpips(space)), weights_named(LPIPS, environment)
    state = weights.state() if settings else "whole"
    if state == "whole":
        return Lpips(settings, f"{', '.join(settings)} by {weights.file.name}")
    came = f"{'none' if state == 'absent' else 'damaged ones'} at {weights.file}"
    if settings[0].startswith("objective") and not on_cluster:
        raise StudyError(
            f"{space.name}: {settings[0]}: expected LPIPS's weights, without which no trial reports it, got {came} — "
            f"{weights.ways_out}; or take another objective."
        )
    when = "on the machines of the trials, and here before" if on_cluster else "here before"
    note = (
        f"{space.name}: {' and '.join(settings)}: expected LPIPS's weights, without which no trial becomes champion, "
        f"got {came} — `mouselift weights fetch {LPIPS}` {when} `model promote`, or take the gate away."
    )
    return Lpips(settings, f"no weights yet for {', '.join(settings)}", note)


def _asking_for_lpips(space: SearchSpace) -> Iterator[str]:
    yield from (f"objective.metric {metric}" for metric in space.aims.metrics if metric.endswith("/lpips"))
    yield from (f"gates.{metric}" for metric in space.gates if metric.endswith("/lpips"))


def _read(path: Path, cache: Path) -> tuple[str, int | None]:
    if (path / checkpoint.INDEX).is_file():
        info = checkpoint.inspect(path)
        return info.sha256, info.step
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    memory = cache / "artefacts" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    if cache.is_dir():
        memory.mkdir(parents=True, exist_ok=True)
    hashes = hashes_of(memory, files, remember=memory.is_dir())
    if path.is_file():
        return hashes[0], None
    lines = [f"{file.relative_to(path).as_posix()} {found}\n" for file, found in zip(files, hashes, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest(), None
