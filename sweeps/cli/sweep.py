"""Commands that run sweeps: train, sweep run, resume, status, stop, list, gc."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import progress
from pipeline.cli import Overrides, split_overrides
from pipeline.data.cli import AsJson
from pipeline.progress import Tell, duration
from sweeps.cli import terminal
from sweeps.cli.terminal import Data, Name
from sweeps.errors import SpaceError, counted
from sweeps.launch import Audience, Launch
from sweeps.own_process import exit_code

if TYPE_CHECKING:
    from sweeps.book.ledger import Ledger
    from sweeps.book.record import SweepRecord
    from sweeps.home import Home
    from sweeps.preflight.checks import Readiness
    from sweeps.run.driver import Listener
    from sweeps.tracking.queries import Sweep

sweep = typer.Typer(no_args_is_help=True, help="Search a space of recipes.")
SweepName = Annotated[str, typer.Argument(metavar="NAME", help="A sweep of this home.")]
All = Annotated[bool, typer.Option("--all", help="Every trial, not the best twenty alone.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the sweep of that --name, where there is one."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Train every trial, also one whose result another sweep of this home has.")
]
_STOP_SECONDS = 180.0


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    name: Name = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs (default: one, where there is one).")] = None,
    resume: Resume = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Train one recipe: a sweep of one, logged like any other."""
    with launch_of(context) as launch:
        from pipeline.recipes import load_recipe
        from sweeps.space.resources import Resources
        from sweeps.space.space import SearchSpace

        resolved = load_recipe(recipe, split_overrides(overrides) + terminal.root(data))
        standing = load_recipe(recipe).params
        changed = {path: value for path, value in resolved.params.items() if value != standing[path]}
        space = SearchSpace(
            name=resolved.name, recipe=recipe, base=resolved, fixed=changed, trials=Resources(gpus=gpus), fresh=fresh
        )
        ledger = launch.new_or_resumed(space, name) if resume else launch.new(space, name)
    _end(ledger, as_json)


