"""Search spaces: YAML to checked distributions over the paths of a recipe, refused before any trial starts.

    space:
      optim.lr: {float: [1.0e-6, 1.0e-4], log: true}
      loss.masked: {choice: [true, false]}
      loss.background: {float: [0.0, 0.5], when: {loss.masked: true}}

A parameter whose `when` does not hold is not searched: the recipe's own value stands.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, TypeAdapter

from pipeline import config
from pipeline.config import Layers, did_you_mean
from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS, Positive, Recipe, Seed, Weight, strict
from pipeline.recipes import load_recipe, override, renamed
from sweeps.errors import SpaceError
from sweeps.space import enqueued, plan
from sweeps.space import objective as figures
from sweeps.space.budget import Budget
from sweeps.space.distributions import Choice, Distribution, FloatRange, IntRange, Scalar, range_problem
from sweeps.space.faults import Faults
from sweeps.space.gates import parse_gates
from sweeps.space.notify import notify_problem
from sweeps.space.objective import Aims, Objective
from sweeps.space.plan import Confirm, Plan
from sweeps.space.pruning import Pruning, problems, usual
from sweeps.space.resources import Resources

FOLDER = Path(__file__).parents[1] / "spaces"
# Trials that differ in these settings cannot be compared: their figures are measured in another way.
SAME_FOR_ALL = ("data.image_size", "data.num_held_out_views", "train.max_steps")
# Where a space searches this, the dataset as it lies may be one that no trial can train on (in millimetres, say), so
# every check is made on the first choice.
NORMALISE = "data.normalise"
MIN_POPULATION = 2  # of nsga2
_KINDS: dict[str, Any] = {"float": FloatRange, "int": IntRange, "choice": Choice}
_KEYS = {*_KINDS, "log", "step", "when"}


@strict
@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next parameters are chosen; tpe, gp and nsga2 draw their first `startup_trials` at random."""

    # tpe, gp and nsga2 learn from finished trials; random does not; grid tries every point
    kind: Literal["tpe", "random", "grid", "gp", "nsga2"] = "tpe"
    seed: Seed = 0  # of the sampler's draws
    startup_trials: Positive = 10  # drawn at random before tpe, gp or nsga2 begins; of nsga2 also its population


@strict
@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """When weak trials stop: asha compares them at grace_steps × reduction_factor^k optimizer steps."""

    kind: Literal["asha", "none"] = "none"  # asha, or none: every trial may run to its end
    grace_steps: Positive = 1  # optimizer steps that every trial gets; less than train.max_steps
    reduction_factor: Annotated[int, Field(ge=2)] = 3  # of the trials at a rung, one in so many goes on


