"""JSON files of people: text in any usual encoding, no key twice, nested no deeper than a reader can follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.text.encoding import read_text


class _TwiceError(ValueError):
    """A key that stands twice in one object."""


def read_json(path: Path, error: type[Exception]) -> Any:
    """The values of a JSON file. Raises `error` as `read_text`, and for what is no JSON or says a key twice."""
    text = read_text(path, error)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _TwiceError as twice:
        raise error(f"{path}: expected each key of an object once, got {twice} twice — keep one of the two.") from None
    except json.JSONDecodeError as problem:
        raise error(
            f"{path}:{problem.lineno}: expected JSON, got a fault at column {problem.colno} ({problem.msg}) — correct "
            "that line, or restore the file."
        ) from None
    except RecursionError:
        raise error(f"{path}: expected JSON of a few levels, got one nested too deep to read — flatten it.") from None
    except ValueError as problem:  # a whole number of more digits than Python reads
        raise error(f"{path}: expected JSON, got a number too long to read ({problem}) — shorten it.") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _TwiceError(key)
        values[key] = value
    return values
