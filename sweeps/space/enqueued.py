"""The settings that a sweep tries first, as its space says them: `enqueue: [{optim.lr: 1.0e-4}, {}]`.

Each names some of the searched paths; the others stand at the recipe's own values, so `{}` is the recipe as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.config import did_you_mean
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.space.distributions import Distribution, Scalar, is_searched
from sweeps.space.words import value as written

Setting = Mapping[str, Scalar]


def whole(named: Setting, ordered: Mapping[str, Distribution], own: Mapping[str, Any]) -> dict[str, Scalar]:
    """A value for each path whose conditions hold: the named one, or the recipe's own. ordered: `SearchSpace.order`."""
    chosen: dict[str, Scalar] = {}
    for path, found in ordered.items():
        if is_searched(found, chosen):
            chosen[path] = named.get(path, own[path])
    return chosen


def problems(
    settings: Sequence[Setting], ordered: Mapping[str, Distribution], base: Recipe, most: int
) -> Iterator[tuple[str, str]]:
    """Where a setting cannot be tried, and why. most: how many trials there are."""
    if len(settings) > most:
        many = f"got {len(settings)} — raise it, or leave some out."
        yield "enqueue", f"expected at most trials.count {most} settings, {many}"
    for number, named in enumerate(settings):
        where = f"enqueue.{number}"
        for path in named:
            if path not in ordered:
                mend = did_you_mean(path, ordered) or " — add it to the space."
                yield f"{where}.{path}", f"expected a path of this space, got another{mend}"
        chosen = whole(named, ordered, base.params)
        for path in named:
            if path not in chosen:
                yield f"{where}.{path}", f"expected it only where {_conditions(ordered[path])} — leave it out."
        for path, value in chosen.items():
            if not ordered[path].contains(value):
                got = written(value) if path in named else f"{written(value)}, the recipe's own"
                mend = "change one of them." if path in named else "name one here, or widen the range."
                yield f"{where}.{path}", f"expected {ordered[path].described}, got {got} — {mend}"
        try:
            override(base, chosen)
        except RecipeError as error:
            yield where, str(error)


def _conditions(found: Distribution) -> str:
    return " and ".join(f"{parent} is {' or '.join(map(written, some))}" for parent, some in found.when.items())
