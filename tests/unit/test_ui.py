"""`mouselift ui` says at once where it cannot listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dashboards.cli import ui
from sweeps.errors import SweepError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_a_port_that_is_none_is_refused(home: Path, port: int) -> None:
    with pytest.raises(SweepError, match=f"--port: expected one of 1 to 65535, got {port} — name another."):
        ui(port, "127.0.0.1")
    assert not home.exists()


def test_a_port_that_is_taken_is_refused(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            SweepError, match=f"expected 127.0.0.1:{port} to be free for this user, got Address already"
        ):
            ui(port, "127.0.0.1")
    assert not home.exists()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("no.such.host.invalid", "--host: expected an address of this machine, got no.such.host.invalid "),
        ("192.0.2.1", "--port: expected 192.0.2.1:5123 to be free for this user, got "),
    ],
)
def test_an_address_of_another_machine_is_refused(home: Path, host: str, said: str) -> None:
    with pytest.raises(SweepError, match=said):
        ui(5123, host)
    assert not home.exists()
