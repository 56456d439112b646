"""The description of a sweep, Markdown, as MLflow shows it on the page of the sweep's own run.

Conclusions first. Every number is the ledger's, and says of how many it is; what does not fit is named.
"""

from __future__ import annotations

import re
import shlex
import statistics
import string
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from dashboards.pages.markdown import code, fence, link, plain, table
from dashboards.pages.note_parts import (
    BESIDE,
    NAMES,
    Section,
    checkout,
    faults_of,
    fitted,
    names,
    of_steps,
    run,
    settings,
)
from dashboards.words import NONE, duration, figure, trial_name
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import Measured, SweepRecord, TrialRecord
from sweeps.book.remaining import going_on, spending_in_words, spent_of
from sweeps.conclusions.comparisons import comparisons_of, sentence
from sweeps.conclusions.confirmations import sentences
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.conclusions.pareto import front_of
from sweeps.errors import counted
from sweeps.reuse.known_results import described
from sweeps.space import words
from sweeps.tracking.mlflow_layout import view_key
from sweeps.tracking.pages import Links
from sweeps.tracking.splats import SPLAT

ROWS = (10, 5, 3)  # of the leaderboard: the first number for which there is room
FRONT_ROWS = 12  # of the Pareto front
_REASONS, _SETTINGS = 8, 12  # shown at most
_WHY = 400  # characters of a note on importance, and of a comparison
_FIGURE = re.compile(r"-?\d+\.\d+(e[-+]?\d+)?")


def sweep_note(record: SweepRecord, links: Links, importance: Importance | None = None) -> str:
    """The sweep: result, question, data and protocol, leaderboard, what mattered, what ended early, what to do next.

    importance: of what it searched, where it is known already; it is told of a sweep that has ended.
    """
    return fitted(
        [
            Section("", _result(record, links)),
            Section("", _links(record, links)),
            Section("Question", _question(record.ledger), urgency=3),
            Section("Data and protocol", _measured(record), urgency=2),
            Section("Leaderboard", *(_leaderboard(record, links, rows) for rows in ROWS), urgency=1),
            Section("Pareto front", _front(record, links), urgency=1),
            Section("Confirmed with other seeds", _confirmed(record, links), urgency=1),
            Section("What the plan tells", _compared(record), urgency=1),
            Section("What mattered", _mattered(record, importance), urgency=4),
            Section("Ended early", _ended_early(record, links), urgency=5),
            Section("Faults survived", faults_of(record.trials, links), urgency=6),
            Section("Time and cost", _spent(record), urgency=3),
            Section("Go on", _go_on(record)),
        ]
    )


# ---------------------------------------------------------------- result


