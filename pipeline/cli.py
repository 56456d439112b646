"""Commands of the science: train a recipe, make and judge datasets."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from pipeline.data.cli import data
from pipeline.machine.outputs import require_folder
from pipeline.weights.cli import weights

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: key=value, such as optim.lr=1.0e-4. Repeatable.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: cuda, where there is one).")]


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(fit)
    app.add_typer(data, name="data")
    app.add_typer(weights, name="weights")


def split_overrides(values: list[str] | None) -> list[str]:
    """`--set "a=1 b=2"` is two overrides: `mlflow run` hands its parameters over as one text."""
    return [word for value in values or [] for word in _words(value)]


def device_of(wanted: str | None) -> str:
    """The device that a command works on: the one that was named, or the best, of which a GPU is said aloud.

    Raises MachineError for one that is not there.
    """
    from pipeline.machine import devices

    if wanted is not None:
        return devices.require_device(wanted)
    gpus = devices.seen_gpus()
    best = devices.best_device(gpus)
    if (said := devices.described(best, gpus)) != devices.CPU and os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(f"on {said}", err=True)
    return best


def show_recipe(recipe: Recipe, as_json: bool) -> None:
    """Print a resolved recipe and its fingerprint."""
    from pipeline import config

    values = config.as_plain(recipe)
    if as_json:
        typer.echo(json.dumps(values | {"fingerprint": recipe.fingerprint}))
        return
    name = values.pop("name")
    typer.echo(f"# {name}, fingerprint {recipe.fingerprint}")
    typer.echo(yaml.safe_dump(values, sort_keys=False, default_flow_style=None).rstrip())


def fit(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; one that has checkpoints is continued.")],
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder: data.root.")] = None,
    device: Device = None,
    splits: Annotated[int, typer.Option(min=1, help="Parts of a batch, one after the other, for less memory.")] = 1,
) -> None:
    """Train one recipe and log nothing: reports are JSON lines here, files lie in a folder.

    torchrun --nproc-per-node N -m mouselift fit …: the same on N processes, a GPU each.
    """
    from pipeline.config import text_override
    from pipeline.recipes import load_recipe
    from pipeline.training.fit import fit as run

    require_folder(out)
    root = [] if data is None else [text_override("data.root", data.resolve())]
    resolved = load_recipe(recipe, split_overrides(overrides) + root)
    chosen = device_of(device)
    with contextlib.closing(run(resolved, out, chosen, os.environ, splits=splits)) as reports:
        for report in reports:
            kept = {} if report.checkpoint is None else {"checkpoint": str(report.checkpoint)}
            unsaved = {"unsaved": report.unsaved} if report.unsaved else {}
            typer.echo(json.dumps({"step": report.step, **report.metrics, **kept, **unsaved}))


def _words(value: str) -> list[str]:
    """Split at the spaces that stand before another `key=`, so that values may hold spaces."""
    words: list[str] = []
    for word in value.split(" "):
        if words and "=" not in word:
            words[-1] += f" {word}"
        elif word:
            words.append(word)
    return words
