"""Whether the stores take what a sweep will write: asked of each without leaving a trace in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.config import one_line
from sweeps.errors import StudyError
from sweeps.home import Home, is_made, is_served, store_file
from sweeps.preflight.disk_and_memory import require_folder

_SECONDS = 5  # to wait for a server, a database or a lock
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_SECONDS)}
_TAG = "mouselift.checked"


def require_tracking(home: Home) -> str:
    """What was found. Raises StudyError unless MLflow's store takes writes, within seconds."""
    uri = home.tracking_uri
    if is_served(uri):
        _require_server(uri)
        return f"{uri} takes writes"
    file = store_file(uri)
    if file is not None and not is_made(file):
        require_folder("MLFLOW_TRACKING_URI", file.parent)
        return f"{file} will be made"
    if file is not None or _is_database(uri):
        _require_database("MLFLOW_TRACKING_URI", uri, "experiments", "lifecycle_stage")
    with _told("MLFLOW_TRACKING_URI", "a store of this MLflow"):
        mlflow_client(uri).search_experiments(max_results=1)
    return f"{_shown(uri)} takes writes"


def mlflow_client(uri: str) -> MlflowClient:
    """A client of a server, or of a database, which MLflow opens at once. Raises StudyError when it cannot."""
    try:
        return MlflowClient(uri, registry_uri=uri)
    except (ImportError, MlflowException, SQLAlchemyError) as error:
        raise StudyError(
            f"MLFLOW_TRACKING_URI: expected a store of this MLflow at {_shown(uri)}, got {_cause(error)} — start it, "
            "mend it, or choose another."
        ) from None


def require_study_storage(home: Home) -> str:
    """What was found. Raises StudyError unless Optuna's storage takes writes, within seconds."""
    if home.storage is not None:
        _require_database("MOUSELIFT_STORAGE", home.storage, "studies", "study_name")
        return f"{_shown(home.storage)} takes writes"
    file = home.optuna_journal
    if file.exists() and not os.access(file, os.W_OK):
        raise StudyError(f"{file}: expected a file that can be written to, got one that cannot — mend its rights.")
    return f"{file}{'' if file.exists() else ' will be made'}"


def _require_server(uri: str) -> None:
    """A tag set on an experiment and taken away again; a server without one has only to answer."""
    with environment(_IMPATIENT), _told("MLFLOW_TRACKING_URI", f"an MLflow at {uri} that takes writes"):
        client = MlflowClient(uri)
        for experiment in client.search_experiments(max_results=1):
            client.set_experiment_tag(experiment.experiment_id, _TAG, "1")
            with contextlib.suppress(MlflowException):  # older servers cannot take a tag away
                client.delete_experiment_tag(experiment.experiment_id, _TAG)


def _require_database(variable: str, url: str, table: str, column: str) -> None:
    """An update of no row, or a new table in an empty database, taken back: it needs rights and locks like any."""
    try:
        engine = sqlalchemy.create_engine(url, connect_args=_limits(url), poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as connection:
            if sqlalchemy.inspect(connection).has_table(table):
                target = sqlalchemy.table(table, sqlalchemy.column(column))
                nothing = sqlalchemy.update(target).where(sqlalchemy.false()).values({column: target.c[column]})
                connection.execute(nothing)
            else:
                made = sqlalchemy.Table(
                    "mouselift_probe", sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer)
                )
                made.create(connection)
                made.drop(connection)
            connection.rollback()
    except (ImportError, SQLAlchemyError) as error:
        raise StudyError(
            f"{variable}: expected a database that takes writes at {_shown(url)}, got {_cause(error)} — mend it."
        ) from None


@contextlib.contextmanager
def _told(variable: str, expected: str) -> Iterator[None]:
    """What MLflow and the network say, as an error of the user's."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise StudyError(f"{variable}: expected {expected}, got {_cause(error)} — start it, or mend it.") from None


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """MLflow reads these settings at each request and nowhere else."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _is_database(uri: str) -> bool:
    scheme = uri.partition(":")[0].partition("+")[0]
    return scheme in ("postgresql", "mysql", "mssql")


def _limits(url: str) -> dict[str, Any]:
    scheme = url.partition(":")[0].partition("+")[0]
    return {"sqlite": {"timeout": _SECONDS}, "mssql": {"timeout": _SECONDS}}.get(scheme, {"connect_timeout": _SECONDS})


def _shown(url: str) -> str:
    """A database's URL without its password; what is no database's URL as it is."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _cause(error: Exception) -> str:
    """The first sentence of an error, without SQLAlchemy's copy of the statement or MLflow's of the address."""
    return one_line(error).partition(" [SQL")[0].partition(" (Background")[0][:200]
