"""A sweep that is interrupted after any of its events, or in the middle of writing one, comes to the same end.

The driver is driven as Ray Tune drives it; which trial takes its next step depends on the ledger alone, so that the
same sweep can be played again from any point. MLflow and Optuna's storage are real.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.book.journal import (
    AttemptFailed,
    Journal,
    Reported,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.ledger import Ledger, read
from sweeps.book.optuna_copy import OptunaDelivery
from sweeps.book.study import began_with
from sweeps.home import Home
from sweeps.run.driver import Broken, Driver
from sweeps.run.orphans import reap
from sweeps.space.distributions import Choice
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, Scheduler, SearchSpace
from sweeps.tracking.mlflow_client import prepare_store
from sweeps.tracking.mlflow_writer import MLflowDelivery
from tests.e2e.faults.invariants import check
from tests.support.spaces import space_with

METRIC, STEPS = "val/psnr_fg", (4, 8, 12)
SLOTS = 2


class ActorDiedError(Exception):
    """Named as Ray's."""


def six_trials(mice: Path) -> SearchSpace:
    """Few enough values that one is proposed twice."""
    return space_with(
        name="six",
        recipe="gslrm_tiny",
        fixed={
            "train.max_steps": STEPS[-1],
            "train.validate_every": STEPS[0],
            "train.batch_size": 4,
            "data.image_size": 32,
            "optim.warmup_steps": 2,
            "data.root": str(mice),
        },
        space={"data.num_input_views": Choice(ends=(2, 3, 4)), "loss.ssim": Choice(ends=(0.0, 0.1, 0.2))},
        sampler=Sampler(kind="tpe", seed=1, startup_trials=3),
        scheduler=Scheduler(kind="asha", grace_steps=STEPS[0], reduction_factor=2),
        trials=Resources(count=6, concurrent=SLOTS),
    )


class Session:
    """One process at work on a sweep: what `conduct` does, less Ray."""

    def __init__(self, home: Home, name: str, space: SearchSpace, deliveries: bool = False) -> None:
        self.journal = Journal(home.journal(name)).claim()
        self.ended: list[Any] = []
        self.driver = Driver(self.journal, space, space.base, home, lambda _: None, lambda *why: self.ended.append(why))
        self.scheduler = self.driver.scheduler
        self.running: dict[int, Any] = {}
        self.broken: dict[str, Broken] = {}
        self.driver.broken = self.broken.__getitem__
        self.driver.write(SweepOpened(name, space.base.name, space.as_plain(), {}, space.base.params))
        self.deliveries = (
            [MLflowDelivery(self.journal, home.tracking_uri, home.artifacts), OptunaDelivery(self.journal, home)]
            if deliveries
            else []
        )
        for delivery in self.deliveries:
            delivery.start()
        self.driver.take_up()

    def play(self) -> None:
        """To the end of the sweep."""
        starts = 0
        while True:
            while len(self.running) < SLOTS:
                starts += 1
                config = self.driver.next_trial(f"ray-{self.driver.ledger.opened}-{id(self)}-{starts}")
                if config is None:
                    break
                self._start(f"ray-{self.driver.ledger.opened}-{id(self)}-{starts}", config)
            if not self.running:
                assert self.driver.is_over
                return
            self._step(
                min(self.running.values(), key=lambda trial: (self._of(trial).last_step, trial.config["number"]))
            )

    def close(self, state: str = "COMPLETE", reason: str = "") -> None:
        if state == "COMPLETE":
            self.driver.finish()
        self.driver.close(State(state), reason)
        assert all(delivery.close(60) for delivery in self.deliveries)
        self.journal.close()

    def _of(self, trial: Any) -> Any:
        return self.driver.ledger.trials[trial.config["number"]]

    def _start(self, ray_id: str, config: dict[str, Any]) -> None:
        trial = SimpleNamespace(trial_id=ray_id, config=config)
        self.scheduler.on_trial_add(None, trial)
        self.driver.opened(ray_id, config)
        self.running[config["number"]] = trial

    def _step(self, trial: Any) -> None:
        number, before = trial.config["number"], self._of(trial)
        step = next(step for step in STEPS if step > before.last_step)
        if number == 1 and step == STEPS[1] and not before.faults:
            return self._break(trial, ActorDiedError("its worker died"))
        if number == 6 and step == STEPS[1] and not before.faults:
            return self._break(trial, ValueError("a file was damaged"))
        result = {"step": step, METRIC: quality(trial.config["params"]) + step / 10}
        decision = self.scheduler.on_trial_result(None, trial, result)
        self.driver.reported(number, step, {METRIC: result[METRIC]}, {}, {})
        if decision == "STOP" or step == STEPS[-1]:
            self.scheduler.on_trial_complete(None, trial, result)
            del self.running[number]
            self.driver.ended(trial.trial_id, result, error=False)
        return None

    def _break(self, trial: Any, error: Exception) -> None:
        said = f"Traceback\n{type(error).__name__}: {error}"
        self.broken[trial.trial_id] = Broken(trial.config, error, said)
        del self.running[trial.config["number"]]
        self.driver.ended(trial.trial_id, None, error=True)


