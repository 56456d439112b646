"""A study's database that goes away: asked again for a while, then given up in one line."""

from __future__ import annotations

import pickle

import optuna
import pytest
import sqlalchemy
from optuna.storages import get_storage
from optuna.trial import TrialState

from sweeps.book.storage import PatientStorage, open_storage
from sweeps.errors import OutageError


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept, self.hurried = 0.0, [], False

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


class Flaky:
    """A storage whose database is away for the next `fails` calls; `late`: it does them, and the answer is lost."""

    def __init__(self, inner) -> None:
        self.inner, self.fails, self.late = inner, 0, False

    def __getattr__(self, name):
        def call(*words, **options):
            if self.fails:
                self.fails -= 1
                if self.late:
                    getattr(self.inner, name)(*words, **options)
                cause = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))
                raise optuna.exceptions.StorageInternalError("An exception is raised") from cause
            return getattr(self.inner, name)(*words, **options)

        return call


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def flaky(tmp_path):
    return Flaky(get_storage(f"sqlite:///{tmp_path / 'optuna.db'}"))


@pytest.fixture
def study(flaky, time):
    return optuna.create_study(storage=PatientStorage(flaky, 60.0, lambda: time.hurried, lambda: time.now, time.sleep))


def test_a_call_is_made_again_until_the_database_answers(study, flaky, time):
    flaky.fails = 6
    assert study.ask().number == 0
    assert sum(time.slept) == 0.5 + 1.0 + 2.0 + 4.0 + 8.0 + 10.0


def test_it_is_waited_for_once_and_not_at_every_call_after(study, flaky, time):
    flaky.fails = 1000
    with pytest.raises(OutageError, match="server closed the connection for 66 s — start it; `mouselift sweep resume`"):
        study.ask()
    with pytest.raises(OutageError, match="for 0 s"):
        study.ask()
    flaky.fails = 0
    assert study.ask().number == 0
    flaky.fails = 2
    assert study.ask().number == 1


def test_who_is_in_a_hurry_does_not_wait(study, flaky, time):
    flaky.fails, time.hurried = 1000, True
    with pytest.raises(OutageError, match="for 0 s"):
        study.ask()
    assert time.slept == []


def test_an_ending_whose_answer_was_lost_stands(study, flaky):
    trial = study.ask()
    flaky.fails, flaky.late = 1, True
    study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert [(one.state, one.value) for one in study.trials] == [(TrialState.COMPLETE, 1.0)]


def test_an_error_that_stays_is_raised_at_once(study, time):
    with pytest.raises(KeyError):
        study._storage.get_trial(17)
    assert time.slept == []


def test_an_opened_database_is_patient_and_can_be_pickled(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert isinstance(storage, PatientStorage)
    study = optuna.create_study(storage=pickle.loads(pickle.dumps(storage)), study_name="one")
    study.ask()
    assert len(optuna.load_study(storage=storage, study_name="one").trials) == 1
