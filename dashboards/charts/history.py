"""How the best value of a sweep came about: each trial, and the best so far, over three measures of what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.charts.figure import STATES, Figure, by_state, figure, name_of, plotted, short, title
from sweeps.book.record import TrialRecord
from sweeps.space.objective import Objective

TRIALS, STEPS, GPU_HOURS, HOURS = "trials", "steps", "GPU-hours", "trial-hours"
_FEW = 10  # trials, each with a mark of its own on the axis


def history(records: Sequence[TrialRecord], objective: Objective) -> dict[str, Figure]:
    """Best value of each trial and the best so far, over trials, steps and GPU-hours: measure -> figure.

    Over trials they are in the order of their numbers, else in the order in which they ended, and each stands where
    all work up to its end is counted. Where no trial asked for a GPU, hours of trials stand for GPU-hours.
    """
    ended = sorted(records, key=lambda one: (one.ended or one.trial.last_event_time, one.trial.number))
    has_gpus = any(one.gpus for one in records)
    hours = [(one.gpus if has_gpus else 1.0) * one.busy_seconds / 3600 for one in ended]
    spent: dict[str, tuple[Sequence[TrialRecord], Sequence[float]]] = {
        TRIALS: (records, [one.trial.number for one in records]),
        STEPS: (ended, _summed([max(0, one.trial.last_step) for one in ended])),
        GPU_HOURS if has_gpus else HOURS: (ended, _summed(hours)),
    }
    return {measure: _over(measure, list(order), places, objective) for measure, (order, places) in spent.items()}


def _over(measure: str, order: list[TrialRecord], places: Sequence[float], objective: Objective) -> Figure:
    place = {one.trial.number: where for one, where in zip(order, places, strict=True)}
    judged = [one for one in order if one.trial.best_value is not None]
    traces = [_dots(state, group, place) for state, group in by_state(judged).items()]
    axis = "number of the trial" if measure == TRIALS else f"{measure}, summed over the trials"
    whole = {"dtick": 1} if measure == TRIALS and len(order) <= _FEW else {}  # no trial has the number 0.5
    x = {"title": title(axis)} | whole
    return figure([*traces, _best(judged, place, objective)], x, {"title": title(objective.metric)})


def _dots(state: str, group: list[TrialRecord], place: dict[int, float]) -> dict[str, Any]:
    colour, symbol = STATES[state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{state} ({len(group)})",
        "x": [plotted(place[one.trial.number]) for one in group],
        "y": [plotted(one.trial.best_value) for one in group],
        "customdata": [[name_of(one), short(one.trial.best_value), one.trial.best_step] for one in group],
        "hovertemplate": "%{customdata[0]} · " + state + "<br>%{customdata[1]} at step %{customdata[2]}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 7, "line": {"width": 1.5, "color": colour}},
    }


def _best(order: list[TrialRecord], place: dict[int, float], objective: Objective) -> dict[str, Any]:
    xs, ys, names, best = [], [], [], None
    for one in order:
        value = one.trial.best_value
        if value is not None and objective.better(value, than=best):
            best = value
            xs.append(plotted(place[one.trial.number]))
            ys.append(plotted(value))
            names.append(name_of(one))
    if order:
        xs.append(plotted(place[order[-1].trial.number]))
        ys.append(plotted(best))
        names.append(names[-1])
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": xs,
        "y": ys,
        "customdata": names,
        "hovertemplate": "best so far %{y} by %{customdata}<extra></extra>",
        "line": {"shape": "hv", "width": 2.5, "color": "@best"},
    }


def _summed(amounts: Sequence[float]) -> list[float]:
    total, sums = 0.0, []
    for amount in amounts:
        total += amount
        sums.append(total)
    return sums
