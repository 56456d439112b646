"""What the commands of the memory share: where things are, and how a table looks."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.home import Home
    from sweeps.space.space import SearchSpace

Name = Annotated[str | None, typer.Option(help="Name of the sweep (default: what it runs, and the time).")]
Data = Annotated[str | None, typer.Option(help="Dataset folder or registered name: data.root.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
_FILE_WIDTH = 200  # of a table that goes to a file or another program


def table(columns: list[str], rows: list[list[str]], justify: Literal["left", "right"] = "left") -> None:
    """Show rows on the standard output. justify: of the columns that have a name."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column, justify=justify if column else "left", no_wrap=column != "params", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console().print(shown, highlight=False)


def console() -> Console:
    """The standard output: as wide as the terminal, and wide enough for any table where there is none."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)


def root(data: str | None) -> list[str]:
    """`--data` as an override."""
    return [] if data is None else [f"data.root={dataset(data)}"]


def dataset(name_or_path: str) -> Path:
    """The folder of a dataset by name or path."""
    from sweeps.datasets import resolve

    return resolve(home(), name_or_path)


def home() -> Home:
    """Where the environment says that state is kept."""
    from sweeps.home import Home

    return Home.from_environment(os.environ)


def registry() -> Any:
    """The model registry of that home."""
    from sweeps.registry.registry import Registry

    return Registry(home())


def with_registered_start(space: SearchSpace) -> SearchSpace:
    """The space with `train.init_from: NAME@ALIAS` as the folder that this version is pulled to.

    Raises RegistryError for a model, version or alias that is not there.
    """
    source = space.base.train.init_from
    if source is None or Path(source).exists() or "@" not in source:
        return space
    version = registry().resolve(source)
    folder = registry().pull(version.ref, home().root / "models" / version.ref)
    return space.with_fixed({"train.init_from": str(folder)})


def timed(stem: str) -> str:
    """The computed name of a sweep."""
    from sweeps.home import timed_name

    return timed_name(stem, datetime.now())


def has_gpu() -> bool:
    """Whether this machine has one."""
    import torch

    return torch.cuda.is_available()
