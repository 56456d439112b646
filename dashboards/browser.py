"""Opens a page in the user's browser once its server answers, in a process of its own: the server takes over this one.

python -m dashboards.browser HEALTH PAGE
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Mapping

_PATIENCE_SECONDS, _PAUSE_SECONDS = 60.0, 0.3
_DISPLAYS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")


def has_browser(environment: Mapping[str, str], platform: str, is_terminal: bool) -> bool:
    """Whether a browser would open before the eyes of who typed the command; over SSH only one that BROWSER names."""
    if not is_terminal:
        return False
    if environment.get("SSH_CONNECTION"):
        return bool(environment.get("BROWSER"))
    return platform == "darwin" or any(environment.get(name) for name in _DISPLAYS)


def open_later(health: str, page: str) -> None:
    """Start a process that opens `page` as soon as `health` answers, and gives up after a minute."""
    command = [sys.executable, "-m", "dashboards.browser", health, page]
    nothing = subprocess.DEVNULL  # a browser writes what it likes
    subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def _answers(health: str) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=5):  # noqa: S310 - our own command gives it, and it is http
            return True
    except (OSError, http.client.HTTPException):
        return False


def _main(health: str, page: str) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not _answers(health):
        if time.monotonic() > end:
            return
        time.sleep(_PAUSE_SECONDS)
    webbrowser.open(page)


if __name__ == "__main__":
    _main(*sys.argv[1:])
