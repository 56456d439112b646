"""What trials reported while they ran: curves over steps, and the rungs at which a scheduler compared them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.figure import Figure, figure, label, logarithmic, name_of, plotted, short, title
from dashboards.charts.settings import aside
from sweeps.book.record import Point, SweepRecord, TrialRecord
from sweeps.space.objective import Objective

MOST_POINTS = 24_000  # of one chart of curves; beyond them every k-th report of each trial is drawn
_EDGE = 0.3  # of the distance of two rungs


def curves(
    records: Sequence[TrialRecord], metric: str, best: int | None = None, most_points: int = MOST_POINTS
) -> Figure | None:
    """One metric over the steps of all trials, that of number `best` drawn stronger. None where nobody reported it."""
    drawn = [one for one in records if one.metrics.get(metric)]
    if not drawn:
        return None
    every = thinning(drawn, metric, most_points)
    ended = [one for one in drawn if one.trial.number != best and one.trial.state == "COMPLETE"]
    others = [one for one in drawn if one.trial.number != best and one.trial.state != "COMPLETE"]
    traces = [
        _lines(
            [(name_of(one), one) for one in group],
            metric,
            every,
            name=f"{name} ({len(group)})",
            **_line(colour, 1, 0.5),
        )
        for group, name, colour in ((others, "not finished", "@pruned"), (ended, "COMPLETE", "@complete"))
        if group
    ]
    strongest = [one for one in drawn if one.trial.number == best]
    traces += [
        _lines([(name_of(one), one)], metric, 1, name=f"best ({name_of(one)})", **_line("@best", 2.5, 1.0))
        for one in strongest
    ]
    return _over_steps(traces, drawn, metric)


def compared(named: Sequence[tuple[str, TrialRecord]], metric: str) -> Figure | None:
    """One metric over the steps of a few named trials, each in its own colour. None where nobody reported it."""
    drawn = [(name, one) for name, one in named if one.metrics.get(metric)]
    if not drawn:
        return None
    every = thinning([one for _, one in drawn], metric, MOST_POINTS)
    traces = [
        _lines([pair], metric, every, name=label(pair[0]), line={"width": 2, "color": f"@series-{i % 8 + 1}"})
        for i, pair in enumerate(drawn)
    ]
    return _over_steps(traces, [one for _, one in drawn], metric)


def thinning(records: Sequence[TrialRecord], metric: str, most_points: int) -> int:
    """Every how many-th report of a trial is drawn."""
    total = sum(len(one.metrics.get(metric, ())) for one in records)
    return math.ceil(total / most_points)


def not_finite(records: Sequence[TrialRecord], metric: str) -> int:
    """How many values of a metric are not finite; they are gaps of the lines."""
    return sum(not math.isfinite(point.value) for one in records for point in one.metrics.get(metric, ()))


def _over_steps(traces: list[dict[str, Any]], records: Sequence[TrialRecord], metric: str) -> Figure:
    values = [point.value for one in records for point in one.metrics[metric] if math.isfinite(point.value)]
    axis: dict[str, Any] = {"title": title(metric)}
    if metric.startswith("train/") and values and min(values) > 0 and max(values) > 20 * min(values):
        axis |= logarithmic(min(values), max(values))
    return figure(traces, {"title": title("step"), "rangemode": "tozero"}, axis)


def _line(colour: str, width: float, opacity: float) -> dict[str, Any]:
    return {"line": {"width": width, "color": colour}, "opacity": opacity}


def _lines(named: Sequence[tuple[str, TrialRecord]], metric: str, every: int, **look: Any) -> dict[str, Any]:
    """The curves of several trials as one trace, with a gap between two and where a value is not finite."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    names: list[str] = []
    for name, one in named:
        points = list(_thinned(one.metrics[metric], every))
        xs += [*(point.step for point in points), None]
        ys += [*(plotted(point.value) for point in points), None]
        names += [label(name)] * (len(points) + 1)
    hover = "%{customdata}<br>%{y} at step %{x}<extra></extra>"
    marks = {"mode": "lines+markers", "marker": {"size": 4}} if len(xs) < 40 else {"mode": "lines"}
    return {"type": "scatter", "x": xs, "y": ys, "customdata": names, "hovertemplate": hover, **marks, **look}


