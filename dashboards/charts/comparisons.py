"""The comparisons of a plan as a forest plot: in each row a difference and its interval, beside no effect."""

from __future__ import annotations

from typing import Any

from dashboards.charts.figure import Figure, figure, label, plotted, title
from sweeps.conclusions.comparisons import Comparison, Comparisons, difference_in_words

_LONGEST = 44  # characters of a setting beside its row
_COLOURS = {"better": "@complete", "worse": "@fail", "not told apart": "@pruned"}


def forest(found: Comparisons) -> Figure | None:
    """Rows in the plan's order, from the top; None where no comparison has an interval."""
    shown = [one for one in found.comparisons if one.difference is not None][::-1]
    if not shown:
        return None
    axis = {"title": title(f"difference of {found.metric}"), "zeroline": True, "zerolinecolor": "@ink"}
    layout: dict[str, Any] = {"showlegend": False, "height": 80 + 40 * max(2, len(shown))}
    names = [f"{_named(one.effect)}<br>against {_named(one.against)}" for one in shown]
    rows = {"showgrid": False, "tickvals": list(range(len(shown))), "ticktext": names}
    return figure([_row(place, one) for place, one in enumerate(shown)], axis, rows, **layout)


def _named(setting: str) -> str:
    """Both ends of a setting: names of files differ at their end."""
    return label(setting if len(setting) <= _LONGEST else f"{setting[: _LONGEST // 2]}…{setting[-_LONGEST // 2 + 1 :]}")


def _row(place: int, one: Comparison) -> dict[str, Any]:
    assert one.difference is not None
    mean, span = difference_in_words(one)
    colour = _COLOURS[one.verdict]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [plotted(one.difference.mean)],
        "y": [place],
        "marker": {"color": colour, "size": 9, "symbol": "square"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [plotted(one.difference.high - one.difference.mean)],
            "arrayminus": [plotted(one.difference.mean - one.difference.low)],
            "color": colour,
            "thickness": 2,
            "width": 5,
        },
        "hovertemplate": f"{label(one.effect)}<br>{label(one.verdict)}: {mean} ({span})<extra></extra>",
    }
