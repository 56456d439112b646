"""The description of a trial, Markdown, as MLflow shows it on the page of its run."""

from __future__ import annotations

from dashboards.pages.markdown import code, fence, link, plain, table
from dashboards.pages.note_parts import BESIDE, Section, checkout, faults_of, fitted, of_steps, run
from dashboards.words import duration, figure, setting, trial_name
from sweeps.book.ledger import Ledger
from sweeps.book.record import SweepRecord, TrialRecord
from sweeps.book.remaining import cost_of_trial
from sweeps.errors import counted
from sweeps.space.plan import SEED
from sweeps.tracking.mlflow_layout import view_key
from sweeps.tracking.pages import Links
from sweeps.tracking.splats import SPLAT

_SETTINGS = 24  # shown at most
_WHY = 400  # characters of a reason


def trial_note(record: SweepRecord, number: int, links: Links) -> str:
    """A trial: what came of it and its place, what it tried, how it was measured, where its files are."""
    one = record.trial(number)
    return fitted(
        [
            Section("", _outcome(record, one, links)),
            Section("", _links(record, one, links)),
            Section("Tried", _tried(record.ledger, one), urgency=2),
            Section("Figures", _figures(record.ledger, one), urgency=1),
            Section("Faults survived", faults_of([one], links), urgency=3),
            Section("Again", _again(record.ledger, one)),
        ]
    )


def _outcome(record: SweepRecord, one: TrialRecord, links: Links) -> str:
    trial, objective = one.trial, record.ledger.objective
    reason = f": {plain(one.reason, _WHY)}" if one.reason else ""
    head = f"**{trial.state}**{reason}."
    if objective is None or trial.best_value is None:
        reported = objective is not None and trial.last_value is not None
        return f"{head} It has reported no {'finite value of the ' if reported else ''}objective."
    best = f"**{code(objective.metric)} {figure(trial.best_value)} at step {trial.best_step}**{of_steps(one)}"
    last = one.metrics[objective.metric][-1]
    return f"{head} {best}, last {figure(last.value)} at step {last.step}. {_place(record, one, links)}"


def _place(record: SweepRecord, one: TrialRecord, links: Links) -> str:
    """Among those that were measured as it was; of one that confirms another, which, and what came of that."""
    if one.trial.confirms is not None:
        return _confirms(record, one, links)
    so_far = "" if record.ended is not None else " so far"
    group = record.group_of(one.trial.number)
    judged = [] if group is None else group.judged
    among = f"{counted(len(judged), 'trial')}{' that were measured as it was' if len(record.by_protocol) > 1 else ''}"
    said = f"By its best value it has place {judged.index(one.trial.number) + 1} of {among}{so_far}."
    if (confirmed := record.ledger.confirmation_of(one.trial.number)) is not None:
        said += f" With other seeds it has {plain(confirmed.by_seeds)}."
    best = record.ledger.best
    if best is None or best.number == one.trial.number:
        return f"{said} It is the sweep's best{so_far}."
    value = f"with {figure(best.best_value)}" if best.number in judged else "and was measured differently"
    return f"{said} The sweep's best{so_far} is {run(record.trial(best.number), links)} {value}."


def _confirms(record: SweepRecord, one: TrialRecord, links: Links) -> str:
    confirmed, seed = record.trial(one.trial.confirms or 0), one.trial.params[SEED]
    found = record.ledger.confirmation_of(confirmed.trial.number)
    said = f"It confirms {run(confirmed, links)} with seed {seed}, and has no place of its own"
    return f"{said}: {plain(str(found))}." if found is not None else f"{said}."


def _links(record: SweepRecord, one: TrialRecord, links: Links) -> str:
    ledger, run_id = record.ledger, one.trial.run_id
    found = [link("table and charts of all trials", links.sweep(view_key(ledger.name)))]
    if ledger.run_id is not None:
        found.insert(0, f"Sweep {link(ledger.name, links.run(ledger.run_id))}")
        if record.ended is not None:
            found.append(link("report", links.artifact(ledger.run_id, "report.html")))
    if run_id is not None:
        found.append(link("recipe", links.artifact(run_id, "config/recipe.yaml")))
        if one.trial.released is not None:
            found.append(link("checkpoint", links.artifact(run_id, "checkpoint")))
        if one.trial.gaussians is not None:
            found.append(link("its Gaussians, to orbit", links.artifact(run_id, SPLAT)))
    return " · ".join(found)


def _tried(ledger: Ledger, one: TrialRecord) -> str:
    """What the sampler chose, and what else differs from the base recipe."""
    differ = {path: value for path, value in one.recipe_params.items() if ledger.params.get(path, value) != value}
    tried = {**one.trial.params, **{path: value for path, value in differ.items() if path not in one.trial.params}}
    if not tried:
        return "The base recipe as it is."
    base = {path: code(setting(value)) for path, value in ledger.params.items()}
    rows = [[code(path), code(setting(value)), base.get(path, "–")] for path, value in list(tried.items())[:_SETTINGS]]
    shown = table(["setting", "this trial", "base recipe"], rows, numbers=(1, 2))
    left = len(tried) - len(rows)
    return f"{shown}\n\n{counted(left, 'setting')} more in config/recipe.yaml." if left else shown


def _figures(ledger: Ledger, one: TrialRecord) -> str:
    objective, best_step = ledger.objective, one.trial.best_step
    first = () if objective is None else (objective.metric,)
    known = [name for name in dict.fromkeys((*first, *BESIDE, "train/loss")) if name in one.metrics]
    parts = []
    if known and best_step is not None:
        rows = [[code(name), figure(one.at(name, best_step)), figure(one.last(name))] for name in known]
        parts.append(table(["metric", f"at step {best_step}", "last"], rows, numbers=(1, 2)))
        protocol = f"Protocol {code(one.protocol)}" if one.protocol else "A protocol whose id was not told"
        parts.append(f"{protocol}{': ' + plain(one.measured, 200) if one.measured else ''}. Means over these scenes.")
    return "\n\n".join([*parts, *_time(ledger, one)])


def _time(ledger: Ledger, one: TrialRecord) -> list[str]:
    known = [f"{duration(one.busy_seconds)} of training and validation"] if one.busy_seconds else []
    known += [f"{one.step_seconds:.3g} s a step (median of its reports)"] if one.step_seconds is not None else []
    known += [f"{one.gpus * one.busy_seconds / 3600:.2g} GPU-hours"] if one.gpus else []
    cost = cost_of_trial(ledger, one.busy_seconds)
    known += [f"cost {figure(cost)}"] if cost is not None else []
    known += [counted(one.trial.attempt, "attempt")] if one.trial.attempt > 1 else []
    said = [f"{', '.join(known)}."] if known else []
    if one.trial.steps_elsewhere:
        origin = code(one.trial.continued_from)
        said.append(f"Its first {one.trial.steps_elsewhere} steps are those of {origin}, an attempt that cost nothing.")
    return said


def _again(ledger: Ledger, one: TrialRecord) -> str:
    if not one.recipe_params:
        return ""
    command = f"mouselift fit recipe.yaml --out {trial_name(one.trial.number)}   # config/recipe.yaml of this run"
    return fence([*checkout(ledger), command])
