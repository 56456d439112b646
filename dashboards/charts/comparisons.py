"""The comparisons of a plan as a forest plot: in each row a difference and its interval, beside no effect."""

from __future__ import annotations

from typing import Any

from dashboards.charts.figure import Figure, figure, label, plotted, title
from sweeps.conclusions.comparisons import Comparison, Comparisons, difference_in_words

_COLOURS = {"better": "@complete", "worse": "@fail", "not told apart": "@pruned"}


def forest(found: Comparisons) -> Figure | None:
    """Rows in the plan's order, from the top; None where no comparison has an interval."""
    shown = [one for one in found.comparisons if one.difference is not None][::-1]
    if not shown:
        return None
    axis = {"title": title(f"difference of {found.metric}"), "zeroline": True, "zerolinecolor": "@ink"}
    layout: dict[str, Any] = {"showlegend": False, "height": 80 + 40 * max(2, len(shown))}
    return figure([_row(one) for one in shown], axis, {"showgrid": False, "type": "category"}, **layout)


def _row(one: Comparison) -> dict[str, Any]:
    assert one.difference is not None
    mean, span = difference_in_words(one)
    colour = _COLOURS[one.verdict]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [plotted(one.difference.mean)],
        "y": [f"{label(one.effect)}<br>against {label(one.against)}"],
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
        "hovertemplate": f"{label(one.verdict)}: {mean} ({span})<extra></extra>",
    }
