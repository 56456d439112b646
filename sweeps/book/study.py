"""The Optuna study of a sweep, built in memory from the ledger for each proposal, and the proposals made with it.

The study is a function of the ledger and the space, and a proposal is a function of these and of its place among them.
A driver that was killed and its successor therefore propose the same, and no study can disagree with the journal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from pipeline.config import one_line
from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS
from pipeline.recipes import override, recipe_of
from sweeps.book.journal import PastTrial, State, TrialProposed
from sweeps.book.ledger import MOST_REPEATS, Ledger
from sweeps.book.trial import Trial
from sweeps.errors import StudyError
from sweeps.space.distributions import Scalar, grid_size, is_searched
from sweeps.space.objective import Aims, beyond
from sweeps.space.plan import SEED
from sweeps.space.space import SearchSpace, space_of

# User attributes of a trial in the study; one that was never run has no RAY_TRIAL.
RAY_TRIAL, FINGERPRINT, REASON, REPEATS, FROM = "ray_trial_id", "fingerprint", "reason", "repeats", "from"
CONFIRMS = "confirms"  # and train.seed beside it: of a run that confirms another trial
# Optuna would start a WAITING trial by itself. So a trial that is to go on is RUNNING in the study.
_STATES = dict.fromkeys((State.WAITING, State.RUNNING, State.KILLED), TrialState.RUNNING) | {
    state: TrialState[state] for state in (State.COMPLETE, State.PRUNED, State.FAIL)
}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def began_with(ledger: Ledger) -> SearchSpace:
    """The space of a sweep and its recipe as they were when it began. Files changed since then do not matter.

    Raises StudyError where this version of the project does not know a setting of the sweep.
    """
    try:
        return space_of(ledger.space, ledger.name, recipe_of(ledger.recipe, ledger.params))
    except (RecipeError, ValidationError) as error:
        raise StudyError(
            f"{ledger.name}: expected a sweep of this version's settings, got {one_line(error)[:200]} — resume it with "
            "the version that it began with, or start a sweep under a new name."
        ) from None


def study_of(ledger: Ledger, space: SearchSpace) -> optuna.Study:
    """A study in memory with every proposal of a search in order, and behind them what it knew before. Trials that wait
    or run are RUNNING. Runs that confirm its best are left out: with more trials it goes on as if there were none.
    """
    study = optuna.create_study(directions=directions(space))
    confirming = {one.number for one in ledger.trials.values() if one.confirms is not None}
    confirming |= {one.trial for one in ledger.not_run.values() if one.confirms is not None}
    drawn = (number for number in range(ledger.next_number) if number not in confirming)
    study.add_trials(frozen_trial(ledger, space, number) for number in drawn)
    taken = {trial.taken_from for trial in ledger.trials.values()}
    past = ((f"{one.sweep} t{one.trial:04d}", one) for one in ledger.past)
    study.add_trials(_frozen(_as_trial(one), space, {FROM: origin}) for origin, one in past if origin not in taken)
    return study


def frozen_trial(ledger: Ledger, space: SearchSpace, number: int) -> FrozenTrial:
    """One proposal as a trial of Optuna. The seed of a run that confirms another one is no parameter of the search."""
    if number in ledger.trials:
        trial = ledger.trials[number]
        known: dict[str, Any] = {RAY_TRIAL: trial.ray_trial_id, FINGERPRINT: trial.fingerprint, REASON: trial.reason}
        if trial.confirms is not None:
            known |= {CONFIRMS: f"t{trial.confirms:04d}", SEED: str(trial.params[SEED])}
        return _frozen(trial, space, {key: value for key, value in known.items() if value})
    if number not in ledger.not_run:  # journals of older versions leave out proposals that were not run
        return create_trial(state=TrialState.FAIL)
    one = ledger.not_run[number]
    if one.repeats is None:
        return _frozen(Trial(number, state=State.FAIL, params=one.params), space, {REASON: one.refused})
    return _frozen(replace(ledger.trials[one.repeats], params=one.params), space, {REPEATS: one.repeats})


def directions(space: SearchSpace) -> list[str]:
    """One for each objective, as Optuna spells it."""
    return ["maximize" if one.mode == "max" else "minimize" for one in space.aims.objectives]


def learnt_from(space: SearchSpace) -> tuple[State, ...]:
    """The states of the trials that the sampler counts as results, as Optuna's own samplers do."""
    return (State.COMPLETE,) if space.sampler.kind in ("gp", "nsga2") else (State.COMPLETE, State.PRUNED)