def quality(params: dict[str, Any]) -> float:
    return 20.0 + params["data.num_input_views"] - 3 * params["loss.ssim"]


def outcome(ledger: Ledger) -> dict[int, Any]:
    """What a sweep came to, whatever happened on the way."""
    ran = {n: (t.state, t.params, t.last_step, t.curve, t.best_value, t.best_step) for n, t in ledger.trials.items()}
    return ran | {number: (one.repeats, one.params, one.refused) for number, one in ledger.not_run.items()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, mice_folder: Path) -> SimpleNamespace:
    """An unbroken sweep: its lines, and what it came to."""
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path_factory.mktemp("unbroken"))})
    space = six_trials(mice_folder)
    session = Session(home, "six", space)
    session.play()
    session.close()
    journal = Journal(home.journal("six"))
    return SimpleNamespace(
        space=space,
        folder=journal.folder,
        lines=journal.path.read_bytes().splitlines(keepends=True),
        ledger=read(journal),
        events=[event for _, event in journal.events()],
    )


def test_the_recorded_sweep_has_everything_that_can_happen_to_a_trial(recorded: SimpleNamespace) -> None:
    states = [trial.state for trial in recorded.ledger.trials.values()]
    assert len(states) == 6 and {"COMPLETE", "PRUNED", "FAIL"} == set(states)
    assert [event.action for event in recorded.events if isinstance(event, AttemptFailed)] == ["retry", "fail"]
    assert [one.repeats for one in recorded.ledger.not_run.values() if one.repeats is not None]
    assert isinstance(recorded.events[-1], SweepClosed)


