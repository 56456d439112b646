"""What the searched settings have to do with the objective: parallel coordinates, slices and importance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.figure import STATES, Figure, by_state, figure, label, look, name_of, plotted, short, title
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.space.objective import Objective

_TICKS = 5  # of an axis of the parallel coordinates
_UNUSED = "not used"  # where a setting's condition did not hold
_SPREAD = 0.3  # of the distance between two choices: how far trials of the same choice stand apart


@dataclass(frozen=True)
class Setting:
    """A searched setting. choices: its values where it is no range of numbers."""

    path: str
    is_log: bool
    choices: tuple[Any, ...] | None

    def value(self, record: TrialRecord) -> Any:
        """The trial's value; None where it is not used, or is null."""
        return record.trial.params.get(self.path)

    def name(self, record: TrialRecord) -> str:
        """The trial's value as a text; it tells any two choices apart."""
        return choice(record.trial.params[self.path]) if self.path in record.trial.params else _UNUSED

    def names(self, records: Sequence[TrialRecord]) -> list[str]:
        """Every choice, and after them what trials have beside them."""
        known = [choice(value) for value in self.choices or ()]
        return list(dict.fromkeys([*known, *(self.name(one) for one in records)]))


def choice(value: Any) -> str:
    """A value of a list as a text, as YAML spells it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def settings_of(record: SweepRecord) -> list[Setting]:
    """The searched settings, as the sweep's space describes them."""
    spaces = record.ledger.space.get("space", {})
    return [_setting(path, spaces.get(path, {}), record.trials) for path in record.ledger.searched]


def _setting(path: str, described: Mapping[str, Any], records: Sequence[TrialRecord]) -> Setting:
    values = {repr(one.trial.params[path]): one.trial.params[path] for one in records if path in one.trial.params}
    if "choice" in described or not all(_is_number(value) for value in values.values()):
        choices = described.get("choice", list(values.values()))
        return Setting(path, False, tuple(choices))
    is_log = bool(described.get("log")) and all(value > 0 for value in values.values())
    return Setting(path, is_log, None)


def parallel(records: Sequence[TrialRecord], settings: Sequence[Setting], objective: Objective) -> Figure | None:
    """A line for each trial with an objective, through its settings and on to the objective, which colours it.

    None where there is nothing to compare: fewer than two trials, or no setting.
    """
    judged = [one for one in records if one.trial.best_value is not None]
    if len(judged) < 2 or not settings:
        return None
    values = [plotted(one.trial.best_value) for one in judged]
    dimensions = [_dimension(setting, judged) for setting in settings]
    dimensions.append({"label": label(objective.metric), "values": values})
    line = {"color": values, "colorscale": [[0, "@low"], [0.5, "@middle"], [1, "@high"]], "showscale": False}
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": line | {"reversescale": objective.mode == "min"},
        "labelfont": {"color": "@ink", "size": 12},
        "tickfont": {"color": "@muted", "size": 10},
        "rangefont": {"color": "@muted", "size": 1},
        "unselected": {"line": {"color": "@line", "opacity": 0.4}},
        "labelangle": -12,
        "labelside": "top",
    }
    margins = {"l": 60, "r": 60, "t": 70, "b": 20}
    return {"data": [trace], "layout": look() | {"margin": margins}}


def _dimension(setting: Setting, records: Sequence[TrialRecord]) -> dict[str, Any]:
    values = [setting.value(one) for one in records]
    if setting.choices is not None:
        return _choices(setting, records)
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return {"label": label(setting.path), "values": [0] * len(values), "tickvals": [0], "ticktext": [_UNUSED]}
    places = [math.log10(value) if setting.is_log else value for value in numbers]
    low, high = min(places), max(places)
    width = (high - low) or 1.0
    below = low - 0.15 * width
    ticks = [low + width * i / (_TICKS - 1) for i in range(_TICKS)] if high > low else [low]
    texts = [f"{10**tick if setting.is_log else tick:.3g}" for tick in ticks]
    if len(numbers) < len(values):
        ticks, texts = [below, *ticks], [_UNUSED, *texts]
    drawn = iter(places)
    return {
        "label": label(setting.path),
        "values": [below if value is None else plotted(next(drawn)) for value in values],
        "tickvals": ticks,
        "ticktext": texts,
        "range": [ticks[0], max(high, ticks[-1])] if len(ticks) > 1 else [low - 0.5, low + 0.5],
    }