def _result(record: SweepRecord, links: Links) -> str:
    ledger = record.ledger
    states = Counter(str(trial.state) for trial in ledger.trials.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    trials = f"{len(ledger.trials)} of {counted(ledger.planned, 'trial')}{': ' + counts if counts else ''}"
    reason = f" ({plain(ledger.reason)})" if ledger.reason else ""
    head = f"**{ledger.state}**{reason}{_as_of(record)}, {trials}."
    best = ledger.best
    if best is None or best.best_value is None or ledger.objective is None:
        none = "No trial keeps the constraints" if ledger.is_judged else "No trial has reported the objective yet"
        return f"{head} {none}."
    one, so_far = record.trial(best.number), "" if record.ended is not None else " so far"
    said = (
        f"**Best{so_far}: {run(one, links)} with {code(ledger.objective.metric)} {figure(best.best_value)} at step "
        f"{best.best_step}**{of_steps(one)}"
    )
    alike = record.group_of(best.number)
    if alike is None:
        return f"{head} {said}."
    said = f"{said}; n = {_judged(record, alike)}."
    more = [_spread(ledger, alike), _stronger(record, alike, links), _one_seed(record)]
    return " ".join(filter(None, [head, said, *more]))


def _as_of(record: SweepRecord) -> str:
    return "" if record.ended is not None else f" as of {datetime.fromtimestamp(record.now, UTC):%Y-%m-%d %H:%M} UTC"


def _judged(record: SweepRecord, alike: Measured) -> str:
    way = " and were measured as it was" if len(record.by_protocol) > 1 else ""
    return f"{counted(len(alike.judged), 'trial')} that reported it{way}"


def _spread(ledger: Ledger, group: Measured) -> str:
    """Of those that came to their end within the constraints."""
    ended = [one.trial for one in group.searching if one.trial.state == State.COMPLETE]
    values = [trial.best_value for trial in ended if trial.best_value is not None and not ledger.unmet(trial)]
    if len(values) < 2:
        return ""
    low, middle, high = map(figure, (min(values), statistics.median(values), max(values)))
    within = " within the constraints" if ledger.is_bounded else ""
    return f"The {len(values)} of these that are COMPLETE{within} span {low} … {high}, median {middle}."


def _stronger(record: SweepRecord, alike: Measured, links: Links) -> str:
    """A trial that did not come to its end, and reached more than the best that did; both were measured alike."""
    first, best = alike.searching[0].trial, record.ledger.best
    if best is None or first.number == best.number or first.state == State.COMPLETE:
        return ""
    return (
        f"{run(alike.searching[0], links)} reached {figure(first.best_value)} at step {first.best_step} and is "
        f"{first.state}: the best is chosen among COMPLETE trials."
    )


def _one_seed(record: SweepRecord) -> str:
    if "train.seed" in record.ledger.searched:
        return ""
    if said := sentences(record):
        return plain(said[0], _WHY)
    return "Every trial ran once, with the same seed: how far a repeat would differ is not known."


def _links(record: SweepRecord, links: Links) -> str:
    ledger = record.ledger
    found = [link("Table and charts of its trials", links.sweep(view_key(ledger.name)))]
    if ledger.run_id is not None:
        files = {"config/recipe.yaml": "base recipe", "config/space.yaml": "space", "lineage.json": "lineage"}
        if record.ended is not None:
            found.append(link("report", links.artifact(ledger.run_id, "report.html")))
        found += _gaussians_of_the_best(record, links)
        found += [link(name, links.artifact(ledger.run_id, path)) for path, name in files.items()]
    return " · ".join(found)


def _gaussians_of_the_best(record: SweepRecord, links: Links) -> list[str]:
    best = record.ledger.best
    if best is None or best.run_id is None or best.gaussians is None:
        return []
    return [link("Gaussians of the best, to orbit", links.artifact(best.run_id, SPLAT))]


# ---------------------------------------------------------------- what was asked, and how it was measured


def _question(ledger: Ledger) -> str:
    objective, searched = ledger.objective, words.searched(ledger.space)
    best = ""
    if objective is not None:
        best = f" for the {'highest' if objective.mode == 'max' else 'lowest'} {code(objective.metric)}"
    lines = [f"Recipe {code(ledger.recipe)}: which of these settings are best{best}?", ""]
    lines += [f"- {code(path)}: {plain(text)}" for path, text in list(searched.items())[:_SETTINGS]]
    if len(searched) > _SETTINGS:
        lines.append(f"- and {len(searched) - _SETTINGS} more, in config/space.yaml")
    how = [f"{key} {plain(text)}" for key, text in words.plan(ledger.space).items() if key != "objective"]
    same = [f"{code(path)} {plain(text)}" for path, text in words.fixed(ledger.space).items() if path != "data.root"]
    lines += ["", f"How: {'; '.join(how)}."] if how else []
    lines += ["", f"The same for all: {', '.join(same[:_SETTINGS])}."] if same else []
    return "\n".join(lines)


def _measured(record: SweepRecord) -> str:
    tags, groups = record.ledger.tags, _ways(record)
    name, verdict = tags.get("data.name"), tags.get("data.geometry")
    rests = f", by {plain(tags['data.geometry.rests_on'])}" if "data.geometry.rests_on" in tags else ""
    cameras = f"cameras **{plain(verdict)}**{rests}" if verdict else "no verdict on its cameras is known"
    lines = ["Data differ by trial." if name is None else f"{code(name)}: {cameras}.", ""]
    if len(groups) == 1:
        lines.append(f"Measured by {_protocol(groups[0][1])}.")
    if len(groups) > 1:
        lines += [
            f"Its trials were measured in {len(groups)} ways. Figures share a table only within one; the sampler, the "
            "scheduler and the choice of the best compared them all.",
            "",
            *(f"- **{way}**: {_protocol(one)}, {counted(len(one.trials), 'trial')}" for way, one in groups[:NAMES]),
        ]
    if len(groups) > NAMES:
        lines.append(f"- and {len(groups) - NAMES} ways more")
    return "\n".join(lines)


def _ways(record: SweepRecord) -> list[tuple[str, Measured]]:
    """Each group of trials that were measured alike, named by a letter, or by two."""
    letters = string.ascii_uppercase
    known = [*letters, *(first + second for first in letters for second in letters)]
    return list(zip(known, record.by_protocol, strict=False))


def _protocol(group: Measured) -> str:
    named = f"protocol {code(group.protocol)}" if group.protocol else "a protocol whose id was not told"
    return f"{named}{' (' + plain(group.words, 200) + ')' if group.words else ''}"


# ---------------------------------------------------------------- what came of it


def _leaderboard(record: SweepRecord, links: Links, rows: int) -> str:
    """The first of all trials, apart by protocol."""
    search = [one for one in record.ranked if one.trial.confirms is None]
    first = {one.trial.number for one in search[:rows] if one.trial.best_value is not None}
    if not first or record.ledger.objective is None:
        return ""
    parts = []
    for way, group in _ways(record):
        shown = [one for one in group.trials if one.trial.number in first]
        if shown and len(record.by_protocol) > 1:
            parts.append(f"**{way}**, n = {counted(len(group.trials), 'trial')}:")
        if shown:
            parts.append(_board(record.ledger.objective.metric, shown, links))
    left = len(search) - len(first)
    if left:
        parts.append(f"{counted(left, 'trial')} more in the table of trials.")
    return "\n\n".join(parts)


def _board(metric: str, shown: Sequence[TrialRecord], links: Links) -> str:
    beside = [name for name in BESIDE if name != metric and any(name in one.metrics for one in shown)]
    columns = ["place", "trial", "state", code(metric), "at step", *map(code, beside), "settings"]
    rows = [
        [str(place), run(one, links), str(one.trial.state), figure(one.trial.best_value), f"{one.trial.best_step}"]
        + [figure(one.at(name, one.trial.best_step)) for name in beside]
        + [plain(settings(one.trial.params), 200)]
        for place, one in enumerate(shown, 1)
    ]
    return table(columns, rows, numbers=range(3, 5 + len(beside)))


def _front(record: SweepRecord, links: Links) -> str:
    """The trials between which several objectives leave the choice; nothing of a sweep with one."""
    found = front_of(record.ledger)
    if found is None:
        return ""
    columns = ["trial", *(code(one.metric) for one in found.objectives), "at step", "", "settings"]
    rows = [
        [
            run(record.trial(trial.number), links),
            *map(figure, found.values(trial)),
            f"{trial.best_step}",
            "**knee**" if trial.number == found.knee else "",
            plain(settings(trial.params), 200),
        ]
        for trial in found.trials[:FRONT_ROWS]
    ]
    more = len(found.trials) - len(rows)
    said = table(columns, rows, numbers=range(1, 2 + len(found.objectives))) if rows else ""
    notes = [*([f"{counted(more, 'trial')} more on the front."] if more else []), *map(plain, found.notes)]
    return "\n\n".join(filter(None, [said, " ".join(notes)]))


def _confirmed(record: SweepRecord, links: Links) -> str:
    """What the best reached with other seeds, beside what they reached in the search."""
    found = record.ledger.confirmed
    if not found or record.ledger.objective is None:
        return ""
    metric = code(record.ledger.objective.metric)
    columns = ["trial", "place in the search", f"{metric} there", "mean with other seeds", "least to most", "seeds"]
    rows = [
        [
            run(record.trial(one.trial), links),
            str(one.place),
            figure(one.found),
            figure(one.mean),
            f"{figure(min(one.values))} to {figure(max(one.values))}" if len(one.values) > 1 else NONE,
            f"{len(one.values)} of {one.seeds}",
        ]
        for one in found
    ]
    rest = sentences(record)[1:]  # the first one is said with the result
    return "\n\n".join([table(columns, rows, numbers=(1, 2, 3, 4, 5)), *(plain(line, _WHY) for line in rest)])


def _compared(record: SweepRecord) -> str:
    """A sentence for each comparison of a plan, and by which rule; nothing of another sweep."""
    found = comparisons_of(record)
    if found is None:
        return ""
    lines = [f"- {plain(sentence(one, found.metric), _WHY)}" for one in found.comparisons]
    return "\n".join([*lines, "", plain(f"Step {found.step}. {found.rule}", _WHY), *map(plain, found.notes)])


def _mattered(record: SweepRecord, known: Importance | None) -> str:
    """Settings that were shown to matter, and those that were not, beside what chance gives; not of a plan."""
    if words.follows_plan(record.ledger.space):
        return ""
    if record.ended is None:
        return "Told when the sweep has ended."
    found = known or importance_of(record.ledger)
    lines = []
    if found.shares:
        lines += [
            f"Share of the objective's variance that a setting decides by itself, at step {found.step}, of n = "
            f"{counted(found.trials, 'trial')}; 5th to 95th percentile over the trees of fANOVA:",
            "",
        ]
    for path, share in found.shares.items():
        (low, high), chance = found.spread[path], found.chance[path][1]
        verdict = "matters" if found.is_told(path) else "not shown to matter"
        some = f", of the {found.partial[path]} that have it" if path in found.partial else ""
        figures = f"{share:.0%} ({low:.0%} … {high:.0%}){some}; chance alone gives up to {chance:.0%}"
        lines.append(f"- {code(path)} **{verdict}**: {figures}")
    if found.shares and len(record.by_protocol) > 1:
        lines += ["", "The trials were not measured alike: part of a share may be the measure's."]
    lines += ["", plain(found.note, _WHY)] if found.note else []
    return "\n".join(lines).strip()


def _ended_early(record: SweepRecord, links: Links) -> str:
    """Reasons with their figures taken out, so that equal ones can be counted."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for one in record.trials:
        if one.trial.state in (State.PRUNED, State.FAIL, State.KILLED):
            reason = _FIGURE.sub("…", one.trial.reason) or "no reason was given"
            groups.setdefault((str(one.trial.state), reason), []).append(one)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    lines = [
        f"- {len(found)} {state}: {plain(reason, 200)} ({names(found, links)})"
        for (state, reason), found in ordered[:_REASONS]
    ]
    if len(ordered) > _REASONS:
        rest = sum(len(found) for _, found in ordered[_REASONS:])
        lines.append(f"- and {counted(rest, 'trial')} for {len(ordered) - _REASONS} other reasons")
    return "\n".join(lines)


def _spent(record: SweepRecord) -> str:
    """Hours of its sessions and of its trials, what its budget says of them, and what other sweeps paid for."""
    spent = spent_of(record.ledger, None if record.ended is not None else record.now)
    trials = duration(sum(one.busy_seconds for one in record.trials))
    said = f"{duration(3600 * spent.hours)} of sessions, {trials} of {counted(len(record.trials), 'trial')}"
    said += f", {figure(spent.gpu_hours)} GPU-hours" if spent.gpu_hours else ""
    budget = spending_in_words(record.ledger, None if record.ended is not None else record.now)
    others = described(record.ledger)
    return f"{said}.{f' Of its budget: {budget}.' if budget else ''}{f' {plain(others)}.' if others else ''}"


def _go_on(record: SweepRecord) -> str:
    ledger = record.ledger
    name, best = shlex.quote(ledger.name), ledger.best
    lines = [f"mouselift sweep status {name}"]
    if ledger.state == State.COMPLETE and not words.follows_plan(ledger.space):
        lines.append(f"mouselift sweep resume {name} --trials {2 * ledger.asked}   # more trials, in the same study")
    if ledger.state == State.COMPLETE and best is not None:
        lines.append(f"mouselift model promote {name}   # scored afresh, registered; champion if it earns that")
    if ledger.state != State.COMPLETE and record.ended is not None:
        lines.append(f"{going_on(ledger)}   # the same trials, from their last checkpoints")
    again = [*checkout(ledger), f"mouselift sweep run space.yaml --name {shlex.quote(ledger.name + '-again')}"]
    if best is not None:
        again.append(f"mouselift fit recipe.yaml --out {trial_name(best.number)}   # config/recipe.yaml of its run")
    return "\n\n".join([fence(lines), "The same again, with `config/space.yaml` of this run:", fence(again)])
