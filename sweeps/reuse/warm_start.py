"""What a sweep knows before its first trial: finished trials of other sweeps of the home, for its sampler alone.

They are no trials of the sweep. They are written into its journal when it opens, so that neither a resumed driver nor
anybody else needs the sweeps that they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.recipe import LOCAL_PATHS
from sweeps.book.journal import Journal, PastTrial, State
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.book.record import MEASURE, SweepRecord, TrialRecord, record_of
from sweeps.book.study import learnt_from
from sweeps.errors import StudyError, counted
from sweeps.home import Home
from sweeps.reuse.known_results import DATA
from sweeps.space.distributions import FloatRange, Scalar, is_searched
from sweeps.space.space import SearchSpace

FIGURES = "eval.definitions"  # the tag of a sweep with the number of the definitions of its figures
_SHOWN = 3  # settings in which recipes differ, of many


def require_alike(home: Home, space: SearchSpace) -> None:
    """Raises StudyError for a sweep to learn from that is not there, or whose objective or way to measure is another.

    Its data are compared by `past_of`, once those of the new sweep are known.
    """
    for name in space.warm_start:
        _refuse(name, _differences(ledger_of(home, name), space, {}))


def past_of(home: Home, space: SearchSpace, tags: Mapping[str, str]) -> tuple[tuple[PastTrial, ...], list[str]]:
    """The trials that a new sweep learns from, and what is to be said of them. tags: of the new sweep.

    Raises StudyError as `require_alike`, and where data or protocols differ, or no trial is of the space.
    """
    found: dict[str, PastTrial] = {}
    said, protocols = [], dict[str, tuple[str, str]]()
    for name in space.warm_start:
        record = record_of(Journal(home.journal(name)), 0.0)
        _refuse(name, _differences(ledger_of(home, name), space, tags))
        ended = [one for one in record.trials if one.trial.state in (State.COMPLETE, State.PRUNED) and one.trial.curve]
        fitting = {one.trial.number: params for one in ended if (params := _fitted(one, space)) is not None}
        if not fitting:
            raise StudyError(
                f"{name}: expected finished trials with settings of this space to learn from, got none of "
                f"{len(ended)} — widen the ranges, or leave it out of warm_start."
            )
        for number in fitting:
            _require_one_protocol(record.trial(number), name, protocols)
        own = {_origin(name, record, number): _past(name, record, number, params) for number, params in fitting.items()}
        said.append(_described(name, len(own), len(ended), record.ledger, space, tags))
        found = own | found
    return tuple(found.values()), [*said, *_startup(space, list(found.values()))]


def _refuse(name: str, differences: Iterator[str]) -> None:
    if shown := "; ".join(differences):
        raise StudyError(
            f"{name}: expected a sweep of the same objective, protocol and data to learn from, got one of another "
            f"({shown}) — leave it out of warm_start."
        )


def _differences(ledger: Ledger, space: SearchSpace, tags: Mapping[str, str]) -> Iterator[str]:
    """What makes figures of a sweep say nothing of this space's, as `what: there -> here`; tags: as far as known."""
    here, objective = space.base.params, ledger.objective
    metric = "none" if objective is None else f"{objective.mode} {objective.metric}"
    pairs: list[tuple[str, Any, Any]] = [("objective", metric, f"{space.objective.mode} {space.objective.metric}")]
    pairs += [("model.kind", ledger.params.get("model.kind"), here["model.kind"])]
    fixed = [path for path in MEASURE if path in here and path not in {*space.space, *ledger.searched}]
    pairs += [(MEASURE[path], ledger.params.get(path), here[path]) for path in fixed]
    if DATA in tags:
        pairs.append(("data", ledger.tags.get(DATA, "not recorded")[:12], tags[DATA][:12]))
    if FIGURES in tags and FIGURES in ledger.tags:
        pairs.append(("definition of figures", ledger.tags[FIGURES], tags[FIGURES]))
    yield from (f"{what}: {_plain(then)} -> {_plain(now)}" for what, then, now in pairs if then != now)


def _fitted(one: TrialRecord, space: SearchSpace) -> dict[str, Scalar] | None:
    """A trial's values for what this space searches; None where one is outside of it, or where it searched something
    that stands at another value here.
    """
    chosen: dict[str, Scalar] = {}
    for path, found in space.ordered.items():
        if is_searched(found, chosen):
            value: Any = one.trial.params.get(path, one.recipe_params.get(path))
            if not found.contains(value):
                return None
            chosen[path] = float(value) if isinstance(found, FloatRange) else value
    others = one.trial.params.keys() - chosen.keys()
    return chosen if all(one.trial.params[path] == space.base.params.get(path) for path in others) else None


def _past(name: str, record: SweepRecord, number: int, params: dict[str, Scalar]) -> PastTrial:
    trial = record.trial(number).trial
    step, value = trial.curve[-1]  # of a COMPLETE trial, too, the last is its value
    return PastTrial(name, number, trial.state, params, step, value)


def _origin(name: str, record: SweepRecord, number: int) -> str:
    """Where it was trained: a result that was taken is known once."""
    return record.trial(number).trial.taken_from or f"{name} t{number:04d}"


def _require_one_protocol(one: TrialRecord, name: str, protocols: dict[str, tuple[str, str]]) -> None:
    """Raises StudyError where trials of the same settings were measured differently all the same."""
    if one.protocol is None:
        return
    told, other = protocols.setdefault(one.measured, (one.protocol, name))
    if told != one.protocol:
        _refuse(name, iter([f"protocol: {one.protocol} -> {told} of {other}"]))


def _described(name: str, known: int, ended: int, ledger: Ledger, space: SearchSpace, tags: Mapping[str, str]) -> str:
    """How many trials are known, how many are not and why, and in what else the recipes differ."""
    said = f"{name}: {known} of {counted(ended, 'finished trial')} known to the sampler"
    if known < ended:
        said += f", {ended - known} left out: their settings are not of this space"
    there, here = ledger.params, json.loads(json.dumps(space.base.params))
    unlike = {*space.space, *ledger.searched, *LOCAL_PATHS}
    changed = sorted(path for path in there.keys() | here.keys() if there.get(path) != here.get(path))
    words = [
        f"{path} {_plain(there.get(path))}, here {_plain(here.get(path))}" for path in changed if path not in unlike
    ]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    said += f"; it had {'; '.join(words[:_SHOWN])}{more}" if words else ""
    unsure = FIGURES in tags and FIGURES not in ledger.tags
    return said + ("; its journal does not say by which definition its figures were taken" if unsure else "")


def _startup(space: SearchSpace, past: Sequence[PastTrial]) -> list[str]:
    kind, needed = space.sampler.kind, space.sampler.startup_trials
    known = sum(one.state in learnt_from(space) for one in past)
    if not space.warm_start or known >= needed:
        return []
    return [f"warm_start: {kind} draws at random until it has {needed} results (sampler.startup_trials), {known} known"]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
