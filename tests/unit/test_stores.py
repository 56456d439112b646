"""Whether stores take writes: found out within seconds, and without a trace."""

import os
import shutil
import sqlite3
import stat
import threading
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sweeps.errors import StudyError
from sweeps.home import Home, store_file
from sweeps.preflight import stores
from sweeps.preflight.stores import require_study_storage, require_tracking
from sweeps.tracking import mlflow_heartbeats, queries
from sweeps.tracking.mlflow_client import mlflow_client, prepare_store


@pytest.fixture
def home(tmp_path):
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Made once: it takes MLflow seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{file}")
    return file


@pytest.fixture
def stored(home, empty_store):
    """A home with a store that has been used."""
    home.root.mkdir()
    shutil.copy(empty_store, home.root)
    return home


def refusal(check, home):
    with pytest.raises(StudyError) as error:
        check(home)
    return str(error.value)


def dump(home):
    with closing(sqlite3.connect(home.root / "mlflow.db")) as connection:
        return list(connection.iterdump())


def test_a_store_that_is_not_there_yet_is_not_made(home):
    assert require_tracking(home) == f"{home.root}/mlflow.db will be made"
    assert require_study_storage(home) == f"{home.root}/optuna.log will be made"
    assert not home.root.exists()


def test_a_store_that_takes_writes_is_as_it_was(stored):
    before = dump(stored)
    assert require_tracking(stored) == f"{stored.tracking_uri} takes writes"
    assert dump(stored) == before


