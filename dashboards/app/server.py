"""The server of the dashboard, until Ctrl-C."""

from __future__ import annotations

import os

import uvicorn

from dashboards.app.app import make_app
from sweeps.home import Home

# A store that is away must not keep a page waiting for minutes, which is what MLflow's client does by itself.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_GOODBYE_SECONDS = 2


def serve(home: Home, host: str, port: int) -> None:
    """Answer at an address until the process is told to stop."""
    os.environ.update(_IMPATIENT)
    uvicorn.run(
        make_app(home, host),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )
