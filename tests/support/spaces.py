"""Search spaces that stand in no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.recipes import load_recipe
from sweeps.space.space import SearchSpace


def space_with(name: str, recipe: str, fixed: Mapping[str, Any] | None = None, **parts: Any) -> SearchSpace:
    """A space of a recipe by name; parts: any other field of it. No range is checked against the recipe."""
    return SearchSpace(name=name, recipe=recipe, base=load_recipe(recipe), **parts).with_fixed(fixed or {})
