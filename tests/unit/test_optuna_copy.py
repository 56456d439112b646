"""The copy of a study in Optuna's storage: equal to the ledger, whatever was there before."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sweeps.book.journal import Journal, SweepClosed, SweepOpened, TrialClosed, TrialOpened, TrialProposed
from sweeps.book.ledger import read
from sweeps.book.optuna_copy import OptunaDelivery, open_storage
from sweeps.home import Home
from sweeps.space.distributions import FloatRange
from tests.support.spaces import space_with

SPACE = space_with(name="s", recipe="gslrm_tiny", space={"optim.lr": FloatRange(ends=(1e-4, 1e-2), log=True)})
FAILED = TrialClosed(0, "FAIL", "exception: it broke")


@pytest.fixture(params=["file", "sqlite"])
def home(request, tmp_path):
    found = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    return found if request.param == "file" else replace(found, storage=f"sqlite:///{tmp_path / 'optuna.db'}")


def opened():
    return SweepOpened("s", SPACE.base.name, SPACE.as_plain(), {}, SPACE.base.params)


def begun(number, lr=1e-3):
    params = {"optim.lr": lr}
    return [TrialProposed(number, params, f"f{lr}"), TrialOpened(number, f"ray-{number}", 1, params, {}, f"f{lr}")]


def told(home, *news):
    """Write events to the journal of the sweep, and bring the copy up to it."""
    with Journal(home.journal("s")) as journal:
        for event in news:
            journal.append(event)
        assert OptunaDelivery(journal, home).start().close(20)
    return read(Journal(home.journal("s")))


def stored(home, name="s"):
    return optuna.load_study(storage=open_storage(home), study_name=name).trials


def states(home, name="s"):
    return [trial.state.name for trial in stored(home, name)]


def names(home):
    return sorted(optuna.get_all_study_names(open_storage(home)))


def test_a_trial_waits_runs_and_ends_in_the_copy_too(home):
    told(home, opened(), begun(0)[0])
    assert states(home) == ["WAITING"]
    told(home, begun(0)[1])
    assert states(home) == ["RUNNING"]
    told(home, FAILED)
    assert states(home) == ["FAIL"] and stored(home)[0].user_attrs["reason"] == "exception: it broke"


def test_a_repeat_of_an_interrupted_trial_waits_as_that_one_does(home):
    repeat = TrialProposed(1, {"optim.lr": 1e-3}, "f0.001", repeats=0)
    told(home, opened(), *begun(0), repeat, TrialClosed(0, "KILLED", "interrupted by SIGINT"), SweepClosed("KILLED"))
    assert states(home) == ["WAITING", "WAITING"]


def test_a_reason_that_holds_no_longer_is_replaced(home):
    told(home, opened(), *begun(0), TrialClosed(0, "KILLED", "interrupted by SIGINT"), SweepClosed("KILLED"))
    assert stored(home)[0].user_attrs["reason"] == "interrupted by SIGINT"
    told(home, opened(), TrialOpened(0, "ray-again", 2, {"optim.lr": 1e-3}, {}, "f0.001"), FAILED)
    (trial,) = stored(home)
    assert trial.user_attrs["reason"] == "exception: it broke" and trial.user_attrs["ray_trial_id"] == "ray-again"


def test_a_deleted_study_is_written_again_whole(home):
    told(home, opened(), *begun(0), FAILED, *begun(1, 2e-3))
    optuna.delete_study(storage=open_storage(home), study_name="s")
    told(home, *begun(2, 3e-3))
    assert states(home) == ["FAIL", "RUNNING", "RUNNING"]


def test_a_study_of_an_older_version_that_has_the_same_trials_is_gone_on_with(home):
    old = optuna.create_study(storage=open_storage(home), study_name="s", direction="maximize")
    lr = SPACE.space["optim.lr"].distribution
    old.add_trial(create_trial(state=TrialState.RUNNING, params={"optim.lr": 1e-3}, distributions={"optim.lr": lr}))
    told(home, opened(), *begun(0), FAILED)
    assert (names(home), states(home)) == (["s"], ["FAIL"])


@pytest.mark.parametrize("strange", [{"optim.lr": 5e-3}, {}], ids=["other values", "a proposal that no journal has"])
def test_another_study_of_the_same_name_is_left_alone(home, strange):
    other = optuna.create_study(storage=open_storage(home), study_name="s", direction="maximize")
    lr = {path: SPACE.space[path].distribution for path in strange}
    other.add_trial(create_trial(state=TrialState.FAIL, params=strange, distributions=lr))
    ledger = told(home, opened(), *begun(0))
    assert names(home) == ["s", f"s@{ledger.opened:.3f}"]
    assert (states(home), states(home, f"s@{ledger.opened:.3f}")) == (["FAIL"], ["RUNNING"])


def test_two_homes_with_one_storage_and_one_name_have_a_study_each(tmp_path):
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    homes = [Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / n), "MOUSELIFT_STORAGE": database}) for n in "ab"]
    told(homes[0], opened(), *begun(0), FAILED)
    ledger = told(homes[1], opened(), *begun(0))
    assert (states(homes[0]), states(homes[1], f"s@{ledger.opened:.3f}")) == (["FAIL"], ["RUNNING"])


def test_a_line_cut_off_in_the_file_of_studies_spoils_nothing_that_follows(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    told(home, opened(), *begun(0))
    with home.optuna_journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_i')
    told(home, FAILED, *begun(1, 2e-3))
    assert states(home) == ["FAIL", "RUNNING"]
