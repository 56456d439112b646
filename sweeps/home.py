"""Where the memory keeps its state: one folder, or the servers that the environment names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from sweeps.errors import StudyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Home:
    """Paths and addresses of one installation."""

    root: Path  # MOUSELIFT_HOME
    tracking_uri: str  # MLFLOW_TRACKING_URI, or the SQLite file below root
    storage: str | None  # MOUSELIFT_STORAGE, an Optuna RDB URL, or None for the journal file below root
    ray_address: str | None  # RAY_ADDRESS, or None for this machine
    adopted_run_id: str | None  # MLFLOW_RUN_ID, the run that `mlflow run` opened for us
    checkpoints: str  # MOUSELIFT_CHECKPOINTS, a folder that all machines see or s3://bucket/prefix, or one below root

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> Home:
        """Raises StudyError when MLflow and Optuna are given one database: their tables would clash; when `mlflow
        run` was told of no store, so that its run is in a file of the working folder, where nobody looks for it; and
        for a new home in which MLflow would find no model.
        """
        root = Path(environment.get("MOUSELIFT_HOME") or "runs").expanduser().resolve()
        tracking_uri = environment.get("MLFLOW_TRACKING_URI") or sqlite_uri(root / "mlflow.db")
        _require_loadable(root, tracking_uri)
        if environment.get("MLFLOW_RUN_ID") and _is_mlflows_default(tracking_uri, environment.get("PWD"), root):
            raise StudyError(
                f"MLFLOW_TRACKING_URI: expected the store of this home for `mlflow run`, got MLflow's own default, "
                f"{tracking_uri} — export MLFLOW_TRACKING_URI={sqlite_uri(root / 'mlflow.db')} and run it again."
            )
        storage = environment.get("MOUSELIFT_STORAGE") or None
        if storage == tracking_uri:
            raise StudyError(
                "MOUSELIFT_STORAGE: expected a database of its own, got that of MLFLOW_TRACKING_URI — "
                "create a second one; both keep a table alembic_version."
            )
        return Home(
            root=root,
            tracking_uri=tracking_uri,
            storage=storage,
            ray_address=environment.get("RAY_ADDRESS") or None,
            adopted_run_id=environment.get("MLFLOW_RUN_ID") or None,
            checkpoints=_located(environment.get("MOUSELIFT_CHECKPOINTS") or str(root / "checkpoints")),
        )

    @property
    def has_store(self) -> bool:
        """False only before the first use of a store of our own."""
        file = store_file(self.tracking_uri)
        return file is None or is_made(file)

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def optuna_journal(self) -> Path:
        return self.root / "optuna.log"

    @property
    def ray(self) -> Path:
        return self.root / "ray"

    @property
    def ray_storage(self) -> str:
        """Where Ray's own files go: every machine of a cluster must reach it."""
        return f"{self.checkpoints}/.ray" if self.keeps_in_store else str(self.ray)

    @property
    def keeps_in_store(self) -> bool:
        """Whether checkpoints go to S3, not to a disk."""
        return "://" in self.checkpoints

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def journals(self) -> Path:
        return self.root / "journal"

    def journal(self, sweep: str) -> Path:
        return self.journals / check_name(sweep)


def _require_loadable(root: Path, tracking_uri: str) -> None:
    """Models lie in the home, unless a server keeps them. Whoever loads one there with MLflow by `models:/…` needs a
    path that stays the same when it is decoded like an address: MLflow does that to the path of a file, too
    (`local_file_uri_to_path`, as `mlflow.models.Model.load` calls it), so no form of the address helps.

    A home that has something in it goes on as it did. Raises StudyError.
    """
    found = _ESCAPE.search(str(root))
    if found is None or is_served(tracking_uri) or (root / "mlflow.db").exists() or (root / "journal").exists():
        return
    raise StudyError(
        f"MOUSELIFT_HOME: expected a path without % before two hexadecimal digits, got {root}: MLflow reads {found[0]} "
        f"in it as {unquote(found[0])!r} and finds no model there — choose another folder."
    )


def _is_mlflows_default(tracking_uri: str, called_from: str | None, root: Path) -> bool:
    """Whether a store is where MLflow keeps its own when it is told of none: in the folder where `mlflow run` was
    called, or in the project's. PWD stays the former, while MLflow begins us in the latter.
    """
    file = store_file(tracking_uri)
    if file is None or file.name != "mlflow.db":
        return False
    folder = file.resolve().parent
    return folder != root and folder in (Path.cwd().resolve(), Path(called_from or ".").resolve())


def _located(folder: str) -> str:
    folder = folder.removeprefix("file://")
    return folder if "://" in folder else str(Path(folder).expanduser().resolve())


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite file. SQLAlchemy reads `%41` in it as `A`, and `?` as its end: both are escaped.

    Nothing else is: MLflow makes the folder of the address as it is written, an empty one beside that of the file
    (`_make_parent_dirs_if_sqlite` in mlflow/store/db/utils.py).
    """
    escaped = _ESCAPE.sub(lambda found: f"%25{found[0][1:]}", str(file)).replace("?", "%3F")
    return f"sqlite:///{escaped}"


def store_file(tracking_uri: str) -> Path | None:
    """The SQLite file that keeps a store, or None where a server or another database does."""
    if not tracking_uri.startswith("sqlite:"):
        return None
    return Path(unquote(tracking_uri.removeprefix("sqlite:///").partition("?")[0]))


def is_made(store: Path) -> bool:
    """Whether a SQLite file holds something: opening one that is not there makes an empty one."""
    return store.exists() and store.stat().st_size > 0


def is_served(tracking_uri: str) -> bool:
    """Whether a server keeps the store; it then decides where files lie."""
    return tracking_uri.startswith(("http://", "https://"))


def check_name(name: str) -> str:
    """A sweep's name, fit for a folder, a study and a run. Raises StudyError."""
    if not _NAME.fullmatch(name):
        raise StudyError(
            f"{name}: expected a name of letters, digits, . _ - (at most 80) — choose another with --name."
        )
    return name


def timed_name(stem: str, now: datetime) -> str:
    """The computed name of a sweep: what it sweeps, and when it began."""
    return f"{stem}-{now:%Y%m%d-%H%M%S}"
