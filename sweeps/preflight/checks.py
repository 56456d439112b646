"""Every check that is made before a sweep starts, in the order in which they are made.

Files come first, then the data under every end and choice of the space, then the stores. At last two real steps of the
first and of the largest configuration show how much memory and disk the sweep needs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.gate.checks import require_geometry
from pipeline.data.gate.evidence import rests
from pipeline.data.scenes import Dataset, Geometry, open_dataset
from pipeline.data.variants import prepared
from pipeline.kinds import kind_of
from pipeline.progress import Tell, silent
from pipeline.recipe import DataConfig, Recipe
from pipeline.recipes import check_named, override
from sweeps import datasets
from sweeps.book.remaining import LEAST_STEP_SECONDS
from sweeps.errors import counted
from sweeps.home import Home
from sweeps.preflight.artefacts import Artefact, artefacts_of, require_lpips
from sweeps.preflight.cost import Cost, cost_of, least_step_seconds, of_budget
from sweeps.preflight.disk_and_memory import (
    available_bytes,
    disk_needs,
    require_checkpoints,
    require_disk,
    require_home,
    require_memory,
)
from sweeps.preflight.dry_run import DryRun
from sweeps.preflight.dry_run_process import DryRunProcess
from sweeps.preflight.kernels import ready_kernels
from sweeps.run.nodes import Node, require_cluster, require_usable, seats_of, share_of, this_machine
from sweeps.space import words
from sweeps.space.space import Scalar, SearchSpace
from sweeps.tracking.notices import described

_log = logging.getLogger(__name__)
# Of the checks that take longest, for the bar alone: on two cores, of `gslrm_tiny`, with the home's own stores.
_TYPICAL_SECONDS = {"space": 0.5, "dataset": 1.0, "images": 1.0, "checkpoint store": 2.0, "two steps": 9.0}


@dataclass(frozen=True)
class Row:
    """A check that was passed."""

    check: str
    found: str
    seconds: float


@dataclass(frozen=True)
class Readiness:
    """The verdict: a recipe that can run, the tags of its data and artefacts, and the checks that were passed.

    space: the one that was checked, with its GPUs of a trial decided. notes: lines that the user should see before the
    sweep starts.
    """

    space: SearchSpace
    recipe: Recipe
    tags: dict[str, str]
    rows: tuple[Row, ...] = ()
    configurations: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)  # the first and the largest
    notes: tuple[str, ...] = ()
    cost: Cost | None = None  # None where no step could be made here

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)


def preflight(
    space: SearchSpace,
    home: Home,
    resumed: Mapping[str, int] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    process: DryRunProcess | None = None,
    nodes: Sequence[Node] | None = None,
    say: Callable[[str], None] = _log.warning,
    tell: Tell = silent,
    paced: bool = False,
) -> Readiness:
    """Do every check, in the order of the rows.

    space: with local paths made absolute, `SearchSpace.located`. resumed: for a sweep that goes on, the last step of
    each trial that is not done, by name; MLflow is then not asked, because the journal keeps what it does not take.
    meanwhile: called while the two steps run in their process, once all files are known to be good. process: that
    process, if the caller has started it already; it ends here. nodes: of the cluster, where they are known. say: is
    called with a line before something that takes a minute. tell: hears how far the checks are. paced: a few more steps
    are made, so that the verdict can say how long the sweep will take.
    Raises PipelineError or SweepError for the first check that fails; folders that were made for the checks are then
    removed.
    """
    datasets.forget_tags()  # the files may have changed since an earlier sweep of this process
    if home.ray_address is None:
        require_usable(space)
    share = share_of(space, nodes)
    space = share.space
    recipe, cache, tally = space.standing_recipe(), home.cache, _Tally(tell)
    variants = [recipe, *(override(space.base, params) for params in space.extremes())]
    with _unmade_on_refusal(cache), process or DryRunProcess() as process:
        dry_run = DryRun(space, cache, _threads(space, home), process, paced or space.budget.is_bounded)
        dry_run.begin()
        tally.note("space", _described(space))
        tally.note("GPUs", share.said)
        tally.note("home", require_home(home))
        if told := described(space.notify, os.environ):
            tally.note("notices", told)
        artefacts = artefacts_of(variants, cache)
        tally.note("artefacts", ", ".join(map(str, artefacts)) or "none but the data")
        lpips = require_lpips(space, os.environ, home.ray_address is not None)
        if lpips.settings:
            tally.note("LPIPS", lpips.found)
        _of_weights(variants, cache, tally)
        tags = _of_data(variants, cache, tally)
        tally.note("steps", _steps(recipe, artefacts, resumed or {}))
        if space.trials.taken_gpus and kind_of(recipe).draws:
            tally.note("kernels", ready_kernels(home.ray_address is not None, say))
        dry_run.ask(artefacts, lambda recipe: datasets.data_tags(recipe, cache)["data.digest"])
        if home.ray_address is not None:
            tally.note("cluster", require_cluster(home.ray_address))
        available = available_bytes()
        meanwhile()
        _of_stores(home, tally, is_new=resumed is None)
        measured = dry_run.outcome(tell)
        tally.note("two steps", dry_run.told)
        if measured is not None:
            tally.note("memory", require_memory(space, measured, available))
            for need in disk_needs(space, home, measured):
                tally.note("disk", require_disk(space, need))
            dry_run.remember()
        cost = None if measured is None else cost_of(space, recipe, home, measured)
        budget = of_budget(space, cost) if resumed is None else []  # of one that goes on, its own trials tell more
    hashes = {f"artefact.{one.setting}": one.sha256 for one in artefacts if one.setting not in space.space}
    tags |= hashes | {"fingerprint": recipe.fingerprint}
    notes = budget + ([f"GPUs: {share.said}"] if share.surprising else [])
    notes += [lpips.note] if lpips.note else []
    if (least := least_step_seconds(cost, recipe)) is not None and space.budget.is_bounded:
        tags[LEAST_STEP_SECONDS] = f"{least:.4g}"
    return Readiness(space, recipe, tags, tally.rows, dry_run.configurations, tuple(notes), cost)


def check_recipe(recipe: Recipe, cache: Path) -> None:
    """Refuse what would stop the training of a recipe before its first step, as `preflight` refuses it of a space.

    Of a recipe without a dataset: what its weights and prompts alone tell.
    Raises RecipeError, DataError, CheckpointError; folders that were made for the checks are then removed.
    """
    with _unmade_on_refusal(cache):
        if recipe.data.root is None:
            check_named(recipe)
        else:
            artefacts_of([recipe], cache)
        _of_weights([recipe], cache, _Tally())
        if recipe.data.root is not None:
            _of_data([recipe], cache, _Tally())


class _Tally:
    """The rows so far. A check that is made for several configurations has one row, with the sum of their seconds."""

    def __init__(self, tell: Tell = silent) -> None:
        self._tell = tell
        self._found: dict[str, dict[str, None]] = {}
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def note(self, check: str, found: str) -> None:
        """The check was passed; it took the time since the last note."""
        now = time.perf_counter()
        self._found.setdefault(check, {})[found] = None
        self._seconds[check] = self._seconds.get(check, 0.0) + now - self._since
        self._since = now
        done = sum(_TYPICAL_SECONDS.get(one, 0.0) for one in self._found)
        self._tell("preflight", done / sum(_TYPICAL_SECONDS.values()), 1.0)

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(Row(check, "; ".join(found), self._seconds[check]) for check, found in self._found.items())


def _of_weights(variants: Sequence[Recipe], cache: Path, tally: _Tally) -> None:
    """Check what weights and prompts alone tell: before the data, which take longer to look at."""
    for variant in variants:
        for finding in kind_of(variant).check(variant, None, cache):
            tally.note(*finding)


def _of_data(variants: Sequence[Recipe], cache: Path, tally: _Tally) -> dict[str, str]:
    """Check that every variant can train on its data. Returns the tags that hold for all of them."""
    source = open_dataset(str(variants[0].data.root))
    opened: dict[DataConfig, Dataset] = {}
    found = []
    for variant in variants:
        kind = datasets.kind_of_data(variant)
        if kind not in opened:
            opened[kind] = prepared(variant.data, cache)
        dataset = opened[kind]
        tally.note("dataset", f"{dataset.name} {dataset.digest[:12]}")
        geometry = require_geometry(dataset, cache, variant.allows_inconsistent_geometry)
        tally.note("geometry", f"{geometry.verdict}, {_missed(geometry)}")
        for finding in kind_of(variant).check(variant, dataset, cache):
            tally.note(*finding)
        found.append(datasets.data_tags(variant, cache))
    return found[0] if all(tags == found[0] for tags in found) else datasets.named(source)


def _missed(geometry: Geometry) -> str:
    """By how much cameras miss their images, and what that rests on."""
    px = geometry.reprojection_px_p95
    return f"{'nothing measured' if px is None else f'{px:.2g} px'}, {rests(geometry)}"


def _of_stores(home: Home, tally: _Tally, is_new: bool) -> None:
    from sweeps.preflight.stores import require_study_storage, require_tracking  # imports MLflow

    tally.note("checkpoint store", require_checkpoints(home))
    if is_new:
        tally.note("tracking store", require_tracking(home))
        tally.note("study storage", require_study_storage(home))


def _steps(recipe: Recipe, artefacts: Sequence[Artefact], resumed: Mapping[str, int]) -> str:
    steps = recipe.train.max_steps
    if resumed:
        return f"{counted(len(resumed), 'trial')} to go on with, the furthest at {max(resumed.values())} of {steps}"
    known = [one.step for one in artefacts if one.setting == "train.init_from" and one.step]
    return f"0 of {steps}" + (f", from weights of step {', '.join(map(str, known))}" if known else "")


def _described(space: SearchSpace) -> str:
    if space.plan.is_made:
        return f"{words.plan(space.as_plain())['plan']} over {space.recipe}, {counted(space.trials.count, 'trial')}"
    searched = counted(len(space.space), "parameter") if space.space else "one configuration"
    more = space.confirm.runs(space.trials.count)
    runs = f", then {counted(more, 'run')}: {words.plan(space.as_plain())['confirm']}" if more else ""
    return f"{searched} over {space.recipe}, {counted(space.trials.count, 'trial')}{runs}"


def _threads(space: SearchSpace, home: Home) -> int:
    """Threads of a trial's process. On a cluster they are not known yet: one, unless the space says trials.cpus."""
    return space.trials.cpus or 1 if home.ray_address else seats_of(space, [this_machine()])[0].cpus


@contextlib.contextmanager
def _unmade_on_refusal(folder: Path) -> Iterator[None]:
    """When the block raises, remove the folder and those of its parents that were not there before."""
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
