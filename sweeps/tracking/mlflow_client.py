"""MLflow's client: how a store is opened, made, and asked whether it takes writes, and what its errors say.

A store is an MLflow server, or a database that MLflow opens itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping
from fcntl import LOCK_EX, flock

import sqlalchemy
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeps.book.delivery import RefusedError, UnansweredError
from sweeps.errors import StudyError, cause
from sweeps.home import is_made, sqlite_uri, store_file

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # what asking a store raises that is away or not whole
_VARIABLE = "MLFLOW_TRACKING_URI"
_TAG = "mouselift.checked"
_TIMES, _LONGEST_PAUSE_SECONDS = 5, 0.3  # of setting it
_BAD_REQUEST = 400  # what MLflow answers where a row is gone that it was about to change
_PAGE = 500  # runs
_TRY_AGAIN_CODES = (408, 429)
_BUSY = "QueuePool limit"  # MLflow answers 400 to it, though a later try may pass


def mlflow_client(uri: str) -> MlflowClient:
    """A client of a server, or of a database, which MLflow opens at once. Raises StudyError when it cannot."""
    try:
        return MlflowClient(uri, registry_uri=uri)
    except (ImportError, MlflowException, SQLAlchemyError) as error:
        raise StudyError(
            f"{_VARIABLE}: expected a store of this MLflow at {shown(uri)}, got {cause(error)} — start it, "
            "or name another store."
        ) from None


def require_readable(uri: str) -> None:
    """Raises StudyError unless the store lists its experiments."""
    client = mlflow_client(uri)
    with _as_study_error("a store of this MLflow"):
        client.search_experiments(max_results=1)


def require_writable(uri: str, seconds: int) -> None:
    """Raises StudyError unless a server takes writes; it is asked once and has so many seconds for each answer.

    A tag is set on an experiment and removed again. A server without an experiment has only to answer. Where others ask
    it meanwhile, one may remove what another is about to set, which MLflow answers with an error: then it is asked
    again.
    """
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    with environment(impatient), _as_study_error(f"an MLflow at {uri} that takes writes"):
        client = MlflowClient(uri)
        for experiment in client.search_experiments(max_results=1):
            _set_tag(client, experiment.experiment_id)
            with contextlib.suppress(MlflowException):  # older servers cannot remove a tag
                client.delete_experiment_tag(experiment.experiment_id, _TAG)


def _set_tag(client: MlflowClient, experiment: str) -> None:
    for _ in range(_TIMES - 1):
        try:
            return client.set_experiment_tag(experiment, _TAG, "1")
        except MlflowException as error:
            if error.get_http_status_code() != _BAD_REQUEST:
                raise
        time.sleep(random.uniform(0.0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 — so that the two do not meet again
    return client.set_experiment_tag(experiment, _TAG, "1")


def runs_of(client: MlflowClient, experiments: list[str], where: str) -> Iterator[Run]:
    """The runs of these experiments that a filter of MLflow takes, the newest first, page by page."""
    token: str | None = None
    while experiments:
        page = client.search_runs(experiments, where, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def prepare_store(tracking_uri: str) -> None:
    """Make a SQLite store where there is none, whole or not at all; one that is there is left to MLflow.

    MLflow would make it in place: another process that opens it meanwhile would make it too, and one that is killed
    would leave a store that never opens. Its client has no setting for where the experiment Default keeps its files
    (they would lie in `mlruns` of the working directory), and `mlflow db upgrade` makes no experiment, so this asks
    the class behind both; tests/contracts/test_mlflow.py holds what is used of it.
    """
    database = store_file(tracking_uri)
    if database is None or is_made(database):
        return
    artifacts = (database.parent / "artifacts").resolve().as_uri()
    database = database.resolve()  # a link stays one
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("wb") as file:
        flock(file, LOCK_EX)
        if is_made(database):
            return
        unfinished = database.with_name(f".{database.name}")  # not `whole`: SQLite keeps files of its own beside it
        for part in ("", "-journal", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + part).unlink(missing_ok=True)
        unfinished.touch()  # by the umask's rights: SQLite would let no colleague write, whatever the umask says
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # a second, which most commands can spare

        SqlAlchemyStore(sqlite_uri(unfinished), artifacts).engine.dispose()
        if is_made(database):  # by a process that has not asked for the lock
            unfinished.unlink()
        else:
            unfinished.replace(database)


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Settings of MLflow for the block: it reads them at each request, and from the environment only."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def delivery_errors() -> Iterator[None]:
    """RefusedError for a request or file that stays wrong, UnansweredError where a later try may pass."""
    try:
        yield
    except FileNotFoundError as error:
        raise RefusedError(str(error)) from error
    except OSError as error:  # of requests, too
        raise UnansweredError(str(error)) from error
    except SQLAlchemyError as error:  # of a database, while MLflow opens it
        raise UnansweredError(cause(error)) from error
    except MlflowException as error:
        code = error.get_http_status_code()
        wrong = 400 <= code < 500 and code not in _TRY_AGAIN_CODES and _BUSY not in str(error)
        kind = RefusedError if wrong else UnansweredError
        raise kind(str(error).partition("\n")[0]) from error


def shown(url: str) -> str:
    """A database's URL without its password; what is no database's URL as it is."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


@contextlib.contextmanager
def _as_study_error(expected: str) -> Iterator[None]:
    """Errors of MLflow and the network, as an error that the user can act on."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"{_VARIABLE}: expected {expected}, got {cause(error)} — see that it runs and that you may write to it."
        ) from None
