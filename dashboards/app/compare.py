"""The values of the page that compares runs, of one sweep or of several."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from dashboards.app.figures import in_order
from dashboards.app.sweep import Ref, found, metrics, previews, settings
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.conclusions.two_trials import differences
from sweeps.errors import StudyError
from sweeps.tracking.queries import Reader

MOST = 6  # as many as there are colours, and as anybody looks at
DATA = "data.digest"
_DIGITS = 12  # of a digest: as many as MLflow has of another home's data


def compare_values(reader: Reader, asked: Sequence[str]) -> dict[str, Any]:
    """Runs by `<sweep>/<number>`. Raises StudyError for one that is not there, and for more than MOST."""
    refs = [Ref.parse(text) for text in dict.fromkeys(asked)]
    if len(refs) > MOST:
        raise StudyError(f"compare: expected at most {MOST} runs, got {len(refs)} — leave some out.")
    read = [(ref, *found(reader, ref)) for ref in refs]
    runs = [_run(series, *one) for series, one in enumerate(read)]
    keys = list(dict.fromkeys(map(_measured, runs)))
    for run in runs:
        run["way"] = string.ascii_uppercase[keys.index(_measured(run))]
    differing, same = differences([_values(record, one) for _, record, one in read])
    return {
        "runs": runs,
        "groups": [_group([run for run in runs if _measured(run) == key]) for key in keys],
        "differing": differing,
        "same": same,
        "known": known(reader),
    }


def known(reader: Reader) -> list[str]:
    """The runs that can be chosen: of every sweep that can be read, the best first."""
    refs = []
    for name in reader.names():
        try:
            ranked = reader.record(name).ranked
        except (StudyError, OSError):
            continue
        refs += [str(Ref(name, one.trial.number)) for one in ranked[:_OFFERED] if one.trial.begun]
    return refs


_OFFERED = 50  # of each sweep


def _values(record: SweepRecord, one: TrialRecord) -> dict[str, Any]:
    return {row["path"]: row["value"] for row in settings(record, one)}


def _run(series: int, ref: Ref, record: SweepRecord, one: TrialRecord) -> dict[str, Any]:
    trial, objective = one.trial, record.ledger.objective
    return {
        "ref": str(ref),
        "name": f"t{trial.number:04d} · {record.ledger.name}",
        "sweep": record.ledger.name,
        "number": trial.number,
        "series": series,
        "state": trial.state.value,
        "reason": one.reason,
        "protocol": one.protocol,
        "words": one.measured,
        "digest": (record.ledger.tags | one.tags).get(DATA, ""),
        "data": (record.ledger.tags | one.tags).get("data.name", ""),
        "objective": None if objective is None else objective.metric,
        "mode": None if objective is None else objective.mode,
        "best": trial.best_value,
        "best_step": trial.best_step,
        "steps": max(0, trial.last_step),
        "step_seconds": one.step_seconds,
        "busy_seconds": one.busy_seconds,
        "opened": one.opened,
        "metrics": metrics(one),
        "previews": previews(ref, one),
    }


def _measured(run: dict[str, Any]) -> tuple[str, str]:
    """What decides whether figures may be compared: by which protocol, or by which settings where none was told, and on
    which data.
    """
    return run["protocol"] or run["words"], run["digest"][:_DIGITS]


def _group(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs that were measured alike, and the figures that any of them has: the last, and the best of the objective."""
    names = in_order({name for run in runs for name in run["metrics"] if name.startswith(("val/", "test/"))})
    rows = [{"name": name, "cells": [_last(run, name) for run in runs]} for name in names]
    objectives = {(run["objective"], run["mode"]) for run in runs if run["objective"]}
    best = []
    for metric, mode in sorted(objectives):
        cells = [
            {"value": run["best"], "step": run["best_step"]}
            if run["objective"] == metric and run["best"] is not None
            else None
            for run in runs
        ]
        values = [cell["value"] for cell in cells if cell is not None]
        top = (max if mode == "max" else min)(values, default=None)
        best.append({"name": metric, "cells": [cell and cell | {"top": cell["value"] == top} for cell in cells]})
    return {
        "way": runs[0]["way"],
        "protocol": runs[0]["protocol"],
        "words": runs[0]["words"],
        "digest": runs[0]["digest"],
        "data": runs[0]["data"],
        "refs": [run["ref"] for run in runs],
        "best": best,
        "alike": [_alike(runs, metric) for metric, _ in sorted(objectives)] if len(runs) > 1 else [],
        "rows": rows,
    }


def _alike(runs: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """A figure of each run at the last step at which all of them reported it; `step` is None where there is none."""
    curves = [{int(step): value for step, value, _ in run["metrics"].get(metric, ())} for run in runs]
    common = set.intersection(*map(set, curves))
    step = max(common, default=None)
    return {"name": metric, "step": step, "values": [None if step is None else curve[step] for curve in curves]}


def _last(run: dict[str, Any], name: str) -> dict[str, float] | None:
    points = run["metrics"].get(name)
    return {"value": points[-1][1], "step": points[-1][0]} if points else None
