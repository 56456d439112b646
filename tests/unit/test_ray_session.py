"""What Ray needs of the machine before it starts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sweeps.run import ray_session


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "")  # is taken back whatever is set meanwhile
        monkeypatch.delenv(name)


def test_a_folder_too_long_for_rays_sockets_is_replaced_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = str(tmp_path / ("t" * 100))
    monkeypatch.setenv("RAY_TMPDIR", long)
    with caplog.at_level(logging.WARNING):
        ray_session.prepare_account()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    assert caplog.messages == [f"{long} is too long a path for Ray's sockets: it uses /tmp"]


def test_an_account_that_lacks_nothing_is_left_as_it_is_but_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    before = dict(os.environ)
    ray_session.prepare_account()
    token = os.environ.pop("RAY_AUTH_TOKEN")
    assert len(token) == 64
    assert dict(os.environ) == before


def test_a_token_of_the_environment_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    ray_session.prepare_account()
    assert os.environ["RAY_AUTH_TOKEN"] == "mine"
