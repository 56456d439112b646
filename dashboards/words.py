"""How the windows write figures, settings, times and names."""

from __future__ import annotations

import json
import math
from typing import Any

_MINUTE, _HOUR = 60, 3600


def trial_name(number: int) -> str:
    """As the command line and MLflow name a trial."""
    return f"t{number:04d}"


def figure(value: float | None) -> str:
    """Four digits; a dash where nothing is known."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def setting(value: Any) -> str:
    """A value of a recipe, floats to three digits."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return f"{value:.3g}"
        case str():
            return value
    return json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 05 min`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    hours, rest = divmod(round(seconds / _MINUTE), 60)
    return f"{hours} h {rest:02d} min"
