"""Everything that can be refused before a machine is taken: files, weights, data, the ends of the space."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from pipeline.data.checks import require_geometry
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.data.variants import prepared
from pipeline.errors import PipelineError
from pipeline.recipe import DataConfig, Recipe, check_artefacts
from pipeline.stages import kind_of
from sweeps.errors import StudyError
from sweeps.home import Home, name_taken
from sweeps.journal import Journal
from sweeps.space import SearchSpace


@dataclass(frozen=True)
class Readiness:
    """The verdict: a recipe that can run, and what is known about the data it runs on."""

    recipe: Recipe
    tags: dict[str, str]


def preflight(recipe: Recipe, variants: Iterable[Recipe], cache: Path) -> Readiness:
    """Check a recipe and its variants (the ends and choices of a space) and decode the data once for all of them.

    Raises RecipeError, DataError or CheckpointError: the first thing that would have stopped a trial. A cache that
    did not exist before does not exist then.
    """
    _tags_once.cache_clear()  # the files may have changed since an earlier sweep of this process
    check_artefacts(recipe)
    source = open_dataset(str(recipe.data.root))
    found = []
    with _unmade_on_refusal(cache):
        for variant in [recipe, *variants]:
            dataset = prepared(variant.data, cache)
            require_geometry(dataset, cache, variant.allows_inconsistent_geometry)
            kind_of(variant).check(variant, dataset, cache)
            found.append(data_tags(variant, cache))
    common = found[0] if all(tags == found[0] for tags in found) else _named(source)
    return Readiness(recipe, common | {"fingerprint": recipe.fingerprint})


def data_tags(recipe: Recipe, cache: Path) -> dict[str, str]:
    """What a run says of the dataset it trains on: the normalised variant, where the recipe asks for one."""
    data = recipe.data
    same = DataConfig(
        root=data.root,
        normalise=data.normalise,
        zoom=data.zoom,
        allow_inconsistent_geometry=recipe.allows_inconsistent_geometry,
        image_size=data.image_size,
        num_views=1,  # of no matter here: trials that differ in views share an answer
        num_input_views=1,
    )
    return dict(_tags_once(same, cache))


@lru_cache(maxsize=64)
def _tags_once(data: DataConfig, cache: Path) -> tuple[tuple[str, str], ...]:
    dataset = prepared(data, cache)
    geometry = require_geometry(dataset, cache, data.allow_inconsistent_geometry)
    return tuple((_named(dataset) | {"data.geometry": geometry.verdict}).items())


def _named(dataset: Dataset) -> dict[str, str]:
    return {"data.name": dataset.name, "data.digest": dataset.digest}


def check_name_is_free(home: Home, name: str) -> None:
    """Raises StudyError for a name that is none, or that a sweep of this home has."""
    if Journal(home.journal(name)).path.exists():
        raise name_taken(name)


def cpus_per_trial(space: SearchSpace, machines: Sequence[Mapping[str, float]]) -> int:
    """CPUs of a trial on machines with these resources, named as Ray names them.

    Raises StudyError when none of them could ever hold a trial: it would wait for ever.
    """
    total = sum(machine.get("CPU", 0) for machine in machines)
    cpus = space.trials.cpus or max(1, int(total) // space.trials.concurrent)
    gpus = space.trials.gpus
    if not any(machine.get("GPU", 0) >= gpus and machine.get("CPU", 0) >= cpus for machine in machines):
        raise StudyError(
            f"{space.name}: expected a machine with {cpus} CPUs and {gpus:g} GPUs for a trial, got none "
            f"among {len(machines)} — change trials.cpus or trials.gpus, or set RAY_ADDRESS to a cluster that has it."
        )
    return cpus


def this_machine() -> dict[str, float]:
    """What a trial on this machine could have, before Ray is asked."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


@contextlib.contextmanager
def _unmade_on_refusal(folder: Path) -> Iterator[None]:
    """A refusal takes the folder and its parents away again, as far as they were made for it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except PipelineError:
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
        for path in missing[1:]:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
