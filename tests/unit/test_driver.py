"""What becomes of trials: the driver's rulings, what it writes first, and how it takes up a sweep again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import NonFiniteError, OversizedError
from pipeline.recipes import load_recipe
from sweeps.book.journal import (
    AttemptFailed,
    CheckpointReleased,
    GaussiansKept,
    Journal,
    Reported,
    State,
    SweepOpened,
    TrialClosed,
    TrialOpened,
    TrialProposed,
)
from sweeps.book.ledger import read
from sweeps.book.study import study_of
from sweeps.home import Home
from sweeps.run.driver import STOP_FILE, Broken, Driver
from sweeps.run.garbage import garbage
from sweeps.space.distributions import Choice, FloatRange
from sweeps.space.faults import Faults
from sweeps.space.resources import Resources
from sweeps.space.space import Scheduler
from tests.support.spaces import space_with
from tests.unit.test_releases import kept_checkpoint

METRIC = "val/psnr_fg"
STEPS = 12


class Desk:
    """A sweep of a home, driven as Ray drives it; `session` is what a new process would begin with."""

    def __init__(self, root, mice_folder, sweep="s", made_by=None, tags=None, fixed=None, **changes):
        self.sweep, self.made_by, self.tags = sweep, made_by, tags or {}
        self.home = Home.from_environment({"MOUSELIFT_HOME": str(root)})
        values = {
            "train.max_steps": STEPS,
            "train.validate_every": 4,
            "train.batch_size": 4,
            "data.root": str(mice_folder),
        }
        values |= {"optim.warmup_steps": 2, "data.image_size": 32}
        self.space = space_with(
            name="mine",
            recipe="gslrm_tiny",
            fixed=values | (fixed or {}),
            space={"optim.lr": FloatRange(ends=(1e-4, 1e-2), log=True)},
            trials=Resources(count=3, concurrent=2),
            scheduler=Scheduler(kind="asha", grace_steps=4, reduction_factor=2),
        )
        self.space = replace(self.space, **changes)
        self.ends, self.now, self.killed = [], 1000.0, []
        self.listen = lambda _: None
        self.session()

    def session(self):
        """A new process takes the sweep up."""
        if hasattr(self, "journal"):
            self.journal.close()
        self.journal = Journal(self.home.journal(self.sweep), lambda: self.now).claim()
        recipe = self.space.base
        self.driver = Driver(
            self.journal,
            self.space,
            recipe,
            self.home,
            lambda event: self.listen(event),
            lambda *why: self.ends.append(why),
            lambda: self.now,
            made_by=self.made_by,
        )
        self.scheduler = self.driver.scheduler
        self.driver.write(SweepOpened(self.sweep, recipe.name, self.space.as_plain(), self.tags, recipe.params))
        self.driver.take_up()
        self.broken = {}
        self.driver.broken = self.broken.__getitem__

    def start(self, ray_id):
        config = self.driver.next_trial(ray_id)
        assert isinstance(config, dict), config
        trial = _Trial(ray_id, config)
        self.scheduler.on_trial_add(None, trial)
        self.driver.opened(ray_id, config)
        return trial

    def report(self, trial, step, value=None):
        result = {"step": step} | ({} if value is None else {METRIC: value})
        decision = self.scheduler.on_trial_result(None, trial, result)
        metrics = {} if value is None else {METRIC: value}
        self.driver.reported(trial.config["number"], step, metrics, {}, {})
        trial.last = result
        if decision == "STOP":
            self.end(trial)
        return decision

    def end(self, trial):
        self.scheduler.on_trial_complete(None, trial, trial.last)
        self.driver.ended(trial.trial_id, trial.last, error=False)

    def fail(self, trial, error, traceback=None):
        self.broken[trial.trial_id] = Broken(trial.config, error, traceback or f"x\n{type(error).__name__}: {error}")
        self.driver.ended(trial.trial_id, None, error=True)

    def states(self):
        return {number: trial.state for number, trial in self.driver.ledger.trials.items()}

    @property
    def study(self):
        return study_of(self.driver.ledger, self.space)

    def study_states(self):
        return {trial.number: trial.state.name for trial in self.study.trials}

    def events(self, kind):
        return [event for _, event in self.journal.events() if isinstance(event, kind)]


class _Trial:
    def __init__(self, trial_id, config):
        self.trial_id, self.config, self.last = trial_id, config, {}


class ActorDiedError(Exception):
    """Named as Ray's."""


