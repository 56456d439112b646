"""What every chart shares: plotly's figure as plain JSON, and texts and numbers as charts show them.

A colour is `@` and the name of a variable of `templates/style.css`. `templates/charts.js` puts in what the variable
holds, so that a chart is light or dark as its page is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from dashboards.words import NONE, setting, trial_name
from sweeps.book.record import TrialRecord

Figure = dict[str, Any]  # {"data": traces, "layout": layout}, as plotly.js takes it
DIGITS = 5  # of a number in a chart, significant ones: more than a screen can tell apart
_LONGEST = 48  # characters of a text in a chart
_DECADES = 2.5  # beyond so many, only decades are labelled
# State -> colour and marker. The marker tells states apart where colours do not.
STATES = {
    "COMPLETE": ("@complete", "circle"),
    "PRUNED": ("@pruned", "circle-open"),
    "RUNNING": ("@running", "diamond"),
    "KILLED": ("@running", "diamond-open"),
    "FAIL": ("@fail", "x"),
    "WAITING": ("@muted", "circle-open-dot"),
}


def figure(traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> Figure:
    """A figure with two axes in the look of all charts."""
    axis = {
        "gridcolor": "@line",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        "title": {"standoff": 10},
    }
    return {
        "data": traces,
        "layout": look() | {"xaxis": _under(axis, x), "yaxis": _under(axis, y)} | layout,
    }


def look() -> dict[str, Any]:
    """The layout that all charts share."""
    return {
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": "@muted"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@line", "font": {"color": "@ink"}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": "@ink"}},
        "showlegend": True,
    }


def label(value: object) -> str:
    """A text from outside, shown letter by letter: plotly reads tags and entities in every text it draws."""
    plain = " ".join(str(value).split())
    return escape(plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…")


def short(value: object) -> str:
    """A setting or a figure as the tables have it; `–` for none."""
    return NONE if value is None else setting(value)


def name_of(record: TrialRecord) -> str:
    """The name of a trial."""
    return trial_name(record.trial.number)


def plotted(value: float | None) -> float | None:
    """A number with as many digits as a chart needs; None, which is a gap, for one that is not finite."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def by_state(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials by their state, in the order of STATES."""
    groups = {state: [record for record in records if record.trial.state == state] for state in STATES}
    return {state: group for state, group in groups.items() if group}


def title(text: str) -> dict[str, str]:
    """The title of an axis, a text from outside."""
    return {"text": label(text)}


def logarithmic(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis for values above 0, with few enough labels: decades, or 1, 2 and 5 of each."""
    decades = math.log10(high / low)
    ticks = 1 if decades > _DECADES else "D2"
    return {"type": "log", "dtick": ticks, "tickformat": "~g", "minorloglabels": "complete"}


def _under(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    return base | own | {"title": base["title"] | own.get("title", {})}
