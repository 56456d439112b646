"""The server of the dashboard, until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading

import uvicorn

from dashboards.app.app import make_app
from sweeps.errors import SweepError
from sweeps.home import Home
from sweeps.tracking.queries import Reader

# A store that is away must not keep a page waiting for minutes, which is what MLflow's client does by itself.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_GOODBYE_SECONDS = 2


def serve(home: Home, host: str, port: int) -> None:
    """Answer at an address until the process is told to stop."""
    os.environ.update(_IMPATIENT)
    reader = Reader(home)
    threading.Thread(target=_read_all, args=(reader,), daemon=True).start()
    uvicorn.run(
        make_app(home, host, reader),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )


def _read_all(reader: Reader) -> None:
    """Read what there is while nobody has asked yet, and load what the pages of models need, which takes seconds."""
    for name in reader.names():
        with contextlib.suppress(SweepError, OSError):  # its page says it
            reader.record(name)
    importlib.import_module("sweeps.registry.registry")