def test_a_locked_store_is_refused(stored, monkeypatch):
    monkeypatch.setattr(stores, "_SECONDS", 0.1)
    with closing(sqlite3.connect(stored.root / "mlflow.db")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert refusal(require_tracking, stored) == (
            f"MLFLOW_TRACKING_URI: expected a database that takes writes at {stored.tracking_uri}, got "
            "(sqlite3.OperationalError) database is locked — see that it runs and that you may "
            "write to it."
        )


def test_a_file_that_is_no_database_is_refused(stored):
    (stored.root / "mlflow.db").write_text("no database" * 100)
    assert "got (sqlite3.DatabaseError) file is not a database — " in refusal(require_tracking, stored)


def test_a_store_of_another_mlflow_is_refused(stored):
    with closing(sqlite3.connect(stored.root / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.commit()
    said = refusal(require_tracking, stored)
    assert said.startswith(f"MLFLOW_TRACKING_URI: expected a store of this MLflow at {stored.tracking_uri}, got ")
    assert "\n" not in said


def test_a_store_that_mlflow_left_half_made_is_refused_by_all_that_open_it(home):
    home.root.mkdir()
    with closing(sqlite3.connect(home.root / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE metrics (run_uuid VARCHAR, step BIGINT)")
    said = refusal(lambda home: mlflow_client(home.tracking_uri), home)
    assert said == (
        f"MLFLOW_TRACKING_URI: expected a store of this MLflow at {home.tracking_uri}, got "
        "(sqlite3.OperationalError) duplicate column name: step — start it, or name another store."
    )
    assert refusal(require_tracking, home) == said
    assert refusal(lambda home: queries.sweeps(home.tracking_uri), home) == said
    assert mlflow_heartbeats.close_silent(home) == []


@pytest.mark.parametrize("uri", ["./mlruns", "file:./mlruns", "postgresql+nothing://me:secret@127.0.0.1:9/a"])
def test_a_store_of_a_kind_that_cannot_be_is_one_line(home, uri):
    said = refusal(require_tracking, replace(home, tracking_uri=uri))
    assert said.startswith("MLFLOW_TRACKING_URI: expected a ") and "\n" not in said and "secret" not in said


def test_an_empty_file_is_a_store_that_is_not_there_yet(home):
    home.root.mkdir()
    (home.root / "mlflow.db").touch()
    assert not home.has_store and queries.sweeps(home.tracking_uri) == []
    assert require_tracking(home) == f"{home.root}/mlflow.db will be made"
    assert (home.root / "mlflow.db").stat().st_size == 0


def test_a_study_storage_nobody_can_open_is_refused_without_its_password(home):
    said = refusal(require_study_storage, replace(home, storage="postgresql+psycopg://me:secret@127.0.0.1:9/a"))
    assert said.startswith(
        "MOUSELIFT_STORAGE: expected a database that takes writes at postgresql+psycopg://me:***@127.0.0.1:9/a, got "
    )
    assert "secret" not in said


def test_an_unknown_kind_of_database_is_refused(home):
    assert "expected a database that takes writes at" in refusal(
        require_study_storage, replace(home, storage="oracl://somewhere/optuna")
    )


def test_a_study_database_is_as_it_was(home, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    assert require_study_storage(replace(home, storage=url)) == f"{url} takes writes"
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        assert list(connection.execute("SELECT name FROM sqlite_master")) == []


def test_a_server_that_is_not_there_is_refused_at_once(home, monkeypatch):
    started = time.monotonic()
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    said = refusal(require_tracking, replace(home, tracking_uri="http://127.0.0.1:9"))
    assert said.startswith("MLFLOW_TRACKING_URI: expected an MLflow at http://127.0.0.1:9 that takes writes, got ")
    assert time.monotonic() - started < 10


class FakeServer(BaseHTTPRequestHandler):
    """A server that shows an experiment; it takes writes, or not."""

    writable, asked = True, []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append(self.path.rpartition("/")[2])
        allowed = self.writable or self.path.endswith("/experiments/search")
        text = '{"experiments": [{"experiment_id": "7", "name": "a"}]}' if allowed else '{"message": "read only"}'
        self.send_response(200 if allowed else 403)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(home, monkeypatch):
    monkeypatch.setattr(FakeServer, "asked", [])
    server = HTTPServer(("127.0.0.1", 0), FakeServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield replace(home, tracking_uri=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_a_tag_is_set_on_a_server_and_taken_away_again(served):
    assert require_tracking(served) == f"{served.tracking_uri} takes writes"
    assert FakeServer.asked == ["search", "set-experiment-tag", "delete-experiment-tag"]


def test_a_server_that_takes_no_writes_is_refused(served, monkeypatch):
    monkeypatch.setattr(FakeServer, "writable", False)
    assert refusal(require_tracking, served) == (
        f"MLFLOW_TRACKING_URI: expected an MLflow at {served.tracking_uri} that takes writes, got INTERNAL_ERROR: "
        "read only — see that it runs and that you may write to it."
    )


def test_a_home_may_have_a_per_cent_sign_in_its_path_and_no_folder_is_made_beside_it(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "50% a b%")})
    prepare_store(home.tracking_uri)
    assert store_file(home.tracking_uri) == home.root / "mlflow.db"
    assert (home.root / "mlflow.db").is_file()
    (default,) = mlflow_client(home.tracking_uri).search_experiments()
    assert default.name == "Default"
    assert list(tmp_path.iterdir()) == [home.root]


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "sqlite:/x.db"]
)
def test_a_store_in_memory_is_refused(home, uri):
    said = refusal(require_tracking, replace(home, tracking_uri=uri))
    assert said.startswith("MLFLOW_TRACKING_URI: expected a SQLite file that keeps what is written, got sqlite:")


def test_a_folder_in_the_place_of_the_store_is_refused(home):
    (home.root / "mlflow.db").mkdir(parents=True)
    assert "unable to open database file" in refusal(require_tracking, home)


def test_a_folder_in_the_place_of_the_copy_of_the_studies_is_refused(home):
    home.optuna_journal.mkdir(parents=True)
    assert "expected a file that can be written to" in refusal(require_study_storage, home)


def test_a_store_that_a_link_leads_to_is_made_there(home, tmp_path):
    home.root.mkdir()
    (home.root / "mlflow.db").symlink_to(tmp_path / "other" / "mlflow.db")
    assert require_tracking(home).endswith("will be made")
    prepare_store(home.tracking_uri)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_looking_for_room_for_a_new_store_leaves_nothing(home):
    home.root.mkdir()
    require_tracking(home)
    assert list(home.root.iterdir()) == []


def test_a_new_store_is_for_the_group_where_the_umask_says_so(home):
    before = os.umask(0o002)
    try:
        prepare_store(home.tracking_uri)
    finally:
        os.umask(before)
    assert stat.S_IMODE((home.root / "mlflow.db").stat().st_mode) == 0o664


def test_a_silent_sweep_is_closed_a_lease_after_the_clock_was_set_back(stored):
    client = mlflow_client(stored.tracking_uri)
    run = client.create_run("0", tags={"sweep.key": "of another home"}, run_name="silent")
    year, lease = 365 * 86400.0, mlflow_heartbeats.LONGEST_SILENCE_SECONDS
    assert mlflow_heartbeats.close_silent(stored, lambda: year) == []
    assert mlflow_heartbeats.close_silent(stored, lambda: 0.0) == []
    assert mlflow_heartbeats.close_silent(stored, lambda: lease - 1) == []
    (line,) = mlflow_heartbeats.close_silent(stored, lambda: lease)
    assert line.startswith("silent: KILLED: no heartbeat since")
    assert client.get_run(run.info.run_id).info.status == "KILLED"
