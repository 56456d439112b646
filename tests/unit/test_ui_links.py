"""`mouselift ui`: what it prints of the sweeps, and when it opens a browser."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path

import pytest

from dashboards.browser import has_browser, open_later
from dashboards.ui_links import sweep_lines, without_user
from sweeps.tracking.queries import Sweep

SECONDS = 60


def sweep(name: str) -> Sweep:
    return Sweep(name, "gslrm_tiny", "COMPLETE", f"#/trials/{name}", f"#/charts/{name}")


def test_the_newest_sweep_comes_first_with_its_charts_and_many_are_counted() -> None:
    lines = list(sweep_lines([sweep(f"s{number}") for number in range(25)], "http://here"))
    assert lines[:3] == [
        "s0  COMPLETE  http://here/#/trials/s0",
        "  its charts  http://here/#/charts/s0",
        "s1  COMPLETE  http://here/#/trials/s1",
    ]
    assert (len(lines), lines[-1]) == (22, "and 5 older: mouselift sweep list")
    assert list(sweep_lines([], "http://here")) == []


def test_a_name_of_another_home_commands_no_terminal() -> None:
    lines = list(sweep_lines([Sweep("a\x1b[2J\nb", "r", "KILLED", "#/", "#/")], "http://here"))
    assert lines[0] == "a?[2J?b  KILLED  http://here/#/"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:secret@server:5000/", "http://server:5000"),
        ("https://server/mlflow/", "https://server/mlflow"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_links_to_a_server_tell_no_password(address: str, shown: str) -> None:
    assert without_user(address) == shown


@pytest.mark.parametrize(
    ("environment", "platform", "is_terminal", "opens"),
    [
        ({"DISPLAY": ":0"}, "linux", True, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True, True),
        ({}, "darwin", True, True),
        ({}, "linux", True, False),
        ({"DISPLAY": ":0"}, "linux", False, False),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "1 2 3 4"}, "linux", True, False),
        ({"BROWSER": "code --open-url", "SSH_CONNECTION": "1 2 3 4"}, "linux", True, True),
    ],
)
def test_a_browser_opens_where_the_user_sits(
    environment: dict[str, str], platform: str, is_terminal: bool, opens: bool
) -> None:
    assert has_browser(environment, platform, is_terminal) is opens


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_the_page_opens_once_the_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, script = tmp_path / "seen", tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {seen}.part && mv {seen}.part {seen}\n')
    script.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    page = f"http://127.0.0.1:{server.server_port}/#/experiments?a=b&c=d"
    open_later(f"http://127.0.0.1:{server.server_port}/health", page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    end = time.monotonic() + SECONDS
    while not seen.exists() and time.monotonic() < end:
        time.sleep(0.05)
    server.shutdown()
    server.server_close()
    assert seen.read_text() == f"{page}\n"
