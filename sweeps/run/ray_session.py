"""Ray itself: how it starts and how it ends, whatever happens to it meanwhile."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache
from typing import Any

import psutil
import ray

from pipeline.machine import account
from pipeline.machine.cpus import usable_cpus
from sweeps.errors import OutageError, StudyError
from sweeps.home import Home
from sweeps.own_process import THREADS, signals_blocked, signals_deferred, takes_signals
from sweeps.run.nodes import Node

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path of a recipe is relative to where the command was called
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal replaces Ray's own result files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most reports carry no validation
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # a sweep is taken up from its journal, not from Ray's snapshots
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints to stdout even with verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_prestart_worker_first_driver": "false",  # Ray would start a worker for each core, which no trial uses
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",  # a dead worker's children stay ours
}
# Of the signals that a scheduler or a terminal sends to all processes: SIGTERM is how Ray ends its own.
_FOR_THE_DRIVER = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_NEEDED = ("raylet", "gcs_server")
_SECONDS = 10.0
_TOKEN, _TOKEN_BYTES = "RAY_AUTH_TOKEN", 32
# A socket's path has at most 107 bytes; `/ray/session_2026-11-26_16-01-27_123456_4194304/sockets/plasma_store.1` is 70.
_LONGEST_FOLDER = 107 - 70
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  Ray makes its folder in it by itself, for all users


class Ray(contextlib.AbstractContextManager["Ray"]):
    """Ray on this machine, or the cluster at RAY_ADDRESS, from the first entry of this context to its first exit.

    Ray runs in a thread of its own. It needs seconds to start, in which the caller goes on. In a thread, no signal
    interrupts the start half way, or reaches Ray's own handlers, which would leave processes behind. The thread lasts
    as long as Ray, because the processes that it has started die with it.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._up: Future[Vitals] = Future()
        self._end = threading.Event()
        self._life: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._handler = signal.getsignal(signal.SIGCHLD)
        self.deferred: list[int] = []  # signals that came while it ended

    def __enter__(self) -> Ray:
        if self._thread.ident is None:
            os.environ.update(_ENVIRONMENT | {name: os.environ.get(name, value) for name, value in THREADS.items()})
            if self._home.ray_address is None:
                prepare_account()
            for noisy in ("ray", "ray.tune", "ray.train", "ray._private"):
                logging.getLogger(noisy).setLevel(logging.CRITICAL)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._home.ray_address is not None and not self._up.done():
            return  # Ray waits minutes for a cluster that does not answer, and such a cluster has nothing of ours
        with signals_deferred() as self.deferred:  # or its processes would stay
            wait([self._life])
        if os.environ.get(_TOKEN) == _own_token():
            del os.environ[_TOKEN]  # a script may go on to a cluster with a token of its own
        self._restore()
        if self._up.done():
            self._life.result()

    def ready(self) -> Vitals:
        """Wait for Ray. Raises StudyError when the cluster refuses us, OutageError when Ray has ended since."""
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
        """Undo that Ray ignores SIGCHLD: the exit codes of children would be lost."""
        if takes_signals():
            signal.signal(signal.SIGCHLD, self._handler or signal.SIG_DFL)

    def _live(self) -> None:
        with signals_blocked(_FOR_THE_DRIVER), contextlib.ExitStack() as stack:
            stack.push(self._over)
            self._up.set_result(stack.enter_context(_ray(self._home)))
            self._end.wait()

    def _over(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            self._life.set_result(None)
        else:
            self._life.set_exception(error)
        return True  # `ready` and `__exit__` raise the error, from the future


def nodes_of_cluster() -> list[Node]:
    """The machines of the cluster to which this process is connected, those that live."""
    return [Node.of(node) for node in ray.nodes() if node["Alive"]]


@cache
def _own_token() -> str:
    """One for the whole process: Ray keeps the first that it reads."""
    return secrets.token_hex(_TOKEN_BYTES)


def prepare_account() -> None:
    """Give a Ray of this machine a token, which it would otherwise keep in the user's home for everyone to read, and a
    folder whose path leaves room for the names of its sockets.

    Raises StudyError where there is no such folder.
    """
    os.environ.setdefault(_TOKEN, _own_token())
    given = os.environ.get("RAY_TMPDIR") or str(account.temporary_folder())
    if len(os.fsencode(given)) <= _LONGEST_FOLDER:
        return
    short = next((folder for folder in _SHORT_FOLDERS if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise StudyError(
            f"RAY_TMPDIR: expected a path of at most {_LONGEST_FOLDER} bytes for Ray's sockets, got {given} — set it "
            "to a folder with a shorter one."
        )
    os.environ["RAY_TMPDIR"] = short
    logging.getLogger(__name__).warning("%s is too long a path for Ray's sockets: it uses %s", given, short)


@contextlib.contextmanager
def _ray(home: Home) -> Iterator[Vitals]:
    earlier = children()
    try:
        ray.init(
            address=home.ray_address or "local",  # without an address Ray joins any cluster on this machine
            num_cpus=None if home.ray_address else usable_cpus(),  # as `nodes` counts them, or a trial may never fit
            include_dashboard=False if home.ray_address is None else None,
            runtime_env=_own_interpreter() if home.ray_address is None else None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=False,
        )
    except (OSError, ray.exceptions.RayError) as error:  # of which ConnectionError is one
        if home.ray_address is None:
            raise
        raise StudyError(
            f"RAY_ADDRESS: expected a Ray cluster at {home.ray_address} that takes us, got {_last_line(error)} — "
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


def _own_interpreter() -> dict[str, str] | None:
    """The workers' interpreter, where a shell would not read its path as one word: Ray hands it to one as it is."""
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _leave() -> None:
    """End this process with code 1. Ray's own exit hooks would wait a minute for dead processes, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _last_line(error: BaseException) -> str:
    """The last line of Ray's message, which holds the cause."""
    return str(error).strip().rpartition("\n")[2][:200] or type(error).__name__


class Vitals:
    """The processes without which no trial runs, of a Ray that this process has started; none of a cluster.

    When one of them dies, Ray neither says so nor ends: trials fail for no fault of theirs, or nothing happens any
    more. When a cluster loses its own, Ray ends the driver by itself.

    earlier: processes that this one had started before Ray.
    """

    def __init__(self, earlier: Iterable[psutil.Process] = ()) -> None:
        self._earlier = {process.pid for process in earlier}
        self._needed = {name: child for child in psutil.Process().children() if (name := _name(child)) in _NEEDED}

    @property
    def lost(self) -> str:
        """The name of one that has ended; empty while all live."""
        return next((name for name, process in self._needed.items() if not _lives(process)), "")

    def end_children(self) -> None:
        """Kill the processes that Ray has left behind.

        A Ray that has lost a process leaves all of them, because it cannot be shut down. Otherwise they are children of
        killed trials, which Ray makes children of this process.
        """
        left = [child for child in children() if child.pid not in self._earlier]
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(left, _SECONDS)


def children() -> list[psutil.Process]:
    """Every process that this one has started, and their children."""
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
