"""The report on a sweep: one HTML file that needs nothing but itself.

Figures that were measured differently (`SweepRecord.by_protocol`) are never in one table or chart: each protocol has
charts and a table of its own. A number is MLflow's, with four significant digits; every digit is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from dashboards.charts import settings
from dashboards.charts.figure import name_of
from dashboards.pages.packing import packed_json, packed_plotly
from dashboards.pages.report_charts import Chart, charts_of, importance_chart
from dashboards.pages.report_table import Cell, columns, number, row, state_badge
from dashboards.pages.report_words import best_settings, facts, moment, result, told
from dashboards.thumbnails import Thumbnails
from sweeps.book.record import Measured, SweepRecord
from sweeps.book.study import Importance
from sweeps.space.gates import Gate, parse_gates
from sweeps.tracking.pages import Links

TEMPLATES = Path(__file__).parents[1] / "templates"
MOST_CHARTED = 6  # protocols with charts; those beyond have their tables
ROWS_AT_FIRST = 50  # of a table, before a reader asks for all


@dataclass(frozen=True)
class Section:
    """One protocol: its result, its charts by topic and the rows of its table."""

    key: str
    measured: Measured
    result: str
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
    the searched settings; without one the page leaves the section out. pictures: the previews to carry along.
    """
    sections = _sections(record)
    environment = _environment()
    charts = [chart for section in sections for group in section.charts.values() for chart in group]
    mattered = importance_chart(importance)
    figures = {chart.key: chart.figures for chart in [*charts, *mattered]}
    data = {
        "figures": figures,
        "tables": _tables(sections, environment),
        "previews": _previews(pictures),
    }
    return environment.get_template("report.html").render(
        record=record,
        ledger=record.ledger,
        experiment=links.experiment_id if links else "",
        result=[section.result for section in sections] or ["No trial has begun."],
        facts=facts(record),
        sections=sections,
        columns=columns(settings.settings_of(record), _gates(record), _metric(record)),
        best=best_settings(record),
        importance=importance,
        mattered=mattered,
        pictures=pictures or Thumbnails(),
        gallery=_gallery(record, pictures),
        rows_at_first=ROWS_AT_FIRST,
        most_charted=MOST_CHARTED,
        has_gates=bool(_gates(record)),
        told=told(importance),
        made=moment(record.now),
        data=packed_json(data),
        plotly=packed_plotly() if charts or mattered else "",
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
            result(record, measured.trials, objective),
            charts_of(f"p{i}", record, measured.trials, found, objective) if i < MOST_CHARTED else {},
            [row(one, found, gates) for one in measured.trials],
        )
        for i, measured in enumerate(record.by_protocol)
    ]


def _metric(record: SweepRecord) -> str:
    return record.ledger.objective.metric if record.ledger.objective else "objective"


def _gates(record: SweepRecord) -> tuple[Gate, ...]:
    return parse_gates(record.ledger.space.get("gates", {}), record.ledger.name)


# ---------------------------------------------------------------- previews


def _gallery(record: SweepRecord, pictures: Thumbnails | None) -> list[dict[str, Any]]:
    """The trials with pictures, best first, and a line about each."""
    shown = pictures.pictures if pictures else {}
    cards = []
    for trial_number in shown:
        one = record.trial(trial_number)
        cards.append(
            {
                "number": trial_number,
                "name": name_of(one),
                "badge": state_badge(one.trial.state),
                "best": number(one.trial.best_value),
                "protocol": one.measured,
            }
        )
    return cards


def _previews(pictures: Thumbnails | None) -> dict[str, Any]:
    """Name -> trial -> step -> picture."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for trial_number, shown in (pictures.pictures if pictures else {}).items():
        for preview, uri in shown.items():
            found.setdefault(preview.name, {}).setdefault(str(trial_number), {})[str(preview.step)] = uri
    return found
