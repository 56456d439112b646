"""The files that a recipe reads beside its data: found on this machine, and known by the hash of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import checkpoint
from pipeline.data.hashes import hashes_of
from pipeline.recipe import LOCAL_PATHS, Recipe
from pipeline.recipes import check_artefacts

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
