"""A sweep's saved view of MLflow's runs table: columns, their order, and the charts of its chart page.

The keys are those that MLflow 3.17.2 reads from a shared view: state of its search (`searchFilter`, `orderByKey`),
of its table (`selectedColumns`, `columnOrder`, `columnWidths`) and of its charts (`compareRunCharts`,
`compareRunSections`). Runs that are pinned, hidden or unfolded are no part of a shared view.
"""

from __future__ import annotations

import base64
import json
import zlib
from html import escape
from typing import Any

from dashboards.pages.saved_charts import charts_of
from dashboards.pages.table_tags import OUTCOME, STEPS, setting_tags
from sweeps.book.record import SweepRecord
from sweeps.space.objective import STEP_SECONDS
from sweeps.tracking.mlflow_layout import view_key
from sweeps.tracking.pages import Links

FIGURES = ("val/psnr", "val/psnr_fg", "val/ssim", "val/mask_iou")  # beside the objective, those that were reported
_RUN_NAME, _CREATED, _DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"  # always shown by MLflow
_LETTER_PX, _NARROWEST_PX, _WIDEST_PX = 6.2, 62, 78
_COMPRESSED = "deflate;"  # how a state begins that MLflow is to inflate


def saved_view(record: SweepRecord) -> str:
    """The JSON that the experiment's tag holds; its state is compressed, for a tag has a limit of 20,000 letters."""
    ledger = record.ledger
    stamp = int(ledger.opened * 1000)
    state = json.dumps(view_state(record), separators=(",", ":")).encode()
    packed = _COMPRESSED + base64.b64encode(zlib.compress(state, 9)).decode()
    return json.dumps({"name": ledger.name, "createdAt": stamp, "updatedAt": stamp, "state": packed})


def experiment_note(record: SweepRecord, links: Links) -> str:
    """What MLflow's list of experiments says of a recipe: its sweep. The list shows no Markdown, so links come last."""
    ledger, best = record.ledger, record.ledger.best
    ended = sum(trial.state.is_final for trial in ledger.trials.values())
    found = ""
    if best is not None and best.best_value is not None and ledger.objective is not None:
        found = f", {ledger.objective.metric} {best.best_value:.4g} by t{best.number:04d}"
    key, name = view_key(ledger.name), escape(" ".join(ledger.name.split()))  # Markdown may hold HTML
    return (
        f"{ended} of {ledger.planned} trials{found} in {name}, the latest sweep: "
        f"[trials]({links.sweep(key)}), [charts]({links.charts(key)})."
    )


def view_state(record: SweepRecord) -> dict[str, Any]:
    """What MLflow's UI takes over from the view: the trials, the best first, their columns and their charts."""
    columns = _columns(record)
    shown = [column for column in columns if column != _DURATION]  # which MLflow always shows
    state: dict[str, Any] = {
        "searchFilter": f"tags.`sweep.name` = '{record.ledger.name}' AND tags.`trial.number` != ''",
        "selectedColumns": shown,
        "columnOrder": [_RUN_NAME, _CREATED, *columns],
        "columnWidths": {_RUN_NAME: 132, _CREATED: 114} | columns,
        "runsHiddenMode": "SHOW_ALL",
        **charts_of(record),
    }
    if record.ledger.objective is not None:
        objective = record.ledger.objective
        state |= {"orderByKey": _metric(f"best/{objective.metric}"), "orderByAsc": objective.mode == "min"}
    return state


def _columns(record: SweepRecord) -> dict[str, int]:
    """The columns from left to right, with their widths in pixels."""
    objective = record.ledger.objective
    reported = {name for trial in record.trials for name in trial.metrics}
    figures = [name for name in FIGURES if name in reported and (objective is None or name != objective.metric)]
    short = setting_tags(record)
    settings = [f"tags.`{path}`" if path in short else f"params.`{path}`" for path in record.ledger.searched]
    best = [] if objective is None else [_metric(f"best/{objective.metric}")]
    columns = [*best, f"tags.`{OUTCOME}`", *map(_metric, figures), *settings, f"tags.`{STEPS}`", _metric(STEP_SECONDS)]
    return {column: _width(column) for column in columns} | {_DURATION: _NARROWEST_PX}


def _width(column: str) -> int:
    """Room for what stands above the column, within bounds; for a state and the beginning of its reason."""
    if column == f"tags.`{OUTCOME}`":
        return 130
    name = column.partition("`")[2]
    return round(min(max(24 + _LETTER_PX * len(name), _NARROWEST_PX), _WIDEST_PX))


def _metric(name: str) -> str:
    return f"metrics.`{name}`"
