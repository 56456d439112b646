"""The values of a sweep's page and of a run's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from dashboards.app.overview import summary
from dashboards.app.progress import MAX_STEPS, share
from dashboards.charts.settings import settings_of
from dashboards.report.charts import charts_of
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.conclusions.confirmations import sentences
from sweeps.errors import StudyError
from sweeps.tracking.elsewhere import is_number
from sweeps.tracking.queries import Reader

_TOPICS = ("history", "curves", "rungs", "settings")  # in the order of the page

_ELSEWHERE = "mlflow:"


class Ref(NamedTuple):
    """A trial of a sweep of this home, written `<sweep>/<number>`, or a run of MLflow, written `mlflow:<run id>`."""

    sweep: str
    number: int
    run_id: str = ""  # of MLflow, where it is of another home

    @staticmethod
    def parse(text: str) -> Ref:
        """Raises StudyError."""
        if re.fullmatch(f"{_ELSEWHERE}[0-9a-f]{{32}}", text):
            return Ref("", -1, text.removeprefix(_ELSEWHERE))
        sweep, slash, number = text.rpartition("/")
        if not slash or not is_number(number):
            raise StudyError(f"{text}: expected a run as SWEEP/NUMBER, such as demo/3 — choose one of a sweep's page.")
        return Ref(sweep, int(number))

    def __str__(self) -> str:
        return f"{_ELSEWHERE}{self.run_id}" if self.run_id else f"{self.sweep}/{self.number}"


def sweep_values(reader: Reader, name: str) -> dict[str, Any]:
    """Raises StudyError."""
    record = reader.record(name)
    interrupted = reader.is_interrupted(name, record)
    waiting = [_row(name, one) for one in record.trials if not one.trial.begun]
    tables = [
        {"protocol": alike.protocol, "words": alike.words, "rows": [_row(name, one) for one in alike.trials]}
        for alike in record.by_protocol
    ]
    return {
        "sweep": summary(name, record, interrupted),
        "searched": list(record.ledger.searched),
        "fixed": record.ledger.space.get("fixed", {}),
        "not_run": len(record.ledger.not_run),
        "confirmed": [one.as_plain() for one in record.ledger.confirmed],
        "confirmed_words": sentences(record),
        "tables": [*tables, *([{"protocol": None, "words": "not begun", "rows": waiting}] if waiting else [])],
        "charted": [{"protocol": alike.protocol, "words": alike.words} for alike in record.by_protocol],
        "news": reader.news(name),
    }


def _row(name: str, one: TrialRecord, ref: Ref | None = None) -> dict[str, Any]:
    trial = one.trial
    return {
        "ref": str(ref or Ref(name, trial.number)),
        "number": trial.number,
        "state": trial.state.value,
        "reason": one.reason,
        "confirms": trial.confirms,
        "best": trial.best_value,
        "best_step": trial.best_step,
        "last": trial.last_value,
        "steps": max(0, trial.last_step),
        "max_steps": one.recipe_params.get(MAX_STEPS),
        "done": share(one),
        "step_seconds": one.step_seconds,
        "busy_seconds": one.busy_seconds,
        "attempts": trial.attempt,
        "params": trial.params,
        "has_preview": bool(one.previews),
    }


def charted(reader: Reader, name: str, group: str) -> dict[str, Any]:
    """The charts of the trials of a sweep that were measured alike. group: their place among all such groups.

    Raises StudyError.
    """
    record = reader.record(name)
    groups, objective = record.by_protocol, record.ledger.objective
    if not is_number(group) or int(group) >= len(groups):
        raise StudyError(f"{name}: expected the place of a group of trials, got {group} — load the page again.")
    if objective is None:
        return {"charts": []}
    topics = charts_of(f"g{group}", record, groups[int(group)].searching, settings_of(record), objective)
    return {"charts": [vars(chart) for topic in _TOPICS for chart in topics.get(topic, [])]}


def run_values(reader: Reader, ref: Ref) -> dict[str, Any]:
    """Raises StudyError."""
    record, one = found(reader, ref)
    trial, ledger = one.trial, record.ledger
    group = record.group_of(trial.number)
    judged = [] if group is None else group.judged
    return {
        "sweep": summary(ledger.name, record, not ref.run_id and reader.is_interrupted(ref.sweep, record)),
        "is_elsewhere": bool(ref.run_id),
        "run": _row(ref.sweep, one, ref)
        | {
            "place": judged.index(trial.number) + 1 if trial.number in judged else None,
            "judged": len(judged),
            "protocol": one.protocol,
            "words": one.measured,
            "run_id": trial.run_id,
            "opened": one.opened,
            "ended": one.ended,
            "tags": dict(sorted((ledger.tags | one.tags).items())),
        },
        "confirmed": "" if (known := ledger.confirmation_of(trial.number)) is None else known.by_seeds,
        "faults": _faults(one),
        "settings": settings(record, one),
        "metrics": metrics(one),
        "previews": previews(ref, one),
    }


def found(reader: Reader, ref: Ref) -> tuple[SweepRecord, TrialRecord]:
    """A run of this home. Raises StudyError where there is none."""
    if ref.run_id:
        return reader.one_elsewhere(ref.run_id)
    record = reader.record(ref.sweep)
    try:
        return record, record.trial(ref.number)
    except KeyError:
        raise StudyError(
            f"{ref}: expected a trial of {ref.sweep}, got none of this number — choose one of the sweep's page."
        ) from None


def settings(record: SweepRecord, one: TrialRecord) -> list[dict[str, Any]]:
    """Every value of a run's recipe, the searched ones first."""
    values = one.recipe_params or record.ledger.params | one.trial.params
    searched, fixed = set(record.ledger.searched), record.ledger.space.get("fixed", {})
    rows = [
        {"path": path, "value": value, "why": "searched" if path in searched else "fixed" if path in fixed else ""}
        for path, value in values.items()
    ]
    return sorted(rows, key=lambda row: (row["why"] != "searched", row["why"] != "fixed"))