@strict
@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints of a trial stay, and how much of the disk is left to others; below that none is written."""

    best: Positive = 1  # checkpoints of a trial that are kept for their objective
    last: Positive = 1  # latest checkpoints of a trial that are kept
    disk_floor_gb: Weight = 1.0  # free space below which no checkpoint is written


@strict
@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """A sweep as its YAML says it; what it leaves out makes a sweep of one."""

    recipe: str  # name or YAML file of the recipe that is varied, as the user wrote it
    fixed: dict[str, Any] = field(default_factory=dict)  # values of the recipe that all trials share, by dotted path
    space: dict[str, Distribution] = field(default_factory=dict)  # ranges and choices, by dotted path of the recipe
    # settings to try first, each by dotted path; a searched path that one leaves out stands at the recipe's own value
    enqueue: tuple[dict[str, Scalar], ...] = ()
    plan: Plan = field(default_factory=Plan)  # runs that answer a question, in place of a search
    confirm: Confirm = field(default_factory=Confirm)  # the best of a search run again with other seeds
    objective: Objective = field(default_factory=Objective)  # the figure to improve
    objectives: tuple[Objective, ...] = ()  # several figures to improve, in place of one; the first becomes `objective`
    # bounds on a trial's figures, its costs among them: metric -> "<= 20"; one that breaks them is never the best
    constraints: dict[str, str] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)  # how parameters are chosen
    scheduler: Scheduler = field(default_factory=Scheduler)  # when weak trials stop
    pruning: Pruning = field(default_factory=Pruning)  # `load_space` fills in the usual rules where a file has none
    trials: Resources = field(default_factory=Resources)  # how many, and what each occupies
    budget: Budget = field(default_factory=Budget)  # what it may spend; trials.count bounds its trials
    faults: Faults = field(default_factory=Faults)  # what is done when a trial breaks
    retention: Retention = field(default_factory=Retention)  # which checkpoints stay
    notify: tuple[str, ...] = ()  # environment variables with addresses that are told of its end, a stall, a new best
    gates: dict[str, str] = field(default_factory=dict)  # targets that a champion has to meet: test metric -> ">= 25"
    # sweeps of the home whose finished trials the sampler (tpe or gp) knows from the start
    warm_start: tuple[str, ...] = ()
    fresh: bool = False  # every trial is trained, also one whose result another sweep of the home has


@dataclass(frozen=True, kw_only=True)
class SearchSpace(SpaceConfig):
    """A named sweep with its recipe.

    base: `recipe` with the values of `fixed`, read once when the space is made. Whoever keeps a space keeps
    `as_plain()` and `base.params`, because the recipe's file may change.
    """

    name: str
    base: Recipe

    def standing_recipe(self) -> Recipe:
        """The base recipe on data that some trial uses: where data.normalise is searched, on its first choice."""
        return override(self.base, self._on_some_data) if self._on_some_data else self.base

    def located(self) -> SearchSpace:
        """The same with the recipe's local paths made absolute: they hold wherever a trial or `promote` runs."""
        values = self.base.params
        paths = {path: values[path] for path in LOCAL_PATHS if values.get(path) is not None and path not in self.space}
        return self.with_fixed({path: str(Path(value).resolve()) for path, value in paths.items()})

    def with_fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """The same with further values fixed, by dotted path.

        Raises RecipeError for one that the recipe refuses, and SpaceError for a path that the space searches.
        """
        for path in values:
            if path in self.space:
                raise SpaceError(f"{self.name}: {path}: expected it once, got it fixed and in the space — drop one.")
        return replace(self, fixed=self.fixed | dict(values), base=override(self.base, values)) if values else self

    def running(self, settings: Sequence[Mapping[str, Scalar]]) -> SearchSpace:
        """The same with the runs of its plan: these settings, each with every seed, and no others."""
        runs = plan.with_seeds(self.plan, settings)
        searched = plan.searched_with_seeds(self.plan, self.space)
        return replace(self, space=searched, enqueue=runs, trials=replace(self.trials, count=len(runs)))

    @property
    def aims(self) -> Aims:
        """What its trials are judged by."""
        return Aims(self.objectives or (self.objective,), parse_gates(self.constraints, "constraints"))

    @property
    def most_trials(self) -> int:
        """How many trials it has at most, with those that confirm its best."""
        return self.trials.count + self.confirm.runs(self.trials.count)

    @property
    def order(self) -> tuple[str, ...]:
        """The paths, each after those its conditions ask about."""
        graph = {path: found.when for path, found in self.space.items()}
        return tuple(TopologicalSorter(graph).static_order())

    @property
    def ordered(self) -> dict[str, Distribution]:
        """What is searched, in that order."""
        return {path: self.space[path] for path in self.order}

    @property
    def enqueued(self) -> list[dict[str, Scalar]]:
        """The settings to try first, each with a value for every path whose conditions hold."""
        ordered = self.ordered
        return [enqueued.whole(named, ordered, self.base) for named in self.enqueue]

    @property
    def fingerprint(self) -> str:
        """Hash of what the trials of a study have in common: recipe, ranges, objectives and constraints."""
        plain = self.as_plain()
        common = {key: plain[key] for key in ("space", "objective")}
        common |= {key: plain[key] for key in ("objectives", "constraints") if plain[key]}
        return config.fingerprint({"recipe": self.base.fingerprint, **common})

    def as_plain(self) -> dict[str, Any]:
        """Every value as its YAML would have it, defaults included; `space_of` is the way back."""
        values: dict[str, Any] = TypeAdapter(SpaceConfig).dump_python(self, mode="json", by_alias=True)
        return values

    def extremes(self) -> Iterator[dict[str, Scalar]]:
        """Both ends and every choice of each parameter (the last key), after what its conditions need."""
        for path, found in self.space.items():
            for value in found.ends:
                yield self._on_some_data | self._conditions_met(path) | {path: value}

    @property
    def _on_some_data(self) -> dict[str, Scalar]:
        searched = self.space.get(NORMALISE)
        return {} if searched is None else {NORMALISE: searched.ends[0]}

    def _conditions_met(self, path: str) -> dict[str, Scalar]:
        met: dict[str, Scalar] = {}
        for parent, allowed in self.space[path].when.items():
            met |= self._conditions_met(parent) | {parent: allowed[0]}
        return met


