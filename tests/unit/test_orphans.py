"""What a look at dead sweeps does while a database is away."""

from __future__ import annotations

import pytest

from sweeps.book.journal import Journal, SweepOpened
from sweeps.book.ledger import read
from sweeps.home import Home
from sweeps.run.orphans import reap

pytest.importorskip("psycopg", reason="needs psycopg, of the extra `dev`")


def test_a_dead_sweep_is_closed_although_the_database_of_optuna_cannot_be_reached(tmp_path):
    nobody = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path), "MOUSELIFT_STORAGE": nobody})
    with Journal(home.journal("dead")) as journal:
        journal.append(SweepOpened("dead", "gslrm_tiny", {}, {}, {}))
    (line,) = reap(home)
    assert line.startswith("dead: KILLED: its driver died; last heard of at ")
    assert read(Journal(home.journal("dead"))).state == "KILLED"


def test_a_damaged_journal_is_said_and_concerns_no_other_sweep(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    for name in ("a-broken", "b-dead"):
        with Journal(home.journal(name)) as journal:
            journal.append(SweepOpened(name, "gslrm_tiny", {}, {}, {}))
    path = home.journal("a-broken") / "journal.jsonl"
    path.write_text("no event\n")
    damage, closed = reap(home)
    assert damage.startswith(f"{path}:1: expected an event of a sweep")
    assert closed.startswith("b-dead: KILLED")
    assert path.read_text() == "no event\n"
