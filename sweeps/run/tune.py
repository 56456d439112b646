"""One sweep: Ray runs the trials, the driver proposes and judges them. A single training is a sweep of one."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from pipeline.recipe import Recipe
from sweeps.book.delivery import Delivery, undelivered
from sweeps.book.journal import Journal, PastTrial, State, SweepOpened, no_room
from sweeps.book.ledger import Ledger
from sweeps.book.optuna_copy import OptunaDelivery
from sweeps.book.provenance import provenance
from sweeps.book.scene_figures import SceneFigures
from sweeps.errors import NoRoomError, OutageError, counted
from sweeps.home import Home
from sweeps.own_process import handled, said, signals_deferred, takes_signals
from sweeps.reuse.code_version import CODE, code_version
from sweeps.run.driver import STOP_FILE, Broken, Driver, Listener
from sweeps.run.nodes import COMPUTED_ON, Seat, computed_on, seats_of, this_machine
from sweeps.run.processes import resources
from sweeps.run.ray_session import Ray, nodes_of_cluster
from sweeps.run.trial import IMAGES, SCENES, TAGS, TrialSettings, metrics_of, run_trial
from sweeps.space.space import SearchSpace
from sweeps.tracking.mlflow_writer import MLflowDelivery
from sweeps.tracking.pages import Pages

_FULL = "the disk of the sweep was full"
# For MLflow to take the last events; with a full disk it rarely can. A scheduler kills 30 s after its SIGTERM.
_DELIVERY_SECONDS, _HURRIED_SECONDS, _FULL_SECONDS = 60.0, 15.0, 3.0
_COPY_SECONDS = 5.0  # for Optuna's storage


@dataclass
class Interruption:
    """Ends a sweep before its time, when a user, a shutdown of the machine, or the driver asks for it."""

    verdict: tuple[State, str] = (State.KILLED, "")
    asked: bool = False
    waits_for_stores: bool = False  # a signal then ends what waits for the stores
    deferred: list[int] = field(default_factory=list)  # signals that came while the sweep was closed
    _raised: bool = False
    _number: int | None = None  # of the last signal
    _before: Any = None  # what SIGUSR1 did before that loop
    _end_loop: Callable[[int, FrameType | None], None] | None = None  # Ray Tune's, once its loop can be ended

    @contextlib.contextmanager
    def signals_handled(self) -> Iterator[None]:
        """The first signal ends the sweep in good order; a second one waits for nothing but the end of processes. In
        another thread than the main one they do what they did. Before there is a sweep the caller's handler hears it.
        """
        try:
            with handled(self._stop):
                yield
        except KeyboardInterrupt:
            if self._number is not None:
                signal.raise_signal(self._number)
            raise

    @contextlib.contextmanager
    def ray_tunes(self) -> Iterator[None]:
        """While Ray Tune's loop runs. Its handler of SIGUSR1, which ends that loop, would otherwise stay."""
        self._before = signal.getsignal(signal.SIGUSR1)
        try:
            yield
        finally:
            self._end_loop = None
            if takes_signals():
                signal.signal(signal.SIGUSR1, self._before or signal.SIG_DFL)

    def take_over(self) -> None:
        """Called when Ray Tune has set its handler: a SIGUSR1 from outside would end the loop, and nobody knew why."""
        if takes_signals():
            handler = signal.signal(signal.SIGUSR1, self._before or signal.SIG_DFL)
            self._end_loop = handler if callable(handler) else None

    def end(self, state: State, reason: str) -> None:
        """End the sweep in good order. The reason of the first call stands."""
        if not self.asked:
            self.verdict = state, reason
            self.asked = True
            if takes_signals() and self._end_loop is not None:
                self._end_loop(signal.SIGUSR1, None)

    def _stop(self, number: int, _: FrameType | None) -> None:
        # Before Ray Tune's loop runs, after it, and at a second signal, raise instead. So at SIGTERM: where it was sent
        # to all processes, Ray's own are ending, and an orderly end of the loop would wait a minute for them.
        at_once = self.asked or self._end_loop is None or number == signal.SIGTERM
        self._number = number
        self.end(State.KILLED, said(number))
        # Once: another one behind it would disturb the end.
        if at_once and (self.waits_for_stores or not self._raised):
            self._raised = True
            raise KeyboardInterrupt  # which Ray lets pass


