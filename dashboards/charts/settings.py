"""What the searched settings have to do with the objective: parallel coordinates, slices and importance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.figure import (
    STATES,
    Figure,
    by_state,
    figure,
    label,
    logarithmic,
    look,
    name_of,
    plotted,
    short,
    title,
)
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.conclusions.importance import Importance
from sweeps.space.objective import Objective

_TICKS = 5  # of an axis of the parallel coordinates
_BELOW = 0.15  # of the height of such an axis: how far above those without a value the least value stands
_LEVEL_NAMES = 110  # characters of all their names that stand level beside each other
# Which trials the figures of parallel coordinates hold; each is a band of its own colour, from the best on.
_SHARES = {"best 5 %": 0.05, "best 20 %": 0.2, "best 50 %": 0.5, "all": 1.0}
_MANY = 150  # lines, from which on they are drawn thin
# Of the lines of each band: width in px and opacity; where they are many, the second.
_LINES = (((2.4, 0.95), (1.4, 0.7)), ((1.8, 0.9), (0.9, 0.5)), ((1.2, 0.9), (0.7, 0.4)), ((1.0, 0.9), (0.6, 0.4)))
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


def varied(settings: Sequence[Setting], records: Sequence[TrialRecord]) -> list[Setting]:
    """The settings that these trials do not all have alike."""
    return [one for one in settings if len({one.name(record) for record in records}) > 1]


def parallel(records: Sequence[TrialRecord], settings: Sequence[Setting], objective: Objective) -> dict[str, Figure]:
    """A line for each trial with an objective, through its settings and on to the objective: which trials -> figure.

    The best stand out by colour and width, and the further figures hold them alone. Empty where there is nothing to
    compare: fewer than two trials, or no setting. The lines are drawn as curves, and not by plotly's own chart of this
    kind: that needs WebGL, cannot be printed, does not say which trial a line is, and takes ten times as long.
    """
    judged = [one for one in records if one.trial.best_value is not None]
    if len(judged) < 2 or not settings:
        return {}
    axes = [*(_axis(setting, judged) for setting in settings), _axis_of_objective(judged, objective)]
    sign = -1.0 if objective.mode == "max" else 1.0
    order = sorted(range(len(judged)), key=lambda i: sign * (judged[i].trial.best_value or 0.0))
    ends = [math.ceil(len(order) * share) for share in _SHARES.values()]
    bands = [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    traces = [_band(band, i, judged, axes) for i, band in enumerate(bands)]
    layout = _parallel_layout(axes)
    shown = {name: i + 1 for i, name in enumerate(_SHARES) if bands[i]}
    return {name: {"data": [*traces[:count][::-1], _labels(axes)], "layout": layout} for name, count in shown.items()}


@dataclass(frozen=True)
class _Axis:
    """One axis of the parallel coordinates. places: of each trial, 0…1 from bottom to top; ticks: place -> label."""

    name: str
    places: list[float]
    ticks: list[tuple[float, str]]


def _axis(setting: Setting, records: Sequence[TrialRecord]) -> _Axis:
    if setting.choices is not None:
        names = setting.names(records)
        ticks = [((i + 0.5) / len(names), label(name)) for i, name in enumerate(names)]
        width = 0.2 / len(names)
        at = {name: place for (place, _), name in zip(ticks, names, strict=True)}
        places = [at[setting.name(one)] + width * aside(one.trial.number) for one in records]
        return _Axis(label(setting.path), places, ticks)
    values = [setting.value(one) for one in records]
    return _scaled(setting.path, values, setting.is_log)


def _axis_of_objective(records: Sequence[TrialRecord], objective: Objective) -> _Axis:
    return _scaled(objective.metric, [one.trial.best_value for one in records], is_log=False)


def _scaled(name: str, values: Sequence[float | None], is_log: bool) -> _Axis:
    """From the least to the largest number; trials without one stand below."""
    known = [math.log10(value) if is_log else float(value) for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    width = (high - low) or 1.0
    bottom = 0.0 if len(known) == len(values) else _BELOW
    ticks = [] if not bottom else [(0.0, _UNUSED)]
    for i in range(_TICKS if high > low else 1):
        share = i / (_TICKS - 1)
        value = low + share * width
        ticks.append((bottom + (1 - bottom) * share, f"{10**value if is_log else value:.3g}"))
    drawn = iter(known)
    places = [0.0 if value is None else bottom + (1 - bottom) * (next(drawn) - low) / width for value in values]
    return _Axis(label(name), places, ticks)


def _band(band: list[int], rank: int, records: Sequence[TrialRecord], axes: Sequence[_Axis]) -> dict[str, Any]:
    """The lines of some trials, with a gap between two."""
    stops = [*range(len(axes)), None]
    width, opacity = _LINES[rank][len(records) >= _MANY]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": stops * len(band),
        "y": [place for i in band for place in (*(plotted(axis.places[i]) for axis in axes), None)],
        "customdata": [f"{name_of(records[i])} · {short(records[i].trial.best_value)}" for i in band for _ in stops],
        "hovertemplate": "%{customdata}<extra></extra>",
        "line": {"color": f"@rank-{rank + 1}", "width": width},
        "opacity": opacity,
    }


def _labels(axes: Sequence[_Axis]) -> dict[str, Any]:
    """The values along the axes, as texts beside them."""
    ticks = [(i, place, text) for i, axis in enumerate(axes) for place, text in axis.ticks]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [i for i, _, _ in ticks],
        "y": [plotted(place) for _, place, _ in ticks],
        "text": [f" {text}" for _, _, text in ticks],
        "textposition": "middle right",
        "textfont": {"color": "@ink", "size": 11},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _parallel_layout(axes: Sequence[_Axis]) -> dict[str, Any]:
    columns = {
        "tickvals": list(range(len(axes))),
        "ticktext": [axis.name for axis in axes],
        "tickfont": {"color": "@ink"},
        "ticklabeloverflow": "allow",
        "side": "top",
        "range": [-0.15, len(axes) - 0.5],
        "gridcolor": "@muted",
        "fixedrange": True,
        "zeroline": False,
        "automargin": True,
        "tickangle": 0 if sum(len(axis.name) for axis in axes) < _LEVEL_NAMES else -20,
    }
    rows = {"visible": False, "range": [-0.06, 1.06], "fixedrange": True}
    return look() | {"xaxis": columns, "yaxis": rows, "showlegend": False}


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
        axis |= logarithmic(*(end(setting.value(one) for one in records) for end in (min, max)))
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


def importance(found: Importance) -> Figure:
    """Shares of the settings, largest on top, each with its interval, over what chance gives one without effect."""
    paths = list(found.shares)[::-1]
    names = [label(path) for path in paths]
    shares = [plotted(found.shares[path]) for path in paths]
    ends = [found.spread[path] for path in paths]
    chance = {
        "type": "bar",
        "orientation": "h",
        "name": "by chance",
        "y": names,
        "base": [plotted(found.chance[path][0]) for path in paths],
        "x": [plotted(found.chance[path][1] - found.chance[path][0]) for path in paths],
        "marker": {"color": "@muted", "opacity": 0.28},
        "width": 0.9,
        "hoverinfo": "skip",
    }
    own = {
        "type": "bar",
        "orientation": "h",
        "name": "share",
        "y": names,
        "x": shares,
        "marker": {"color": ["@complete" if found.is_told(path) else "@pruned" for path in paths]},
        "width": 0.5,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [
                plotted(max(0.0, high - found.shares[path])) for path, (_, high) in zip(paths, ends, strict=True)
            ],
            "arrayminus": [
                plotted(max(0.0, found.shares[path] - low)) for path, (low, _) in zip(paths, ends, strict=True)
            ],
            "color": "@ink",
            "thickness": 1.2,
            "width": 4,
        },
        "customdata": [[f"{low:.0%}", f"{high:.0%}"] for low, high in ends],
        "hovertemplate": "%{y}: %{x:.1%}<br>%{customdata[0]} to %{customdata[1]}<extra></extra>",
    }
    axis = {"title": title("share of the objective's variance"), "tickformat": ".0%", "rangemode": "tozero"}
    layout: dict[str, Any] = {"barmode": "overlay", "showlegend": False, "height": 80 + 34 * max(2, len(paths))}
    return figure([chance, own], axis, {"showgrid": False}, **layout)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
