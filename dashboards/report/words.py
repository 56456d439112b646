"""What a report says in words: the result with its n and spread, and the facts of the sweep."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime

from dashboards.charts.figure import name_of, short
from dashboards.words import duration
from pipeline.errors import counted
from sweeps.book.record import Measured, SweepRecord, TrialRecord
from sweeps.book.remaining import spending_in_words, spent_of
from sweeps.conclusions.importance import Importance
from sweeps.reuse.known_results import described
from sweeps.space import words
from sweeps.space.objective import Objective


def best_of(record: SweepRecord, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The sweep's best where it is among these; else the best of those that finished, else the best so far, within the
    constraints. Trials are ranked.
    """
    best = record.ledger.best
    if best is not None and any(one.trial.number == best.number for one in trials):
        return record.trial(best.number)
    judged = [one for one in trials if one.trial.best_value is not None and not record.ledger.unmet(one.trial)]
    return next((one for one in judged if one.trial.state == "COMPLETE"), next(iter(judged), None))


def result(record: SweepRecord, trials: Sequence[TrialRecord], objective: Objective) -> str:
    """One sentence, or a few short ones: the best value, its trial, how many there were and how far they lie apart."""
    best, n = best_of(record, trials), len(trials)
    if best is None:
        judged = any(one.trial.best_value is not None for one in trials)
        none = "No trial keeps the constraints" if judged else f"No {objective.metric} yet"
        return f"{none}, of {counted(n, 'trial')} ({_states(trials)})."
    so_far = "" if record.ended else " so far"
    said = [
        f"Best {objective.metric}{so_far}: {short(best.trial.best_value)}, {name_of(best)} ({best.trial.state}) at "
        f"step {best.trial.best_step}, of {counted(n, 'trial')} ({_states(trials)})."
    ]
    values = [
        one.trial.best_value for one in trials if one.trial.state == "COMPLETE" and one.trial.best_value is not None
    ]
    if len(values) > 1:
        said.append(
            f"The {len(values)} COMPLETE trials lie between {short(min(values))} and {short(max(values))}, median "
            f"{short(float(statistics.median(values)))}."
        )
    first = trials[0]
    if first is not best:
        said.append(f"{name_of(first)} ({first.trial.state}) had reached {short(first.trial.best_value)}.")
    return " ".join(said)


def _states(trials: Sequence[TrialRecord]) -> str:
    counts: dict[str, int] = {}
    for one in trials:
        counts[str(one.trial.state)] = counts.get(str(one.trial.state), 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def facts(record: SweepRecord) -> list[tuple[str, str]]:
    """Terms and what they are; what is not known is left out."""
    ledger = record.ledger
    worked = sum(one.busy_seconds for one in record.trials)
    begun, tags = sum(one.trial.begun for one in record.trials), ledger.tags
    said = {
        "Trials": f"{begun} begun of {ledger.planned} planned: {_states(record.trials)}" if begun else "none begun",
        "Objective": _plan(record, "objective"),
        "Objectives": _plan(record, "objectives"),
        "Constraints": _plan(record, "constraints"),
        "Data": _words(tags, ("data.name", "data.geometry")),
        "Recipe": ledger.recipe,
        "Plan": _plan(record, "plan"),
        "Tried first": _plan(record, "enqueue"),
        "Confirmed": _plan(record, "confirm"),
        "Sampler": _plan(record, "sampler"),
        "Known before": _known_before(record),
        "Scheduler": _plan(record, "scheduler"),
        "Gates": _plan(record, "gates"),
        "Work": f"{duration(worked)} of trials" + (f", {record.gpu_hours:.3g} GPU-hours" if record.gpu_hours else ""),
        "Spent": spending_in_words(ledger, None if record.ended else record.now) or _sessions(record),
        "Taken": described(ledger),
        "Begun": moment(ledger.opened),
        "Ended": moment(record.ended) if record.ended else f"it runs; read {moment(record.now)}",
        "Code": _words(tags, ("mlflow.source.git.branch", "mlflow.source.git.commit")),
        "MLflow run": ledger.run_id or "",
    }
    return [(term, text) for term, text in said.items() if text]


def _sessions(record: SweepRecord) -> str:
    hours = spent_of(record.ledger, None if record.ended else record.now).hours
    return f"{duration(3600 * hours)} of sessions" if hours else ""


def _plan(record: SweepRecord, key: str) -> str:
    return words.plan(record.ledger.space).get(key, "")


def _known_before(record: SweepRecord) -> str:
    """What the sampler knew of other sweeps."""
    known = record.ledger.past
    return f"{counted(len(known), 'trial')} of {_plan(record, 'warm_start')}" if known else ""


def _words(tags: dict[str, str], keys: Sequence[str]) -> str:
    return " · ".join(tags[key][:12] for key in keys if tags.get(key))


def moment(seconds: float) -> str:
    """A time of unix seconds, as people read it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def told_apart(measured: Sequence[Measured]) -> list[str]:
    """Each protocol by the words in which it differs from the others; by its id where no word does."""
    parts = [one.words.split(", ") for one in measured]
    common = set.intersection(*map(set, parts)) if parts else set()
    own = [", ".join(word for word in words_ if word not in common) for words_ in parts]
    told = [word or one.protocol or "not recorded" for word, one in zip(own, measured, strict=True)]
    return [
        f"{word} ({one.protocol})" if told.count(word) > 1 else word for word, one in zip(told, measured, strict=True)
    ]


def best_settings(record: SweepRecord, trials: Sequence[TrialRecord]) -> list[tuple[str, str, str, str]]:
    """Path, the best trial's value, the recipe's own and what was searched, of each searched setting."""
    best = best_of(record, trials)
    if best is None:
        return []
    searched, own = words.searched(record.ledger.space), record.ledger.params
    return [
        (
            path,
            short(best.trial.params[path]) if path in best.trial.params else "not used",
            short(own[path]) if path in own else "–",
            searched.get(path, ""),
        )
        for path in record.ledger.searched
    ]


def told(found: Importance | None, protocols: int) -> list[str]:
    """What is known of the importance, by how many trials, and how far to believe it. protocols: of the sweep."""
    if found is None:
        return []
    if not found.shares:
        return [f"Not told: {found.note}."]
    shown = [path for path in found.shares if found.is_told(path)]
    hidden = [path for path in found.shares if not found.is_told(path)]
    shares = [
        f"{path} {found.shares[path]:.0%} ({low:.0%} to {high:.0%})"
        for path in shown
        for low, high in [found.spread[path]]
    ]
    said = [f"It mattered: {', '.join(shares)}." if shown else "No setting was shown to matter."]
    if hidden:
        said.append(f"Not told from chance: {', '.join(hidden)}.")
    said.append(
        f"Shares of the objective's variance by fANOVA, over {counted(found.trials, 'trial')} at step {found.step}, "
        "COMPLETE and PRUNED. The line on a bar goes from the 5th to the 95th percentile over the trees; the grey band "
        "is what a setting without effect gets by chance."
    )
    said += [f"{path} is judged by the {n} trials that have it." for path, n in found.partial.items()]
    if protocols > 1:
        said.append("All protocols are counted together here, so a setting that changes the protocol may look strong.")
    return [*said, found.note] if found.note else said
