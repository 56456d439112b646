"""What `mouselift ui` says: where each sweep is found in MLflow's UI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit, urlunsplit

from sweeps.tracking.queries import Sweep

_MOST = 20


def sweep_lines(sweeps: Sequence[Sweep], address: str) -> Iterator[str]:
    """A line for each of the newest with the link of its trials, under the first one the link of its charts."""
    for sweep in sweeps[:_MOST]:
        yield f"{_printable(sweep.name)}  {_printable(sweep.state)}  {address}/{sweep.ui_path}"
        if sweep is sweeps[0]:
            yield f"  its charts  {address}/{sweep.charts_path}"
    if len(sweeps) > _MOST:
        yield f"and {len(sweeps) - _MOST} older: mouselift sweep list"


def without_user(address: str) -> str:
    """A server's address without a user's name and password, and without a slash at its end."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _printable(text: str) -> str:
    """Another home's text in one line of a terminal, which takes some characters for commands."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
