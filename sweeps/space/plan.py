"""Runs that answer a question, in place of a search: each setting of a plan, over the same seeds.

    plan: {kind: one_factor, seeds: [0, 1, 2]}
    space:
      loss.masked: {choice: [true, false]}
      data.num_input_views: {choice: [1, 5]}

`one_factor` runs a baseline, and each other value of each path alone. `factorial` runs every combination of two values
of each path, or a fraction of them that keeps the paths apart. `replicate` runs the best settings of another sweep
again, which won there with one seed. What a plan makes are settings to try, as `enqueue` has them: they are proposed,
run and resumed like those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from pipeline.config import did_you_mean
from pipeline.recipe import Count, Positive, Recipe, Seed, strict
from sweeps.space import enqueued
from sweeps.space.distributions import Choice, Distribution, Scalar
from sweeps.space.enqueued import Setting
from sweeps.space.words import follows_plan
from sweeps.space.words import value as written

SEED = "train.seed"
# Settings that decide what figures are measured on: runs that differ in one of these have nothing to compare.
MEASURED_ON = ("data.normalise", "data.zoom", "train.max_val_scenes")
MOST_PATHS = 7  # of a fraction: finding the best one takes minutes beyond


@strict
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared with what, over which seeds."""

    # one_factor: a baseline, and each other value of each path alone; factorial: combinations of two values of each
    # path; replicate: the best settings of another sweep again; none: the sampler chooses
    kind: Literal["none", "one_factor", "factorial", "replicate"] = "none"
    seeds: tuple[Seed, ...] = (0, 1, 2)  # values of train.seed: every setting runs with each
    # of one_factor: values by dotted path; a path that it leaves out stands at the recipe's own value
    baseline: dict[str, Scalar] = field(default_factory=dict)
    fraction: Literal[1, 2, 4, 8] = 1  # of factorial: one in so many of the combinations is run
    of: str | None = None  # of replicate: the sweep of this home whose best settings are run
    top: Annotated[int, Field(ge=2)] = 3  # of replicate: how many of them

    @property
    def is_made(self) -> bool:
        """Whether the sweep follows a plan."""
        return self.kind != "none"


@strict
@dataclass(frozen=True, kw_only=True)
class Confirm:
    """Which trials of a search run again with other seeds before it says who won: the best was also the luckiest."""

    seeds: Count = 0  # further values of train.seed that each of them runs with; 0: none
    top: Positive = 3  # how many of the best COMPLETE trials

    @property
    def is_made(self) -> bool:
        """Whether anything is confirmed."""
        return self.seeds > 0

    def runs(self, trials: int) -> int:
        """How many runs that is at most, after a search of so many trials."""
        return self.seeds * min(self.top, trials)

    def seeds_after(self, seed: int) -> range:
        """The seeds, none of which is the one that the search ran with."""
        return range(seed + 1, seed + 1 + self.seeds)


Searched = Mapping[str, Distribution]
_FIELDS_OF = (("baseline", "one_factor"), ("fraction", "factorial"), ("of", "replicate"), ("top", "replicate"))