def conduct(
    name: str,
    space: SearchSpace,
    recipe: Recipe,
    tags: Mapping[str, str],
    home: Home,
    listen: Listener,
    started: Ray,
    pages: Pages | None = None,
    past: tuple[PastTrial, ...] = (),
) -> Ledger:
    """Run every trial of `space` as the sweep `name` and return what the journal then says.

    recipe: of which each trial changes some values; it has the fixed values and local paths. tags: of data and
    artefacts, from the preflight. started: the Ray that runs the trials; it ends with the sweep. pages: makes the texts
    that MLflow shows of the sweep. past: what a new sweep's sampler knows of other sweeps.

    A sweep of that name is taken up where it was interrupted: trials that ended stay, trials that ran go on from their
    last checkpoints as the same trials and runs. At the end every trial and the sweep are closed in the journal. A
    warning says so where MLflow or Optuna's storage lacks something. Raises StudyError when another process runs the
    sweep, or the resources are not there.
    """
    interruption = Interruption()
    # In this order, so that Ray ends before another process can claim the journal, and no signal is lost.
    with interruption.signals_handled(), Journal(home.journal(name)).claim() as journal, started:
        vitals = started.ready()
        nodes = nodes_of_cluster() if home.ray_address else [this_machine()]
        seats = seats_of(space, nodes)
        (journal.folder / STOP_FILE).unlink(missing_ok=True)
        made_by = {CODE: code_version(), COMPUTED_ON: computed_on(seats)}
        driver = Driver(journal, space, recipe, home, listen, interruption.end, vitals=vitals, made_by=made_by)
        ledger = _remember(driver, {CODE: made_by[CODE], **tags}, seats, interruption, pages, past)
    for number in [] if interruption.asked else [*interruption.deferred, *started.deferred][:1]:
        signal.raise_signal(number)  # the sweep was at its end; what the caller does next is not
    return ledger


def _remember(
    driver: Driver,
    tags: Mapping[str, str],
    seats: list[Seat],
    interruption: Interruption,
    pages: Pages | None,
    past: tuple[PastTrial, ...],
) -> Ledger:
    """Run the trials between an opened and a closed journal."""
    journal, space, home = driver.journal, driver.space, driver.home
    origin, artifacts = provenance(journal.keep)
    name, recipe = journal.folder.name, driver.recipe.name
    mlflow = MLflowDelivery(journal, home.tracking_uri, home.artifacts, adopted_run_id=home.adopted_run_id, pages=pages)
    optuna = OptunaDelivery(journal, home)
    state, reason = State.FAIL, "the sweep's driver failed"
    try:
        tags = {**origin, **tags}
        driver.write(SweepOpened(name, recipe, space.as_plain(), tags, space.base.params, artifacts, past))
        mlflow.start()
        optuna.start()
        driver.take_up()
        if not interruption.asked:
            _run_trials(driver, seats, interruption)
        if not interruption.asked:
            driver.finish()
        state, reason = interruption.verdict if interruption.asked else (State.COMPLETE, "")
    except KeyboardInterrupt:
        state, reason = interruption.verdict
    except (NoRoomError, OutageError, OSError, tune.TuneError) as error:
        found = _beneath(error, journal.folder)
        if found is None:
            raise
        reason = _FULL if isinstance(found, NoRoomError) else str(found)
        raise found from None
    finally:
        with _nothing_added(sys.exception()), signals_deferred() as interruption.deferred:
            if interruption.asked:
                state, reason = interruption.verdict
            driver.close(state, reason)
        interruption.waits_for_stores = True
        full = isinstance(sys.exception(), NoRoomError)
        seconds = _HURRIED_SECONDS if interruption.asked else _DELIVERY_SECONDS
        delivered = _closed(mlflow, _FULL_SECONDS if full else seconds)
        copied = _closed(optuna, _COPY_SECONDS)
    log = logging.getLogger(__name__)
    for line in _lacking(journal, home, mlflow, delivered):
        log.warning("%s", line)
    if not copied:
        log.warning("Optuna's storage did not take everything; the next `mouselift sweep status` writes the rest.")
    return driver.ledger


def _lacking(journal: Journal, home: Home, mlflow: Delivery, delivered: bool) -> list[str]:
    """What MLflow lacks at the end of a session: which store, how much, why, and what to do."""
    store, name = f"MLflow at {home.tracking_uri}", journal.folder.name
    lines = []
    if not delivered:
        lacks = counted(undelivered(journal), "event")
        why = f": {mlflow.trouble}" if mlflow.trouble else ""
        lines.append(
            f"{store} did not take everything{why} — the journal keeps {lacks}, and `mouselift sweep status {name}` "
            "delivers them once it answers."
        )
    if mlflow.left_out:
        lines.append(f"{store} refused {counted(mlflow.left_out, 'event')}, which only the journal has.")
    return lines


def _closed(delivery: Delivery, seconds: float) -> bool:
    """Whether everything arrived. A signal that comes meanwhile ends the waiting."""
    try:
        return delivery.close(seconds)
    except KeyboardInterrupt:
        return delivery.close(0)