def is_spent(ledger: Ledger, space: SearchSpace) -> bool:
    """Whether the sweep needs no further proposal: it has as many trials as it asks for, or its grid or plan has no
    more.
    """
    if space.plan.is_made and ledger.next_number >= len(space.enqueue):
        return True
    drawn = ledger.drawn - len(space.enqueue)
    if space.sampler.kind == "grid" and drawn >= grid_size(space.space):
        return True
    return len(ledger.searching) >= space.trials.count


def may_search(ledger: Ledger, space: SearchSpace) -> bool:
    """Whether the sampler is to be asked for another trial: it is not where the last so many proposals were not run."""
    return ledger.fruitless < MOST_REPEATS and not is_spent(ledger, space)


def confirmation(ledger: Ledger, space: SearchSpace) -> TrialProposed | None:
    """The next run of those that confirm the best of a search; None before that has ended, and when there are all.

    Which are the best is decided by the search alone, so a driver that was killed and its successor propose the same.
    """
    if may_search(ledger, space) or not all(trial.state.is_final for trial in ledger.searching):
        return None
    for number, seed in ledger.unconfirmed:
        params = {**ledger.trials[number].params, SEED: seed}
        return _proposed(ledger, space, params, confirms=number)
    return None


class Proposals:
    """What a sweep tries next. It keeps random draws only to save computing them again."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._drawing = optuna.create_study(sampler=_drawing_sampler(space))
        self._draws: list[dict[str, Scalar]] = []
        self._enqueued = space.enqueued

    def next(self, ledger: Ledger) -> TrialProposed:
        """The proposal that follows `ledger`: values to run, or values that are not run and why."""
        return _proposed(ledger, self._space, self._params(ledger, ledger.drawn))

    def _params(self, ledger: Ledger, number: int) -> dict[str, Scalar]:
        if number < len(self._enqueued):
            return self._enqueued[number]
        if self._space.sampler.kind in ("random", "grid"):
            return self._draw(number)
        study = study_of(ledger, self._space)
        if _is_startup(study, self._space, ledger):
            return self._draw(number)
        study.sampler = _model_sampler(self._space, number)
        return suggest(study.ask(), self._space)

    def _draw(self, number: int) -> dict[str, Scalar]:
        """What the random or grid sampler, which learns nothing, draws for this trial: a function of the seed."""
        draw = number - len(self._enqueued)
        while len(self._draws) <= draw:
            self._draws.append(suggest(self._drawing.ask(), self._space))
        return self._draws[draw]


def _proposed(
    ledger: Ledger, space: SearchSpace, params: dict[str, Scalar], confirms: int | None = None
) -> TrialProposed:
    number = ledger.next_number
    try:
        fingerprint = override(space.base, params).fingerprint
    except RecipeError as error:
        return TrialProposed(number, params, refused=str(error), confirms=confirms)
    repeats = _first(ledger, fingerprint, params)
    return TrialProposed(number, params, fingerprint, repeats=repeats, confirms=confirms)


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Scalar]:
    """A value from the study's sampler for each path whose conditions hold."""
    chosen: dict[str, Scalar] = {}
    for path, found in space.ordered.items():
        if is_searched(found, chosen):
            chosen[path] = found.suggest(trial, path)
    return chosen


def verdict(step: int | None, value: float | None, metric: str, max_steps: int) -> tuple[State, str]:
    """The final state of a trial whose last report had this step and objective, and why it is not COMPLETE."""
    if step is None:
        return State.FAIL, "stopped before its first report"
    if value is not None and not math.isfinite(value):
        return State.FAIL, f"{metric} was {value} at step {step}"
    if step < max_steps:
        figure = "without a figure" if value is None else f"with {metric} {value:.4g}"
        return State.PRUNED, f"stopped by the scheduler at step {step} of {max_steps} {figure}"
    if value is None:
        return State.FAIL, f"{metric} was not reported at step {step}"
    return State.COMPLETE, ""


