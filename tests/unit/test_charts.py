"""Charts: plotly takes them, their colours exist, and they show the record's own numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

from dashboards.charts import curves, history, settings
from dashboards.charts.figure import label, plotted
from dashboards.report.charts import charts_of, importance_chart
from sweeps.conclusions.importance import importance_of
from tests.support.recorded import METRIC, RUNGS, recorded

STYLE = (Path(__file__).parents[2] / "dashboards" / "templates" / "style.css").read_text()


@pytest.fixture(scope="module")
def record():
    return recorded(trials=60, reports=6)


@pytest.fixture(scope="module")
def figures(record):
    """Every figure of a report."""
    topics = charts_of("p", record, record.trials, settings.settings_of(record), record.ledger.objective)
    charts = [
        *(chart for charts in topics.values() for chart in charts),
        *importance_chart(importance_of(record.ledger)),
    ]
    return {f"{chart.key} {name}": figure for chart in charts for name, figure in chart.figures.items()}


def painted(figure):
    return json.loads(re.sub(r'"@[\w-]+"', '"#123456"', json.dumps(figure)))


def test_plotly_knows_every_property_of_every_chart(figures):
    for figure in figures.values():
        go.Figure(painted(figure))
    assert len(figures) == 3 + 4 + 6 + 1 + 3 + 1


def test_every_colour_of_a_chart_is_one_of_the_light_and_of_the_dark_page(figures):
    names = set(re.findall(r'"@([\w-]+)"', json.dumps(figures)))
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")[:2]
    assert names
    assert [name for name in names if f"--{name}:" not in light or f"--{name}:" not in dark] == []


def test_the_best_so_far_rises_to_the_best_of_the_sweep_over_each_measure(record):
    best = max(one.trial.best_value for one in record.trials)
    for figure in history.history(record.trials, record.ledger.objective).values():
        *_, line = figure["data"]
        assert line["y"] == sorted(line["y"])
        assert line["y"][-1] == plotted(best)
        assert line["x"] == sorted(line["x"])


def test_work_is_summed_over_all_trials(record):
    shown = history.history(record.trials, record.ledger.objective)
    steps = max(x for trace in shown["steps"]["data"] for x in trace["x"])
    hours = max(x for trace in shown["GPU-hours"]["data"] for x in trace["x"])
    assert steps == sum(one.trial.last_step for one in record.trials)
    assert hours == plotted(record.gpu_hours)


def test_a_slice_has_a_mark_for_each_trial_that_has_the_setting(record):
    objective = record.ledger.objective
    for setting in settings.settings_of(record):
        figure = settings.slices(record.trials, [setting], objective)[setting.path]
        having = [one for one in record.trials if setting.path in one.trial.params and one.trial.best_value is not None]
        marks = {
            (row[0], y) for trace in figure["data"] for row, y in zip(trace["customdata"], trace["y"], strict=True)
        }
        assert marks == {(f"t{one.trial.number:04d}", plotted(one.trial.best_value)) for one in having}


def test_every_trial_that_reached_a_rung_went_on_stopped_or_broke(record):
    first, second, last = curves.rungs_of(record, record.trials)
    assert (first.step, second.step, last.step) == RUNGS
    assert first.reached == len(record.trials)
    assert len(first.went_on) == second.reached
    assert {one.trial.state for one, _ in first.others} == {"FAIL"}
    assert all(one.trial.state == "PRUNED" and one.trial.last_step == first.step for one, _ in first.stopped)


def test_curves_hold_every_report_and_a_gap_between_two_trials(record):
    best = record.ranked[0]
    figure = curves.curves(record.trials, "train/loss", best.trial.number)
    ys = [y for trace in figure["data"] for y in trace["y"]]
    assert ys.count(None) == len(record.trials)
    reported = [plotted(point.value) for one in record.trials for point in one.metrics["train/loss"]]
    assert sorted(y for y in ys if y is not None) == sorted(reported)
    assert figure["data"][-1]["y"][:-1] == [plotted(point.value) for point in best.metrics["train/loss"]]


def test_curves_of_too_many_points_are_thinned_but_for_the_last_of_each(record):
    figure = curves.curves(record.trials, METRIC, most_points=100)
    ys = [y for trace in figure["data"] for y in trace["y"] if y is not None]
    assert curves.thinning(record.trials, METRIC, 100) == 4
    assert len(ys) == 3 * len(record.trials)
    assert {plotted(one.last(METRIC)) for one in record.trials} <= set(ys)


def test_the_best_twentieth_of_parallel_coordinates_are_the_best(record):
    few = settings.parallel(record.trials, settings.settings_of(record), record.ledger.objective)["best 5 %"]
    named = {text.split(" ")[0] for text in few["data"][0]["customdata"]}
    assert named == {f"t{one.trial.number:04d}" for one in record.ranked[:3]}


@pytest.mark.parametrize("text", ["<b>x</b>", "<a href='javascript:1'>x</a>", "&lt;b&gt;", "a\nb", "쥐" * 300])
def test_a_text_from_outside_is_no_markup_of_plotly(text):
    shown = label(text)
    assert "<" not in shown and "\n" not in shown
    assert "&lt;b&gt;" not in shown or "&amp;" in shown or text.startswith("<b>")
    assert len(shown) < 200


def test_a_value_that_is_not_finite_is_a_gap():
    assert plotted(math.nan) is None and plotted(math.inf) is None
    assert plotted(0.123456789) == 0.12346
