"""The charts of a report, in their places: what each shows, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.charts import curves, history, settings
from dashboards.charts.comparisons import forest
from dashboards.charts.figure import Figure
from dashboards.charts.front import front
from dashboards.charts.settings import Setting
from dashboards.report.words import best_of
from pipeline.errors import counted
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.conclusions.comparisons import Comparisons
from sweeps.conclusions.importance import Importance
from sweeps.conclusions.pareto import Front
from sweeps.space.objective import Objective

_CURVES = ("train/loss", "train/grad_norm")  # beside the objective's


@dataclass(frozen=True)
class Chart:
    """A place on the page. figures: what it can show, the first at first; name -> figure."""

    key: str
    title: str
    caption: str
    figures: dict[str, Figure]
    height: int = 340
    kind: str = ""  # classes: wide, small, across for one that may be wider than the page
    least_width: int = 0  # px of one that is `across`


def charts_of(
    key: str, record: SweepRecord, trials: Sequence[TrialRecord], found: Sequence[Setting], objective: Objective
) -> dict[str, list[Chart]]:
    """The charts of trials that were measured alike, by topic; topics without one are left out."""
    share = len(trials) / max(1, len(record.trials))
    by_number = sorted(trials, key=lambda one: one.trial.number)
    topics = {
        "history": _history(key, by_number, objective),
        "settings": _settings(key, by_number, found, objective),
        "rungs": _rungs(key, record, by_number, objective),
        "curves": _curves(key, by_number, best_of(record, trials), objective, share),
    }
    return {topic: charts for topic, charts in topics.items() if charts}


def _history(key: str, trials: Sequence[TrialRecord], objective: Objective) -> list[Chart]:
    if not any(one.trial.best_value is not None for one in trials):
        return []
    caption = "A mark is the best value of one trial; the line is the best so far, whatever the trial's state."
    return [Chart(f"{key}-history", "Best so far", caption, history.history(trials, objective), 360, "wide")]


def _settings(key: str, trials: Sequence[TrialRecord], found: Sequence[Setting], objective: Objective) -> list[Chart]:
    charts = []
    found = settings.varied(found, trials)
    lines = settings.parallel(trials, found, objective)
    if lines:
        caption = f"A line is a trial. The best by {objective.metric} are the strongest in colour and width."
        shown = dict(reversed(lines.items()))
        charts.append(
            Chart(f"{key}-parallel", "Parallel coordinates", caption, shown, 400, "wide across", 110 * (len(found) + 1))
        )
    for i, (path, figure) in enumerate(settings.slices(trials, found, objective).items()):
        charts.append(Chart(f"{key}-slice-{i}", path, "", {"": figure}, 240, "small"))
    return charts


def _rungs(key: str, record: SweepRecord, trials: Sequence[TrialRecord], objective: Objective) -> list[Chart]:
    found = curves.rungs_of(record, trials)
    figure = curves.rungs(found, objective)
    if figure is None:
        return []
    last = found[-1]
    caption = (
        f"{found[0].reached} trials reached step {found[0].step}, {last.reached} step {last.step}. ASHA compares a "
        "trial with those that came before it, so an early one may go on with a value that stops a later one."
    )
    return [Chart(f"{key}-rungs", "Rungs and survivors", caption, {"": figure}, 360, "wide")]


def _curves(
    key: str, trials: Sequence[TrialRecord], best: TrialRecord | None, objective: Objective, share: float
) -> list[Chart]:
    """The objective's curves and others. share: of the points that all protocols together may draw."""
    charts, most_points = [], math.ceil(curves.MOST_POINTS * share)
    for i, metric in enumerate(dict.fromkeys((objective.metric, *_CURVES))):
        figure = curves.curves(trials, metric, best.trial.number if best else None, most_points)
        if figure is not None:
            said = _said(trials, metric, most_points)
            charts.append(Chart(f"{key}-curve-{i}", metric, said, {"": figure}, 320, "wide"))
    return charts


def _said(trials: Sequence[TrialRecord], metric: str, most_points: int) -> str:
    """What a chart of curves leaves out."""
    every = curves.thinning(trials, metric, most_points)
    gaps = curves.not_finite(trials, metric)
    said = [f"Of each trial but the best, one report in {every} is drawn."] if every > 1 else []
    said += [f"{counted(gaps, 'value')} not finite: a gap in the line."] if gaps else []
    return " ".join(said)


def comparisons_chart(found: Comparisons | None) -> list[Chart]:
    """The differences of a plan's comparisons, where there are any."""
    drawn = None if found is None else forest(found)
    if drawn is None:
        return []
    caption = "A line is the interval of a difference. One that crosses 0 is grey: nothing is told apart."
    return [Chart("comparisons", "Comparisons", caption, {"": drawn}, int(drawn["layout"]["height"]), "wide")]


def front_charts(found: Front | None, record: SweepRecord) -> list[Chart]:
    """Each further objective against the first, where there are several and a trial has finished."""
    charts = []
    for place, objective in enumerate(found.objectives[1:] if found else [], 1):
        drawn = front(found, place, record.trials) if found else None
        if drawn is not None:
            caption = (
                "Orange: the front. Grey: another is as good or better in every objective. Crosses break a constraint."
            )
            charts.append(Chart(f"front-{place}", objective.metric, caption, {"": drawn}, 360, "wide"))
    return charts


def importance_chart(found: Importance | None) -> list[Chart]:
    """The shares of the settings, where there are any."""
    if found is None or not found.shares:
        return []
    figure = settings.importance(found)
    return [Chart("importance", "Importance", "", {"": figure}, int(figure["layout"]["height"]), "wide")]
