"""Commands about single runs, which are the trials of sweeps: reproduce, diff."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import split_overrides
from pipeline.data.cli import AsJson
from sweeps.cli import terminal
from sweeps.cli.sweep import launch_of
from sweeps.cli.terminal import Name
from sweeps.errors import counted
from sweeps.own_process import exit_code

if TYPE_CHECKING:
    from sweeps.book.ledger import Ledger
    from sweeps.conclusions.two_trials import Check, Figure, Outcome, Side
    from sweeps.preflight.repetition import Before, Original

run = typer.Typer(no_args_is_help=True, help="Single runs: run one again, or see how two differ.")

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="MLflow's id of a trial's run, or SWEEP/NUMBER, such as lr/3.")
]
OtherRun = Annotated[str, typer.Argument(metavar="OTHER", help="Another one.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--set", help="Where a file that its recipe names lies now: train.init_from=PATH. Repeatable."),
]
EXIT_APART, EXIT_UNDECIDED = 1, 3
_REPRODUCES = "reproduces"  # tag of a sweep: the run that it runs again


@run.command("reproduce")
def run_reproduce(
    context: typer.Context,
    wanted: RunName,
    data: Annotated[str | None, typer.Option(help="Dataset folder or registered name, if it lies elsewhere now.")] = (
        None
    ),
    files: Files = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Run a trial again with its own recipe, data and seed, and compare every figure.

    What differs from then is told first, a line each: recipe, code, packages, machine. Other data, weights or prompts
    are refused. On a CPU, with everything else the same, figures are to be the same to the last bit: exit code 0, or 1
    where they are not. Where something else differs, or on a GPU, equal figures are 0, and others 3: no band is
    established, so that they are shown without a verdict.
    """
    from sweeps.preflight import repetition
    from sweeps.tracking.queries import trial_of

    home = terminal.home()
    found = repetition.original(*trial_of(home, wanted))
    root = {} if data is None else {"data.root": str(terminal.dataset(data).resolve())}
    paths = repetition.paths_of(split_overrides(files)) | root
    with launch_of(context) as launch:
        from sweeps.launch import with_registered_start

        space = repetition.space_again(found, paths, home.ray_address is not None)
        space = with_registered_start(space, home).located()
        before = repetition.compared(found, space, home)
        _say_conditions(found.name, before)
        ledger = launch.new(space, name, {_REPRODUCES: found.one.trial.run_id or found.name})
    if ledger.state == "KILLED":
        goes_on = f"mouselift sweep resume {ledger.name}, then mouselift run diff {found.name} {ledger.name}/0"
        typer.echo(f"{ledger.name}: {ledger.reason}; nothing is compared — {goes_on}", err=True)
        raise typer.Exit(exit_code(ledger.reason))
    _compare(found, ledger, before.checks, as_json)


@run.command("diff")
def run_diff(first: RunName, second: OtherRun, as_json: AsJson = False) -> None:
    """Say in what two trials of this home differ: settings, data, code, packages, machine, figures."""
    from sweeps.conclusions import two_trials
    from sweeps.space.words import value as in_words

    sides = _side(first), _side(second)
    found = two_trials.diff(*sides)
    if as_json:
        typer.echo(json.dumps(found))
        return
    names = [side.name for side in sides]
    settings = [[row["path"], *map(in_words, row["values"])] for row in found["settings"]]
    facts = [[row["name"], *map(two_trials.shown, row["values"])] for row in found["facts"]]
    for heading, rows in (("setting", settings), ("fact", facts)):
        if rows:
            terminal.table([heading, *names], rows)
        else:
            typer.echo(f"no {heading} differs", err=True)
    if found["packages"]:
        typer.echo(f"and {counted(len(found['packages']), 'package')} that no figure depends on: --json", err=True)
    if not found["alike"]:
        typer.echo("they were measured in other ways or on other data: their figures are not to be compared", err=True)
    for columns, rows in two_trials.tables(*sides):
        terminal.table(columns, rows)


def _side(text: str) -> Side:
    from sweeps.book.record import record_of
    from sweeps.conclusions.two_trials import Side, recorded
    from sweeps.tracking.queries import trial_of

    journal, number = trial_of(terminal.home(), text)
    record = record_of(journal, time.time())
    return Side(record, record.trial(number), recorded(journal, number))


def _say_conditions(name: str, before: Before) -> None:
    """What is as it was in one line, and what is not in a line each."""
    same = [one.name for one in before.checks if one.is_same]
    versions = [one for one in same if one.startswith("package ")]
    said = [one for one in same if one not in versions]
    if versions:
        said.append(counted(len(versions), "package"))
    typer.echo(f"{name}: as then: {', '.join(said) or 'nothing'}", err=True)
    for one in before.checks:
        if not one.is_same:
            typer.echo(f"{name}: {one.line}", err=True)
    if before.others:
        others = ", ".join(one.name for one in before.others)
        typer.echo(f"{name}: {counted(len(before.others), 'package')} that no figure depends on: {others}", err=True)


def _compare(found: Original, ledger: Ledger, before: list[Check], as_json: bool) -> None:
    """Show the figures of both, and leave with the verdict."""
    from sweeps.book.journal import Journal
    from sweeps.book.record import record_of
    from sweeps.conclusions.two_trials import checks, figures, outcome, recorded

    journal = Journal(terminal.home().journal(ledger.name))
    again = next((one for one in record_of(journal, time.time()).trials if one.metrics), None)
    if again is None:
        typer.echo(f"{ledger.name}: it reported nothing; nothing is compared — `mouselift ui` shows why", err=True)
        raise typer.Exit(EXIT_APART)
    checked = checks(found.then, recorded(journal, 0))
    told = {one.line for one in before}
    for one in checked:
        if not one.is_same and one.line not in told:
            typer.echo(f"{found.name}: {one.line}", err=True)
    compared = figures(found.one, again)
    verdict = outcome(checked, compared)
    if as_json:
        typer.echo(json.dumps(_plain(found, ledger, checked, compared, verdict)))
    else:
        _show(found.name, compared, verdict)
    if verdict.agrees is not True:
        raise typer.Exit(EXIT_APART if verdict.agrees is False else EXIT_UNDECIDED)


def _show(name: str, compared: list[Figure], verdict: Outcome) -> None:
    rows = [
        [
            one.metric,
            "" if one.step is None else str(one.step),
            *("" if value is None else f"{value:.9g}" if one.is_same else repr(value) for value in (one.then, one.now)),
            "0" if one.is_same else f"{one.largest:.3g}",
            f"{one.steps - one.differing} of {one.steps + one.missing}",
        ]
        for one in compared
    ]
    terminal.table(["metric", "step", "then", "now", "largest difference", "steps alike"], rows)
    word = {True: "agrees", False: "does not agree", None: "no verdict"}[verdict.agrees]
    typer.echo(f"{name}: {word}: {verdict.reason}")


def _plain(
    found: Original, ledger: Ledger, checked: list[Check], compared: list[Figure], verdict: Outcome
) -> dict[str, Any]:
    trial = found.one.trial
    again = {"sweep": ledger.name, "trial": 0, "run_id": ledger.trials[0].run_id, "state": ledger.trials[0].state}
    return {
        "sweep": found.sweep.ledger.name,
        "trial": trial.number,
        "run_id": trial.run_id,
        "again": again,
        "checks": [one.as_plain() for one in checked],
        "figures": [asdict(one) | {"same": one.is_same} for one in compared],
        "agrees": verdict.agrees,
        "reason": verdict.reason,
    }
