"""What a sweep may spend: it is counted from the journal over all sessions, and nothing begins that does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from dashboards.pages.trial_notes import trial_note
from dashboards.report.table import columns, row
from dashboards.report.words import facts
from sweeps.book.journal import AttemptFailed, Journal, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import read
from sweeps.book.record import record_of
from sweeps.book.remaining import (
    LEAST_STEP_SECONDS,
    Pace,
    cost_of_trial,
    going_on,
    held_back,
    pace,
    seconds_of_budget,
    spending_of,
    spent_of,
    steps_left,
)
from sweeps.book.spending import DIED
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.preflight.cost import Cost, least_step_seconds, of_budget
from sweeps.run.orphans import reap
from sweeps.run.resume import resumable
from sweeps.space.budget import Budget, Limit, Money, Raised, Spent, options, words
from sweeps.space.distributions import Choice
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, Scheduler, load_space
from sweeps.tracking.pages import Links
from tests.support.spaces import space_with
from tests.unit.test_driver import STEPS, ActorDiedError, Desk
from tests.unit.test_record import SPACE, opened, reported, written

PLAIN = Scheduler(kind="none")


@pytest.fixture
def desk(tmp_path, mice_folder):
    """One trial at a time of twelve steps, of four; a second a step."""

    def make(budget, count=4, concurrent=1, gpus=1.0):
        trials = Resources(count=count, concurrent=concurrent, gpus=gpus)
        return Desk(tmp_path, mice_folder, scheduler=PLAIN, trials=trials, budget=budget)

    return make


def work(found, trial, steps=(4, 8, STEPS), seconds=1.0):
    """The trial makes these steps, each in so many seconds."""
    before = 0
    for step in steps:
        found.now += (step - before) * seconds
        before = step
        found.report(trial, step, 20.0)
        found.driver.watch(found.killed.append)
    if before == STEPS:
        found.end(trial)


# ---------------------------------------------------------------- what is spent


def test_hours_are_those_of_the_sessions_and_a_kill_counts_until_the_last_word(tmp_path):
    journal = written(
        tmp_path,
        (100, SweepOpened("s", "gslrm_tiny", SPACE, {}, {})),
        (110, opened(0)),
        (120, reported(0, 1, 10.0)),  # and then the driver is killed
        (5000, SweepOpened("s", "gslrm_tiny", SPACE, {}, {})),
        (5010, opened(0, attempt=2)),
        (5030, reported(0, 2, 10.0)),
    )
    ledger = read(journal)
    assert spent_of(ledger) == Spent((20 + 30) / 3600, 0.5 * (10 + 20) / 3600)
    assert spent_of(ledger, 5036.0) == Spent((20 + 36) / 3600, 0.5 * (10 + 26) / 3600)
    journal = Journal(tmp_path, clock=lambda: 9000.0)
    journal.append(SweepClosed("KILLED", f"{DIED}; last heard of at noon"))
    assert spent_of(read(journal), 9999.0) == spent_of(ledger)


def test_a_sweep_that_is_found_dead_hours_later_has_spent_what_it_ran(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    written(
        home.journal("s"),
        (100, SweepOpened("s", "gslrm_tiny", SPACE, {}, {"train.max_steps": 9})),
        (110, opened(0)),
        (120, reported(0, 1, 10.0)),
    )
    assert len(reap(home)) == 1
    ledger = read(Journal(home.journal("s")))
    assert (ledger.state, spent_of(ledger)) == ("KILLED", Spent(20 / 3600, 0.5 * 10 / 3600))


def test_money_is_gpu_hours_at_their_price_and_shown_without_a_bound():
    budget = Budget(hours=2.0, money=Money(per_gpu_hour=2.0))
    assert words(budget, Spent(0.5, 1.25)) == "0.5 of 2 hours, 1.25 GPU-hours, 2.5 money (2 per GPU-hour)"
    assert words(Budget(hours=2.0), Spent(0.5)) == "0.5 of 2 hours"
    assert budget.exhausted(Spent(1.9, 1000.0)) is None
    assert budget.exhausted(Spent(2.0)) == Limit("hours", 2.0, 2.0)


def test_the_cost_of_a_trial_is_that_of_its_gpus():
    space = space_with("s", "gslrm_tiny", trials=Resources(gpus=2.0), budget=Budget(money=Money(per_gpu_hour=3.0)))
    ledger = replace(read(Journal("nowhere")), space=space.as_plain())
    assert cost_of_trial(ledger, 1800.0) == 3.0
    assert cost_of_trial(replace(ledger, space={}), 1800.0) is None


@pytest.mark.parametrize(
    ("budget", "spent", "rest", "expected"),
    [
        (Budget(hours=2.0), Spent(1.0), Spent(0.5), ""),
        (Budget(hours=2.0), Spent(1.5), Spent(1.0), " --hours 2.8"),  # 1.1 × (1.5 + 1.0), and a minute to begin
        (Budget(hours=0.01), Spent(0.0103), None, " --hours 0.038"),  # 2 × 0.0103, and a minute
        (Budget(hours=2.0, gpu_hours=4.0), Spent(1.5, 3.5), Spent(1.0, 2.0), " --hours 2.8 --gpu-hours 6.1"),
        (Budget(money=Money(per_gpu_hour=2.0, amount=8.0)), Spent(9.0, 4.0), Spent(1.0, 1.0), " --money 11"),
    ],
)
def test_a_larger_budget_that_is_named_holds_the_rest(budget, spent, rest, expected):
    assert options(budget, spent, rest) == expected


def test_the_pace_of_a_step_is_told_without_the_beginnings_of_trials(tmp_path):
    """A trial that needs a minute before its first step, and a second a step, is not taken for one of a slow pace."""
    params = {"train.max_steps": 100}
    start = (0, SweepOpened("s", "r", SPACE, {LEAST_STEP_SECONDS: "0.5"}, params))
    first = [(10, opened(0)), (71, reported(0, 1, 1.0))]
    assert pace(read(written(tmp_path / "a", start, *first))) == Pace(0.5)  # one step tells little
    later = [(74, reported(0, 4, 1.0)), (76, reported(0, 6, 1.0))]
    assert pace(read(written(tmp_path / "b", start, *first, *later))) == Pace(step=1.0, beginning=60.0)
    again = [(80, AttemptFailed(0, 1, "hang", "retry", "")), (90, opened(0, 2)), (290, reported(0, 6, 1.0))]
    found = read(written(tmp_path / "c", start, *first, *later, *again))
    assert pace(found) == Pace(step=1.0, beginning=60.0)
    assert found.spending.trials == {0: 70 + 200}
    assert found.spending.at(300.0) == (300.0, 280.0)


def test_where_a_trial_reports_once_its_whole_time_tells_the_pace(tmp_path):
    params = {"train.max_steps": 100}
    begin = [(0, SweepOpened("s", "r", SPACE, {}, params)), (10, opened(0)), (210, reported(0, 100, 1.0))]
    assert pace(read(written(tmp_path / "a", *begin))) is None
    assert pace(read(written(tmp_path / "b", *begin, (210, TrialClosed(0, State.COMPLETE))))) == Pace(2.0)


# ---------------------------------------------------------------- the driver


def test_a_trial_that_cannot_end_within_the_hours_is_not_begun(desk):
    found = desk(Budget(hours=0.0083))
    for ray_id in "ab":
        work(found, found.start(ray_id))
    assert found.driver.next_trial("c") is None and found.driver.is_over and found.ends == []
    found.driver.finish()
    ((state, reason),) = found.ends
    assert state == "KILLED"
    assert reason == (
        "budget: 0.00667 of 0.0083 hours are spent and another trial takes about 0.0033, 2 of 4 trials not begun — "
        "`mouselift sweep resume s --hours 0.032` goes on with it"
    )
    assert found.states() == {0: "COMPLETE", 1: "COMPLETE"}


def test_a_trial_that_just_fits_is_begun(desk):
    found = desk(Budget(hours=36 / 3600))
    for ray_id in "ab":
        work(found, found.start(ray_id))
    assert found.driver.next_trial("c") is not None


def test_gpu_hours_are_promised_to_the_trials_that_run(desk):
    """Of 36 seconds of a GPU one trial took 12 and two that run take 24, so that none is left for a fourth."""
    found = desk(Budget(gpu_hours=36 / 3600), concurrent=2)
    work(found, found.start("a"))
    found.start("b"), found.start("c")
    assert found.driver.next_trial("d") is None and not found.driver.is_over
    found.driver.watch(found.killed.append)
    assert found.ends == []


def test_room_that_a_trial_leaves_is_taken_by_the_next(desk):
    found = desk(Budget(gpu_hours=40 / 3600), concurrent=2)
    work(found, found.start("a"))
    second = found.start("b")
    found.start("c")
    assert found.driver.next_trial("d") is None
    found.driver.write(TrialClosed(second.config["number"], State.PRUNED, "rung"))
    assert found.driver.next_trial("d") is not None


def test_before_a_trial_tells_the_first_begin_and_where_the_preflight_knows_it_only_as_many_as_fit(desk):
    found = desk(Budget(gpu_hours=30 / 3600), concurrent=4)
    assert [found.driver.next_trial(ray_id) is None for ray_id in "abcd"] == [False] * 4
    found.session()
    recipe = found.space.base
    tags = {LEAST_STEP_SECONDS: "1.0"}
    found.driver.write(SweepOpened("s", recipe.name, found.space.as_plain(), tags, recipe.params))
    assert [found.driver.next_trial(ray_id) is None for ray_id in "abcd"] == [False, False, True, True]


def test_what_runs_ends_at_its_next_report_once_the_budget_is_spent(desk):
    found = desk(Budget(hours=0.0083), concurrent=2)
    first, second = found.start("a"), found.start("b")
    found.now += 31
    found.driver.watch(found.killed.append)
    found.now += 1
    found.report(first, 4, 20.0)
    found.driver.watch(found.killed.append)
    assert found.ends == []  # the other one has not reported yet
    found.now += 1
    found.report(second, 4, 21.0)
    found.driver.watch(found.killed.append)
    ((state, reason),) = found.ends
    assert state == "KILLED"
    assert reason == (
        "budget: 0.00917 of 0.0083 hours are spent, 2 of 4 trials not begun and 2 not ended — "
        "`mouselift sweep resume s --hours 0.035` goes on with it"
    )
    found.driver.close(*found.ends[0])
    assert found.states() == {0: "KILLED", 1: "KILLED"}
    assert [found.driver.ledger.trials[number].last_step for number in (0, 1)] == [4, 4]


def test_a_trial_whose_last_step_is_reported_comes_to_its_end_although_the_budget_is_spent(desk):
    found = desk(Budget(hours=10 / 3600), count=1)
    trial = found.start("a")
    found.now += 11
    found.driver.watch(found.killed.append)
    found.now += 1
    found.report(trial, STEPS, 20.0)
    found.driver.watch(found.killed.append)
    found.end(trial)
    assert found.driver.next_trial("b") is None and found.driver.is_over
    found.driver.finish()
    assert (found.states(), found.ends) == ({0: "COMPLETE"}, [])


def test_a_trial_that_hangs_when_the_budget_is_spent_does_not_keep_the_sweep(desk):
    found = desk(Budget(hours=0.0028), count=2)
    trial = found.start("a")
    for _ in range(40):
        found.now += 50
        found.driver.watch(found.killed.append)
    assert found.killed == [0]
    found.fail(trial, ActorDiedError("killed"))
    assert found.driver.next_trial("b") is None and found.driver.is_over
    found.driver.finish()
    assert found.ends[0][1].startswith(
        "budget: 0.556 of 0.0028 hours are spent, 1 of 2 trials not begun and 1 not ended"
    )


def test_after_a_kill_what_was_spent_still_counts(desk):
    found = desk(Budget(hours=0.0083))
    work(found, found.start("a"))
    trial = found.start("b")
    found.now += 8
    found.report(trial, 8, 20.0)  # 20 seconds; the driver is killed
    found.now += 10_000
    found.session()
    again = found.driver.next_trial("c")
    assert (again["number"], again["reported"]) == (1, 8)  # its four steps fit into the ten seconds that are left
    found.now += 7
    assert found.driver.next_trial("d") is None


def test_a_trial_that_waits_with_few_steps_left_goes_on_where_a_whole_one_does_not_fit(desk):
    found = desk(Budget(hours=27 / 3600))
    trial = found.start("a")
    work(found, trial, (4, 8))
    found.fail(trial, ActorDiedError("gone"))
    again = found.start("b")
    assert again.config["reported"] == 8
    work(found, again, (STEPS,), seconds=4 / 12)
    assert found.driver.next_trial("c") is not None  # 12 seconds and 12 more
    found.now += 4
    assert found.driver.next_trial("d") is None


# ---------------------------------------------------------------- to go on


def test_a_sweep_goes_on_with_a_larger_budget_alone_and_the_journal_has_it(desk):
    found = desk(Budget(hours=0.0083))
    for ray_id in "ab":
        work(found, found.start(ray_id))
    found.driver.next_trial("c")
    found.driver.finish()
    found.driver.close(*found.ends[0])
    found.journal.close()
    assert going_on(read(found.journal)) == "mouselift sweep resume s --hours 0.032"
    with pytest.raises(StudyError, match=r"^s: expected room for another trial, got budget: 0\.00667 of 0\.0083 hours"):
        resumable(found.home, "s")
    with pytest.raises(StudyError, match=r"--hours 0\.032"):
        resumable(found.home, "s", raised=Raised(hours=0.009))
    space = resumable(found.home, "s", raised=Raised(hours=0.014))
    assert space == replace(found.space, name="s", budget=Budget(hours=0.014))
    found.space = space
    found.session()
    assert found.driver.next_trial("c") is not None
    found.journal.close()
    assert resumable(found.home, "s").budget.hours == 0.014


@pytest.mark.parametrize(("enqueue", "left"), [((), 0), (({"optim.lr": 1e-4},), 1)])
def test_a_grid_without_further_points_needs_no_larger_budget_to_go_on(desk, enqueue, left):
    """Two of four trials are done and the budget is spent: a grid of two has no third, an enqueued one is."""
    found = desk(Budget(hours=0.0083))
    found.space = replace(
        found.space,
        space={"optim.lr": Choice(ends=(1e-4, 1e-3))},
        sampler=Sampler(kind="grid"),
        enqueue=enqueue,
    )
    found.session()
    for ray_id in "ab":
        work(found, found.start(ray_id))
    found.driver.close(State.KILLED, "interrupted by SIGTERM")
    found.journal.close()
    assert (held_back(read(found.journal)) is not None) == bool(left)
    assert steps_left(read(found.journal)) == left * STEPS
    if not left:
        assert resumable(found.home, "s").budget.hours == 0.0083


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (Raised(hours=0.0), "expected --hours above 0, got 0"),
        (Raised(gpu_hours=float("nan")), "expected --gpu-hours above 0, got nan"),
        (Raised(money=3.0), "--money without a price — bound it by --gpu-hours"),
    ],
)
def test_a_budget_that_is_none_is_refused(raised, message):
    with pytest.raises(StudyError, match=message):
        Budget(hours=1.0).raised("s", raised)


def test_a_sweep_of_before_there_were_budgets_has_none_and_may_get_one(desk):
    found = desk(Budget())
    work(found, found.start("a"))
    plain = found.space.as_plain()
    del plain["budget"]
    found.journal.append(SweepOpened("s", "gslrm_tiny", plain, {}, found.space.base.params))
    found.journal.close()
    assert resumable(found.home, "s").budget == Budget()
    assert resumable(found.home, "s", raised=Raised(hours=1.0)).budget == Budget(hours=1.0)


# ---------------------------------------------------------------- before and while it runs


@pytest.fixture
def planned():
    def make(budget, gpus=1.0):
        trials = Resources(count=4, concurrent=2, gpus=gpus)
        return space_with("mine", "gslrm_tiny", trials=trials, budget=budget, scheduler=PLAIN)

    return make


HOUR_EACH = Cost(seconds=7200.0, stops_early=False, bytes=0, trial_seconds=3600.0)


def test_a_whole_sweep_that_may_not_fit_is_a_note_and_one_trial_that_cannot_is_refused(planned):
    assert of_budget(planned(Budget(hours=2.0, gpu_hours=4.0)), HOUR_EACH) == []
    (note,) = of_budget(planned(Budget(hours=2.0, gpu_hours=3.0)), HOUR_EACH)
    assert note == (
        "budget: 3 GPU-hours may not hold all 4 trials, which take about 4 by the pace of a few steps; those that do "
        "not fit are not begun."
    )
    of_budget(planned(Budget(hours=0.7)), HOUR_EACH)  # a trial may take 40 minutes, as a few steps tell it
    with pytest.raises(StudyError) as refused:
        of_budget(planned(Budget(money=Money(per_gpu_hour=2.0, amount=1.0))), HOUR_EACH)
    assert str(refused.value) == (
        "mine: budget: expected money for one trial at least, about 1.3 by the pace of a few steps, got 1 — raise it, "
        "or lower train.max_steps."
    )
    assert of_budget(planned(Budget(hours=0.001)), None) == []


def test_gpu_hours_without_a_gpu_are_said_to_bound_nothing(planned):
    (note,) = of_budget(planned(Budget(gpu_hours=1.0), gpus=0.0), None)
    assert note.startswith("budget: trials take no GPU here")


def test_the_least_of_a_step_is_two_thirds_of_what_a_few_steps_tell(planned):
    recipe = planned(Budget()).base
    assert least_step_seconds(HOUR_EACH, recipe) == pytest.approx(2400 / recipe.train.max_steps)
    assert least_step_seconds(None, recipe) is None


def test_status_has_what_is_spent_and_when_the_budget_ends(desk):
    found = desk(Budget(hours=1.0, money=Money(per_gpu_hour=2.0, amount=0.5)), concurrent=2)
    found.start("a"), found.start("b")
    found.now += 360
    ledger = read(found.journal)
    told = spending_of(ledger, found.now)
    assert told == {
        "hours": {"spent": pytest.approx(0.1), "of": 1.0},
        "gpu_hours": {"spent": pytest.approx(0.2), "of": None},
        "money": {"spent": pytest.approx(0.4), "of": 0.5},
    }
    assert seconds_of_budget(ledger, found.now) == pytest.approx(90.0)  # 0.1 of money at 4 an hour
    assert seconds_of_budget(replace(ledger, space={}), found.now) is None


def test_a_space_says_its_budget_and_one_that_is_none_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    begin = "recipe: gslrm_tiny\nspace: {optim.lr: {float: [1.0e-4, 1.0e-3]}}\n"
    path.write_text(begin + "budget: {hours: 2.0, gpu_hours: 8.0, money: {amount: 20.0, per_gpu_hour: 1.9}}\n")
    money = Money(amount=20.0, per_gpu_hour=1.9)
    assert load_space(path).budget == Budget(hours=2.0, gpu_hours=8.0, money=money)
    assert load_space(path, ["budget.hours=3.0"]).budget.hours == 3.0
    for wrong, told in (
        ("{hours: 0.0}", r"budget\.hours"),
        ("{money: {amount: 20.0}}", r"budget\.money\.per_gpu_hour"),
        ("{hour: 2.0}", r"budget\.hour — did you mean budget\.hours"),
        ("{trials: 4}", r"budget\.trials"),
    ):
        path.write_text(begin + f"budget: {wrong}\n")
        with pytest.raises(Exception, match=told) as refused:
            load_space(path)
        assert "\n" not in str(refused.value)


def test_a_trial_opened_counts_from_its_opening(tmp_path):
    journal = written(tmp_path, (0, SweepOpened("s", "r", SPACE, {}, {})), (10, TrialOpened(0, "r", 1, {}, {}, "f")))
    assert spent_of(read(journal), 20.0).gpu_hours == 0.5 * 10 / 3600


def test_report_and_pages_show_hours_and_cost_of_the_sweep_and_of_each_trial(tmp_path):
    """Two GPUs for half an hour and a quarter, at 4 for a GPU-hour; the sweep ran for an hour of its two."""
    space = SPACE | {"trials": {"count": 2, "gpus": 2.0}, "budget": {"hours": 2.0, "money": {"per_gpu_hour": 4.0}}}
    journal = written(
        tmp_path,
        (0, SweepOpened("s", "gslrm_tiny", space, {}, {"train.max_steps": 9})),
        (100, opened(0)),
        (1900, reported(0, 1, 10.0)),
        (1900, TrialClosed(0, State.COMPLETE)),
        (2000, opened(1)),
        (2900, reported(1, 1, 9.0)),
        (2900, TrialClosed(1, State.PRUNED, "rung")),
        (3600, SweepClosed(State.KILLED, "budget: spent")),
    )
    record = record_of(journal, 9999.0)
    said = "1 of 2 hours, 1.5 GPU-hours, 6 money (4 per GPU-hour)"
    assert dict(facts(record))["Spent"] == said
    assert "cost" in [column.label for column in columns([], (), "val/psnr", priced=True)]
    assert [cell.text for cell in row(record.trial(1), [], (), 2.0)][7:9] == ["15 min", "2"]
    page, note = report_page(record), sweep_note(record, Links("1"))
    assert said in page and f"Of its budget: {said}." in note and "1 h of sessions, 45 min of 2 trials" in note
    assert "30 min of training and validation" in trial_note(record, 0, Links("1"))
    assert "cost 4" in trial_note(record, 0, Links("1")) and "cost 2" in trial_note(record, 1, Links("1"))
    free = replace(record, ledger=replace(record.ledger, space=SPACE))
    assert dict(facts(free))["Spent"] == "1 h of sessions" and "cost" not in trial_note(free, 0, Links("1"))