@pytest.fixture
def desk(tmp_path, mice_folder):
    return lambda **changes: Desk(tmp_path, mice_folder, **changes)


def test_a_trial_of_all_steps_is_complete_in_journal_and_study(desk):
    found = desk()
    trial = found.start("a")
    for step in (4, 8, STEPS):
        found.report(trial, step, 20.0 + step)
    found.end(trial)
    assert (found.states(), found.study_states()) == ({0: "COMPLETE"}, {0: "COMPLETE"})


def test_an_end_that_was_written_down_stands_whatever_an_interruption_writes_after_it(desk):
    found = desk()
    trial = found.start("a")
    found.report(trial, STEPS, 20.0)
    found.end(trial)
    before = replace(found.driver.ledger.trials[0], state=State.RUNNING)  # as if the signal had come before the ledger
    found.driver.ledger = replace(found.driver.ledger, trials={0: before})
    found.driver.close("KILLED", "interrupted by SIGINT")
    assert [event.state for event in found.events(TrialClosed)] == ["COMPLETE"]
    found.journal.append(TrialClosed(0, "KILLED", "a word too many"))
    assert read(found.journal).trials[0].state == "COMPLETE"


def test_a_sweep_for_which_no_process_comes_up_says_so(desk, caplog):
    found = desk()
    config = found.driver.next_trial("a")
    for seconds in (0, 59, 2, 58, 2):
        found.now += seconds
        found.driver.watch(found.killed.append)
    assert [text.partition(":")[0] for text in caplog.messages] == [
        "no trial has run for 61 s",
        "no trial has run for 121 s",
    ]
    found.driver.opened("a", config)
    found.now += 300
    found.driver.watch(found.killed.append)
    assert len(caplog.messages) == 2


def test_gaussians_that_a_kill_kept_from_being_kept_are_kept_by_the_next_session(desk):
    found = desk()
    made = {number: kept_checkpoint(found.home, number, 4) for number in (0, 1)}
    for ray_id, end in (("a", TrialClosed(0, "COMPLETE")), ("b", TrialClosed(1, "PRUNED", "rung"))):
        found.start(ray_id)
        found.journal.append(end)  # and nothing after it: the process was killed
    found.journal.append(CheckpointReleased(0, "released"))
    found.session()
    assert found.driver.releases.finish(10)
    kept = {event.trial: Path(event.path) for event in found.events(GaussiansKept)}
    assert {n: (folder / "step-000004" / "preview.ply").read_bytes() for n, folder in kept.items()} == made
    found.session()
    assert found.driver.releases.finish(10) and len(found.events(GaussiansKept)) == 2
    assert len(found.events(CheckpointReleased)) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, f"{METRIC} was nan at step 12"), (None, f"{METRIC} was not reported at step 12")],
)
def test_a_trial_without_a_finite_objective_fails_and_says_why(desk, value, reason):
    found = desk()
    trial = found.start("a")
    found.report(trial, STEPS, value)
    found.end(trial)
    closed = found.events(TrialClosed)[0]
    assert (closed.state, closed.reason, closed.cause) == ("FAIL", reason, "objective")


def test_a_weak_trial_is_pruned_by_asha_and_the_reason_names_it(desk):
    found = desk()
    for ray_id, value in (("a", 20.0), ("b", 10.0)):
        found.report(found.start(ray_id), 4, value)
    closed = found.events(TrialClosed)[0]
    assert (closed.trial, closed.state) == (1, "PRUNED")
    assert closed.reason == f"asha: {METRIC} 10 is among the weaker, at step 4 of 12"


