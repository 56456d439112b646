"""The only thing in mouselift that downloads: one file of weights, when its user asks for it.

It comes by Python's own client, so that proxies (`https_proxy`, `no_proxy`) and certificates (`SSL_CERT_FILE`) are
those of the environment. What has come of a file stays beside its place as `.NAME.part`, and the next call goes on
there. The file has its name only once its digest was compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import CheckpointError
from pipeline.machine.outputs import require_folder
from pipeline.weights.known import Weights

_SECONDS = 30  # without a byte
_BLOCK = 1 << 20
_PARTIAL, _COMPLETE_ALREADY = 206, 416
Listener = Callable[[int, int | None], None]


def fetch(wanted: Weights, out: Path | None = None, listen: Listener = lambda *_: None) -> Path:
    """Download weights to a file, and return it; nothing is downloaded where it is there and whole.

    out: the file, if not where mouselift looks for it. listen: is called with the bytes that are there and the bytes
    of all, where the server says them.
    Raises CheckpointError, of one line, where the file cannot be had, is another, or is fetched by hand.
    """
    if wanted.by_hand:
        raise CheckpointError(
            f"{wanted.name}: expected weights that can be fetched, got ones that are fetched by hand — take them from "
            f"{wanted.source}."
        )
    if not wanted.source.startswith(("http://", "https://")):
        raise CheckpointError(
            f"{wanted.source}: expected an address that begins with https://, got another — name the file's own."
        )
    path = out or wanted.file
    if path.is_file() and wanted.is_whole(path):
        return path
    require_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    went_on = part.is_file()
    _download(wanted, path, part, listen)
    if went_on and not wanted.is_whole(part):  # its beginning was of another file, or damaged
        part.unlink()
        _download(wanted, path, part, listen)
    if not wanted.is_whole(part):
        came = _described(part)
        part.unlink()
        raise CheckpointError(
            f"{wanted.source}: expected {path.name} ({wanted.digest}), got {came} — look whether a proxy or a login "
            f"page answers in its place, or {_by_hand(path)}"
        )
    part.replace(path)
    return path


def _download(wanted: Weights, path: Path, part: Path, listen: Listener) -> None:
    """What is missing of the file. The folder is made once a server has answered."""
    begun = part.stat().st_size if part.is_file() else 0
    try:
        with _answer(wanted.source, begun) as answer:
            if answer is None:
                return
            at = begun if answer.status == _PARTIAL else 0
            length = answer.length
            total = None if length is None else at + length
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(part, begun) as file:
                file.truncate(at)
                for block in iter(lambda: answer.read(_BLOCK), b""):
                    at += file.write(block)
                    listen(at, total)
        if total is not None and at < total:
            raise HTTPException(f"{at} of {total} bytes")
    except urllib.error.HTTPError as error:
        raise _refused(wanted, path, part, f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _refused(wanted, path, part, str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _refused(wanted, path, part, str(error) or type(error).__name__) from None


@contextlib.contextmanager
def _answer(source: str, begun: int) -> Iterator[HTTPResponse | None]:
    """The server's answer, from a byte on if it can; None where there is nothing after that byte."""
    headers = {"User-Agent": "mouselift"} | ({"Range": f"bytes={begun}-"} if begun else {})
    request = urllib.request.Request(source, headers=headers)  # noqa: S310 — of `known.py`, or of the user
    try:
        with urllib.request.build_opener().open(request, timeout=_SECONDS) as answer:  # the proxies of now
            yield answer
    except urllib.error.HTTPError as error:
        if error.code != _COMPLETE_ALREADY or not begun:
            raise
        yield None


@contextlib.contextmanager
def _alone(part: Path, begun: int) -> Iterator[BinaryIO]:
    """The file to go on with. Raises CheckpointError where another process writes it, or has just done so."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not part.is_file() or os.stat(part).st_ino != os.fstat(file.fileno()).st_ino
        except BlockingIOError:
            taken = True
        if taken or os.fstat(file.fileno()).st_size != begun:
            raise CheckpointError(f"{part}: expected to fetch it alone, got another process that does — wait for it.")
        yield file


def _refused(wanted: Weights, path: Path, part: Path, came: str) -> CheckpointError:
    kept = part.stat().st_size if part.is_file() else 0
    if part.is_file() and not kept:
        part.unlink()
    again = f"run it again, which goes on after the first {kept / 1e6:.1f} MB, or " if kept else ""
    return CheckpointError(f"{wanted.source}: expected {path.name}, got {came} — {again}{_by_hand(path)}")


def _by_hand(path: Path) -> str:
    return f"copy the file from another machine to {path}; `mouselift weights list` says whether it is whole."


def _described(part: Path) -> str:
    with part.open("rb") as file:
        beginning = file.read(1024).lstrip().lower()
    is_page = beginning.startswith((b"<!doctype html", b"<html"))
    return "an HTML page" if is_page else f"another file, of {part.stat().st_size} bytes"
