"""Commands of the windows."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

_QUIET = "--log-level warning --no-access-log --lifespan off"  # uvicorn's; `lifespan` makes a fuss at Ctrl-C


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(ui)


def ui(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open MLflow's UI on the store of this home, and say where each sweep is found in it."""
    from sweeps import queries
    from sweeps.home import Home, is_served
    from sweeps.tracking import prepare_store

    home = Home.from_environment(os.environ)
    served = is_served(home.tracking_uri)
    prepare_store(home.tracking_uri)
    address = home.tracking_uri if served else f"http://{host}:{port}"
    sweeps = queries.sweeps(home.tracking_uri)
    typer.echo(address)
    for sweep in sweeps:
        typer.echo(f"  {sweep.name}  {sweep.state}  {address}/{sweep.ui_path}", err=True)
    if served:
        return
    # One worker and no job runner: a store for one person needs neither, and starts in seconds.
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    store = ["--backend-store-uri", home.tracking_uri, "--registry-store-uri", home.tracking_uri]
    store += ["--artifacts-destination", str(home.artifacts)]
    place = ["--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", _QUIET]
    os.dup2(2, 1)  # what the server says is no result
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *store, *place])