def test_a_lost_worker_is_tried_again_as_the_same_trial_from_what_was_reported(desk):
    found = desk()
    trial = found.start("a")
    found.report(trial, 4, 20.0)
    found.fail(trial, ActorDiedError("gone"))
    assert (found.states(), found.study_states()) == ({0: "WAITING"}, {0: "RUNNING"})
    again = found.start("b")
    assert again.config | {"params": None} == {"number": 0, "params": None, "attempt": 2, "reported": 4, "splits": 1}
    assert again.config["params"] == trial.config["params"]


def test_a_worker_lost_too_often_fails_the_trial_with_the_cause(desk):
    found = desk(faults=Faults(retries=2))
    for ray_id in "abc":
        found.fail(found.start(ray_id), ActorDiedError("gone"))
    closed = found.events(TrialClosed)[0]
    assert (closed.state, closed.cause) == ("FAIL", "worker_lost")
    assert closed.reason == "worker_lost after 2 retries: ActorDiedError: gone"
    assert [event.action for event in found.events(AttemptFailed)] == ["retry", "retry", "fail"]
    assert found.study_states() == {0: "FAIL"}


def test_no_memory_halves_the_parts_until_a_scene_at_a_time_fails(desk):
    found = desk()
    splits = []
    for ray_id in "abc":
        trial = found.start(ray_id)
        splits.append(trial.config["splits"])
        found.fail(trial, RuntimeError("CUDA out of memory. Tried to allocate"))
    assert splits == [1, 2, 4]
    assert found.events(TrialOpened)[1].tags["trial.batch_parts"] == "2"
    closed = found.events(TrialClosed)[0]
    assert closed.reason.startswith("out_of_memory: with one scene at a time too: RuntimeError: CUDA out of memory")


def test_a_halved_batch_is_no_retry(desk):
    found = desk(faults=Faults(retries=1))
    for ray_id, error in (("a", RuntimeError("CUDA out of memory.")), ("b", ActorDiedError("gone"))):
        found.fail(found.start(ray_id), error)
    assert [event.action for event in found.events(AttemptFailed)] == ["halve", "retry"]


def test_failures_before_a_resume_do_not_end_the_sweep_again(desk):
    found = desk(trials=Resources(count=9))
    for ray_id in "abc":
        found.fail(found.start(ray_id), ValueError("bad"))
    assert len(found.ends) == 1
    found.session()
    found.fail(found.start("d"), ValueError("bad"))
    assert len(found.ends) == 1


def test_a_diverged_trial_is_pruned_with_term_step_and_norm(desk):
    found = desk()
    trial = found.start("a")
    message = "step 7: expected a finite loss, got nan from mse nan; the gradient norm was 8.1 a step before."
    found.fail(trial, NonFiniteError(message))
    closed = found.events(TrialClosed)[0]
    assert (closed.state, closed.reason) == ("PRUNED", f"diverged: NonFiniteError: {message}")
    assert found.study_states() == {0: "PRUNED"}


def test_three_trials_in_a_row_with_one_cause_end_the_sweep_and_others_do_not(desk):
    found = desk(trials=Resources(count=9))
    for ray_id, error in zip("abcde", [ValueError, ValueError, None, ValueError, ValueError], strict=True):
        trial = found.start(ray_id)
        if error is None:
            found.report(trial, STEPS, 20.0)
            found.end(trial)
        else:
            found.fail(trial, error("bad"))
        assert found.ends == []
    found.fail(found.start("f"), ValueError("bad"))
    assert found.ends == [("FAIL", "3 trials in a row failed; the last: exception: ValueError: bad")]


def test_a_trial_that_reports_nothing_for_too_long_is_killed_once_and_tried_again(desk):
    found = desk(faults=Faults(hang_minutes=1))
    trial = found.start("a")
    found.now += 59
    found.driver.watch(found.killed.append)
    assert found.killed == []
    found.now += 2
    for _ in range(2):
        found.driver.watch(found.killed.append)
    assert found.killed == [0]
    found.fail(trial, ActorDiedError("killed"))
    fault = found.events(AttemptFailed)[0]
    assert (fault.cause, fault.action, fault.reason) == ("hang", "retry", "no report for 1 minutes")


