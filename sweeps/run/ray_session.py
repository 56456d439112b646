"""Ray itself: how it comes up, and how it ends, whatever happens meanwhile."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import psutil
import ray

from sweeps.errors import OutageError, StudyError
from sweeps.home import Home
from sweeps.own_process import takes_signals

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path of a recipe is relative to where the command was called
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal replaces Ray's own result files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most reports carry no validation
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal and the study are what a sweep is taken up from
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints to stdout, however quiet it is asked to be
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_prestart_worker_first_driver": "false",  # one for every core, and trials take none of them
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",  # their children stay ours
}
_NEEDED = ("raylet", "gcs_server")
_SECONDS = 10.0


class Ray(contextlib.AbstractContextManager["Ray"]):
    """Ray on this machine, or the cluster at RAY_ADDRESS, from where it is first entered to where it is first left.

    It lives in a thread: it comes up for seconds in which others may work, and no signal breaks in on it half way, or
    is answered by Ray's own handlers, which would leave processes behind. The thread stays, since what it has started
    dies with it.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._up: Future[Vitals] = Future()
        self._end = threading.Event()
        self._life: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._handler = signal.getsignal(signal.SIGCHLD)

    def __enter__(self) -> Ray:
        if self._thread.ident is None:
            os.environ.update(_ENVIRONMENT)
            for noisy in ("ray", "ray.tune", "ray.train", "ray._private"):
                logging.getLogger(noisy).setLevel(logging.CRITICAL)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._home.ray_address is not None and not self._up.done():
            return  # a cluster that does not answer keeps Ray waiting for minutes, and holds nothing of ours
        wait([self._life])
        self._restore()
        if self._up.done():
            self._life.result()

    def ready(self) -> Vitals:
        """Waits for Ray. Raises StudyError when the cluster does not take us, OutageError when it has ended since."""
        either: list[Future[Any]] = [self._up, self._life]
        wait(either, return_when=FIRST_COMPLETED)
        if self._life.done():
            self._life.result()
        self._restore()
        vitals = self._up.result()
        if vitals.lost:
            raise OutageError(f"Ray: expected its {vitals.lost} to live, but it ended — run the command again.")
        return vitals

    def _restore(self) -> None:
        """Ray has SIGCHLD ignored, and then no child's exit code is known."""
        if takes_signals():
            signal.signal(signal.SIGCHLD, self._handler or signal.SIG_DFL)

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self._over)
            self._up.set_result(stack.enter_context(_ray(self._home)))
            self._end.wait()

    def _over(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            self._life.set_result(None)
        else:
            self._life.set_exception(error)
        return True  # whoever waits is told


@contextlib.contextmanager
def _ray(home: Home) -> Iterator[Vitals]:
    earlier = children()
    try:
        ray.init(
            address=home.ray_address or "local",  # without a word Ray would join whatever cluster it finds here
            include_dashboard=False if home.ray_address is None else None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=False,
        )
    except (OSError, ray.exceptions.RayError) as error:  # of which ConnectionError is one
        if home.ray_address is None:
            raise
        raise StudyError(
            f"RAY_ADDRESS: expected a Ray cluster at {home.ray_address} that takes us, got {_told(error)} — "
            "start it; where it asks for a token, export RAY_AUTH_MODE=token and have that token here, too."
        ) from None
    vitals = Vitals(earlier)
    try:
        yield vitals
    finally:
        if vitals.lost:
            atexit.register(_leave)
        else:
            ray.shutdown()
        vitals.end_children()


def _leave() -> None:
    """End this process as one that failed: in the end, Ray's own hooks would wait a minute for the dead, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _told(error: BaseException) -> str:
    """The last words of what Ray says, in which the cause stands."""
    return str(error).strip().rpartition("\n")[2][:200] or type(error).__name__


class Vitals:
    """The processes that a sweep cannot do without, of the Ray that this process has started; of a cluster none.

    When one of them dies, Ray neither says so nor ends: trials fail for no fault of theirs, or nothing happens any
    more. What becomes of a driver that loses a cluster's own, Ray decides.

    earlier: processes that this one had started before.
    """

    def __init__(self, earlier: Iterable[psutil.Process] = ()) -> None:
        self._earlier = {process.pid for process in earlier}
        self._needed = {name: child for child in psutil.Process().children() if (name := _name(child)) in _NEEDED}

    @property
    def lost(self) -> str:
        """Which has ended; empty while all live."""
        return next((name for name, process in self._needed.items() if not _lives(process)), "")

    def end_children(self) -> None:
        """Kill what Ray left: all of it, when it has lost a process and would not end when asked; else what trials that
        were killed had started, which Ray makes children of this process.
        """
        left = [child for child in children() if child.pid not in self._earlier]
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(left, _SECONDS)


def children() -> list[psutil.Process]:
    """Every process that this one has started, and those that they have."""
    return list(psutil.Process().children(recursive=True))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
