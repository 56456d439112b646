"""Metrics in the order in which a reader looks for them, times and addresses, and values as JSON twins hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from dashboards.words import NONE

_FIRST = ("psnr_fg", "psnr", "ssim", "lpips", "mask_iou", "consistent_psnr_fg", "hull_iou")


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics with those first that a reader looks for first, and those of the given views and of single slots last."""

    def place(name: str) -> tuple[bool, bool, int, str]:
        measure = name.rpartition("/")[2]
        return "/slot_" in name, "/input/" in name, _FIRST.index(measure) if measure in _FIRST else len(_FIRST), name

    return sorted(names, key=place)


def plain(value: Any) -> Any:
    """The same as JSON can hold it: a number that is none, or infinite, as the text that Python writes."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {str(key): plain(one) for key, one in value.items()}
        case str() | bool() | int() | float() | None:
            return value
        case Iterable():
            return [plain(one) for one in value]
    return str(value)


def day(seconds: float | None) -> str:
    """A time of this machine's clock: `27 Nov 2026, 00:45`."""
    if not seconds:
        return NONE
    return f"{datetime.fromtimestamp(seconds):%d %b %Y, %H:%M}".removeprefix("0")


def data(value: Any) -> Markup:
    """A value as JSON that can stand inside a script element."""
    text = json.dumps(plain(value), separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def query(values: Mapping[str, Any]) -> str:
    """The part of an address behind its question mark; a list gives its name several times."""
    return urlencode(values, doseq=True)
