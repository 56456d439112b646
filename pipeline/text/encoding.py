"""Bytes of a text file to text: by the byte order mark where there is one, else UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

LIMIT_BYTES = 64 * 2**20  # of a text file that people write; larger is another sort of file
# UTF-32 begins as UTF-16 does, so it is asked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, error: type[Exception], limit: int = LIMIT_BYTES) -> str:
    """The text of a file, without its byte order mark.

    Raises `error` for a file that cannot be read, is larger than `limit` bytes, or is no text in UTF-8, UTF-16 or
    UTF-32 (the latter two with their mark).
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= limit else b""
    except OSError as problem:
        raise error(
            f"{path}: expected a file that can be read, got {problem.strerror} — correct the path, or give leave to "
            "read it."
        ) from None
    if size > limit:
        raise error(
            f"{path}: expected a text file of at most {limit >> 20} MiB, got {size >> 20} MiB — name another file."
        )
    return _decoded(content, path, error)


def _decoded(content: bytes, path: Path, error: type[Exception]) -> str:
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        guess = f", as in {_likely(content)}" if encoding == "utf-8" else ""
        raise error(
            f"{path}:{line}: expected text in {encoding.upper()}, got the byte 0x{content[problem.start]:02x}{guess} — "
            "save the file as UTF-8."
        ) from None
    if "\0" in text:
        came = _likely(content) if content.count(0) > len(content) // 4 else "a file of bytes"
        raise error(f"{path}: expected text, got a zero byte, as in {came} — save the file as UTF-8.")
    return text


def _likely(content: bytes) -> str:
    """What text that is no UTF-8 most likely is."""
    return "UTF-16 without its mark" if content.count(0) > len(content) // 4 else "Latin-1 or Windows-1252"