def load_space(name: str | Path, overrides: Iterable[str] = ()) -> SearchSpace:
    """A search space by name (sweeps/spaces) or path to YAML, with `key=value` overrides, checked in full.

    Raises SpaceError, naming file and key: anything unknown, mistyped, impossible, or refused by the recipe.
    """
    try:
        path = config.find_yaml(str(name), FOLDER)
        layers = config.load_layers(path, FOLDER, overrides)
        written = _decode(layers)
    except RecipeError as error:
        raise SpaceError(str(error)) from None
    space = _named(written, path.stem, _resolved(written, layers))
    asked = plan.problems_of_confirm(layers.values, space.confirm, space.space, space.base)
    for where, problem in chain(_problems(space), asked):
        _refuse(layers, where, problem)
    if space.plan.is_made:
        return _as_planned(space, layers)
    return space if "pruning" in layers.values else replace(space, pruning=usual(space.base))


def space_of(plain: Mapping[str, Any], name: str, base: Recipe) -> SearchSpace:
    """The space that `as_plain()` was asked of, with its recipe, which has the fixed values already.

    Nothing is checked again but the types. Raises pydantic's ValidationError for what `as_plain` never gave.
    """
    return _named(TypeAdapter(SpaceConfig).validate_json(json.dumps(plain), strict=True), name, base)


def _named(written: SpaceConfig, name: str, base: Recipe) -> SearchSpace:
    return SearchSpace(name=name, base=base, **{item.name: getattr(written, item.name) for item in fields(written)})


def _resolved(written: SpaceConfig, layers: Layers) -> Recipe:
    """The recipe with the fixed values. Raises SpaceError."""
    where = "recipe"
    try:
        recipe = load_recipe(written.recipe)
        where = "fixed"
        return override(recipe, written.fixed) if written.fixed else recipe
    except RecipeError as error:
        _refuse(layers, where, str(error))


def _as_planned(space: SearchSpace, layers: Layers) -> SearchSpace:
    """The space with the runs of its plan as the settings to try, and no others. Raises SpaceError."""
    written = layers.values | {"fixed": space.fixed}
    for where, problem in chain(plan.unwanted(written), plan.problems(space.plan, space.ordered, space.base)):
        _refuse(layers, where, problem)
    if space.plan.kind == "replicate":  # the sweep that it names is known to a home alone
        return space
    space = space.running(plan.settings_of(space.plan, space.ordered, space.base))
    for where, problem in enqueued.problems(space.enqueue, space.ordered, space.base, space.fixed, space.trials.count):
        _refuse(layers, where.replace("enqueue", "plan: run", 1), problem)
    return space


def _refuse(layers: Layers, where: str, problem: str) -> NoReturn:
    raise SpaceError(f"{layers.source(where)}: {where}: {problem}")


def _decode(layers: Layers) -> SpaceConfig:
    values = dict(layers.values)
    if "name" in values:
        _refuse(layers, "name", "unknown key — a space is named by its file; remove it.")
    raw = values.pop("space", None)
    if not isinstance(raw, Mapping) or not raw:
        _refuse(layers, "space", f"expected paths of the recipe with their ranges, got {raw!r} — add one.")
    if isinstance(values.get("fixed"), Mapping):
        values["fixed"] = config.flatten(values["fixed"])
    if values.get("objectives") and "objective" in values:
        _refuse(layers, "objectives", "expected it in place of objective, got both — remove one.")
    if "notify" in values and (problem := notify_problem(values["notify"])):  # first: other messages repeat the value
        _refuse(layers, "notify", problem)
    if isinstance(values.get("enqueue"), list):
        settings = values["enqueue"]
        values["enqueue"] = [enqueued.flat(one) if isinstance(one, Mapping) else one for one in settings]
    if isinstance(planned := values.get("plan"), Mapping) and isinstance(of := planned.get("baseline"), Mapping):
        values["plan"] = {**planned, "baseline": enqueued.flat(of)}
    if isinstance(trials := values.get("trials"), Mapping) and isinstance(needs := trials.get("needs"), Mapping):
        values["trials"] = {**trials, "needs": config.flatten(needs)}  # a label may have dots in its name
    found = {path: _distribution(path, item, layers) for path, item in _by_path(raw).items()}
    written = config.decode(Layers(values, layers.sources), SpaceConfig)
    first = next(iter(written.objectives), written.objective)
    return replace(written, space=found, objective=first)