def _thinned(points: Sequence[Point], every: int) -> Iterator[Point]:
    for index, point in enumerate(points):
        if index % every == 0 or index == len(points) - 1:
            yield point


@dataclass(frozen=True)
class Rung:
    """The trials that reported at a rung of ASHA: what came of them, and the objective that each had there."""

    step: int
    went_on: tuple[tuple[TrialRecord, float], ...]
    stopped: tuple[tuple[TrialRecord, float], ...]
    others: tuple[tuple[TrialRecord, float], ...]  # failed, killed, or running and not beyond it yet

    @property
    def verb(self) -> str:
        """What those did that were not stopped."""
        return "finished" if all(one.trial.last_step <= self.step for one, _ in self.went_on) else "went on"

    @property
    def reached(self) -> int:
        """How many trials reported there."""
        return len(self.went_on) + len(self.stopped) + len(self.others)


def rungs_of(record: SweepRecord, records: Sequence[TrialRecord]) -> list[Rung]:
    """The rungs which trials reached. None of them where the sweep had no scheduler."""
    scheduler = record.ledger.space.get("scheduler", {})
    if scheduler.get("kind") != "asha" or record.ledger.objective is None:
        return []
    last = int(record.ledger.params.get("train.max_steps", 0))
    found, step = [], int(scheduler["grace_steps"])
    while 0 < step <= last:
        found.append(_rung(step, records, record.ledger.objective))
        step *= max(2, int(scheduler["reduction_factor"]))
    return [rung for rung in found if rung.reached]


def _rung(step: int, records: Sequence[TrialRecord], objective: Objective) -> Rung:
    """As ASHA sees it: a trial counts with its first report of the objective at the rung's step or later."""
    kinds: dict[str, list[tuple[TrialRecord, float]]] = {"went_on": [], "stopped": [], "others": []}
    for one in records:
        first = next((p for p in one.metrics.get(objective.metric, ()) if p.step >= step), None)
        if first is None or not math.isfinite(first.value):
            continue
        trial = one.trial
        if trial.last_step > first.step or trial.state == "COMPLETE":
            kinds["went_on"].append((one, first.value))
        else:
            kinds["stopped" if trial.state == "PRUNED" else "others"].append((one, first.value))
    return Rung(step, **{kind: tuple(found) for kind, found in kinds.items()})


def rungs(found: Sequence[Rung], objective: Objective) -> Figure | None:
    """The objective of every trial at each rung, by what came of it. None without rungs."""
    if not found:
        return None
    kinds = [
        ("went on or finished", [rung.went_on for rung in found], "@complete", "circle"),
        ("stopped here", [rung.stopped for rung in found], "@pruned", "circle-open"),
        ("ended otherwise or not yet", [rung.others for rung in found], "@fail", "x"),
    ]
    traces = []
    for name, groups, colour, symbol in kinds:
        pairs = [(place, one, value) for place, group in enumerate(groups) for one, value in group]
        if not pairs:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [plotted(place + _EDGE * aside(one.trial.number)) for place, one, _ in pairs],
                "y": [plotted(value) for _, _, value in pairs],
                "customdata": [[name_of(one), short(value)] for _, one, value in pairs],
                "hovertemplate": "%{customdata[0]} " + name + "<br>%{customdata[1]}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 7, "line": {"width": 1.5, "color": colour}},
            }
        )
    texts = [f"step {rung.step}<br>{len(rung.went_on)} of {rung.reached} {rung.verb}" for rung in found]
    axis = {"tickvals": list(range(len(found))), "ticktext": texts, "range": [-0.5, len(found) - 0.5]}
    return figure(traces, axis | {"showgrid": False}, {"title": title(objective.metric)})