def _frozen(trial: Trial, space: SearchSpace, attributes: dict[str, Any]) -> FrozenTrial:
    state, aims = _STATES[trial.state], space.aims
    if state is TrialState.COMPLETE and (lacking := _lacking(trial, aims)):
        state, attributes = TrialState.FAIL, attributes | {REASON: f"{lacking} was not reported"}
    is_done = state is TrialState.COMPLETE
    params = {path: one for path, one in trial.params.items() if path != SEED or path in space.space}
    return create_trial(
        state=state,
        values=_values(trial, state, aims),
        params=params,
        distributions={path: space.space[path].distribution for path in params},
        intermediate_values={} if aims.are_several else dict(trial.curve),  # Optuna knows none of several objectives
        user_attrs=attributes,
        constraints={one.metric: beyond(one, trial.figures[one.metric]) for one in aims.constraints} if is_done else {},
    )


def _values(trial: Trial, state: TrialState, aims: Aims) -> list[float] | None:
    """Of several objectives those of its best checkpoint. Of one the last; a pruned trial has it, too, as in Optuna."""
    if aims.are_several:
        return [trial.figures[one.metric] for one in aims.objectives] if state is TrialState.COMPLETE else None
    last = trial.last_value if state is TrialState.COMPLETE else None
    if state is TrialState.PRUNED and trial.curve:
        last = trial.curve[-1][1]
    return None if last is None else [last]


def _lacking(trial: Trial, aims: Aims) -> str | None:
    """A figure of several aims that the trial does not have."""
    metrics = () if aims.is_one else aims.metrics
    return next((metric for metric in metrics if not math.isfinite(trial.figures.get(metric, math.nan))), None)


def _as_trial(one: PastTrial) -> Trial:
    curve = ((one.step, one.value),)
    return Trial(one.trial, state=State(one.state), params=one.params, last_value=one.value, curve=curve)


def _first(ledger: Ledger, fingerprint: str, params: Mapping[str, Scalar]) -> int | None:
    """The first trial, unless it failed, with this recipe and these files."""
    for number, trial in ledger.trials.items():
        same = trial.fingerprint == fingerprint and trial.state != State.FAIL
        if same and all(trial.params.get(path) == params.get(path) for path in LOCAL_PATHS):
            return number
    return None


def _is_startup(study: optuna.Study, space: SearchSpace, ledger: Ledger) -> bool:
    """Whether there are too few results for a model, counted as Optuna's own samplers count them, and besides those
    of what is enqueued: a model begins after as many draws as without it. Where enough is known it begins at once.
    """
    learnt, needed = learnt_from(space), space.sampler.startup_trials
    if sum(one.state in learnt for one in ledger.past) >= needed:
        return False
    states = [TrialState[state] for state in learnt]
    return len(study.get_trials(deepcopy=False, states=states)) < len(space.enqueue) + needed


def _drawing_sampler(space: SearchSpace) -> BaseSampler:
    if space.sampler.kind == "grid":
        return GridSampler(_points(space), seed=space.sampler.seed)
    return RandomSampler(seed=space.sampler.seed)


def _model_sampler(space: SearchSpace, number: int) -> BaseSampler:
    """The sampler for one trial. Its seed depends on the number alone, so that a resumed sweep draws the same."""
    seed, startup = space.sampler.seed + number, space.sampler.startup_trials
    if space.sampler.kind == "nsga2":
        return _Generations(population_size=startup, seed=seed)
    if space.sampler.kind == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    conditional = any(found.when for found in space.space.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=conditional, constant_liar=True)


class _Generations(NSGAIISampler):
    """NSGA-II whose generations follow from the trials: each has as many COMPLETE ones as the population, by number.

    Optuna writes a trial's generation down when it asks for it. A study that is made anew has no such notes.
    """

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        before = [one for one in _completed(study) if one.number < trial.number]
        return len(before) // self.population_size

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        first = generation * self.population_size
        return _completed(study)[first : first + self.population_size]


def _completed(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def _points(space: SearchSpace) -> dict[str, tuple[Scalar, ...]]:
    return {path: found.points or () for path, found in space.space.items()}
