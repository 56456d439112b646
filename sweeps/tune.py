"""One sweep: Ray runs the trials, Optuna chooses them, the journal remembers; a single training is a sweep of one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from pipeline import checkpoint
from pipeline.recipe import Recipe, override
from sweeps.home import Home
from sweeps.journal import Event, Journal, Reported, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.ledger import Ledger, read
from sweeps.preflight import Readiness, cpus_per_trial, data_tags
from sweeps.provenance import provenance
from sweeps.space import SearchSpace
from sweeps.study import StudySearcher, open_study, verdict
from sweeps.tracking import Tracker
from sweeps.trial import IMAGES, TrialSettings, metrics_of, run_trial

_RAY_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path of a recipe is relative to where the command was called
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal replaces Ray's own result files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most reports carry no validation
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints to stdout, however quiet it is asked to be
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
_KEPT_CHECKPOINTS = 2


class Listener(Protocol):
    """Hears each event after it is safe in the journal: the progress display."""

    def __call__(self, event: Event) -> None: ...


@dataclass
class Interruption:
    """Whether the user, or the machine going down, asked the sweep to stop."""

    signal: str = ""
    _asked: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    @property
    def reason(self) -> str:
        return f"interrupted by {self.signal}"

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the sweep in good order; a second one ends it at once."""
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: Any) -> None:
        # Ray Tune ends its loop on SIGUSR1 once that loop runs; before, or when asked twice, nothing does.
        ray_listens = callable(signal.getsignal(signal.SIGUSR1))
        again = self.asked
        self.signal = signal.Signals(number).name
        self._asked.set()
        if again or not ray_listens:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGUSR1)


def run_sweep(name: str, space: SearchSpace, ready: Readiness, home: Home, listen: Listener) -> Ledger:
    """Run every trial of `space` as the sweep `name` and return what the journal then says.

    Whatever ends it, every trial and the sweep itself are closed in the journal, and the tracker has delivered it
    or says that it has not. Raises StudyError when the name is taken or the resources are not there.
    """
    interruption = Interruption()
    with _ray(home), interruption.heeded():  # in this order: ray.init sets signal handlers of its own
        cpus = cpus_per_trial(space, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        study = open_study(home.storage or home.optuna_journal, name, space)
        return _remember(name, space, ready, home, listen, StudySearcher(study, space), cpus, interruption)


def _remember(
    name: str,
    space: SearchSpace,
    ready: Readiness,
    home: Home,
    listen: Listener,
    searcher: StudySearcher,
    cpus: int,
    interruption: Interruption,
) -> Ledger:
    """Run the trials between an opened and a closed journal."""
    with Journal(home.journal(name)) as journal:
        notes = _Notes(journal, listen)
        tags, artifacts = provenance(journal.keep)
        recipe = ready.recipe
        notes.write(
            SweepOpened(name, recipe.name, space.as_plain(), tags | ready.tags, recipe.params, artifacts=artifacts)
        )
        tracker = Tracker(journal, home.tracking_uri, home.artifacts, adopted_run_id=home.adopted_run_id).start()
        state: State = "FAIL"
        reason = "the sweep's driver failed"
        try:
            _run_trials(name, space, ready, home, notes, searcher, cpus)
            state, reason = ("KILLED", interruption.reason) if interruption.asked else ("COMPLETE", "")
        except KeyboardInterrupt:
            state, reason = "KILLED", interruption.reason
        finally:
            _close(notes, searcher, state, reason)
            delivered = tracker.close()
        if not delivered:
            logging.getLogger(__name__).warning(
                "MLflow did not take everything; the journal keeps it: %s", journal.path
            )
        return read(journal)


def _run_trials(
    name: str,
    space: SearchSpace,
    ready: Readiness,
    home: Home,
    notes: _Notes,
    searcher: StudySearcher,
    cpus: int,
) -> None:
    trials = space.trials
    settings = TrialSettings(ready.recipe, str(home.cache), cpus, trials.gpus)
    trainable = tune.with_resources(partial(run_trial, settings=settings), {"cpu": cpus, "gpu": trials.gpus})
    objective = space.objective
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=objective.metric,
            mode=objective.mode,
            search_alg=searcher,
            scheduler=_scheduler(space, ready.recipe),
            num_samples=trials.count,
            max_concurrent_trials=trials.concurrent,
            reuse_actors=not trials.gpus,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(home.ray),
            verbose=0,
            callbacks=[_JournalCallback(notes, ready.recipe, objective.metric, home.cache)],
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=_KEPT_CHECKPOINTS,
                checkpoint_score_attribute=objective.metric,
                checkpoint_score_order=objective.mode,
            ),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()


