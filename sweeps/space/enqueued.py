"""The settings that a sweep tries first, as its space says them: `enqueue: [{optim.lr: 1.0e-4}, {}]`.

Each names some of the searched paths; the others stand at the recipe's own values, so `{}` is the recipe as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.config import did_you_mean, explain_text_number
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.recipes import override
from sweeps.space.distributions import Choice, Distribution, IntRange, Scalar, is_searched
from sweeps.space.words import value as written

Setting = Mapping[str, Scalar]


def flat(written: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A setting as it is written, by dotted path. A mapping that is empty stays: it says nothing, and is refused."""
    found: dict[str, Any] = {}
    for key, one in written.items():
        path = f"{prefix}{key}"
        found |= flat(one, f"{path}.") if isinstance(one, Mapping) and one else {path: one}
    return found


def whole(named: Setting, ordered: Mapping[str, Distribution], base: Recipe) -> dict[str, Scalar]:
    """A value for each path whose conditions hold: the named one, or the recipe's own."""
    chosen: dict[str, Scalar] = {}
    for path, found in ordered.items():
        if is_searched(found, chosen):
            chosen[path] = named[path] if path in named else _own(path, found, base)
    return chosen


def problems(
    settings: Sequence[Setting], ordered: Mapping[str, Distribution], base: Recipe, fixed: Setting, most: int
) -> Iterator[tuple[str, str]]:
    """Where a setting cannot be tried, and why. fixed: what no trial varies; most: how many trials there are."""
    if len(settings) > most:
        many = f"got {len(settings)} — raise it, or leave some out."
        yield "enqueue", f"expected at most trials.count {most} settings, {many}"
    for number, named in enumerate(settings):
        where = f"enqueue.{number}"
        for path in named:
            if path in fixed:
                yield f"{where}.{path}", f"expected it once, got it in fixed too ({fixed[path]}) — drop one."
            if path not in ordered:
                mend = did_you_mean(path, ordered) or " — add it to the space."
                yield f"{where}.{path}", f"expected a path of this space, got another{mend}"
        chosen = whole(named, ordered, base)
        for path in named:
            if path not in chosen:
                only = conditions(ordered[path])
                yield f"{where}.{path}", f"expected it only where {only} — name that too, or leave this out."
        for path, value in chosen.items():
            if not ordered[path].contains(value):
                own = "" if path in named else ", the recipe's own"
                mend = _mend(value, ordered[path]) if path in named else " name one here, or widen the range."
                yield f"{where}.{path}", f"expected {ordered[path].described}, got {written(value)}{own} —{mend}"
        try:
            override(base, chosen)
        except RecipeError as error:
            yield where, str(error)


def _own(path: str, found: Distribution, base: Recipe) -> Scalar:
    """The recipe's own value as the space spells it: a choice of `base:NAME` or `~` is read as a folder."""
    own = base.params[path]
    if found.contains(own) or not isinstance(found, Choice):
        return own
    return next((one for one in found.ends if _read(path, one, base) == own), own)


def _read(path: str, value: Scalar, base: Recipe) -> Any:
    """What a recipe makes of a value. One that it refuses is refused by the space itself."""
    with contextlib.suppress(RecipeError):
        return override(base, {path: value}).params[path]
    return None


def _mend(value: Scalar, found: Distribution) -> str:
    trap = None if isinstance(found, Choice) else explain_text_number(value, whole=isinstance(found, IntRange))
    return trap or " change it, or the range."


def conditions(found: Distribution) -> str:
    """The conditions of a path, in words."""
    return " and ".join(f"{parent} is {' or '.join(map(written, some))}" for parent, some in found.when.items())
