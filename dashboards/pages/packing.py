"""What a page carries with it: scripts and data, packed so that they are small and no text in them ends a script."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any

from plotly.offline import get_plotlyjs

_LEVEL = 9  # of gzip


def packed(text: str) -> str:
    """A text as base64 of gzip, which every browser since 2023 unpacks by itself (DecompressionStream)."""
    return base64.b64encode(gzip.compress(text.encode(), _LEVEL, mtime=0)).decode()


def packed_json(data: Any) -> str:
    """Plain data, packed. Raises ValueError for a number that is not finite, which no JSON has."""
    return packed(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


@cache
def packed_plotly() -> str:
    """Plotly's script as its Python package brings it: 4.8 MB of text, 2.0 MB packed."""
    return packed(get_plotlyjs())
