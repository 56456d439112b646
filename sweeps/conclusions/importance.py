"""What mattered in a sweep, and how sure that is: fANOVA's share of each setting, beside what chance gives.

fANOVA (Hutter et al. 2014, by Optuna) fits trees to the objective, and asks which part of their variance a setting
decides by itself, averaged over all others. What is missing to 1 is decided together, or is noise. Three things are
done here so that the figures can be believed:

- Trials are compared at one step, the last that half of the COMPLETE and PRUNED trials reported. Without the pruned
  ones only the good half of the space would be judged, and a trial's last value says more of when it was stopped.
- Each tree is grown from trials drawn anew with replacement. The spread is that of the trees.
- Each setting has a twin without effect: its own values, dealt anew among the trials. A setting whose share is not
  above the twin's 95th percentile was not shown to matter.

A range counts as the sampler draws from it: one with `log` evenly in the logarithm. A setting that is only searched
under conditions is judged among the trials that have it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from pydantic import TypeAdapter, ValidationError

from pipeline.config import one_line
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import MEASURE
from sweeps.book.trial import Trial
from sweeps.errors import counted
from sweeps.space.distributions import Choice, Distribution, Scalar

LEAST_TRIALS = 10  # with a figure at the common step, or nothing is told
LOW, HIGH = 5, 95  # percentiles of a spread
_DEALS, _TREES_OF_A_DEAL = 8, 4  # twins are dealt anew so often; trees grown with each
_MOST = 300  # trials of a deal, drawn of all: 64 leaves need no more, and a page is not waited for
_DEPTH = 6  # of a tree: 64 leaves tell main effects
_TWIN = "twin of "
_SPACE = TypeAdapter(dict[str, Distribution])
optuna.logging.set_verbosity(optuna.logging.WARNING)
_UNIT = FloatDistribution(0.0, 1.0)


@dataclass(frozen=True)
class Importance:
    """How much each searched setting decides the objective by itself.

    trials: how many have a figure at `step`, the optimizer step at which they are compared; None where there is none.
    shares: of the variance, by dotted path, largest first; they sum to 1 or less. spread: 5th and 95th percentile of
    each share over the trees. chance: the same two of its twin without effect. partial: how many trials have a setting
    that is only searched under conditions; its share is among these. note: why a figure is missing, or what
    else to know.
    """

    trials: int
    step: int | None = None
    shares: dict[str, float] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, tuple[float, float]] = field(default_factory=dict)
    partial: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def is_told(self, path: str) -> bool:
        """Whether a setting was shown to matter: its share is above what chance gives its twin in 19 trees of 20."""
        return self.shares[path] > self.chance[path][1]


def importance_of(ledger: Ledger) -> Importance:
    """The importance of what a sweep searched; without shares, and with a note that says why, where it is not told."""
    if not ledger.searched:
        return Importance(0, note="nothing was searched")
    try:
        space = _SPACE.validate_json(json.dumps(ledger.space["space"]), strict=True)
    except ValidationError as error:
        return Importance(0, note=f"expected ranges and choices of this version, got {one_line(error)[:200]}")
    judged = [trial for trial in ledger.searching if trial.state in (State.COMPLETE, State.PRUNED)]
    step, values = common_step(judged)
    found = Importance(len(values), step)
    if len(values) < LEAST_TRIALS:
        reached = "reported a figure" if step is None else f"reached step {step}"
        return replace(found, note=f"too few: {counted(len(values), 'trial')} {reached}; from {LEAST_TRIALS} on")
    if len(set(values.values())) == 1:
        return replace(found, note=f"every trial has the same objective at step {step}")
    return _by_fanova(found, space, {n: trial.params for n, trial in ledger.trials.items() if n in values}, values)


def common_step(trials: Iterable[Trial]) -> tuple[int | None, dict[int, float]]:
    """The step at which trials are compared, and the objective there of each that reported it, by number.

    It is the last step that half of the trials reported and `LEAST_TRIALS` of them; where none is, the last of those
    that most reported.
    """
    curves = {trial.number: dict(trial.curve) for trial in trials if trial.curve}
    reports = Counter(step for curve in curves.values() for step in curve)
    if not reports:
        return None, {}
    enough = max(LEAST_TRIALS, math.ceil(len(curves) / 2))
    most = max(reports.values())
    step = max(step for step, count in reports.items() if count >= min(enough, most))
    return step, {number: curve[step] for number, curve in curves.items() if step in curve}


def _by_fanova(
    found: Importance,
    space: Mapping[str, Distribution],
    params: Mapping[int, Mapping[str, Scalar]],
    values: Mapping[int, float],
) -> Importance:
    """Settings that every trial has together; then each of the others among the trials that have it."""
    places = {path: _places(space[path], path, params) for path in space}
    whole = [path for path in space if len(places[path]) == len(values)]
    figures = _figures({path: places[path] for path in whole}, values)
    partial, notes = {}, []
    for path in space.keys() - set(whole):
        having = places[path]
        if len(having) < LEAST_TRIALS:
            notes.append(f"{path}: too few: {counted(len(having), 'trial')} had it; from {LEAST_TRIALS} on.")
            continue
        partial[path] = len(having)
        among = {other: {n: places[other][n] for n in having} for other in whole} | {path: having}
        some = _figures(among, {number: values[number] for number in having})
        figures |= {path: some[path]} if path in some else {}
    notes += [f"{path}: it also decides how trials are measured." for path in figures if path in MEASURE]
    largest = sorted(figures, key=lambda path: -figures[path][0])
    return replace(
        found,
        shares={path: figures[path][0] for path in largest},
        spread={path: figures[path][1] for path in largest},
        chance={path: figures[path][2] for path in largest},
        partial=partial,
        note=" ".join(sorted(notes)),
    )


def _places(one: Distribution, path: str, params: Mapping[int, Mapping[str, Scalar]]) -> dict[int, float]:
    """Where in its distribution the value of each trial lies that has one: 0 to 1, evenly as the sampler draws."""
    found = {number: _place(one, values[path]) for number, values in params.items() if path in values}
    return {number: place for number, place in found.items() if place is not None}


def _place(one: Distribution, value: Scalar) -> float | None:
    """0 to 1; of a list the middle of the value's own part. None for a value that the list does not have."""
    if isinstance(one, Choice):
        return (one.ends.index(value) + 0.5) / len(one.ends) if value in one.ends else None
    low, high, at = one.ends[0], one.ends[1], value
    if low == high:
        return 0.5
    if one.log:
        low, high, at = math.log(low), math.log(high), math.log(value)
    return min(1.0, max(0.0, (at - low) / (high - low)))


