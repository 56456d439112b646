"""The two configurations of a space that are tried before it is swept: the first, and the largest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.preflight.footprint import footprint
from sweeps.space.space import Scalar, SearchSpace

Candidates = list[tuple[Scalar, Recipe]]


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
    base = space.base_recipe()
    chosen: dict[str, Scalar] = {}
    for path in space.order:
        conditions = space.space[path].when.items()
        if not all(parent in chosen and chosen[parent] in allowed for parent, allowed in conditions):
            continue
        others = {other: value for other, value in start.items() if other != path} | chosen
        candidates = _accepted(base, others, path, space.space[path].ends)
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