@sweep.command("run")
def sweep_run(
    context: typer.Context,
    space: Annotated[str, typer.Argument(help="A search space's name or YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    name: Name = None,
    resume: Resume = False,
    fresh: Fresh = False,
    like: Annotated[str | None, typer.Option(metavar="SWEEP", help="The same as `warm_start: [SWEEP]`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a search space: Optuna chooses, Ray runs, MLflow shows. `--set` reaches the space's own keys."""
    with launch_of(context) as launch:
        from sweeps.space.space import load_space

        ours = [f"fixed.{item}" for item in terminal.root(data)] + (["fresh=true"] if fresh else [])
        ours += [f"warm_start={json.dumps([like])}"] if like is not None else []
        loaded = load_space(space, split_overrides(overrides) + ours)
        ledger = launch.new_or_resumed(loaded, name) if resume else launch.new(loaded, name)
    _end(ledger, as_json)


@sweep.command("resume")
def sweep_resume(
    context: typer.Context,
    name: SweepName,
    trials: Annotated[int | None, typer.Option(help="Trials in all, if more than at first.")] = None,
    hours: Annotated[float | None, typer.Option(help="Hours in all that it may run: budget.hours.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="GPU-hours in all that its trials may take.")] = None,
    money: Annotated[float | None, typer.Option(help="What its GPU-hours may cost in all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted sweep: the same trials, from their last checkpoints, in the same runs."""
    with launch_of(context) as launch:
        from sweeps.space.budget import Raised

        ledger = launch.resume(name, trials, Raised(hours, gpu_hours, money))
    _end(ledger, as_json)


@sweep.command("status")
def sweep_status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A sweep of this home (default: the latest to change).")] = None,
    every: All = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a sweep is, with its trials, best first. A sweep whose driver died is closed first."""
    from sweeps.book.ledger import ledger_of
    from sweeps.book.remaining import going_on, spending_in_words
    from sweeps.cli.conclusions import show_confirmed
    from sweeps.run.orphans import reap
    from sweeps.tracking import queries

    home = terminal.home()
    name = name or queries.latest(home)  # before dead sweeps are closed
    ledger_of(home, name)  # one that cannot be read is refused before others are looked at
    _Terminal().closed(reap(home, terminal.pages(context)))
    found = queries.status(home, name)
    if as_json:
        typer.echo(json.dumps(found))
        return
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items() if count)
    reason = f" ({terminal.printable(found['reason'])})" if found["reason"] else ""
    left = "" if found["seconds_left"] is None else f"; about {duration(found['seconds_left'])} left, {_eta(found)}"
    typer.echo(f"{found['name']}: {found['state']}{reason}; {counts or 'no trials'}{left}")
    record = _record(home, name)
    if spent := spending_in_words(record.ledger, record.now if found["state"] == "RUNNING" else None):
        typer.echo(f"spent: {spent}")
    if found["best"]:
        best = found["best"]
        typer.echo(f"best: t{best['trial']:04d} {best['metric']} {best['value']:.4g} at step {best['step']}")
    _show_trials(home, record, every)
    show_confirmed(record)
    _show_front(record.ledger)
    _show_taken(record.ledger)
    if found["undelivered"]:
        typer.echo(f"{counted(found['undelivered'], 'event')} not in MLflow yet; the journal keeps them", err=True)
    if found["state"] in ("KILLED", "FAIL", "INTERRUPTED"):  # where no trial waits, a checkpoint may be to be released
        typer.echo(f"go on: {going_on(record.ledger)}", err=True)


@sweep.command("stop")
def sweep_stop(context: typer.Context, name: SweepName) -> None:
    """End a running sweep in good order, wherever its driver runs; `resume` goes on with it."""
    from sweeps.book.journal import Journal
    from sweeps.book.ledger import ledger_of
    from sweeps.run.driver import STOP_FILE
    from sweeps.run.orphans import reap

    home = terminal.home()
    journal = Journal(home.journal(name))
    ledger_of(home, name)
    if not journal.is_being_written:
        _Terminal().closed(reap(home, terminal.pages(context)))
        typer.echo(f"{name}: it is not running", err=True)
        return
    (journal.folder / STOP_FILE).touch()
    deadline = time.monotonic() + _STOP_SECONDS
    with progress.shown() as tell:
        while journal.is_being_written:
            if time.monotonic() > deadline:
                typer.echo(f"{name}: asked to stop, and still running after {_STOP_SECONDS:.0f} s", err=True)
                raise typer.Exit(1)
            tell("stopping", 0, 0)
            time.sleep(0.2)
    typer.echo(f"{name}: {ledger_of(home, name).state}")


@sweep.command("list")
def sweep_list(as_json: AsJson = False) -> None:
    """List the sweeps of this home and of its MLflow, newest first: of those of other homes, what MLflow knows."""
    from sweeps.tracking import listing

    found, troubles = listing.known_sweeps(terminal.home())
    for line in troubles:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(json.dumps([s.as_plain() for s in found]))
        return
    columns = ["sweep", "state", "began", "done", "best", "objective", "data", "recipe", "home"]
    terminal.table_or_blocks(columns, [_row_of(s) for s in found])


@sweep.command("compare")
def sweep_compare(
    name: SweepName,
    metric: Annotated[str | None, typer.Option(help="A metric of validations (default: the objective).")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the runs of a plan tell: what is better, what is worse, and what is not told apart."""
    from sweeps.book.ledger import ledger_of
    from sweeps.cli.conclusions import show_comparisons
    from sweeps.conclusions.comparisons import comparisons_of

    home = terminal.home()
    ledger_of(home, name)
    found = comparisons_of(_record(home, name), metric)
    if found is None:
        raise SpaceError(f"{name}: expected a sweep that follows a plan, got a search — run a space with `plan:`.")
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    show_comparisons(found)


@sweep.command("gc")
def sweep_gc(
    name: Annotated[str | None, typer.Argument(help="One sweep (default: all of this home).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints, but for the sweep's best and the last of each trial that may go on."""
    from sweeps.run.garbage import collect

    found = collect(terminal.home(), name, dry_run)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found]))
        return
    rows = [
        [item.sweep, f"t{item.trial:04d}", str(item.step), f"{item.bytes / 1e6:.1f}", item.reason] for item in found
    ]
    terminal.table(["sweep", "trial", "step", "MB", "why"], rows)
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {sum(item.bytes for item in found) / 1e9:.2f} GB", err=True)


class _Terminal(Audience):
    """What a launch shows on the standard error."""

    def said(self, line: str) -> None:
        terminal.say(line)

    def checking(self) -> AbstractContextManager[Tell]:
        return progress.shown()

    def checked(self, ready: Readiness) -> None:
        for line in ready.notes:
            terminal.say(line)
        terminal.say(f"preflight: {counted(len(ready.rows), 'check')} passed in {ready.seconds:.1f} s")

    def closed(self, lines: list[str]) -> None:
        for line in lines:
            terminal.say(line)

    def running(self, ready: Readiness, earlier: Ledger) -> AbstractContextManager[Listener]:
        from sweeps.cli.progress import Progress, Screen

        return Progress(Screen(), ready.recipe.train.max_steps, earlier).shown()


def launch_of(context: typer.Context) -> Launch:
    """A launch that says in the terminal how it goes."""
    return Launch(terminal.home(), _Terminal(pages=terminal.pages(context)))


def _end(ledger: Ledger, as_json: bool) -> None:
    """Report a sweep; leaves with 130 when it was stopped, and with 1 when a signal ended it otherwise, when no trial
    finished, or when MLflow has nothing of it. The end of its budget is no fault.
    """
    from sweeps.book.ledger import ledger_of
    from sweeps.space.budget import BY_BUDGET

    home = terminal.home()
    _report(ledger, home, as_json)
    if ledger.state == "KILLED" and not ledger.reason.startswith(BY_BUDGET):
        raise typer.Exit(exit_code(ledger.reason))
    untold = ledger_of(home, ledger.name).run_id is None  # the driver's own ledger may be older than the run
    if untold:
        typer.echo(f"MLflow at {home.tracking_uri} has nothing of this sweep", err=True)
    if untold or ledger.state == "FAIL" or not ledger.count("COMPLETE"):
        raise typer.Exit(1)


def _report(ledger: Ledger, home: Home, as_json: bool) -> None:
    from sweeps.book.remaining import going_on
    from sweeps.cli.conclusions import plain, show_comparisons, show_confirmed, show_importance
    from sweeps.conclusions.comparisons import comparisons_of
    from sweeps.conclusions.importance import Importance, importance_of
    from sweeps.tracking import queries

    ended = ledger.searched and ledger.state == "COMPLETE"  # of an interrupted one nobody waits for it
    record = _record(home, ledger.name)
    compared = comparisons_of(record) if ended else None
    importance = importance_of(ledger) if ended and compared is None else Importance(0)
    if as_json:
        status = queries.status(home, ledger.name) | plain(importance)
        typer.echo(json.dumps(status if compared is None else status | {"comparisons": asdict(compared)}))
        return
    _show_trials(home, record, every=False)
    show_confirmed(record)
    _show_taken(ledger)
    if compared is not None:
        show_comparisons(compared)
    elif ended:
        show_importance(importance)
    _show_front(ledger)
    if ledger.best is not None and ledger.best.state == "COMPLETE":
        typer.echo(f"promote the best: mouselift model promote {ledger.name}", err=True)
    if ledger.state != "COMPLETE":
        typer.echo(f"go on: {going_on(ledger)}", err=True)


def _show_front(ledger: Ledger) -> None:
    """The Pareto front of several objectives, and how a trial of it is promoted."""
    from sweeps.cli.conclusions import show_front
    from sweeps.conclusions.pareto import front_of

    front = front_of(ledger)
    if front is None:
        return
    show_front(front)
    if len(front.trials) > 1:
        picks = "knee or a metric" if front.knee is not None else "a metric"
        typer.echo(f"promote another of the front: --pick {picks}, or --trial", err=True)


def _show_taken(ledger: Ledger) -> None:
    """How many trials took the results of other sweeps."""
    from sweeps.reuse.known_results import described

    if said := described(ledger):
        typer.echo(said, err=True)


def _record(home: Home, name: str) -> SweepRecord:
    """What the journal of a sweep says now."""
    from sweeps.book.journal import Journal
    from sweeps.book.record import record_of

    return record_of(Journal(home.journal(name)), time.time())


def _show_trials(home: Home, record: SweepRecord, every: bool) -> None:
    """The leaderboard on the standard output, and where MLflow shows it beside it."""
    from sweeps.cli.leaderboard import ROWS_SHOWN, Leaderboard
    from sweeps.tracking import listing

    place = listing.place_of(home, record.ledger)
    board = Leaderboard(record, None if place is None else place.run, None if every else ROWS_SHOWN)
    if record.trials:
        on = terminal.console()
        on.print(*board.tables(on.width), sep="\n")
    if board.left_out:
        typer.echo(f"and {counted(board.left_out, 'trial')} more: --all", err=True)
    if place is None:
        return
    begin = "" if place.is_up else "mouselift ui, then "
    best = record.ledger.best
    if best is not None and best.run_id is not None:
        typer.echo(f"best trial: {begin}{place.run(best.run_id)}", err=True)
    typer.echo(f"see it: {begin}{place.sweep}", err=True)


def _eta(found: dict[str, Any]) -> str:
    """`until 15:42`, in the time of this machine; where the budget ends first, until then."""
    until = datetime.fromisoformat(found["eta"]).astimezone()
    day = "" if until.date() == datetime.now().date() else f"{until:%Y-%m-%d} "
    return f"until {day}{until:%H:%M}{', when its budget is spent' if found['ends_by_budget'] else ''}"


def _row_of(found: Sweep) -> list[str]:
    best = "" if found.best is None else f"{found.best:.3f}"
    done = "?" if found.done is None else str(found.done)
    planned = "?" if found.planned is None else str(found.planned)
    began = datetime.fromtimestamp(found.began).strftime("%Y-%m-%d %H:%M")
    return [
        found.name, found.state, began, f"{done}/{planned}", best, found.metric, found.data, found.recipe, found.home,
    ]  # fmt: skip
