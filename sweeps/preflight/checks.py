"""Everything that can be refused before a machine is taken, as a list of named checks.

Files first, then the data under every end and choice of the space, the stores, and at last two real steps of the first
and of the largest configuration, which tell what the sweep needs of memory and disk.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pipeline.data.gate.checks import require_geometry
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.data.variants import prepared
from pipeline.kinds import kind_of
from pipeline.recipe import DataConfig, Recipe
from pipeline.recipes import override
from sweeps.home import Home
from sweeps.preflight.artefacts import Artefact, artefacts_of, check_resumed
from sweeps.preflight.disk_and_memory import (
    available_bytes,
    disk_needs,
    require_checkpoints,
    require_disk,
    require_home,
    require_memory,
)
from sweeps.preflight.dry_run import Rehearsal
from sweeps.preflight.dry_run_process import DryRun
from sweeps.run.nodes import require_cluster, seats_of, this_machine
from sweeps.space.space import Scalar, SearchSpace


@dataclass(frozen=True)
class Row:
    """A check that was passed."""

    check: str
    found: str
    seconds: float


@dataclass(frozen=True)
class Readiness:
    """The verdict: a recipe that can run, what is known about the data it runs on, and the checks that said so."""

    recipe: Recipe
    tags: dict[str, str]
    rows: tuple[Row, ...] = ()
    configurations: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)  # the first and the largest

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)


def preflight(
    space: SearchSpace,
    home: Home,
    resumed: Mapping[str, int] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    process: DryRun | None = None,
) -> Readiness:
    """Do every check, in the order of the rows.

    space: with local paths made absolute, `SearchSpace.located`. resumed: steps of trials that are to go on, by name;
    a sweep that goes on needs no MLflow that answers, because its news wait in the journal. meanwhile: is called while
    the two steps run in a process of their own, when all files are known to be good. process: that one, where it has
    been started already; it ends here.
    Raises PipelineError or SweepError: the first thing that would have stopped a trial. What was not there before is
    not there then.
    """
    _tags_once.cache_clear()  # the files may have changed since an earlier sweep of this process
    recipe, cache, tally = space.standing_recipe(), home.cache, _Tally()
    variants = [recipe, *(override(space.base_recipe(), params) for params in space.extremes())]
    with _unmade_on_refusal(cache), process or DryRun() as process:
        rehearsal = Rehearsal(space, cache, _threads(space, home), process)
        rehearsal.begin()
        tally.note("space", _described(space))
        tally.note("home", require_home(home))
        artefacts = artefacts_of(variants, cache)
        tally.note("artefacts", ", ".join(map(str, artefacts)) or "none but the data")
        tags = _of_data(variants, cache, tally)
        check_resumed(recipe, resumed or {})
        tally.note("steps", _steps(recipe, artefacts, resumed or {}))
        rehearsal.ask(artefacts, lambda recipe: data_tags(recipe, cache)["data.digest"])
        if home.ray_address is not None:
            tally.note("cluster", require_cluster(home.ray_address))
        available = available_bytes()
        meanwhile()
        _of_stores(home, tally, needs_tracking=resumed is None)
        measured = rehearsal.outcome()
        tally.note("two steps", rehearsal.told)
        if measured is not None:
            tally.note("memory", require_memory(space, measured, available))
            for need in disk_needs(space, home, measured):
                tally.note("disk", require_disk(space, need))
            rehearsal.remember()
    hashes = {f"artefact.{one.setting}": one.sha256 for one in artefacts if one.setting not in space.space}
    return Readiness(recipe, tags | hashes | {"fingerprint": recipe.fingerprint}, tally.rows, rehearsal.configurations)


class _Tally:
    """The rows so far. What one check finds in several configurations is one row, its seconds added up."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, None]] = {}
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def note(self, check: str, found: str) -> None:
        """The check was passed; it took the time since the last note."""
        now = time.perf_counter()
        self._found.setdefault(check, {})[found] = None
        self._seconds[check] = self._seconds.get(check, 0.0) + now - self._since
        self._since = now

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(Row(check, "; ".join(found), self._seconds[check]) for check, found in self._found.items())


