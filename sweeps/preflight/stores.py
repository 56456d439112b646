"""Whether the stores take what a sweep will write: asked of each without leaving a trace in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.files import nearest_existing
from pipeline.machine.outputs import require_folder, require_locks
from sweeps.errors import StudyError, cause
from sweeps.home import Home, is_made, is_served, sqlite_uri, store_file
from sweeps.tracking.mlflow_client import require_readable, require_writable, shown

_SECONDS = 5  # to wait for a server, a database or a lock
_TIMEOUTS = {"sqlite": "timeout", "mssql": "timeout"}  # of the others it is connect_timeout
_SERVERS = ("postgresql", "mysql", "mssql")


def require_tracking(home: Home) -> str:
    """What was found. Raises StudyError unless MLflow's store takes writes, within seconds."""
    uri = home.tracking_uri
    if is_served(uri):
        require_writable(uri, _SECONDS)
        return f"{uri} takes writes"
    if _scheme(uri) == "sqlite" and _is_in_memory(uri):
        raise StudyError(
            f"MLFLOW_TRACKING_URI: expected a SQLite file that keeps what is written, got {uri} — name one, such as "
            "sqlite:////folder/mlflow.db."
        )
    file = store_file(uri)
    if file is not None and not is_made(file):
        _require_new_file(file)
        return f"{file} will be made"
    if file is not None or _scheme(uri) in _SERVERS:
        _require_database("MLFLOW_TRACKING_URI", uri, "experiments", "lifecycle_stage")
    require_readable(uri)
    return f"{shown(uri)} takes writes"


def _is_in_memory(uri: str) -> bool:
    """Whether a SQLite address names no file, or cannot be read."""
    try:
        database = sqlalchemy.make_url(uri).database
    except ArgumentError:
        return True
    return not database or ":memory:" in database


def require_study_storage(home: Home) -> str:
    """What was found. Raises StudyError unless Optuna's storage takes writes, within seconds."""
    if home.storage is not None:
        _require_database("MOUSELIFT_STORAGE", home.storage, "studies", "study_name")
        return f"{shown(home.storage)} takes writes"
    file = home.optuna_journal
    if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        raise StudyError(f"{file}: expected a file that can be written to, got one that cannot — make it writable.")
    return f"{file}{'' if file.exists() else ' will be made'}"


def _require_new_file(file: Path) -> None:
    """Whether SQLite can make a file there, which it needs locks of its own for."""
    folder = file.resolve().parent  # of a link, where it leads
    require_folder(folder, "MLFLOW_TRACKING_URI")
    require_locks(folder, "MLFLOW_TRACKING_URI")
    with tempfile.NamedTemporaryFile(dir=nearest_existing(folder), prefix=".mouselift-") as probe:
        _require_database("MLFLOW_TRACKING_URI", sqlite_uri(Path(probe.name)), "experiments", "lifecycle_stage")


def _require_database(variable: str, url: str, table: str, column: str) -> None:
    """An update of no row, or a new table in an empty database, taken back: it needs rights and locks like any."""
    try:
        limit = {_TIMEOUTS.get(_scheme(url), "connect_timeout"): _SECONDS}
        engine = sqlalchemy.create_engine(url, connect_args=limit, poolclass=sqlalchemy.pool.NullPool)
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
            f"{variable}: expected a database that takes writes at {shown(url)}, got {cause(error)} — see that "
            "it runs and that you may write to it."
        ) from None


def _scheme(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]
