"""What the commands of the memory share: where things are, and how a table looks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.progress import LastingError, Tell, silent
from sweeps.launch import home_of_environment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline.reconstruction.outputs import Viewer
    from sweeps.home import Home
    from sweeps.tracking.pages import Pages

Name = Annotated[str | None, typer.Option(help="Name of the sweep (default: what it runs, and the time).")]
Data = Annotated[str | None, typer.Option(help="Dataset folder or registered name: data.root.")]
_FILE_WIDTH = 200  # of a table that goes to a file or another program
_WIDEST = 10_000  # what a table may measure
_LONG = ("params", "home", "data", "path", "why")  # columns whose words go on in the next line where there is no room
# What a reader looks for first; the others follow by their letters.
_FIRST = ("psnr", "psnr_fg", "ssim", "lpips", "mask_iou")
_INPUT = "input"  # figures of input views are `test/input/psnr`, those of held-out views `test/psnr`


def table(columns: list[str], rows: list[list[str]], justify: Literal["left", "right"] = "left") -> None:
    """Show rows on the standard output. justify: of the columns that have a name."""
    console().print(_drawn(columns, rows, justify))


def table_or_blocks(columns: list[str], rows: list[list[str]]) -> None:
    """`table` where it fits the terminal; otherwise a block for each row, which begins with its first cell."""
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.text import Text

    on, drawn = console(), _drawn(columns, rows, "left")
    if Measurement.get(on, on.options.update(max_width=_WIDEST), drawn).maximum <= on.width:
        on.print(drawn)
        return
    for first, *others in rows:
        said = [f"{name} {cell}" for name, cell in zip(columns[1:], others, strict=True) if cell]
        typer.echo(printable(first))
        on.print(Padding(Text(printable(", ".join(said))), (0, 0, 0, 2)))


def figures(metrics: Mapping[str, float]) -> None:
    """Show metrics on the standard output: those of held-out views first, the best known of them first."""
    table(["metric", "figure"], [[name, f"{metrics[name]:.4f}"] for name in sorted(metrics, key=_place)])


def say(line: str) -> None:
    """A line on the standard error, for whoever still reads it."""
    LastingError().write(f"{line}\n")


def printable(text: str) -> str:
    """Anybody's text in one line of a terminal, which takes some characters for commands."""
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "?" for sign in text)


def console() -> Console:
    """The standard output: as wide as the terminal, and wide enough for any table where there is none."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)


def pages(context: typer.Context) -> Pages | None:
    """What makes the pages that MLflow shows, as the front door hands it to the commands; None without a front door."""
    return None if context.obj is None else context.obj.pages()


def view_page(context: typer.Context) -> Viewer | None:
    """What makes the page that orbits Gaussians, as the front door hands it to the commands; None without one."""
    return None if context.obj is None else context.obj.view_page


def root(data: str | None) -> list[str]:
    """`--data` as an override."""
    from pipeline.config import text_override

    return [] if data is None else [text_override("data.root", dataset(data))]


def dataset(name_or_path: str) -> Path:
    """The folder of a dataset by name or path."""
    from sweeps.datasets import resolve

    return resolve(home(), name_or_path)


def home() -> Home:
    """Where the environment says that state is kept."""
    return home_of_environment()


def registry(context: typer.Context, tell: Tell = silent) -> Any:
    """The model registry of that home. tell: hears of what takes long."""
    from sweeps.registry.registry import Registry

    return Registry(home(), tell=tell, pages=pages(context))


def _drawn(columns: list[str], rows: list[list[str]], justify: Literal["left", "right"]) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column, justify=justify if column else "left", no_wrap=column not in _LONG, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown


def _place(metric: str) -> tuple[bool, int, str]:
    """Where a metric stands among others in a table."""
    _, *views, name = metric.split("/")
    return _INPUT in views, _FIRST.index(name) if name in _FIRST else len(_FIRST), metric
