"""Commands of the windows."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(ui)


def ui(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open MLflow's UI on the store of this home, and say where each sweep is found in it."""
    from sweeps import queries
    from sweeps.home import Home
    from sweeps.tracking import prepare_store

    home = Home.from_environment(os.environ)
    served = home.tracking_uri.startswith(("http://", "https://"))
    prepare_store(home.tracking_uri)
    address = home.tracking_uri if served else f"http://{host}:{port}"
    typer.echo(address)
    for sweep in queries.sweeps(home.tracking_uri):
        typer.echo(f"  {sweep.name}  {sweep.state}  {address}/{sweep.ui_path}", err=True)
    if served:
        return
    # One worker and no job runner: a store for one person needs neither, and starts in seconds.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri]
    os.execv(sys.executable, [*server, "--host", host, "--port", str(port), "--workers", "1"])