def cut(recorded: SimpleNamespace, home: Home, name: str, count: int, torn: bool) -> Journal:
    """The journal of a driver that was killed after so many events, or while it wrote the one that follows."""
    journal = Journal(home.journal(name))
    shutil.copytree(recorded.folder / "blobs", journal.folder / "blobs", dirs_exist_ok=True)
    half = recorded.lines[count][: len(recorded.lines[count]) // 2] if torn else b""
    content = b"".join(recorded.lines[:count]) + half
    journal.path.write_bytes(content.replace(b'"sweep": "six"', f'"sweep": "{name}"'.encode()))
    return journal


def left_alone(home: Home, name: str) -> None:
    """A kill -9, resumed at once."""


def interrupted(home: Home, name: str) -> None:
    """A driver that was stopped in good order."""
    with Journal(home.journal(name)).claim() as journal:
        ledger = read(journal)
        if ledger.name:
            for number, trial in ledger.trials.items():
                if trial.begun and trial.state.is_open:
                    journal.append(TrialClosed(number, "KILLED", "interrupted by SIGINT"))
            journal.append(SweepClosed("KILLED", "interrupted by SIGINT"))


def resumed(home: Home, name: str, space: SearchSpace, deliveries: bool = False) -> Ledger:
    """The sweep taken up by its name and run to its end, as `sweep resume` does; a sweep with no event starts anew."""
    ledger = read(Journal(home.journal(name)))
    session = Session(home, name, began_with(ledger) if ledger.name else space, deliveries)
    session.play()
    session.close()
    return read(Journal(home.journal(name)))


def expect_the_same_end(recorded: SimpleNamespace, ledger: Ledger, journal: Journal) -> None:
    assert outcome(ledger) == outcome(recorded.ledger)
    assert ledger.state == "COMPLETE" and not ledger.open
    events = [event for _, event in journal.events()]
    reports = [(event.trial, event.step) for event in events if isinstance(event, Reported)]
    assert len(reports) == len(set(reports))
    ends = [event.trial for event in events if isinstance(event, TrialClosed) and event.state != "KILLED"]
    assert sorted(ends) == sorted(ledger.trials)
    attempts = [(event.trial, event.attempt) for event in events if isinstance(event, TrialOpened)]
    assert len(attempts) == len(set(attempts))


@pytest.mark.parametrize("torn", [False, True], ids=["between two events", "within an event"])
@pytest.mark.parametrize("after", [left_alone, interrupted])
def test_every_interruption_comes_to_the_same_end(
    recorded: SimpleNamespace, tmp_path: Path, after: Callable[[Home, str], None], torn: bool
) -> None:
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    for count in range(len(recorded.lines)):
        name = f"cut{count:03d}"
        journal = cut(recorded, home, name, count, torn)
        after(home, name)
        expect_the_same_end(recorded, resumed(home, name, recorded.space), journal)


def test_any_number_of_interruptions_comes_to_the_same_end(recorded: SimpleNamespace, tmp_path: Path) -> None:
    """Killed after every ninth event of what is then written, time and again."""
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    journal, name = Journal(home.journal("often")), "often"
    for count in range(1, 400, 9):
        if read(journal).state == "COMPLETE":
            break
        resumed_once(home, name, recorded.space)
        lines = journal.path.read_bytes().splitlines(keepends=True)
        journal.path.write_bytes(b"".join(lines[: count + 1]))
    expect_the_same_end(recorded, resumed(home, name, recorded.space), journal)


def resumed_once(home: Home, name: str, space: SearchSpace) -> None:
    ledger = read(Journal(home.journal(name)))
    session = Session(home, name, began_with(ledger) if ledger.name else space)
    session.play()
    session.close()


def some(count: int, every: int) -> Iterator[int]:
    return iter(range(1, count, every))


@pytest.mark.parametrize(
    ("told", "every"),
    [
        pytest.param(True, 12, id="told before, some"),
        pytest.param(True, 1, id="told before", marks=pytest.mark.faults),
        pytest.param(False, 1, id="told after", marks=pytest.mark.faults),
    ],
)
def test_the_books_of_mlflow_and_optuna_are_equal_after_every_interruption(
    recorded: SimpleNamespace, tmp_path: Path, every: int, told: bool
) -> None:
    """told: whether MLflow and Optuna's storage had heard of all that was written before the kill."""
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    prepare_store(home.tracking_uri)
    for count in some(len(recorded.lines), every):
        name = f"cut{count:03d}"
        cut(recorded, home, name, count, torn=True)
        if told:
            reap(home)  # closes it as KILLED and delivers everything
            assert check(seat_of(home), name, ended=False).wrong == []
        ledger = resumed(home, name, recorded.space, deliveries=True)
        assert outcome(ledger) == outcome(recorded.ledger)
        assert check(seat_of(home), name).wrong == []


def seat_of(home: Home) -> SimpleNamespace:
    """What `check` asks for the books of a home."""
    return SimpleNamespace(home=home, ledger=lambda name: read(Journal(home.journal(name))))
