"""The report on a sweep: one HTML file that needs nothing but itself.

Figures that were measured differently (`SweepRecord.by_protocol`) are never in one table or chart: each protocol has
charts and a table of its own. A number is MLflow's, with four significant digits; every digit is beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from dashboards.charts import settings
from dashboards.charts.figure import name_of, short
from dashboards.report.charts import Chart, charts_of, comparisons_chart, front_charts, importance_chart
from dashboards.report.packing import packed_json, packed_plotly, pooled
from dashboards.report.table import Cell, columns, number, row, state_badge
from dashboards.report.words import best_settings, facts, moment, result, told, told_apart
from dashboards.thumbnails import Thumbnails
from sweeps.book.record import Measured, SweepRecord
from sweeps.book.remaining import cost_of_trial
from sweeps.conclusions.comparisons import comparisons_of, difference_in_words
from sweeps.conclusions.confirmations import sentences
from sweeps.conclusions.importance import Importance
from sweeps.conclusions.pareto import front_of
from sweeps.space.gates import Gate, parse_gates
from sweeps.tracking.pages import Links

TEMPLATES = Path(__file__).parents[1] / "templates"
MOST_BYTES, _MARGIN = 3_000_000, 200_000  # of the page; of what is in it beside figures, pictures and plotly
MOST_CHARTED = 6  # protocols with charts; those beyond have their tables
ROWS_AT_FIRST = 50  # of a table, before a reader asks for all


@dataclass(frozen=True)
class Section:
    """One protocol: how it differs, its result, its best settings, its charts by topic, the rows of its table."""

    key: str
    measured: Measured
    differs: str
    result: str
    best: list[tuple[str, str, str, str]]
    charts: dict[str, list[Chart]] = field(default_factory=dict)
    rows: list[list[Cell]] = field(default_factory=list)


def report_page(
    record: SweepRecord,
    links: Links | None = None,
    importance: Importance | None = None,
    pictures: Thumbnails | None = None,
) -> str:
    """The page of a sweep.

    links: of the MLflow that has it; the page then names the experiment (its frame lets no link out). importance: of
    the searched settings; without one, and of a plan, which compares them, the page leaves the section out. pictures:
    the previews to carry along.
    """
    sections = _sections(record)
    compared, front = comparisons_of(record), front_of(record.ledger)
    importance = importance if compared is None else None
    environment = _environment()
    charts = [chart for section in sections for group in section.charts.values() for chart in group]
    mattered = importance_chart(importance)
    differences, fronts = comparisons_chart(compared), front_charts(front, record)
    figures = {chart.key: chart.figures for chart in [*charts, *mattered, *differences, *fronts]}
    data = packed_json(pooled({"figures": figures, "tables": _tables(sections, environment)}))
    plotly = packed_plotly() if figures else ""
    shown = (pictures or Thumbnails()).within(MOST_BYTES - _MARGIN - len(data) - len(plotly))
    return environment.get_template("report.html").render(
        record=record,
        ledger=record.ledger,
        experiment=links.experiment_id if links else "",
        result=[section.result for section in sections] or ["No trial has begun."],
        facts=facts(record),
        sections=sections,
        columns=columns(settings.settings_of(record), _gates(record), _metric(record), _cost(record, 0.0) is not None),
        front=front,
        fronts=fronts,
        short=short,
        compared=compared,
        confirmed=record.ledger.confirmed,
        confirmed_words=sentences(record),
        differences=differences,
        in_words=difference_in_words,
        importance=importance,
        mattered=mattered,
        pictures=shown,
        gallery=_gallery(record, shown, sections),
        previews=packed_json(_previews(shown)),
        rows_at_first=ROWS_AT_FIRST,
        most_charted=MOST_CHARTED,
        has_gates=bool(_gates(record)),
        told=told(importance, len(sections)),
        made=moment(record.now),
        argument=shlex.quote(record.ledger.name),
        data=data,
        plotly=plotly,
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tables(sections: Sequence[Section], environment: jinja2.Environment) -> dict[str, list[dict[str, Any]]]:
    """Each row with what sorts it and its HTML, which the template has escaped."""
    template = environment.get_template("report_row.html")
    return {
        section.key: [
            {"keys": [cell.key for cell in cells], "html": template.render(cells=cells)} for cells in section.rows
        ]
        for section in sections
    }


def _sections(record: SweepRecord) -> list[Section]:
    objective = record.ledger.objective
    if objective is None:
        return []
    found, gates = settings.settings_of(record), _gates(record)
    return [
        Section(
            f"p{i}",
            measured,
            differs,
            result(record, measured.searching, objective),
            best_settings(record, measured.searching),
            charts_of(f"p{i}", record, measured.searching, found, objective) if i < MOST_CHARTED else {},
            [row(one, found, gates, _cost(record, one.busy_seconds)) for one in measured.trials],
        )
        for i, (measured, differs) in enumerate(zip(record.by_protocol, told_apart(record.by_protocol), strict=True))
    ]


def _metric(record: SweepRecord) -> str:
    return record.ledger.objective.metric if record.ledger.objective else "objective"


def _cost(record: SweepRecord, busy_seconds: float) -> float | None:
    return cost_of_trial(record.ledger, busy_seconds)


def _gates(record: SweepRecord) -> tuple[Gate, ...]:
    return parse_gates(record.ledger.space.get("gates", {}), record.ledger.name)


# ---------------------------------------------------------------- previews


def _gallery(record: SweepRecord, pictures: Thumbnails, sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The trials with pictures, best first, and a line about each."""
    differs = {one.trial.number: section.differs for section in sections for one in section.measured.trials}
    shown = [record.trial(trial_number) for trial_number in pictures.trials]
    return [
        {
            "number": one.trial.number,
            "name": name_of(one),
            "badge": state_badge(one.trial.state),
            "best": number(one.trial.best_value),
            "measured": differs.get(one.trial.number, ""),
        }
        for one in shown
    ]


def _previews(pictures: Thumbnails) -> dict[str, dict[str, dict[str, str]]]:
    """Name -> trial -> step -> picture."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for trial_number, preview, uri in pictures.pictures:
        found.setdefault(preview.name, {}).setdefault(str(trial_number), {})[str(preview.step)] = uri
    return found
