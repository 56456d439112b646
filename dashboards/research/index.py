"""The index of a folder of reports, Markdown: a map of contents, issues and their solutions, targets and results."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from dashboards.pages.markdown import code, link, plain, table
from dashboards.research.conclusions import Conclusions, Target, by_reason, measured_by
from dashboards.research.registered import Registered, registered_tables
from dashboards.research.report import day, point, targets_table
from dashboards.research.texts import Texts
from dashboards.words import trial_name
from sweeps.book.journal import AttemptFailed, State
from sweeps.book.record import Measured, SweepRecord
from sweeps.conclusions.importance import Importance

_WEAKER = "asha"  # ends weak trials as it should: no issue
_REASON = 250  # characters


@dataclass(frozen=True)
class Issue:
    """Something that went wrong in a sweep: what, in how many trials, what was done, and how these trials ended."""

    what: str
    trials: int
    done: str
    ended: str


@dataclass(frozen=True)
class Entry:
    """A line of the map: a sweep, or a report that somebody wrote by hand. Texts from outside are Markdown already."""

    name: str
    date: str
    point: str
    file: str | None = None  # beside the index
    issues: tuple[Issue, ...] = ()
    targets: tuple[Target, ...] = ()
    protocol: tuple[str, str] = ("", "")  # id and words of how the targets were measured
    by: str = ""


def entry_of(record: SweepRecord, file: str | None, told: Texts) -> Entry:
    """The entry of a sweep. file: its report in this folder, if any."""
    found = Conclusions(record, Importance(0))
    alike, best = found.alike, found.best
    by = "" if best is None else f"{plain(record.ledger.name)} {trial_name(best.trial.number)}"
    return Entry(
        plain(record.ledger.name),
        day(record.ledger.opened),
        f"{point(found, told)} · {record.ledger.state}",
        file,
        tuple(_issues(record, told)),
        tuple(found.targets),
        ("", "") if alike is None else _protocol(alike),
        by + (f" ({code(best.trial.run_id)})" if best is not None and best.trial.run_id else ""),
    )


def _protocol(alike: Measured) -> tuple[str, str]:
    """What tells ways of measuring apart: the protocol's id and words; without an id the data, too."""
    tags = alike.trials[0].tags
    data = f"{tags.get('data.name', '')} {tags.get('data.digest', '')[:12]}".strip()
    words = measured_by(alike)
    return alike.protocol or "", f"{words}, data {data}" if data else words


def research_index(
    entries: Iterable[Entry], place: str, date: str, told: Texts, tested: Sequence[Registered], untold: str = ""
) -> str:
    """The index, the newest first. place: whose sweeps these are. tested: registered versions, and untold: why they are
    missing.
    """
    rows = sorted(entries, key=lambda one: (one.date, one.name), reverse=True)
    facts = told("index_facts", home=code(place), date=date, n=told.sweeps(len(rows)))
    titles = [told(key) for key in ("index", "map", "issues", "targets_index")]
    parts = [f"# {titles[0]}", facts, f"## {titles[1]}", _map(rows, told), f"## {titles[2]}", _issue_table(rows, told)]
    parts += [f"## {titles[3]}", *registered_tables(tested, told), *([untold] if untold else []), *_targets(rows, told)]
    return "\n\n".join(parts) + "\n"


def _map(rows: Sequence[Entry], told: Texts) -> str:
    columns = [told(key) for key in ("date", "file", "main_point")]
    return table(columns, [[one.date, _file(one, told), one.point] for one in rows], gap="")


def _file(one: Entry, told: Texts) -> str:
    return link(one.file, quote(one.file)) if one.file else told("no_report", sweep=one.name)


def _issue_table(rows: Sequence[Entry], told: Texts) -> str:
    found = [[one.name, issue.what, str(issue.trials), issue.done, issue.ended] for one in rows for issue in one.issues]
    columns = [told(key) for key in ("sweep", "issue", "how_often", "solution", "outcome")]
    return table(columns, found, numbers=(2,), gap="") if found else told("no_issues")


def _targets(rows: Sequence[Entry], told: Texts) -> Iterable[str]:
    """A table for each way of measuring; in it the best of all sweeps for each target."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for one in rows:
        if one.targets:
            groups.setdefault(one.protocol, []).append(one)
    yield told("targets_rule" if groups else "no_targets")
    for (protocol, words), found in groups.items():
        name = code(protocol) if protocol else told("untold_protocol")
        yield f"### {told('alike', protocol=name, words=code(words, _REASON))}"
        best = [_best([(one.targets[place], one.by) for one in found]) for place in range(len(found[0].targets))]
        yield targets_table(best, told)


def _best(of: Sequence[tuple[Target, str]]) -> tuple[Target, str]:
    measured = [one for one in of if one[0].is_measured]
    if not measured:
        return of[0][0], ""
    most = max if measured[0][0].result.gate.operator.startswith(">") else min
    return most(measured, key=lambda one: one[0].result.value or 0.0)


def _issues(record: SweepRecord, told: Texts) -> Iterable[Issue]:
    ledger = record.ledger
    faults = sorted((fault for one in record.trials for fault in one.faults), key=lambda fault: fault.time)
    groups: dict[tuple[str, str], list[AttemptFailed]] = {}
    for one in faults:
        groups.setdefault((str(one.cause), str(one.action)), []).append(one)
    for (cause, action), broken in groups.items():
        numbers = {one.trial for one in broken}
        what = f"{plain(cause)}: {plain(broken[-1].reason, _REASON)}"
        yield Issue(what, len(numbers), _done(action, told), _ended(record, numbers))
    quiet = [one for one in record.trials if one.trial.number not in {fault.trial for fault in faults}]
    early = [one for one in quiet if one.trial.state in (State.PRUNED, State.FAIL)]
    for rule, trials in by_reason(early).items():
        if rule not in (_WEAKER, State.PRUNED):
            what = plain(trials[0].trial.reason or told("no_reason"), _REASON)
            yield Issue(what, len(trials), _done(rule, told), _ended(record, {one.trial.number for one in trials}))
    if refused := [one for one in ledger.not_run.values() if one.refused]:
        yield Issue(plain(refused[-1].refused, _REASON), len(refused), told("do_refused"), "–")
    if ledger.state in (State.KILLED, State.FAIL):
        killed = {one.trial.number for one in record.trials if one.trial.state == State.KILLED}
        resume = code(f"mouselift sweep resume {shlex.quote(ledger.name)}")
        reason = plain(ledger.reason or told("no_reason"), _REASON)
        yield Issue(reason, len(killed), told("do_resume", command=resume), str(ledger.state))


def _done(what: str, told: Texts) -> str:
    return told(f"do_{what}" if f"do_{what}" in told else "do_nothing")


def _ended(record: SweepRecord, numbers: set[int]) -> str:
    """`3 COMPLETE, 1 FAIL`."""
    states = [str(one.trial.state) for one in record.trials if one.trial.number in numbers]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
