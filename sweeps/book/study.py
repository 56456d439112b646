"""The Optuna study of a sweep, and the Searcher by which Ray Tune asks it and tells it what really happened.

COMPLETE: trained to the last step. PRUNED: stopped before it. FAIL: an error, or no finite objective.
WAITING: interrupted, or broken and to be tried again; it is the next to be suggested, and the same trial goes on.
The study on disk is the only state: whoever opens it by its name carries on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS
from pipeline.recipes import override
from sweeps.book.storage import never, open_storage
from sweeps.errors import StudyError
from sweeps.home import name_taken
from sweeps.space.distributions import Scalar
from sweeps.space.space import SearchSpace

# User attributes of a trial; one without RAY_TRIAL was never run.
RAY_TRIAL, FINGERPRINT, FAIL_REASON, REUSED_FROM = "ray_trial_id", "fingerprint", "fail_reason", "reused_from"
SPACE, OWNER = "space_fingerprint", "home"  # user attributes of a study
Ending = Literal["COMPLETE", "PRUNED", "FAIL"]
Result = Mapping[str, Any]
_MAX_REPEATS = 20  # proposals in a row with nothing new in them: the space is searched


@dataclass(frozen=True)
class Ruling:
    """How an attempt at a trial ended; WAITING: it is to go on."""

    state: Literal["COMPLETE", "PRUNED", "FAIL", "WAITING"]
    reason: str = ""


class Conductor(Protocol):
    """Who decides what becomes of trials, and writes it down before the study is told."""

    def continuation(self, number: int) -> dict[str, Any]:
        """What a trial about to start must know beside its params, such as where it goes on."""
        ...

    def ended(self, number: int, ray_trial_id: str, result: Result | None, error: bool) -> Ruling:
        """What becomes of a trial whose attempt ended with this last report."""
        ...


def open_study(
    storage: str | Path,
    name: str,
    space: SearchSpace,
    resume: bool = False,
    owner: str = "",
    hurried: Callable[[], bool] = never,
) -> optuna.Study:
    """A new study, or with `resume` the one that has the name.

    storage: a file for Optuna's journal, or the URL of a database. owner: the home that asks. hurried: as in
    `open_storage`.
    Raises StudyError: no such database; a name that is taken, unknown, or belongs to another space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = open_storage(str(storage), hurried)
    study = _load_study(opened, name, space) if resume else _create_study(opened, name, space, owner)
    study.sampler = _sampler(space, study)
    return study


def put_back(storage: str | Path, name: str) -> None:
    """Make the trials of a study that nobody runs WAITING; a study that does not exist stays so."""
    opened = open_storage(str(storage))
    with suppress(KeyError):
        study = optuna.load_study(storage=opened, study_name=name)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            opened.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Scalar]:
    """Values for the paths whose conditions hold, each asked of the study's sampler."""
    chosen: dict[str, Scalar] = {}
    for path in space.order:
        conditions = space.space[path].when.items()
        if all(parent in chosen and chosen[parent] in allowed for parent, allowed in conditions):
            chosen[path] = space.space[path].suggest(trial, path)
    return chosen


def verdict(result: Result | None, error: bool, metric: str, max_steps: int) -> tuple[Ending, str]:
    """How a trial with this last report ended, and why it did not complete."""
    step, value = _reading(result, metric)
    if error:
        return "FAIL", "the trial raised an error"
    if step is None:
        return "FAIL", "stopped before its first report"
    if value is not None and not math.isfinite(value):
        return "FAIL", f"{metric} was {value} at step {step}"
    if step < max_steps:
        figure = "without a figure" if value is None else f"with {metric} {value:.4g}"
        return "PRUNED", f"stopped by the scheduler at step {step} of {max_steps} {figure}"
    if value is None:
        return "FAIL", f"{metric} was not reported at step {step}"
    return "COMPLETE", ""


