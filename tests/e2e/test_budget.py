"""A sweep with a budget of seconds ends by itself, with nothing lost, and goes on only with more."""

import secrets
from itertools import pairwise

import pytest

from sweeps.book.journal import Journal, State
from sweeps.book.remaining import going_on, spent_of
from tests.e2e.conftest import Seat, write_space
from tests.support.listening import listening

HOURS = 0.004  # 14 seconds, of which trials take one or two each


SECRET = secrets.token_hex(8)  # drawn: the code itself is among the files of a sweep


@pytest.fixture(scope="module")
def told(tmp_path_factory, mice_folder):
    """The sweep, what its command said, and what a service was told of it."""
    with listening() as (port, came):
        seat = Seat(tmp_path_factory.mktemp("spent"), {"MICE_CHAT": f"json://{SECRET}@127.0.0.1:{port}"})
        plan = {"scheduler": {"kind": "none"}, "trials": {"count": 500, "concurrent": 2}, "budget": {"hours": HOURS}}
        space = write_space(seat.root / "many.yaml", notify=["MICE_CHAT"], **plan)
        yield seat, seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "spent"), came


@pytest.fixture(scope="module")
def spent(told):
    return told[:2]


def test_it_ends_by_its_budget_says_so_and_that_is_no_fault_where_a_trial_is_complete(spent):
    seat, done = spent
    ledger = seat.ledger("spent")
    assert ledger.state == State.KILLED and ledger.reason.startswith("budget: 0.00")
    assert f" of {HOURS} hours are spent" in ledger.reason and "of 500 trials not begun" in ledger.reason
    assert f"go on: {going_on(ledger)}" in done.stderr and " --hours " in going_on(ledger)
    assert done.returncode == (0 if ledger.count(State.COMPLETE) else 1)
    assert {trial.state for trial in ledger.trials.values() if trial.begun} <= {State.COMPLETE, State.KILLED}


def test_it_is_over_its_budget_by_the_time_of_a_report_at_most(spent):
    seat, _ = spent
    times = [event.time for _, event in Journal(seat.home.journal("spent")).events()]
    longest = max(later - before for before, later in pairwise(times))  # each of the two trials reports once more
    assert (spent_of(seat.ledger("spent")).hours - HOURS) * 3600 < 2 * longest + 1.0


def test_it_does_not_go_on_with_the_same_budget(spent):
    refused = spent[0].here("sweep", "resume", "spent")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("mouselift: spent: expected room for another trial, got budget: 0.00")


def test_who_is_named_in_the_space_hears_of_its_end_and_no_file_has_the_address(told):
    seat, done, came = told
    ledger = seat.ledger("spent")
    assert came[-1]["title"] == "mouselift spent" and came[-1]["message"].startswith(f"KILLED: {ledger.reason}; ")
    assert f"best {ledger.objective.metric} " in came[-1]["message"] or ledger.best is None
    assert SECRET not in done.stdout + done.stderr and "notices" not in done.stderr
    files = [path for path in seat.root.rglob("*") if path.is_file() and not path.is_socket()]
    assert len(files) > 10 and [path for path in files if SECRET.encode() in path.read_bytes()] == []