def test_a_trial_is_not_blamed_for_the_silence_of_a_driver_that_slept(desk):
    found = desk(faults=Faults(hang_minutes=2))
    found.start("a")
    found.driver.watch(found.killed.append)
    found.now += 600
    found.driver.watch(found.killed.append)
    assert found.killed == []
    for _ in range(5):
        found.now += 30
        found.driver.watch(found.killed.append)
    assert found.killed == [0]


def test_a_process_that_never_came_up_counts_as_an_attempt(desk):
    found = desk(faults=Faults(retries=0))
    config = found.driver.next_trial("a")
    found.fail(_Trial("a", config), ActorDiedError("its constructor raised"))
    assert found.states() == {0: "FAIL"}


def test_somebody_who_asks_for_the_end_is_heard(desk):
    found = desk()
    (found.journal.folder / STOP_FILE).touch()
    found.driver.watch(found.killed.append)
    assert found.ends == [("KILLED", "stopped by `mouselift sweep stop`")]


def test_what_ran_when_the_driver_died_goes_on_and_what_ended_stays(desk):
    found = desk()
    done, running = found.start("a"), found.start("b")
    found.report(done, STEPS, 20.0)
    found.end(done)
    found.report(running, 4, 21.0)
    found.session()
    assert found.study_states() == {0: "COMPLETE", 1: "RUNNING"}
    again = found.start("c")
    assert (again.config["number"], again.config["attempt"], again.config["reported"]) == (1, 2, 4)
    found.start("d")
    assert [found.driver.next_trial(ray_id) for ray_id in "ef"] == [None, None]


def test_the_count_of_trials_is_honoured_once_over_any_number_of_sessions(desk):
    found = desk()
    for session in range(4):
        for ray_id in (f"{session}a", f"{session}b"):
            if isinstance(config := found.driver.next_trial(ray_id), dict):
                found.driver.opened(ray_id, config)
        found.session()
    assert sorted(found.states()) == [0, 1]
    for ray_id in "xyz":
        trial = found.start(ray_id)
        found.report(trial, STEPS, 20.0)
        found.end(trial)
    assert found.driver.next_trial("late") is None and found.driver.is_over
    assert found.states() == dict.fromkeys(range(3), "COMPLETE")


def test_a_sweep_closed_in_good_order_leaves_its_trials_waiting(desk):
    found = desk()
    found.start("a")
    found.driver.close("KILLED", "interrupted by SIGTERM")
    assert (found.states(), found.study_states()) == ({0: "KILLED"}, {0: "RUNNING"})
    found.session()
    assert found.start("b").config["attempt"] == 2