class StudySearcher(Searcher):
    """Ray Tune's search algorithm over a study from `open_study`.

    A proposal that repeats a trial's recipe is not run: it ends as that trial does, `reused_from` names it.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, conductor: Conductor | None = None) -> None:
        super().__init__()  # without a metric: Ray would refuse every report that lacks it
        self.study, self.space, self.base = study, space, space.base_recipe()
        self._conductor = conductor or _Unconducted(space.objective.metric, self.base.train.max_steps)
        self._over: set[str] = set()  # Ray's ids of attempts that ended

    def save(self, checkpoint_path: str) -> None:
        """Ray keeps this with the experiment, and nothing reads it: all is in the study."""
        Path(checkpoint_path).write_text(self.study.study_name)

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        """Accept Ray's metric and mode; the space knows its objective."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """`{"number": the trial's in the study, "params": {path: value}}` and the conductor's word; FINISHED when
        nothing is left to run, and None while that depends on a trial that runs.
        """
        self._reclaim()
        for _ in range(_MAX_REPEATS):
            if self._is_spent():
                break
            trial = self.study.ask()
            goes_on = RAY_TRIAL in trial.user_attrs
            params = suggest(trial, self.space)
            if goes_on or self._is_new(trial, params):
                trial.set_user_attr(RAY_TRIAL, trial_id)
                return {"number": trial.number, "params": params, **self._conductor.continuation(trial.number)}
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return None if any(RAY_TRIAL in trial.user_attrs for trial in running) else str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        """Record the objective at the report's step, where it has one."""
        trial = self._running(trial_id)
        if trial is not None:
            self._record(trial, result)

    def on_trial_complete(self, trial_id: str, result: Result | None = None, error: bool = False) -> None:
        """Close the trial as the conductor rules, with those that repeat it."""
        trial = self._running(trial_id)
        self._over.add(trial_id)
        if trial is None:
            return
        ruling = self._conductor.ended(trial.number, trial_id, result, error)
        self._record(trial, result)
        if ruling.state == "WAITING":
            self._put_back(trial.number)
            return
        value = _reading(result, self.space.objective.metric)[1]
        self._close(trial.number, TrialState[ruling.state], value, ruling.reason)
        self._share(trial.number)

    def put_back(self) -> None:
        """Make every trial that still runs WAITING: nobody runs it any more."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._put_back(trial.number)

    def tell(self, number: int, state: Ending, value: float | None, curve: Mapping[int, float], reason: str) -> None:
        """What the journal knows of a trial that ended and the study has not heard; a finished one stays so."""
        known = self.study.get_trials(deepcopy=False)[number]
        if known.state.is_finished():
            return
        for step in curve.keys() - known.intermediate_values.keys():
            self._set_intermediate(number, step, curve[step])
        self._close(number, TrialState[state], value, reason)
        self._share(number)

    def _reclaim(self) -> None:
        """Let trials wait that a database which went away began, and nobody got: now none is between ask and start."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            known = trial.user_attrs
            if REUSED_FROM not in known and known.get(RAY_TRIAL, "") in ("", *self._over):
                self._put_back(trial.number)

    def _put_back(self, number: int) -> None:
        storage, trial_id = self._stored(number)
        with suppress(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _is_spent(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return False
        points = math.prod(len(points) for points in _points(self.space).values())
        if self.space.sampler.kind == "grid" and len(trials) >= points:
            return True
        return sum(RAY_TRIAL in trial.user_attrs for trial in trials) >= self.space.trials.count

    def _is_new(self, trial: optuna.Trial, params: Mapping[str, Scalar]) -> bool:
        """Whether to run the proposal; otherwise it fails here, or ends as the trial that it repeats."""
        try:
            fingerprint = override(self.base, params).fingerprint
        except RecipeError as error:
            self._close(trial.number, TrialState.FAIL, None, str(error))
            return False
        trial.set_user_attr(FINGERPRINT, fingerprint)
        first = self._first(trial.number, fingerprint, params)
        if first is not None:
            trial.set_user_attr(REUSED_FROM, first.number)
            self._share(first.number)
        return first is None

    def _first(self, number: int, fingerprint: str, params: Mapping[str, Scalar]) -> FrozenTrial | None:
        """The trial that runs this recipe on these files, or ran it without failing."""
        for trial in self.study.get_trials(deepcopy=False):
            known = trial.user_attrs
            if trial.number == number or RAY_TRIAL not in known or known[FINGERPRINT] != fingerprint:
                continue
            if trial.state is TrialState.FAIL:
                continue
            if all(trial.params.get(path) == params.get(path) for path in LOCAL_PATHS):
                return trial
        return None

    def _share(self, number: int) -> None:
        """If the trial has ended, let those that repeat it end likewise."""
        trials = self.study.get_trials(deepcopy=False)
        first = trials[number]
        if not first.state.is_finished():
            return
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(REUSED_FROM) == number:
                for step, value in first.intermediate_values.items():
                    self._set_intermediate(trial.number, step, value)
                self._close(trial.number, first.state, first.value, f"repeats trial {number}, which failed")

    def _running(self, ray_trial_id: str) -> FrozenTrial | None:
        """The trial that Ray calls so, unless it has ended already."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return next((trial for trial in running if trial.user_attrs.get(RAY_TRIAL) == ray_trial_id), None)

    def _record(self, trial: FrozenTrial, result: Result | None) -> None:
        step, value = _reading(result, self.space.objective.metric)
        if step is None or value is None or not math.isfinite(value):
            return
        if step not in trial.intermediate_values:  # a restarted trial repeats steps
            self._set_intermediate(trial.number, step, value)

    def _set_intermediate(self, number: int, step: int, value: float) -> None:
        storage, trial_id = self._stored(number)
        with suppress(UpdateFinishedTrialError):  # another process closed the trial: its word stands
            storage.set_trial_intermediate_value(trial_id, step, value)

    def _close(self, number: int, state: TrialState, value: float | None, reason: str) -> None:
        if state is TrialState.FAIL:
            storage, trial_id = self._stored(number)
            with suppress(UpdateFinishedTrialError):
                storage.set_trial_user_attr(trial_id, FAIL_REASON, reason)
        told = value if state is TrialState.COMPLETE else None
        self.study.tell(number, told, state, skip_if_finished=True)

    def _stored(self, number: int) -> tuple[BaseStorage, int]:
        # Optuna's public way needs the Trial object that was asked, and after a resume there is none.
        storage, study_id = self.study._storage, self.study._study_id
        return storage, storage.get_trial_id_from_study_id_trial_number(study_id, number)


class _Unconducted:
    """Trials that end as `verdict` has it and are never tried again."""

    def __init__(self, metric: str, max_steps: int) -> None:
        self._metric, self._max_steps = metric, max_steps

    def continuation(self, number: int) -> dict[str, Any]:
        return {}

    def ended(self, number: int, ray_trial_id: str, result: Result | None, error: bool) -> Ruling:
        return Ruling(*verdict(result, error, self._metric, self._max_steps))


class _Grid(GridSampler):
    """Optuna's grid without its call to end `Study.optimize`, which nobody runs here."""

    def after_trial(self, *told: Any) -> None:
        pass


def _create_study(storage: BaseStorage, name: str, space: SearchSpace, owner: str) -> optuna.Study:
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if space.objective.mode == "max" else directions.MINIMIZE
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
        # Ours, from a driver that was killed before it wrote anything else.
        if not owner or study.user_attrs.get(OWNER) not in (None, owner) or study.get_trials(deepcopy=False):
            raise name_taken(name) from None
    study.set_user_attr(OWNER, owner)
    study.set_user_attr(SPACE, space.fingerprint)
    return study


def _load_study(storage: BaseStorage, name: str, space: SearchSpace) -> optuna.Study:
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        raise StudyError(
            f"{name}: expected the name of a sweep, got an unknown one — `mouselift sweep run` starts one."
        ) from None
    if study.user_attrs.get(SPACE) != space.fingerprint:
        raise StudyError(
            f"{name}: expected the recipe, ranges and objective it began with, got others — "
            "undo the change, or start a sweep under a new name."
        )
    return study


def _sampler(space: SearchSpace, study: optuna.Study) -> BaseSampler:
    """The sampler of the space, seeded so that it does not draw a resumed study's trials again."""
    seed = space.sampler.seed + len(study.get_trials(deepcopy=False))
    startup = space.sampler.startup_trials
    match space.sampler.kind:
        case "random":
            return RandomSampler(seed=seed)
        case "grid":
            return _Grid(_points(space), seed=space.sampler.seed)  # it goes by trial number
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=startup)
    conditional = any(found.when for found in space.space.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=conditional, constant_liar=True)


def _points(space: SearchSpace) -> dict[str, tuple[Scalar, ...]]:
    return {path: found.points or () for path, found in space.space.items()}


def _reading(result: Result | None, metric: str) -> tuple[int | None, float | None]:
    """Step and objective of a report, as far as it has them."""
    step, value = (result or {}).get("step"), (result or {}).get(metric)
    return None if step is None else int(step), None if value is None else float(value)
