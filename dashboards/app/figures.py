"""Figures as the pages print them, and values as their JSON twins hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

NONE = "–"
_FIRST = ("psnr_fg", "psnr", "ssim", "lpips", "mask_iou", "consistent_psnr_fg", "hull_iou")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def figure(value: float | None, digits: int = 4) -> str:
    """So many significant digits; a dash where nothing is known."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.{digits}g}"
    return text.replace("-", "−") if "e" not in text else text.replace("e-0", "e-").replace("e+0", "e")


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics with those first that a reader looks for first, and those of the given views and of single slots last."""

    def place(name: str) -> tuple[bool, bool, int, str]:
        measure = name.rpartition("/")[2]
        return "/slot_" in name, "/input/" in name, _FIRST.index(measure) if measure in _FIRST else len(_FIRST), name

    return sorted(names, key=place)


def setting(value: Any) -> str:
    """A setting as a person would write it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return figure(value)
        case list() | tuple():
            return f"[{', '.join(map(setting, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{key}: {setting(one)}" for key, one in value.items()) + "}"
    return str(value)


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 1.5 * _MINUTE:
        return f"{whole} s"
    if whole < 1.5 * _HOUR:
        return f"{round(whole / _MINUTE)} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


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