def test_an_interrupted_sweep_prunes_the_trials_that_an_unbroken_one_prunes(tmp_path, mice_folder):
    curves = {0: [20.0, 21, 22], 1: [19.0, 25, 30], 2: [21.0, 20, 20], 3: [22.0, 26, 27], 4: [18.0, 30, 31]}

    def run(root, breaks):
        found = Desk(tmp_path / root, mice_folder, trials=Resources(count=5))
        running = {}
        for turn in range(12):
            if turn in breaks:
                found.session()
                running = {}
            while len(running) < 2 and isinstance(config := found.driver.next_trial(f"{turn}-{len(running)}"), dict):
                trial = _Trial(f"{turn}-{len(running)}", config)
                found.scheduler.on_trial_add(None, trial)
                found.driver.opened(trial.trial_id, config)
                running[config["number"]] = trial
            for number, trial in list(running.items()):
                steps = [step for step in (4, 8, 12) if step > found.driver.ledger.trials[number].last_step]
                if found.report(trial, steps[0], curves[number][steps[0] // 4 - 1]) == "STOP":
                    del running[number]
                elif steps[0] == STEPS:
                    found.end(trial)
                    del running[number]
        return {number: (trial.state, trial.last_step) for number, trial in found.driver.ledger.trials.items()}

    unbroken = run("whole", ())
    assert {state for state, _ in unbroken.values()} == {"COMPLETE", "PRUNED"}
    assert run("once", (2,)) == unbroken
    assert run("often", (1, 2, 3, 4, 5)) == unbroken


def test_a_decision_to_stop_that_was_not_written_down_is_taken_again(desk):
    found = desk()
    found.report(found.start("a"), 4, 20.0)
    config = found.driver.next_trial("b")
    found.driver.opened("b", config)
    found.driver.reported(1, 4, {METRIC: 10.0}, {}, {})  # and then the driver died
    found.session()
    assert found.states()[1] == "PRUNED" and found.study_states()[1] == "PRUNED"


def test_a_trial_whose_last_step_was_reported_is_complete_after_the_driver_died(desk):
    found = desk()
    trial = found.start("a")
    found.driver.reported(0, STEPS, {METRIC: 20.0}, {}, {})
    assert trial.config["number"] == 0
    found.session()
    assert (found.states(), found.study_states()) == ({0: "COMPLETE"}, {0: "COMPLETE"})


def test_a_step_reported_again_counts_once(desk):
    found = desk()
    trial = found.start("a")
    found.report(trial, 4, 20.0)
    found.fail(trial, ActorDiedError("gone"))
    again = found.start("b")
    found.report(again, 4, 99.0)
    assert (found.driver.ledger.trials[0].best_value, found.driver.ledger.trials[0].last_value) == (20.0, 20.0)
    assert found.study.trials[0].intermediate_values == {4: 20.0}
    assert len(found.events(Reported)) == 2


def test_recipes_of_the_driver_are_those_the_study_fingerprints(desk):
    found = desk()
    trial = found.start("a")
    opened = found.events(TrialOpened)[0]
    assert opened.fingerprint == found.study.trials[0].user_attrs["fingerprint"]
    assert opened.params == trial.config["params"] and opened.tags["data.geometry"] == "exact"
    assert found.study_states() == {0: "RUNNING"}
    assert load_recipe("gslrm_tiny").params.keys() == opened.recipe_params.keys()


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("bad"), "FAIL", "exception: ValueError: bad"),
        (NonFiniteError("step 7: nan"), "PRUNED", "diverged: NonFiniteError: step 7: nan"),
        (OversizedError("step 7: large"), "PRUNED", "diverged: OversizedError: step 7: large"),
    ],
)
def test_a_fault_that_ends_a_trial_ends_it_although_the_driver_died_before_it_wrote_that(desk, error, state, reason):
    found = desk()
    found.fail(found.start("a"), error)
    lines = found.journal.path.read_bytes().splitlines(keepends=True)
    assert b"TrialClosed" in lines[-1]
    found.journal.path.write_bytes(b"".join(lines[:-1]))
    found.session()
    (closed,) = found.events(TrialClosed)
    assert (closed.state, closed.reason) == (state, reason)


def test_a_space_that_is_searched_through_is_proposed_no_more_by_a_successor_either(desk):
    found = desk(space={"loss.masked": Choice(ends=(True, False))}, trials=Resources(count=9, concurrent=3))
    assert [found.driver.next_trial(ray_id) is None for ray_id in "abc"] == [False, False, True]
    proposals = len(found.events(TrialProposed))
    for _ in range(3):
        found.session()
        assert [found.driver.next_trial(ray_id) is None for ray_id in "abc"] == [False, False, True]
    assert len(found.events(TrialProposed)) == proposals


def test_checkpoints_that_are_still_to_be_released_are_no_garbage(desk):
    found = desk()
    for ray_id, value in (("a", 20.0), ("b", 21.0)):
        trial = found.start(ray_id)
        found.report(trial, STEPS, value)
        found.end(trial)
    for number in (0, 1):
        folder = Path(found.home.checkpoints) / "s" / f"t{number:04d}" / f"step-{STEPS:06d}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text('{"metrics": {}}')
    found.driver.close("KILLED", "interrupted by SIGINT")
    assert list(garbage(found.home, found.driver.ledger)) == []


def test_a_sweep_is_closed_although_its_listener_is_gone(desk):
    desk = desk()
    desk.start("a"), desk.start("b")

    def gone(event):
        raise SystemExit(1)

    desk.listen = gone
    with pytest.raises(SystemExit):
        desk.driver.close(State.KILLED, "interrupted by SIGINT")
    ledger = read(Journal(desk.home.journal("s")))
    assert ledger.state == State.KILLED
    assert {trial.state for trial in ledger.trials.values()} == {State.KILLED}
