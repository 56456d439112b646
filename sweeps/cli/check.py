"""`mouselift check`: the values of a recipe, or whether a sweep of a space can start."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import progress
from pipeline.cli import Overrides, show_recipe, split_overrides
from pipeline.data.cli import AsJson
from sweeps.cli import terminal
from sweeps.cli.terminal import Data
from sweeps.launch import asks_cluster, looked_up, nodes_of, with_registered_start

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from sweeps.home import Home
    from sweeps.preflight.checks import Readiness

_SPACE_KEYS = {"recipe", "space"}


def check(
    name: Annotated[str, typer.Argument(help="A recipe or a search space, by name or YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    as_space: Annotated[
        bool | None, typer.Option("--space/--recipe", help="What a name is that a recipe and a space have.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe with its fingerprint, or try whether a sweep of a space can start.

    A recipe is refused as `train` refuses it: for the files that it names, and with --data for its data, too. A space
    is checked as `sweep run` checks it: files, data, stores, memory, disk, and two real steps of the first and of the
    largest configuration. A name that both a recipe and a space have is the recipe's, as for `train`; --space means
    the space. A YAML file with `recipe` or `space` in it is a space.
    """
    home, root = terminal.home(), terminal.root(data)
    if not (_is_space(name) if as_space is None else as_space):
        show_recipe(_checked_recipe(name, split_overrides(overrides) + root, home), as_json)
        return
    from sweeps.preflight.checks import preflight
    from sweeps.reuse.warm_start import require_alike
    from sweeps.space.space import load_space

    space = load_space(name, split_overrides(overrides) + [f"fixed.{item}" for item in root])
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(progress.shown())
        nodes = None
        if asks_cluster(space, home):
            from sweeps.run.ray_session import Ray

            nodes = nodes_of(stack.enter_context(Ray(home)))
        located = looked_up(space, home).located()
        require_alike(home, located)
        ready = preflight(located, home, nodes=nodes, say=terminal.say, tell=tell, paced=True)
    _show(space.name, ready, as_json)


def _checked_recipe(name: str, overrides: list[str], home: Home) -> Recipe:
    """The recipe, once everything that it names on this machine was looked into; nothing is imported for one that
    names nothing.
    """
    from pipeline.recipe import LOCAL_PATHS
    from pipeline.recipes import load_recipe
    from sweeps.space.space import SearchSpace

    recipe = load_recipe(name, overrides)
    if any(recipe.params.get(path) is not None for path in LOCAL_PATHS):
        from sweeps.preflight.checks import check_recipe

        space = with_registered_start(SearchSpace(name=recipe.name, recipe=name, base=recipe), home)
        check_recipe(space.located().base, home.cache)
    return recipe


def _is_space(name: str) -> bool:
    """Raises RecipeError for a name that neither a recipe nor a space has."""
    from pipeline import recipes as committed
    from pipeline.config import did_you_mean
    from pipeline.errors import RecipeError
    from sweeps.space import space

    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return _has_keys_of_a_space(Path(name))
    recipes, spaces = ({file.stem for file in folder.glob("*.yaml")} for folder in (committed.FOLDER, space.FOLDER))
    if name in recipes and name in spaces:
        typer.echo(f"{name} is a space, too: mouselift check --space {name}", err=True)
    if name not in recipes | spaces:
        advice = did_you_mean(name, sorted(recipes | spaces)) or " — name one of them, or a file."
        raise RecipeError(
            f"{name}: expected a YAML file, a recipe ({', '.join(sorted(recipes))}) or a space "
            f"({', '.join(sorted(spaces))}){advice}"
        )
    return name not in recipes


def _has_keys_of_a_space(path: Path) -> bool:
    """Raises RecipeError for a file that is no YAML."""
    from pipeline.errors import RecipeError
    from pipeline.text.yaml_file import read_yaml

    values = read_yaml(path, RecipeError).values
    return isinstance(values, dict) and bool(_SPACE_KEYS & values.keys())


def _show(name: str, ready: Readiness, as_json: bool) -> None:
    if as_json:
        checks = [{"check": row.check, "found": row.found, "seconds": round(row.seconds, 3)} for row in ready.rows]
        verdict = {"space": name, "passed": True, "checks": checks, "tags": ready.tags, "notes": ready.notes}
        cost = None if ready.cost is None else asdict(ready.cost)
        configurations = {key: dict(params) for key, params in ready.configurations.items()}
        typer.echo(json.dumps(verdict | configurations | {"cost": cost}))
        return
    for line in ready.notes:
        typer.echo(line, err=True)
    from rich.table import Table
    from rich.text import Text

    from sweeps.errors import counted

    table = Table("", "check", "found", "seconds", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for row in ready.rows:
        table.add_row("✓", row.check, Text(row.found), f"{row.seconds:.1f}")
    terminal.console().print(table)
    largest = ", ".join(f"{path} {value}" for path, value in ready.configurations["largest"].items())
    typer.echo(f"{name} can be swept: {counted(len(ready.rows), 'check')} in {ready.seconds:.1f} s")
    if ready.cost is not None:
        typer.echo(f"it takes {ready.cost}")
    if largest:
        typer.echo(f"largest configuration: {largest}", err=True)