def _of_data(variants: Sequence[Recipe], cache: Path, tally: _Tally) -> dict[str, str]:
    """See that every variant can train on its data, decoded once for all of them; what all have in common."""
    source = open_dataset(str(variants[0].data.root))
    opened: dict[DataConfig, Dataset] = {}
    found = []
    for variant in variants:
        kind = _kind_of_data(variant)
        if kind not in opened:
            opened[kind] = prepared(variant.data, cache)
        dataset = opened[kind]
        tally.note("dataset", f"{dataset.name} {dataset.digest[:12]}")
        geometry = require_geometry(dataset, cache, variant.allows_inconsistent_geometry)
        tally.note("geometry", f"{geometry.verdict}, {geometry.reprojection_px_p95:.2g} px")
        for finding in kind_of(variant).check(variant, dataset, cache):
            tally.note(*finding)
        found.append(data_tags(variant, cache))
    return found[0] if all(tags == found[0] for tags in found) else _named(source)


def _of_stores(home: Home, tally: _Tally, needs_tracking: bool) -> None:
    from sweeps.preflight.stores import require_study_storage, require_tracking  # imports MLflow

    tally.note("checkpoint store", require_checkpoints(home))
    if needs_tracking:
        tally.note("tracking store", require_tracking(home))
    tally.note("study storage", require_study_storage(home))


def _steps(recipe: Recipe, artefacts: Sequence[Artefact], resumed: Mapping[str, int]) -> str:
    steps = recipe.train.max_steps
    if resumed:
        return f"{len(resumed)} trials go on, the furthest at {max(resumed.values())} of {steps}"
    known = [one.step for one in artefacts if one.setting == "train.init_from" and one.step]
    return f"0 of {steps}" + (f", from weights of step {', '.join(map(str, known))}" if known else "")


def _described(space: SearchSpace) -> str:
    count = len(space.space)
    searched = f"{count} parameter{'' if count == 1 else 's'}" if count else "one configuration"
    return f"{searched} over {space.recipe}, {space.trials.count} trials"


def _threads(space: SearchSpace, home: Home) -> int:
    """Of a trial's process; on a cluster nobody knows them yet."""
    return space.trials.cpus or 1 if home.ray_address else seats_of(space, [this_machine()])[0].cpus


def data_tags(recipe: Recipe, cache: Path) -> dict[str, str]:
    """What a run says of the dataset it trains on: the normalised variant, where the recipe asks for one."""
    return dict(_tags_once(_kind_of_data(recipe), cache))


def _kind_of_data(recipe: Recipe) -> DataConfig:
    """With only that left in it which decides what data it is: trials that differ in views share an answer."""
    data = recipe.data
    return DataConfig(
        root=data.root,
        normalise=data.normalise,
        zoom=data.zoom,
        allow_inconsistent_geometry=recipe.allows_inconsistent_geometry,
        image_size=data.image_size,
        num_views=1,
        num_input_views=1,
    )


@lru_cache(maxsize=64)
def _tags_once(data: DataConfig, cache: Path) -> tuple[tuple[str, str], ...]:
    dataset = prepared(data, cache)
    geometry = require_geometry(dataset, cache, data.allow_inconsistent_geometry)
    return tuple((_named(dataset) | {"data.geometry": geometry.verdict}).items())


def _named(dataset: Dataset) -> dict[str, str]:
    return {"data.name": dataset.name, "data.digest": dataset.digest}


@contextlib.contextmanager
def _unmade_on_refusal(folder: Path) -> Iterator[None]:
    """Unless the block ends well, the folder and its parents are taken away again, as far as they were made for it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    passed = False
    try:
        yield
        passed = True
    finally:
        if missing and not passed:
            shutil.rmtree(folder, ignore_errors=True)
            for path in missing[1:]:
                with contextlib.suppress(OSError):
                    path.rmdir()
