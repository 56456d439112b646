"""Taking up a sweep again, with the space and recipe that it had when it began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipeline.config import flatten
from pipeline.recipe import LOCAL_PATHS
from pipeline.recipes import FOLDER, renamed
from sweeps.book.journal import Journal, State
from sweeps.book.ledger import Ledger, ledger_of, read
from sweeps.book.remaining import held_back, lacking, raising
from sweeps.book.study import began_with
from sweeps.errors import StudyError, counted
from sweeps.home import Home
from sweeps.reuse.known_results import ARTEFACT, DATA
from sweeps.space.budget import Raised
from sweeps.space.space import SearchSpace

_GPUS = "trials.gpus"
_SHOWN = 3  # differences, of many


def resumable(home: Home, name: str, count: int | None = None, raised: Raised | None = None) -> SearchSpace:
    """The space of a sweep that has not come to its end, with the recipe's values from when it began.

    count: the trials it should have in all, if more than at first. raised: what it may spend in all, if more. Raises
    StudyError: no such sweep, one that runs, nothing left to do, or a budget that holds no further trial.
    """
    journal = Journal(home.journal(name))
    ledger = ledger_of(home, name)
    if journal.is_being_written:
        raise StudyError(
            f"{name}: expected a sweep that is not running, got one that is — `mouselift sweep stop {name}` first."
        )
    space = began_with(ledger)
    if count is not None and space.plan.is_made:
        raise StudyError(f"{name}: expected a search, got a plan, which says what is run — leave --trials out.")
    if count is not None:
        if count < space.trials.count:
            raise StudyError(
                f"{name}: expected at least its {counted(space.trials.count, 'trial')}, got {count} — raise --trials."
            )
        space = replace(space, trials=replace(space.trials, count=count))
    if ledger.state == State.COMPLETE and space.trials.count <= ledger.asked:
        ended = "its one ended" if ledger.planned == 1 else f"all {ledger.planned} ended"
        raise StudyError(
            f"{name}: expected a sweep with trials left, but {ended} — ask for more with --trials, or promote its best."
        )
    space = replace(space, budget=space.budget.raised(name, raised or Raised()))
    then = replace(ledger, space=space.as_plain(), asked=space.trials.count)
    if (short := held_back(then)) is not None:
        raise StudyError(
            f"{name}: expected room for another trial, got {lacking(then, short)} — `{raising(then)}` goes on with it."
        )
    return space


def steps_so_far(ledger: Ledger) -> dict[str, int]:
    """The last step of each trial that is to go on."""
    going = [trial for trial in ledger.trials.values() if not trial.state.is_final]
    return {f"t{t.number:04d}": t.last_step for t in going if 0 < t.last_step < ledger.params["train.max_steps"]}


def check_same_files(ledger: Ledger, tags: Mapping[str, str]) -> None:
    """Raises StudyError when the dataset, or weights or prompts that the recipe names, are no longer those that the
    sweep began with: later trials would not be comparable to earlier ones.
    """
    names = {DATA: "dataset"} | {tag: tag.removeprefix(ARTEFACT) for tag in ledger.tags if tag.startswith(ARTEFACT)}
    for tag, name in names.items():
        then, now = ledger.tags.get(tag), tags.get(tag)
        if then != now:
            raise StudyError(
                f"{ledger.name}: expected {name} {str(then)[:12]}, with which it began, got {str(now)[:12]} — "
                f"bring {'that dataset' if tag == DATA else 'that content'} back, or start a sweep under a new name."
            )


def check_is_new(home: Home, name: str, space: SearchSpace) -> None:
    """Raises StudyError for a name that a sweep has. The message says how far it is, and how its space differs."""
    journal = Journal(home.journal(name))
    ledger = read(journal)
    if not ledger.name:
        return
    ended = len(ledger.trials) - len(ledger.open) - ledger.count(State.KILLED)
    state = "running" if journal.is_being_written else f"{ended} of {counted(ledger.planned, 'trial')} ended"
    got = f"got that of a sweep ({state})"
    differences = list(_differences(ledger, space))
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        got += f" of another space: {'; '.join(differences[:_SHOWN])}{more}"
    mend = "choose another with --name."
    if ledger.state != State.COMPLETE:
        mend = f"`mouselift sweep resume {name}` goes on with it, another --name starts anew."
    raise StudyError(f"{name}: expected a new name, {got} — {mend}")


def begun(home: Home, name: str, space: SearchSpace) -> Ledger | None:
    """How far a sweep of this name is, or None where there is none. Raises StudyError for one of another space."""
    ledger = read(Journal(home.journal(name)))
    if ledger.name and any(_differences(ledger, space)):
        check_is_new(home, name, space)
    return ledger if ledger.name else None


def _differences(ledger: Ledger, space: SearchSpace) -> Iterator[str]:
    """The values in which two spaces differ, as `path: then -> now`. A setting that the project did not have when the
    sweep began has its default then.

    Raises StudyError where this version of the project does not know a setting of the sweep.
    """
    began = began_with(ledger)
    then = flatten(began.as_plain() | {"fixed": {}, "recipe": began.base.params})
    now = flatten(space.as_plain() | {"fixed": {}, "recipe": space.base.params})
    for path in sorted(then.keys() | now.keys()):
        setting = path.removeprefix("recipe.")
        undecided = path == _GPUS and now.get(path) is None  # the machine decides, and did so when the sweep began
        whom_and_how_much = path == "notify" or path.startswith("budget.")  # a raised budget is the journal's
        unasked = undecided or whom_and_how_much or setting in LOCAL_PATHS or _came_later(path, ledger, space)
        if then.get(path) != now.get(path) and not unasked:
            yield f"{setting}: {_shown(then.get(path))} -> {_shown(now.get(path))}"


def _came_later(path: str, ledger: Ledger, space: SearchSpace) -> bool:
    """Whether a setting of recipes, since the sweep began, came into one of the project's own, without a word of the
    user's: the sweep goes on without it.
    """
    setting = path.removeprefix("recipe.")
    known = renamed.SINCE if setting == renamed.NEW else setting
    of_project = space.recipe == ledger.recipe and (FOLDER / f"{space.recipe}.yaml").is_file()
    written = setting in {**ledger.space["fixed"], **space.fixed}
    return path != setting and of_project and known not in ledger.params and not written


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)