def metrics(one: TrialRecord) -> dict[str, list[list[float]]]:
    """By name: step, value and unix seconds of each report."""
    return {name: [list(point) for point in points] for name, points in sorted(one.metrics.items())}


def previews(ref: Ref, one: TrialRecord) -> list[dict[str, Any]]:
    """The pictures that a run reported, by name and step, and where they are read; none that lies elsewhere."""
    rows = sorted(
        (row for row in one.previews if ".." not in row.path.parts), key=lambda preview: (preview.name, preview.step)
    )
    return [
        {
            "name": row.name,
            "step": row.step,
            "url": "preview?" + urlencode({"run": str(ref), "name": row.name, "step": row.step}),
        }
        for row in rows
    ]


def _faults(one: TrialRecord) -> list[dict[str, Any]]:
    """How its attempts broke, and what was done about it."""
    return [
        {"attempt": fault.attempt, "cause": fault.cause, "action": fault.action, "reason": fault.reason}
        for fault in one.faults
    ]


def preview_file(reader: Reader, ref: Ref, name: str, step: str | None) -> Path:
    """The file of a picture; no step: of the last. Raises StudyError where there is none in the sweep's own folder."""
    _, one = found(reader, ref)
    pictures = [one for one in one.previews if one.name == name and step in (None, str(one.step))]
    if not pictures:
        raise StudyError(f"{ref}: expected a picture {name} at step {step}, got none — choose one of the run's page.")
    path = pictures[-1].path.resolve()
    if not path.is_relative_to(reader.folder(ref.sweep)) or path.suffix.lower() != ".png":
        raise StudyError(f"{ref}: expected a picture beside the journal, got {path.name} — the journal is damaged.")
    return path


def elsewhere_values(reader: Reader) -> dict[str, Any]:
    """The trials of other homes. Raises OutageError."""
    return {"trials": [vars(one) | {"ref": str(Ref("", -1, one.run_id))} for one in reader.elsewhere()]}