def _beneath(error: BaseException | None, folder: Path) -> NoRoomError | OutageError | None:
    """The full disk or the lost store behind an error, which Ray Tune wraps in its own."""
    while error is not None:
        if isinstance(error, NoRoomError | OutageError):
            return error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return no_room(folder, error)
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def _nothing_added(raised: BaseException | None) -> Iterator[None]:
    """Ignore that a full disk also refuses the end of the sweep, when the error of that disk is being raised."""
    try:
        yield
    except (NoRoomError, OSError):
        if not isinstance(raised, NoRoomError):
            raise


def _run_trials(driver: Driver, seats: list[Seat], interruption: Interruption) -> None:
    space, home, name = driver.space, driver.home, driver.ledger.name
    settings = TrialSettings(
        name, driver.recipe, space.aims, str(home.cache), home.checkpoints, space.retention, seats, code_version()
    )
    if Path(home.ray_storage).is_dir():  # of an earlier session; nothing reads it
        shutil.rmtree(Path(home.ray_storage) / name, ignore_errors=True)
    searcher = _Searcher(driver)
    trainable = tune.with_resources(partial(run_trial, settings=settings), resources(seats))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=space.objective.metric,
            mode=space.objective.mode,
            search_alg=searcher,
            scheduler=driver.scheduler,
            num_samples=-1,  # the searcher says when there are enough: a trial may need more than one of Ray's
            max_concurrent_trials=space.trials.concurrent,
            trial_name_creator=_ray_name,
            trial_dirname_creator=_ray_name,
            reuse_actors=not space.trials.taken_gpus,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=home.ray_storage,
            verbose=0,
            callbacks=[_DriverCallback(driver, interruption)],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    with interruption.ray_tunes():
        tuner.fit()
    if not searcher.finished:  # a SIGUSR1 came between Ray Tune's handler and ours
        interruption.end(State.KILLED, said(signal.SIGUSR1))


def _ray_name(trial: Any) -> str:
    return f"t{trial.config['number']:04d}-{trial.config['attempt']}"


class _Searcher(Searcher):
    """By it Ray Tune asks the driver for trials, and reports that a trial ended."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()  # without a metric: Ray would refuse every report that lacks it
        self._driver = driver
        self.finished = False

    def save(self, checkpoint_path: str) -> None:
        """Ray needs a file here. It stays empty, because the journal has everything."""
        Path(checkpoint_path).touch()

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        """Accept Ray's metric and mode; the space knows its objective."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The config of a trial; FINISHED when none is left, None while a running trial may still lead to one."""
        config = self._driver.next_trial(trial_id)
        self.finished = config is None and self._driver.is_over
        return str(Searcher.FINISHED) if self.finished else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let the driver decide whether the trial goes on."""
        self._driver.ended(trial_id, result, error)


class _DriverCallback(tune.Callback):
    """Passes Ray's events to the driver."""

    def __init__(self, driver: Driver, interruption: Interruption) -> None:
        self._driver, self._interruption = driver, interruption
        self._trials: list[Any] = []
        driver.broken = self._broken

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks with the experiment, but this one is of use only beside its driver

    def setup(self, *words: Any, **named: Any) -> None:
        """Ray Tune has set its handler of signals, and its loop is about to run."""
        self._interruption.take_over()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._trials = trials
        self._driver.watch(self._kill)
        if self._driver.vitals.lost:
            raise KeyboardInterrupt  # at once: an orderly end of Ray would wait for the dead process
        if self._interruption.asked and not takes_signals():
            raise KeyboardInterrupt  # in another thread than the main one Ray Tune hears no signal that would end it

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.opened(trial.trial_id, trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        pictures: Mapping[str, bytes] = result.pop(IMAGES, {})
        tags: dict[str, str] = result.pop(TAGS, {})
        scenes: Sequence[SceneFigures] = result.pop(SCENES, [])
        if "step" in result:
            number = trial.config["number"]
            self._driver.reported(number, result["step"], metrics_of(result), pictures, tags, scenes)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Drop Ray's statistics of each metric of a trial, by which the driver of a long sweep would grow most."""
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()

    on_trial_error = on_trial_complete

    def _broken(self, ray_trial_id: str) -> Broken:
        trial = next(trial for trial in reversed(self._trials) if trial.trial_id == ray_trial_id)
        file = trial.error_file
        traceback = Path(file).read_text(encoding="utf-8", errors="replace") if file and Path(file).is_file() else ""
        # The whole text in place of the error: Ray has written no pickled error yet when it calls this.
        return Broken(trial.config, tune.TuneError(traceback), traceback)

    def _kill(self, number: int) -> None:
        for trial in reversed(self._trials):
            actor = trial.temporary_state.ray_actor
            if trial.config["number"] == number and actor is not None:
                ray.kill(actor)
                return
