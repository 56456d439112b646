"""A sweep with a budget of seconds ends by itself, with nothing lost, and goes on only with more."""

from itertools import pairwise

import pytest

from sweeps.book.journal import Journal, State
from sweeps.book.remaining import going_on, spent_of
from tests.e2e.conftest import Seat, write_space

HOURS = 0.004  # 14 seconds, of which trials take one or two each


@pytest.fixture(scope="module")
def spent(tmp_path_factory, mice_folder):
    seat = Seat(tmp_path_factory.mktemp("spent"))
    plan = {"scheduler": {"kind": "none"}, "trials": {"count": 500, "concurrent": 2}, "budget": {"hours": HOURS}}
    space = write_space(seat.root / "many.yaml", **plan)
    return seat, seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "spent")


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
    refused = spent[0].mouselift("sweep", "resume", "spent")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("mouselift: spent: expected room for another trial, got budget: 0.00")
