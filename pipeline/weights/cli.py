"""Commands about files of weights that a user must fetch."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.data.cli import AsJson

if TYPE_CHECKING:
    from pipeline.weights.known import Weights

weights = typer.Typer(no_args_is_help=True, help="Files of weights that you must fetch: which, where, whether whole.")


@weights.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the files: what needs each, its licence, its digest, and whether it is on this machine and whole."""
    from pipeline.weights.known import known_weights

    listed = [_facts(one) for one in known_weights(os.environ)]
    if as_json:
        typer.echo(json.dumps(listed))
        return
    for number, facts in enumerate(listed):
        typer.echo(f"{'' if number == 0 else chr(10)}{facts['name']}: {facts['state'] or 'fetched by hand'}")
        shown = {key: value for key, value in facts.items() if key not in ("name", "state") and value is not None}
        for key, value in shown.items():
            text = f"{value / 1e6:.1f} MB" if isinstance(value, int) else value
            typer.echo(f"  {key.replace('_', ' '):<10} {text}")


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="As `mouselift weights list` names them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file (default: where mouselift looks).")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Another address of the same file.")] = None,
) -> None:
    """Download one file, compare its digest, and put it where mouselift looks for it.

    A download that was cut off is gone on with. Nothing else in mouselift downloads anything.
    """
    from pipeline import progress
    from pipeline.weights.fetch import fetch
    from pipeline.weights.known import weights_named

    wanted = weights_named(name, os.environ)
    wanted = wanted if source is None else replace(wanted, source=source)
    with progress.shown() as tell:
        path = fetch(wanted, out, lambda here, total: tell(name, here, total or 0))
    typer.echo(path)
    if wanted.then:
        typer.echo(wanted.then.format(file=path), err=True)


def _facts(one: Weights) -> dict[str, str | int | None]:
    """What is known of a file; what its publisher does not state is said so."""
    if one.by_hand:
        here: dict[str, str | int | None] = {"state": None, "file": None, "size": None, "digest": None}
    else:
        digest, size = one.digest or "not stated", one.size or "not stated"
        here = {"state": one.state(), "file": str(one.file), "size": size, "digest": digest}
    return {"name": one.name, **here, "needed_by": one.needed_by, "licence": one.licence, "from": one.source}
