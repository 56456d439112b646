"""The Pareto front of a sweep: one objective against another, the front joined by a line, and its knee named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.charts.figure import Figure, figure, label, name_of, plotted, title
from sweeps.book.record import TrialRecord
from sweeps.conclusions.pareto import Front


def front(found: Front, place: int, trials: Sequence[TrialRecord]) -> Figure | None:
    """The objective at `place` of the front to the right, the first one up; None where no trial has both figures."""
    across, up = found.objectives[place].metric, found.objectives[0].metric
    shown = [one for one in trials if one.trial.state == "COMPLETE" and {across, up} <= one.trial.figures.keys()]
    if not shown:
        return None
    on_front = {trial.number for trial in found.trials}
    first = sorted((one for one in shown if one.trial.number in on_front), key=lambda one: one.trial.figures[across])
    broken = [one for one in shown if one.trial.number in found.broken]
    beaten = [one for one in shown if one.trial.number not in {*on_front, *found.broken}]
    several = len(found.objectives) > 2  # a front of three is no line in the plane of two
    traces = [
        _trace("beaten", beaten, across, up, {"color": "@pruned", "symbol": "circle-open", "size": 8}),
        _trace("outside the constraints", broken, across, up, {"color": "@fail", "symbol": "x", "size": 8}),
        _trace(
            "front", first, across, up, {"color": "@best", "size": 10}, mode="markers" if several else "lines+markers"
        ),
    ]
    knee = [one for one in first if one.trial.number == found.knee]
    marked = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": "@ink", "width": 2}}
    traces += [_trace("knee", knee, across, up, marked, mode="markers+text")] if knee else []
    traces = [trace for trace in traces if trace["x"]]
    return figure(traces, {"title": title(across)}, {"title": title(up)}, height=360)


def _trace(
    name: str, trials: Sequence[TrialRecord], across: str, up: str, marker: dict[str, Any], mode: str = "markers"
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [plotted(one.trial.figures[across]) for one in trials],
        "y": [plotted(one.trial.figures[up]) for one in trials],
        "text": [name_of(one) for one in trials],
        "textposition": "top center",
        "textfont": {"color": "@ink"},
        "marker": marker,
        "line": {"shape": "linear", "color": "@best", "width": 1.5},
        "hovertemplate": f"%{{text}}<br>{label(up)} %{{y}}<br>{label(across)} %{{x}}<extra>{label(name)}</extra>",
    }