@contextlib.contextmanager
def _ray(home: Home) -> Iterator[None]:
    """Ray on this machine, or the cluster at RAY_ADDRESS, for as long as the sweep lasts."""
    os.environ.update(_RAY_ENVIRONMENT)
    for noisy in ("ray", "ray.tune", "ray.train", "ray._private"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    ray.init(
        address=home.ray_address,
        include_dashboard=False if home.ray_address is None else None,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        configure_logging=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _scheduler(space: SearchSpace, recipe: Recipe) -> TrialScheduler:
    if space.scheduler.kind == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="step",
        # At max_t ASHA stops a trial like any other; one step more and the last report is the trial's own end.
        max_t=recipe.train.max_steps + 1,
        grace_period=space.scheduler.grace_steps,
        reduction_factor=space.scheduler.reduction_factor,
    )


class _Notes:
    """The journal as the driver writes it, with the trials that are still open."""

    def __init__(self, journal: Journal, listen: Listener) -> None:
        self.journal = journal
        self.open: set[int] = set()
        self._listen = listen

    def write(self, event: Event) -> None:
        match event:
            case TrialOpened():
                self.open.add(event.trial)
            case TrialClosed():
                self.open.discard(event.trial)
        self._listen(self.journal.append(event))


class _JournalCallback(tune.Callback):
    """Ray's news, written down before anything else is done about it."""

    def __init__(self, notes: _Notes, recipe: Recipe, metric: str, cache: Path) -> None:
        self._notes, self._recipe, self._metric, self._cache = notes, recipe, metric, cache

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps callbacks with the experiment; ours lives and dies with the driver

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        recipe = self._recipe_of(trial)
        params = trial.config["params"]
        attempt = trial.num_failures + 1
        tags = data_tags(recipe, self._cache)
        opened = TrialOpened(_number(trial), trial.trial_id, attempt, params, recipe.params, recipe.fingerprint, tags)
        self._notes.write(opened)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        pictures: Mapping[str, bytes] = result.pop(IMAGES, {})
        if "step" not in result:
            return
        kept = {name: self._notes.journal.keep(f"{name}.png", png) for name, png in pictures.items()}
        self._notes.write(Reported(_number(trial), result["step"], metrics_of(result), kept))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        max_steps = self._recipe_of(trial).train.max_steps
        state, reason = verdict(trial.last_result, False, self._metric, max_steps)
        artifacts = self._release(trial) if state == "COMPLETE" else {}
        self._notes.write(TrialClosed(_number(trial), state, reason, artifacts))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._notes.write(TrialClosed(_number(trial), "FAIL", _cause(trial)))

    def _recipe_of(self, trial: Any) -> Recipe:
        return override(self._recipe, trial.config["params"])

    def _release(self, trial: Any) -> dict[str, str]:
        """The best checkpoint without its optimizer state, in the journal's folder: what MLflow and users get."""
        best = trial.run_metadata.checkpoint_manager.best_checkpoint_result
        if best is None:
            return {}
        target = self._notes.journal.folder / "checkpoints" / f"t{_number(trial):04d}"
        with best.checkpoint.as_directory() as folder:
            checkpoint.release(Path(folder), target)
        return {"checkpoint": str(target)}


def _close(notes: _Notes, searcher: StudySearcher, state: State, reason: str) -> None:
    """Close in the journal and the study whatever is still open."""
    for number in sorted(notes.open):
        notes.write(TrialClosed(number, "KILLED", reason or "the sweep ended before this trial did"))
    searcher.close_interrupted(reason or "the sweep ended before this trial did")
    notes.write(SweepClosed(state, reason))


def _number(trial: Any) -> int:
    return int(trial.config["number"])


def _cause(trial: Any) -> str:
    """The last line of the trial's traceback, which is the error itself."""
    error_file = trial.error_file
    if error_file and Path(error_file).is_file():
        lines = [line.strip() for line in Path(error_file).read_text().splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "the trial's process ended without a word"
