"""What a page carries with it: scripts and data, packed so that they are small and no text in them ends a script."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any

from plotly.offline import get_plotlyjs

_LEVEL = 9  # of gzip
_SHORT = 32  # elements of a list that is not worth sharing


def packed(text: str) -> str:
    """A text as base64 of gzip, which every browser since 2023 unpacks by itself (DecompressionStream)."""
    return base64.b64encode(gzip.compress(text.encode(), _LEVEL, mtime=0)).decode()


def packed_json(data: Any) -> str:
    """Plain data, packed. Raises ValueError for a number that is not finite, which no JSON has."""
    return packed(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def pooled(data: Any) -> dict[str, Any]:
    """Plain data whose long lists are written once each: {"data": …, "pool": lists}, `{"pool": i}` in a list's place.

    Charts of one sweep draw the same steps and values again and again.
    """
    lists: dict[str, int] = {}
    return {"data": _without_lists(data, lists), "pool": [json.loads(text) for text in lists]}


def _without_lists(value: Any, lists: dict[str, int]) -> Any:
    if isinstance(value, dict):
        return {key: _without_lists(one, lists) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) < _SHORT:
        return [_without_lists(one, lists) for one in value]
    return {"pool": lists.setdefault(json.dumps(value, allow_nan=False), len(lists))}


@cache
def packed_plotly() -> str:
    """Plotly's script as its Python package brings it: 4.8 MB of text, 2.0 MB packed."""
    return packed(get_plotlyjs())