def _choices(setting: Setting, records: Sequence[TrialRecord]) -> dict[str, Any]:
    names = setting.names(records)
    return {
        "label": label(setting.path),
        "values": [names.index(setting.name(one)) for one in records],
        "tickvals": list(range(len(names))),
        "ticktext": [label(name) for name in names],
        "range": [-0.5, len(names) - 0.5],
    }


def slices(records: Sequence[TrialRecord], settings: Sequence[Setting], objective: Objective) -> dict[str, Figure]:
    """The objective against each setting: path -> figure. Settings that no trial used are left out."""
    judged = [one for one in records if one.trial.best_value is not None]
    drawn = {setting: [one for one in judged if setting.path in one.trial.params] for setting in settings}
    return {setting.path: _slice(setting, group, objective) for setting, group in drawn.items() if group}


def _slice(setting: Setting, records: list[TrialRecord], objective: Objective) -> Figure:
    names = setting.names(records) if setting.choices is not None else []
    traces = [_slice_dots(setting, names, state, group) for state, group in by_state(records).items()]
    axis: dict[str, Any] = {"title": title(setting.path)}
    if names:
        axis |= {"tickvals": list(range(len(names))), "ticktext": [label(name) for name in names], "showgrid": False}
        axis |= {"range": [-0.6, len(names) - 0.4]}
    elif setting.is_log:
        axis |= {"type": "log", "nticks": 6, "minorloglabels": "complete"}
    return figure(traces, axis, {"title": title(objective.metric)}, showlegend=False)


def _slice_dots(setting: Setting, names: list[str], state: str, group: list[TrialRecord]) -> dict[str, Any]:
    colour, symbol = STATES[state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": state,
        "x": [_across(setting, names, one) for one in group],
        "y": [plotted(one.trial.best_value) for one in group],
        "customdata": [[name_of(one), short(one.trial.best_value), label(short(setting.value(one)))] for one in group],
        "hovertemplate": "%{customdata[0]} · %{customdata[2]}<br>%{customdata[1]}<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 6, "line": {"width": 1.2, "color": colour}},
    }


def _across(setting: Setting, names: list[str], record: TrialRecord) -> float | None:
    """Where a trial stands on the axis of a setting; trials of the same choice stand beside each other."""
    if not names:
        return plotted(setting.value(record))
    return plotted(names.index(setting.name(record)) + _SPREAD * aside(record.trial.number))


def aside(number: int) -> float:
    """-1…1 for a trial, evenly spread over any run of numbers."""
    return 2 * (number * 0.6180339887 % 1) - 1


def importance(shares: Mapping[str, float], spread: Mapping[str, tuple[float, float]]) -> Figure:
    """Shares of the settings, largest on top, each with its interval."""
    paths = list(shares)[::-1]
    ends = [spread.get(path, (shares[path], shares[path])) for path in paths]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [label(path) for path in paths],
        "x": [plotted(shares[path]) for path in paths],
        "marker": {"color": "@accent", "opacity": 0.85},
        "width": 0.55,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [plotted(max(0.0, high - shares[path])) for path, (_, high) in zip(paths, ends, strict=True)],
            "arrayminus": [plotted(max(0.0, shares[path] - low)) for path, (low, _) in zip(paths, ends, strict=True)],
            "color": "@ink",
            "thickness": 1.2,
            "width": 4,
        },
        "customdata": [[f"{low:.0%}", f"{high:.0%}"] for low, high in ends],
        "hovertemplate": "%{y}: %{x:.1%}<br>%{customdata[0]} to %{customdata[1]}<extra></extra>",
    }
    axis = {"title": title("share of the objective's variation"), "tickformat": ".0%", "rangemode": "tozero"}
    return figure([trace], axis, {"showgrid": False}, showlegend=False, height=80 + 34 * max(2, len(paths)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