_Figures = dict[str, tuple[float, tuple[float, float], tuple[float, float]]]


def _figures(places: Mapping[str, Mapping[int, float]], values: Mapping[int, float]) -> _Figures:
    """Share, spread and chance of each setting, which all trials of `values` have."""
    trees: list[dict[str, float]] = []
    for deal in range(_DEALS):
        study = _study(places, values, np.random.default_rng(deal))
        seeds = range(deal * _TREES_OF_A_DEAL, (deal + 1) * _TREES_OF_A_DEAL)
        names = [*places, *(_TWIN + path for path in places)]
        trees += [tree for seed in seeds if (tree := _tree(study, names, seed)) is not None]
    return {
        path: (statistics.fmean(tree[path] for tree in trees), _ends(trees, path), _ends(trees, _TWIN + path))
        for path in places
        if trees
    }


def _study(
    places: Mapping[str, Mapping[int, float]], values: Mapping[int, float], chance: np.random.Generator
) -> optuna.Study:
    """Trials that all ended, each with its settings and their twins."""
    numbers = sorted(values)
    if len(numbers) > _MOST:
        numbers = chance.choice(numbers, _MOST, replace=False).tolist()
    columns = {path: [place[number] for number in numbers] for path, place in places.items()}
    columns |= {_TWIN + path: chance.permutation(column).tolist() for path, column in columns.items()}
    study = optuna.create_study()
    for i, number in enumerate(numbers):
        row = {path: column[i] for path, column in columns.items()}
        study.add_trial(create_trial(value=values[number], params=row, distributions=dict.fromkeys(row, _UNIT)))
    return study


def _tree(study: optuna.Study, names: list[str], seed: int) -> dict[str, float] | None:
    """The shares by one tree. None where the trials that were drawn for it all have one value."""
    from optuna.importance import FanovaImportanceEvaluator  # and scikit-learn: 1.5 s, not before a sweep begins

    try:
        return FanovaImportanceEvaluator(n_trees=1, max_depth=_DEPTH, seed=seed).evaluate(study, names)
    except RuntimeError:  # Optuna's word for a tree without variance
        return None


def _ends(trees: list[dict[str, float]], name: str) -> tuple[float, float]:
    low, high = np.percentile([tree[name] for tree in trees], (LOW, HIGH))
    return float(low), float(high)