def _by_path(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Raw distributions by the dotted path of their recipe field."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        holds_paths = isinstance(value, Mapping) and not _KEYS & value.keys()
        found |= _by_path(value, f"{prefix}{key}.") if holds_paths else {f"{prefix}{key}": value}
    return found


def _distribution(path: str, raw: Any, layers: Layers) -> Distribution:
    where = f"space.{path}"
    if not isinstance(raw, Mapping):
        mend = did_you_mean(path, _KINDS) or " — write it so."
        _refuse(layers, where, f"expected a range like {{float: [1.0e-6, 1.0e-4]}}, got {raw!r}{mend}")
    kinds = [kind for kind in _KINDS if kind in raw]
    if len(kinds) != 1:
        strange = [key for key in raw if key not in _KEYS]
        mend = (did_you_mean(strange[0], _KINDS) if strange else "") or " — name one."
        _refuse(layers, where, f"expected one of float, int and choice, got {', '.join(raw)}{mend}")
    values = dict(raw)
    if isinstance(when := values.get("when"), Mapping):
        flat = config.flatten(when)
        values["when"] = {key: value if isinstance(value, list) else [value] for key, value in flat.items()}
    kind: Any = _KINDS[kinds[0]]
    # The mappings around it are what makes an error say where it is.
    wrapped = config.decode(Layers({"space": {path: values}}, layers.sources), dict[str, dict[str, kind]])
    if problem := range_problem(wrapped["space"][path]):
        _refuse(layers, f"{where}.{kinds[0]}", problem)
    return wrapped["space"][path]


def _problems(space: SearchSpace) -> Iterator[tuple[str, str]]:
    """Dotted path and problem. The caller stops at the first: a later check assumes that the earlier ones passed."""
    yield from _of_paths(space)
    yield from _of_conditions(space)
    recipes = yield from _of_values(space)
    yield from figures.problems(
        space.objective, space.objectives, space.constraints, space.gates, space.base.model.kind
    )
    yield from _of_plan(space, recipes)


def _of_paths(space: SearchSpace) -> Iterator[tuple[str, str]]:
    known = space.base.params
    for path in space.space:
        if path not in known:
            near = renamed.advice() if path == renamed.OLD else did_you_mean(path, known)
            mend = near or f" — `mouselift check {space.recipe}` lists them."
            yield f"space.{path}", f"expected a path of recipe {space.recipe}, got an unknown one{mend}"
        if path in space.fixed:
            yield f"space.{path}", f"expected it once, got it in fixed too ({space.fixed[path]}) — drop one."
        if path in SAME_FOR_ALL:
            yield f"space.{path}", "expected one value, or trials cannot be compared — move it to fixed."


def _of_conditions(space: SearchSpace) -> Iterator[tuple[str, str]]:
    known = space.base.params
    for path, found in space.space.items():
        for parent, allowed in found.when.items():
            where = f"space.{path}.when.{parent}"
            if parent not in space.space:
                mend = " — add it to the space." if parent in known else did_you_mean(parent, space.space)
                yield where, f"expected another path of this space, got none of that name{mend or ' — drop it.'}"
            elif not allowed or not set(allowed) <= set(space.space[parent].points or ()):
                yield (
                    where,
                    f"expected values that {parent} can take, got {list(allowed)} — list only values that it takes.",
                )
    try:
        _ = space.order
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        yield "space", f"expected conditions without a circle, got {circle} — drop one."


def _of_values(space: SearchSpace) -> Generator[tuple[str, str], None, list[Recipe]]:
    """Returns the recipe of each extreme, so that none is made twice."""
    recipes = []
    for params in space.extremes():
        try:
            recipes.append(override(space.base, params))
        except RecipeError as error:
            yield f"space.{list(params)[-1]}", str(error)
    return recipes


def _of_plan(space: SearchSpace, recipes: list[Recipe]) -> Iterator[tuple[str, str]]:
    """Sampler, scheduler, pruning and resources."""
    for path, found in space.space.items():
        if space.sampler.kind == "grid" and found.points is None:
            yield f"space.{path}", "expected a step, which the grid sampler needs, got none — add one."
    if space.sampler.kind == "nsga2" and space.sampler.startup_trials < MIN_POPULATION:
        few = space.sampler.startup_trials
        yield "sampler.startup_trials", f"expected {MIN_POPULATION} or more, nsga2's population, got {few} — raise it."
    if space.warm_start and (space.aims.are_several or space.constraints):
        yield "warm_start", "expected one objective and no constraints to learn for, got more — remove it."
    if space.warm_start and space.sampler.kind not in ("tpe", "gp"):
        came = f"got {space.sampler.kind} — change it, or drop warm_start."
        yield "sampler.kind", f"expected tpe or gp, which learn from other sweeps (warm_start), {came}"
    steps, grace = space.base.train.max_steps, space.scheduler.grace_steps
    if space.scheduler.kind == "asha" and grace >= steps:
        yield "scheduler.grace_steps", f"expected less than train.max_steps {steps}, got {grace} — lower it."
    for name, problem in problems(space.pruning, space.base):
        yield f"pruning.{name}", problem
    yield from enqueued.problems(space.enqueue, space.ordered, space.base, space.fixed, space.trials.count)
    yield from space.trials.problems([space.base, *recipes])