def unwanted(written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted path and problem of what a space says beside its plan. written: its values, `fixed` by dotted path."""
    if "count" in written.get("trials", {}):
        yield "trials.count", "expected it left out: the plan says how many there are — remove it."
    if written.get("scheduler", {}).get("kind", "none") != "none":
        yield "scheduler.kind", "expected none: a plan compares trials at their last step — write none, or remove it."
    for name in ("enqueue", "sampler", "pruning", "warm_start"):
        if written.get(name):
            yield name, "expected none beside a plan, which says every run and compares their last steps — remove it."
    for name in ("objectives", "constraints"):
        if written.get(name):
            mend = "remove it; `mouselift sweep compare --metric` compares another figure."
            yield name, f"expected none beside a plan, which compares every trial by one figure — {mend}"
    if SEED in written["fixed"]:
        yield f"fixed.{SEED}", "expected it under plan.seeds, got it fixed — move it."


def problems(plan: Plan, ordered: Searched, base: Recipe) -> Iterator[tuple[str, str]]:
    """Dotted path and problem of a plan over these paths. The caller stops at the first."""
    if len(plan.seeds) < 2:
        mend = "name more: one tells no effect from chance."
        yield "plan.seeds", f"expected two or more seeds, got {list(plan.seeds)} — {mend}"
    if len(set(plan.seeds)) != len(plan.seeds):
        yield "plan.seeds", f"expected different seeds, got {list(plan.seeds)} — name each once."
    if SEED in ordered:
        yield f"space.{SEED}", "expected it under plan.seeds, got it in the space — move it."
    for path in MEASURED_ON:
        if path in ordered:
            why = "expected a setting that leaves what is measured as it is, got one that changes it"
            yield f"space.{path}", f"{why} — set it under fixed, in a sweep of its own for each value."
    for name, kind in _FIELDS_OF:
        if plan.kind != kind and getattr(plan, name) != getattr(Plan(), name):
            yield f"plan.{name}", f"expected it with kind: {kind} alone, got kind: {plan.kind} — remove it."
    if plan.kind == "replicate":
        if plan.of is None:
            yield "plan.of", "expected the sweep whose best settings are run again, got none — name it."
        return
    if plan.kind == "one_factor":
        yield from _of_baseline(plan, ordered, base)
    else:
        yield from _of_levels(plan, ordered)
    for one, other in moving_together(settings_of(plan, ordered, base)):
        yield (
            "plan.fraction" if plan.kind == "factorial" else "plan",
            f"expected settings that tell {one} from {other}, got the two changed together in every run — "
            "run a larger fraction, or leave one of them out.",
        )


def problems_of_confirm(
    written: Mapping[str, Any], confirm: Confirm, searched: Searched, base: Recipe
) -> Iterator[tuple[str, str]]:
    """Dotted path and problem of what is to be confirmed. written: the values of the space as its YAML has them."""
    if "confirm" not in written:
        return
    if not confirm.is_made and "seeds" not in written["confirm"]:
        yield "confirm.seeds", "expected with how many other seeds the best run again, got none — write seeds: 3."
    if confirm.is_made and written.get("plan", {}).get("kind", "none") != "none":
        yield "confirm", "expected none beside a plan, each of whose settings runs with every seed — remove it."
    if confirm.is_made and len(written.get("objectives", ())) > 1:
        yield "confirm", "expected none beside several objectives, of which none says alone who won — remove it."
    if confirm.seeds == 1 and confirm.top == 1:
        mend = "raise confirm.seeds or confirm.top."
        yield "confirm.seeds", f"expected two or more for one trial, got 1: it has no spread, and no other — {mend}"
    if confirm.is_made and SEED in searched:
        mend = "take it out, and let confirm.seeds say how many."
        yield f"space.{SEED}", f"expected one seed for the search beside confirm, got it in the space — {mend}"
    if (last := base.train.seed + confirm.seeds) >= 2**32:
        mend = "lower train.seed, after which they are counted."
        yield "confirm.seeds", f"expected seeds below 2^32, got up to {last} — {mend}"


def settings_of(plan: Plan, ordered: Searched, base: Recipe) -> list[dict[str, Scalar]]:
    """The settings of one_factor, the baseline first, or of factorial; without seeds."""
    if plan.kind == "one_factor":
        return list(_one_factor(plan, ordered, base))
    levels = {path: found.ends for path, found in ordered.items()}
    design = _design(len(levels), plan.fraction)
    return [{path: ends[high] for (path, ends), high in zip(levels.items(), row, strict=True)} for row in design]


def with_seeds(plan: Plan, settings: Sequence[Setting]) -> tuple[dict[str, Scalar], ...]:
    """Every run of a plan, seed by seed: a plan that is ended early has whole comparisons."""
    return tuple({**setting, SEED: seed} for seed in plan.seeds for setting in settings)


def searched_with_seeds(plan: Plan, space: Searched) -> dict[str, Distribution]:
    """The paths of a space, and the seeds as one more."""
    return {**space, SEED: Choice(ends=plan.seeds)}


def moving_together(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """Pairs of paths that tell the same settings apart, so that no run shows which of the two has an effect."""
    paths = dict.fromkeys(path for setting in settings for path in setting)
    parts = {path: _partition([setting.get(path, _ABSENT) for setting in settings]) for path in paths}
    varied = {path: part for path, part in parts.items() if len(set(part)) > 1}
    return [pair for pair in itertools.combinations(varied, 2) if varied[pair[0]] == varied[pair[1]]]


def settings_asked(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of a plan without seeds, from the plain values of a space."""
    every = space["enqueue"][: len(space["enqueue"]) // len(space["plan"]["seeds"])]
    return [{path: value for path, value in setting.items() if path != SEED} for setting in every]


def as_asked(space: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a space as a user would write them: without the runs that its plan made of it."""
    if not follows_plan(space):
        return dict(space)
    asked = {key: value for key, value in space.items() if key not in ("enqueue", "sampler", "scheduler", "pruning")}
    trials = {key: value for key, value in space["trials"].items() if key != "count"}
    return asked | {"space": {path: one for path, one in space["space"].items() if path != SEED}, "trials": trials}


def mixed_with_pairs(signs: Int[np.ndarray, "path run"]) -> bool:
    """Whether the effect of a path cannot be told from that of two others together (resolution III). signs: 1 or -1
    for the value that each path has in each run.
    """
    pairs = [one * other for one, other in itertools.combinations(signs, 2)]
    return any(abs(int(one @ pair)) == signs.shape[1] for one in signs for pair in pairs)


_ABSENT = object()  # in place of the value of a path that a setting does not have


def _partition(values: Sequence[object]) -> tuple[int, ...]:
    """For each value, the place where it came first: equal for two lists that tell the same places apart."""
    known = [(isinstance(value, bool), value) for value in values]  # true is not 1
    return tuple(known.index(one) for one in known)


def _of_baseline(plan: Plan, ordered: Searched, base: Recipe) -> Iterator[tuple[str, str]]:
    for path in plan.baseline:
        if path not in ordered:
            mend = did_you_mean(path, ordered) or " — add it to the space, or set it under fixed."
            yield f"plan.baseline.{path}", f"expected a path of this space, got another{mend}"
    baseline = enqueued.whole(plan.baseline, ordered, base)
    for path, found in ordered.items():
        if found.points is None:
            yield f"space.{path}", f"expected values to compare, got {found.described} — write a choice, or add a step."
        if path not in baseline:
            only = enqueued.conditions(found)
            yield f"space.{path}", f"expected it in the baseline, got it only where {only} — add that to plan.baseline."
        if not found.contains(baseline[path]):
            own = "" if path in plan.baseline else ", the recipe's own"
            yield (
                f"plan.baseline.{path}",
                f"expected {found.described}, got {written(baseline[path])}{own} — name one of them.",
            )


def _of_levels(plan: Plan, ordered: Searched) -> Iterator[tuple[str, str]]:
    for path, found in ordered.items():
        if found.when:
            yield f"space.{path}.when", "expected paths without conditions in a factorial plan — remove it."
        if len(found.ends) != 2:
            yield f"space.{path}", f"expected two values, got {found.described} — leave two."
    if plan.fraction > 1 and len(ordered) > MOST_PATHS:
        yield (
            "plan.fraction",
            f"expected up to {MOST_PATHS} paths of a fraction, got {len(ordered)} — leave some out.",
        )
    if 2 ** len(ordered) < 2 * plan.fraction:
        yield (
            "plan.fraction",
            f"expected at least two runs, got {2 ** len(ordered)} combinations of which one in {plan.fraction} is run "
            "— lower it.",
        )


def _one_factor(plan: Plan, ordered: Searched, base: Recipe) -> Iterator[dict[str, Scalar]]:
    baseline = enqueued.whole(plan.baseline, ordered, base)
    yield baseline
    for path, found in ordered.items():
        for point in found.points or ():
            if point != baseline[path] or isinstance(point, bool) != isinstance(baseline[path], bool):
                yield enqueued.whole({**plan.baseline, path: point}, ordered, base)


def _design(num_paths: int, fraction: int) -> Int[np.ndarray, "run path"]:
    """Which of its two values each path has in each run: all combinations, or those of the fraction that keeps
    effects of single paths apart from one another as far as it can.
    """
    left_out = fraction.bit_length() - 1
    every = np.array(list(itertools.product((0, 1), repeat=num_paths - left_out)))
    if left_out == 0:
        return every
    from pyDOE3 import fracfact, fracfact_opt  # takes a second to import, and is seldom needed

    try:
        generators = fracfact_opt(num_paths, left_out)[0]
    except ValueError:  # so few runs that paths have to move together, which `problems` names
        return every[:, np.arange(num_paths) % every.shape[1]]
    return (fracfact(generators) > 0).astype(int)
