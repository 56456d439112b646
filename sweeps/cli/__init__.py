"""The commands of the memory. Results go to the standard output, everything else to the standard error."""

from __future__ import annotations

import typer

import sweeps.cli.data  # noqa: F401 — adds its commands to the `data` of the science
from sweeps.cli.check import check
from sweeps.cli.model import model
from sweeps.cli.prompts import prompts
from sweeps.cli.reconstruct import reconstruct
from sweeps.cli.run import run
from sweeps.cli.sweep import sweep, train


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(check)
    app.command()(train)
    app.add_typer(sweep, name="sweep")
    app.add_typer(run, name="run")
    app.add_typer(model, name="model")
    app.command()(prompts)
    app.command()(reconstruct)
