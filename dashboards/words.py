"""How the windows write figures, settings, times and names."""

from __future__ import annotations

import json
import math
from typing import Any

from pipeline import progress

NONE = "–"
_SHORT = 9.5  # seconds: below, two digits tell more than a whole number


def trial_name(number: int) -> str:
    """As the command line and MLflow name a trial."""
    return f"t{number:04d}"


def figure(value: float | None, digits: int = 4) -> str:
    """So many significant digits; a dash where nothing is known."""
    if value is None:
        return NONE
    if math.isnan(value):
        return "not a number"
    return f"{value:.{digits}g}".replace("inf", "∞")


def setting(value: Any) -> str:
    """A value of a recipe as YAML spells it, floats to four digits."""
    match value:
        case float():
            return figure(value)
        case str():
            return value
    return json.dumps(value, ensure_ascii=False)


def duration(seconds: float | None) -> str:
    """`0.11 s`, `42 s`, `7 min 3 s`, `3 h 5 min`, as the terminal has it from seconds on; a dash for no time."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    return f"{seconds:.2g} s" if seconds < _SHORT else progress.duration(seconds)
