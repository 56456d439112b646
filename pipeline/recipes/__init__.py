"""The recipes of this folder, or of any YAML file, read, overridden and checked. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS, LossConfig, Recipe
from pipeline.recipes import renamed
from pipeline.rules import rules_of

FOLDER = Path(__file__).parent


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name (pipeline/recipes) or path to YAML, with `key=value` overrides applied.

    Raises RecipeError, naming file and key, for anything unknown, missing, mistyped or impossible.
    """
    path = config.find_yaml(str(name), FOLDER)
    layers = config.load_layers(path, FOLDER, overrides)
    if "name" in layers.values:
        raise RecipeError(f"{layers.source('name')}: unknown key name — a recipe is named by its file; remove it.")
    layers.values["name"] = path.stem
    return _checked(layers)


def recipe_of(name: str, params: Mapping[str, Any]) -> Recipe:
    """The recipe whose `params` these are, values by dotted path, decoded and checked. Raises RecipeError."""
    return _checked(config.Layers({"name": name, **config.unflatten(params, name)}, {"": name}))


def override(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """The recipe with values at dotted paths replaced, decoded and checked as if they stood in its YAML.

    Raises RecipeError.
    """
    values, sources = recipe.params, {"": recipe.name}
    for path, value in params.items():
        parent = path.rpartition(".")[0]
        if parent and not any(name.startswith(f"{parent}.") for name in values):
            raise RecipeError(f"{recipe.name}: unknown key {path}{config.advice_on_key(path, recipe.params)}")
        values = {name: kept for name, kept in values.items() if not f"{name}.".startswith(f"{path}.")}
        values[path] = config.as_plain(value)
        sources[path] = f"{recipe.name} with {path}={value}"
    return _checked(config.Layers({"name": recipe.name, **config.unflatten(values, recipe.name)}, sources))


def check_named(recipe: Recipe) -> None:
    """Refuse a recipe that names a file or folder which is not on this machine. Raises RecipeError."""
    for path in LOCAL_PATHS:
        value = recipe.params.get(path)
        if value is not None and not Path(value).exists():
            raise RecipeError(
                f"{recipe.name}: {path}: expected a file or folder, found none at {value} — correct the path."
            )


def check_artefacts(recipe: Recipe) -> None:
    """Refuse a recipe whose files are not on this machine, named or not. Raises RecipeError."""
    check_named(recipe)
    if recipe.data.root is None:
        raise RecipeError(f"{recipe.name}: data.root: expected a dataset folder, got none — add --set data.root=PATH.")
    if isinstance(recipe.loss, LossConfig) and recipe.loss.perceptual and recipe.loss.perceptual_weights is None:
        raise RecipeError(
            f"{recipe.name}: loss.perceptual_weights: expected the VGG19 weights that loss.perceptual "
            f"{recipe.loss.perceptual} needs, got none — name imagenet-vgg-verydeep-19.mat "
            "(`mouselift weights fetch vgg19`) or a FaceLift checkpoint, or set loss.perceptual=0.0."
        )


def _checked(layers: config.Layers) -> Recipe:
    """Decode merged values and refuse pairs of fields that cannot go together."""
    is_old, value = renamed.old_value(layers.values)
    if is_old:
        raise RecipeError(f"{layers.source(renamed.OLD)}: unknown key {renamed.OLD}{renamed.advice(value)}")
    recipe = config.decode(layers, Recipe)
    for holds, path, problem in rules_of(recipe):
        if not holds:
            raise RecipeError(f"{layers.source(path)}: {path}: {problem}{_origins(recipe, layers, path, problem)}")
    return recipe


def _origins(recipe: Recipe, layers: config.Layers, path: str, problem: str) -> str:
    """The end of a message: which file and line, or option, says each of the settings at odds, where these differ."""
    named = [path, *(other for other in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", problem) if other in recipe.params)]
    if not layers.documents or len({layers.source(one) for one in named}) == 1:
        return "."
    return f" ({'; '.join(dict.fromkeys(f'{one}: {layers.origin(one)}' for one in named))})."
