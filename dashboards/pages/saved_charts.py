"""The charts of a sweep's saved view, and the sections of MLflow's chart page in which they stand.

MLflow adds a chart for each metric and each image that no chart shows. Sections that are closed wait for those here, so
that they do not come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sweeps.book.record import SweepRecord, TrialRecord

_MOST_PICTURES = 10  # runs of which MLflow's image grid shows one
_CARD_PX = 950  # within a card, on a screen 1,280 pixels wide
_PICTURE_PX, _LETTER_PX, _FRAME_PX = 300, 8, 130  # a picture with its name, a letter of it, and what is around all
_MOST_AXES = 10
_CURVES = {"train": ("train/loss", "train/grad_norm"), "val": ("val/psnr", "val/psnr_fg", "val/ssim", "val/mask_iou")}


def charts_of(record: SweepRecord) -> dict[str, Any]:
    """The keys of a saved view that say what the chart page shows."""
    grids = list(_pictures(record))
    closed = sorted({_section_of(name) for name in _reported(record)})
    sections = _sections(record, [section for section, _, _ in grids])
    return {
        "compareRunCharts": [*_of_the_objective(record), *(_grid(*grid) for grid in grids), *_of_curves(record)],
        "compareRunSections": [*sections, *(_section(name, is_open=False) for name in closed)],
        "isAccordionReordered": True,  # the order of the sections is ours; MLflow sorts them by name otherwise
        "hideEmptyCharts": True,
        "runListHidden": True,  # the room is for the charts; a button of the page shows it
    }


def _reported(record: SweepRecord) -> set[str]:
    names = {name for trial in record.trials for name in trial.metrics}
    objective = record.ledger.objective
    return names if objective is None else names | {f"best/{objective.metric}", "best/step"}


def _of_the_objective(record: SweepRecord) -> list[dict[str, Any]]:
    objective = record.ledger.objective
    if objective is None:
        return []
    searched = list(record.ledger.searched[: _MOST_AXES - 1])
    parallel = _chart("parallel", "PARALLEL", "Objective") | {
        "selectedParams": searched,
        "selectedMetrics": [f"best/{objective.metric}"],  # the last axis, which colours the lines
        "showAllRuns": True,
    }
    return [_line(objective.metric, "Objective"), *([parallel] if searched else [])]


def _of_curves(record: SweepRecord) -> list[dict[str, Any]]:
    objective = record.ledger.objective
    shown = [name for names in _CURVES.values() for name in names]
    reported = _reported(record)
    return [
        _line(name, "Curves") for name in shown if name in reported and (objective is None or name != objective.metric)
    ]


def _pictures(record: SweepRecord) -> Iterator[tuple[str, str, int]]:
    """Image grids: section, name and step. Those of the last step that all trials reached, then those of the last."""
    shown = _pictured(record)
    whose = "all trials" if len(shown) == len(record.trials) else f"the best {len(shown)} trials that have one"
    for name in sorted({preview.name for trial in shown for preview in trial.previews}):
        steps = [{one.step for one in trial.previews if one.name == name} for trial in shown]
        steps = [some for some in steps if some]
        last, common = max(set.union(*steps)), max(set.intersection(*steps), default=None)
        if common is not None:
            yield f"{name} of {whose} at step {common}", name, common
        if common != last:
            yield f"{name} of those that reached step {last}", name, last


def _pictured(record: SweepRecord) -> list[TrialRecord]:
    """The trials whose pictures MLflow shows: the first of the table that have any."""
    return [trial for trial in record.ranked if trial.previews][:_MOST_PICTURES]


def _grid(section: str, name: str, step: int) -> dict[str, Any]:
    return _chart(f"{name}@{step}", "IMAGE", section) | {"imageKeys": [name], "step": step, "showRunParams": False}


def _sections(record: SweepRecord, grids: list[str]) -> list[dict[str, Any]]:
    name_px = _LETTER_PX * len(f"{record.ledger.name} · t0000")  # the name of a run stands above its picture, unbroken
    in_a_row = max(1, _CARD_PX // max(_PICTURE_PX, name_px))
    height = _FRAME_PX + math.ceil(len(_pictured(record)) / in_a_row) * _PICTURE_PX
    return [
        _section("Objective") | {"columns": 2, "cardHeight": 400},
        *(_section(name) | {"columns": 1, "cardHeight": height} for name in grids),
        _section("Curves") | {"columns": 3, "cardHeight": 330},
    ]


def _section(name: str, is_open: bool = True) -> dict[str, Any]:
    return {"uuid": f"section {name}", "name": name, "display": is_open, "isReordered": False, "isGenerated": False}


def _section_of(metric: str) -> str:
    """The section that MLflow gives a metric for which it makes a chart of its own."""
    folder = metric.rpartition("/")[0]
    return {"system": "System metrics", "": "Model metrics"}.get(folder, folder)


def _line(metric: str, section: str) -> dict[str, Any]:
    return _chart(metric, "LINE", section) | {
        "metricKey": metric,
        "displayName": metric,
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }


def _chart(key: str, kind: str, section: str) -> dict[str, Any]:
    return {
        "uuid": f"chart {key}",
        "type": kind,
        "metricSectionId": f"section {section}",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
    }
