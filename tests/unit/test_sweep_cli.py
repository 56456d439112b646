"""What `sweep status` and the end of a sweep say, and the exit code of the end; the journals are written by hand."""

from __future__ import annotations

import json
import os

import pytest
import typer
from typer.testing import CliRunner

import mouselift
from sweeps.book.delivery import DELIVERED, Delivery, UnansweredError
from sweeps.book.journal import Journal, Reported, RunOpened, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import read
from sweeps.cli.sweep import _end
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.registry.registry import Verdict
from sweeps.registry.versions import Version
from sweeps.run.tune import _lacking
from tests.support.spaces import space_with


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "MOUSELIFT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path))
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})


def closed(home: Home, name: str, state: str, reason: str = "", run: str | None = "run") -> Journal:
    """A sweep of one trial that is COMPLETE, as a session left it that ended so."""
    space = space_with(name=name, recipe="gslrm_tiny")
    with Journal(home.journal(name)).claim() as journal:
        journal.append(SweepOpened(name, "gslrm_tiny", space.as_plain(), {}, space.base.params))
        if run is not None:
            journal.append(RunOpened(None, run))
        journal.append(TrialOpened(0, "a", 1, {}, space.base.params, "f", {}))
        journal.append(Reported(0, space.base.train.max_steps, {space.objective.metric: 20.0}))
        journal.append(TrialClosed(0, State.COMPLETE, ""))
        journal.append(SweepClosed(State(state), reason))
    (journal.folder / DELIVERED).write_text(json.dumps({"offset": journal.path.stat().st_size}))
    return journal


def status(*words: str):
    return CliRunner().invoke(mouselift.app, ["sweep", "status", *words])


def test_status_without_a_name_is_that_of_the_latest_sweep(home):
    for name, age in {"young": 0, "old": 100}.items():
        path = closed(home, name, "COMPLETE").path
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert status().output.startswith("young: COMPLETE; 1 complete")


def test_status_without_a_sweep_is_one_line(home):
    error = status().exception
    assert isinstance(error, StudyError)
    assert str(error).endswith("expected a sweep, got none — begin one: `mouselift sweep run SPACE`.")


def test_status_says_how_to_go_on_where_only_a_release_is_missing(home):
    closed(home, "mine", "KILLED", "interrupted by SIGUSR1")
    assert "go on: mouselift sweep resume mine" in status("mine").output
    closed(home, "done", "COMPLETE")
    assert "go on" not in status("done").output


@pytest.mark.parametrize(
    ("state", "reason", "run", "code"),
    [
        ("COMPLETE", "", "run", 0),
        ("COMPLETE", "", None, 1),  # MLflow took nothing from the first event to the last
        ("FAIL", "", "run", 1),
        ("KILLED", "interrupted by SIGUSR1", "run", 1),
        ("KILLED", "interrupted by SIGINT", "run", 130),
        ("KILLED", "stopped by `mouselift sweep stop`", "run", 130),
    ],
)
def test_the_exit_code_of_a_sweep(home, capsys, state, reason, run, code):
    ledger = read(closed(home, "mine", state, reason, run))
    try:
        _end(ledger, as_json=False)
        left = 0
    except typer.Exit as error:
        left = error.exit_code
    assert left == code
    assert ("has nothing of this sweep" in capsys.readouterr().err) == (run is None)


def test_a_store_that_takes_nothing_is_named_with_its_reason_and_the_remedy(home):
    def connect():
        raise UnansweredError("no route\nto host")

    journal = Journal(closed(home, "mine", "COMPLETE").folder)
    (journal.folder / DELIVERED).unlink()
    with journal.claim():
        delivery = Delivery(journal, "MLflow", connect).start()
        arrived = delivery.close(1)
        (line,) = _lacking(journal, home, delivery, arrived)
    assert line == (
        f"MLflow at {home.tracking_uri} did not take everything: no route to host — the journal keeps 6 events, and "
        "`mouselift sweep status mine` delivers them once it answers."
    )


def test_the_version_that_loses_an_alias_is_named():
    version = Version("mouse-gslrm", 3, "run", ("challenger",), {}, "", 0.0)
    assert Verdict(version, "challenger", [], "worse", 2).line == (
        "mouse-gslrm/3 is challenger in place of mouse-gslrm/2: worse"
    )
    assert Verdict(version, "challenger", [], "worse").line == "mouse-gslrm/3 is challenger: worse"
