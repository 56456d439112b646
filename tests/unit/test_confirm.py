"""The best of a search run again with other seeds before it says who won: proposed, run, counted and judged."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks import search_table
from dashboards.app.app import make_app
from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from dashboards.pages.table_tags import outcome
from dashboards.pages.trial_notes import trial_note
from dashboards.research.conclusions import Conclusions
from dashboards.research.report import research_report
from dashboards.research.texts import Language, Texts
from sweeps.book.confirmations import Confirmed, Run, confirmed
from sweeps.book.journal import (
    Journal,
    Reported,
    RunOpened,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
    TrialProposed,
)
from sweeps.book.ledger import read
from sweeps.book.record import PROTOCOL, Recorder, record_of
from sweeps.book.remaining import held_back, seconds_left, steps_left
from sweeps.book.study import CONFIRMS, Proposals, confirmation, frozen_trial, study_of
from sweeps.cli.conclusions import show_confirmed
from sweeps.cli.leaderboard import Leaderboard
from sweeps.conclusions.confirmations import sentences
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.errors import SpaceError, StudyError
from sweeps.preflight.cost import cost_of
from sweeps.preflight.dry_run_messages import Measured
from sweeps.run.resume import resumable
from sweeps.space.budget import Budget, Raised
from sweeps.space.distributions import Choice, FloatRange
from sweeps.space.objective import Objective
from sweeps.space.plan import SEED, Confirm
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, Scheduler, load_space
from sweeps.tracking.mlflow_layout import CONFIRMS_TAG, trial_tags
from sweeps.tracking.notices import told
from sweeps.tracking.pages import Links
from tests.support.spaces import space_with
from tests.unit.test_driver import METRIC, STEPS, Desk

PLAIN = Scheduler(kind="none")
FIRST = (20.0, 24.0, 22.0, 18.0)  # what the trials of the search reach, by number


@pytest.fixture
def desk(tmp_path, mice_folder):
    """Four trials of a search, of which the best two run again with two other seeds."""

    def make(seeds=2, top=2, count=4, **changes):
        changes = {"scheduler": PLAIN, "sampler": Sampler(kind="random"), **changes}
        trials = Resources(count=count, concurrent=2)
        return Desk(tmp_path, mice_folder, confirm=Confirm(seeds=seeds, top=top), trials=trials, **changes)

    return make


def run(found, value):
    """One trial from its beginning to its end."""
    trial = found.start(f"r{found.driver.ledger.next_number}")
    for step in (4, 8, STEPS):
        found.report(trial, step, value)
    found.end(trial)
    return trial.config


def searched(found, values=FIRST):
    return [run(found, value) for value in values]


def ledger_of(found):
    return found.driver.ledger


# ---------------------------------------------------------------- what is proposed


def test_the_best_of_a_search_run_again_seed_by_seed_with_seeds_that_it_did_not_have(desk):
    found = desk()
    search = searched(found)
    assert not found.driver.is_over
    again = [run(found, 23.0) for _ in range(4)]
    base = found.space.base.train.seed
    assert [config["params"] for config in again] == [
        {**search[number]["params"], SEED: seed} for seed in (base + 1, base + 2) for number in (1, 2)
    ]
    assert [trial.confirms for trial in ledger_of(found).trials.values()] == [None] * 4 + [1, 2, 1, 2]
    assert found.driver.is_over and found.driver.next_trial("more") is None


def test_nothing_is_confirmed_before_every_trial_of_the_search_has_ended(desk):
    found = desk()
    searched(found, FIRST[:3])
    last = found.start("last")
    assert found.driver.next_trial("too early") is None and not found.driver.is_over
    for step in (4, 8, STEPS):
        found.report(last, step, 18.0)
    found.end(last)
    assert found.driver.next_trial("now")["number"] == 4


def test_a_driver_that_was_killed_and_its_successor_confirm_the_same(desk):
    found = desk()
    searched(found)
    run(found, 30.0)  # a confirmation that is luckier than all of the search changes nothing of who is confirmed
    broken = found.start("broken")
    found.session()
    again = found.start("again")
    assert (again.config["number"], again.config["params"]) == (broken.config["number"], broken.config["params"])
    for step in (4, 8, STEPS):
        found.report(again, step, 21.0)
    found.end(again)
    run(found, 20.0)
    run(found, 20.0)
    assert [trial.confirms for trial in ledger_of(found).trials.values()][4:] == [1, 2, 1, 2]
    assert found.driver.is_over


def test_a_sweep_that_is_given_more_trials_draws_what_it_would_have_and_confirms_who_is_new(desk, tmp_path):
    found = desk()
    searched(found)
    for _ in range(4):
        run(found, 21.0)
    found.driver.write(SweepClosed(State.COMPLETE))
    found.space = replace(found.space, trials=replace(found.space.trials, count=6))
    found.session()
    later = searched(found, (25.0, 10.0))
    plain = Proposals(replace(found.space, confirm=Confirm()))
    assert [config["params"] for config in later] == [plain._draw(number) for number in (4, 5)]
    again = [run(found, 24.0) for _ in range(2)]
    assert [ledger_of(found).trials[config["number"]].confirms for config in again] == [8, 8]
    assert found.driver.is_over and ledger_of(found).best.number == 8
    assert ledger_of(found).planned == len(ledger_of(found).trials) == 12


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_sampler_learns_nothing_of_runs_that_confirm(desk, kind):
    found = desk(sampler=Sampler(kind=kind, startup_trials=2))
    searched(found)
    before = ledger_of(found)
    for _ in range(4):
        run(found, 40.0)
    asked = replace(found.space, trials=replace(found.space.trials, count=9))
    after, plain = Proposals(asked).next(ledger_of(found)), Proposals(asked).next(before)
    assert (after.params, after.trial) == (plain.params, plain.trial + 4)
    assert [trial.number for trial in study_of(ledger_of(found), found.space).trials] == [0, 1, 2, 3]


def test_the_copy_for_optuna_has_them_under_their_numbers_with_the_seed_beside_them(desk):
    found = desk()
    searched(found)
    run(found, 23.0)
    copied = frozen_trial(ledger_of(found), found.space, 4)
    assert copied.params == ledger_of(found).trials[1].params
    assert copied.user_attrs[CONFIRMS] == "t0001" and copied.user_attrs[SEED] == str(found.space.base.train.seed + 1)


def test_a_small_space_that_repeats_itself_is_confirmed_when_nothing_new_is_found(desk):
    found = desk(count=9, space={"optim.lr": Choice(ends=(1e-3, 1e-2))})
    searched(found, (20.0, 21.0))
    assert [run(found, 20.0)["params"][SEED] for _ in range(4)] == [778, 778, 779, 779]
    assert found.driver.is_over


def test_of_fewer_complete_trials_than_asked_those_that_there_are_run_again(desk):
    found = desk(top=3)
    searched(found, FIRST[:2])
    for _ in range(2):
        found.fail(found.start(f"r{ledger_of(found).next_number}"), ValueError("no"))
    assert (ledger_of(found).planned, steps_left(ledger_of(found))) == (8, 4 * STEPS)
    again = [run(found, 20.0)["number"] for _ in range(4)]
    assert [ledger_of(found).trials[number].confirms for number in again] == [1, 0, 1, 0]
    assert found.driver.is_over


# ---------------------------------------------------------------- ASHA and the rules


def test_asha_neither_ends_nor_counts_a_run_that_confirms(desk):
    found = desk(scheduler=Scheduler(kind="asha", grace_steps=4, reduction_factor=2), count=2)
    searched(found, (24.0, 25.0))
    first, second = found.start("a"), found.start("b")
    assert found.report(first, 4, 30.0) == found.report(second, 4, 1.0) == "CONTINUE"
    found.session()
    again = found.start("c")
    assert found.report(again, 4, 0.5) == "CONTINUE" and not found.scheduler.stopped


# ---------------------------------------------------------------- who won

SEARCH = [(3, 24.0), (7, 23.0), (5, 22.0)]


def judged(*runs, seeds=2, mode="max"):
    return confirmed([Run(*one) for one in runs], SEARCH, seeds, mode)


def test_the_best_mean_with_other_seeds_wins_and_the_run_that_was_chosen_is_not_counted():
    found = judged((3, 1, True, 20.0), (7, 1, True, 22.0), (3, 2, True, 21.0), (7, 2, True, 23.0))
    assert found == [Confirmed(7, 2, 23.0, (22.0, 23.0), 2), Confirmed(3, 1, 24.0, (20.0, 21.0), 2)]
    assert (found[0].mean, found[1].mean) == (22.5, 20.5)


def test_where_less_is_better_the_lowest_mean_wins():
    assert [one.trial for one in judged((3, 1, True, 0.4), (7, 1, True, 0.3), seeds=1, mode="min")] == [7, 3]


def test_nobody_is_ahead_because_others_still_run():
    runs = [(3, 1, True, 20.0), (7, 1, True, 22.0), (3, 2, True, 29.0), (7, 2, False, None)]
    assert [(one.trial, one.values, one.seeds) for one in judged(*runs)] == [(7, (22.0,), 1), (3, (20.0,), 1)]
    assert judged((3, 1, False, None), (7, 1, True, 22.0)) == []


def test_one_of_whose_runs_did_not_come_to_its_end_stands_behind_those_that_did():
    found = judged((3, 1, True, 29.0), (7, 1, True, 22.0), (3, 2, True, None), (7, 2, True, 22.0))
    assert [(one.trial, one.is_whole) for one in found] == [(7, True), (3, False)]
    none_whole = judged((3, 1, True, 29.0), (7, 1, True, None), (3, 2, True, None), (7, 2, True, None))
    assert [(one.trial, one.mean) for one in none_whole] == [(3, 29.0), (7, None)]


def test_who_is_new_among_the_best_does_not_take_back_what_was_confirmed():
    runs = [(3, 1, True, 20.0), (7, 1, True, 22.0), (3, 2, True, 20.0), (7, 2, True, 22.0), (5, 1, False, None)]
    assert [one.trial for one in judged(*runs)] == [7, 3]


def test_the_trial_of_the_search_is_the_best_and_never_a_lucky_confirmation(desk):
    found = desk()
    searched(found)
    assert ledger_of(found).best.number == 1
    for value in (19.0, 40.0, 20.0, 21.0):  # of t1, t2, t1, t2
        run(found, value)
    assert ledger_of(found).best.number == 2
    assert [trial.number for trial in ledger_of(found).ranked] == [1, 2, 0, 3, 5, 7, 6, 4]


def test_where_every_confirmation_fails_the_search_decides(desk):
    found = desk(seeds=1)
    searched(found)
    for _ in range(2):
        found.fail(found.start(f"r{ledger_of(found).next_number}"), ValueError("no"))
    assert [one.mean for one in ledger_of(found).confirmed] == [None, None]
    assert ledger_of(found).best.number == 1 and found.driver.is_over


# ---------------------------------------------------------------- counted


def test_what_is_confirmed_is_counted_among_the_trials_and_steps_to_come(desk):
    found = desk()
    assert ledger_of(found).planned == 8 and steps_left(ledger_of(found)) == 8 * STEPS
    searched(found)
    assert ledger_of(found).planned == 8 and steps_left(ledger_of(found)) == 4 * STEPS
    assert seconds_left(ledger_of(found), 40.0, 4 * STEPS) == pytest.approx(4 * 10.0 / 2)
    run(found, 23.0)
    assert ledger_of(found).planned == 8 and steps_left(ledger_of(found)) == 3 * STEPS


def test_runs_that_confirm_are_taken_to_run_whole_where_asha_ends_others(desk):
    found = desk(scheduler=Scheduler(kind="asha", grace_steps=4, reduction_factor=2), count=4)
    searched(found, (24.0, 25.0))
    weak = found.start("weak")
    assert found.report(weak, 4, 1.0) == "STOP"
    assert steps_left(ledger_of(found)) == (STEPS + STEPS + 4) / 3 + 4 * STEPS


def test_a_sweep_whose_confirmations_are_left_is_resumable_and_a_whole_one_is_not(desk):
    found = desk()
    searched(found)
    found.driver.write(SweepClosed(State.KILLED))
    found.journal.close()
    assert resumable(found.home, "s").confirm == Confirm(seeds=2, top=2)


def test_a_journal_of_before_there_were_confirmations_is_read_as_it_was(tmp_path):
    journal = Journal(tmp_path).claim()
    space = {"space": {}, "trials": {"count": 5}, "objective": {"metric": METRIC, "mode": "max"}}
    journal.append(SweepOpened("s", "gslrm_tiny", space, {}, {}))
    journal.append(TrialProposed(0, {}, "f"))
    text = journal.path.read_text().replace(', "confirms": null', "")
    assert "confirms" not in text
    journal.path.write_text(text)
    ledger = read(journal)
    assert (ledger.planned, ledger.confirm, ledger.trials[0].confirms) == (5, Confirm(), None)


def test_the_cost_of_a_sweep_has_that_of_its_confirmations(desk):
    found = desk(count=4)
    measured = Measured(2.0, 0, None, 10, 1, (), pace=2.0)
    with_them = cost_of(found.space, found.space.base, found.home, measured)
    without = cost_of(replace(found.space, confirm=Confirm()), found.space.base, found.home, measured)
    assert (without.seconds, with_them.seconds) == (2 * STEPS * 2.0, 4 * STEPS * 2.0)
    assert with_them.bytes > without.bytes


def test_what_a_grid_has_left_to_do_has_the_runs_that_confirm_its_best(desk):
    """Its points alone are drawn; neither the runs that are to come nor those that ran are among them."""
    points = {"loss.masked": Choice(ends=(True, False)), "loss.ssim": Choice(ends=(0.1, 0.2))}
    found = desk(sampler=Sampler(kind="grid"), space=points)
    left = [steps_left(ledger_of(found))]
    for value in (*FIRST, 23.0, 23.0, 23.0, 23.0):
        run(found, value)
        left.append(steps_left(ledger_of(found)))
    assert left == [STEPS * runs for runs in (8, 7, 6, 5, 4, 3, 2, 1, 0)]
    assert found.driver.is_over


def test_a_grid_of_fewer_points_than_are_to_be_confirmed_has_nothing_left_once_they_are(desk):
    found = desk(sampler=Sampler(kind="grid"), space={"loss.masked": Choice(ends=(True, False))}, top=3)
    left, planned = [steps_left(ledger_of(found))], [ledger_of(found).planned]
    for value in (20.0, 24.0, 23.0, 23.0, 23.0, 23.0):
        run(found, value)
        left.append(steps_left(ledger_of(found)))
        planned.append(ledger_of(found).planned)
    assert planned == [6] * 7  # and not as many as `trials.count` would have
    assert left == [STEPS * runs for runs in (6, 5, 4, 3, 2, 1, 0)]
    assert found.driver.is_over and held_back(ledger_of(found)) is None


def test_a_budget_that_ends_a_grid_while_its_best_are_confirmed_names_one_that_holds_the_rest(desk):
    points = {"loss.masked": Choice(ends=(True, False)), "loss.ssim": Choice(ends=(0.1, 0.2))}
    found = desk(sampler=Sampler(kind="grid"), space=points, budget=Budget(hours=0.5))
    for value in (*FIRST, 23.0):
        trial = found.start(f"r{found.driver.ledger.next_number}")
        for step in (4, 8, STEPS):
            found.now += 120.0
            found.report(trial, step, value)
        found.end(trial)
    assert found.driver.next_trial("more") is None and found.driver.is_over
    found.driver.finish()
    ((state, reason),) = found.ends
    assert state == State.KILLED and "3 of 8 trials not begun" in reason and "--hours" in reason
    found.driver.close(state, reason)
    found.journal.close()
    with pytest.raises(StudyError, match="expected room for another trial, got budget"):
        resumable(found.home, "s")
    assert resumable(found.home, "s", raised=Raised(hours=2.0)).budget.hours == 2.0


# ---------------------------------------------------------------- refused


SPACE = "recipe: gslrm_tiny\nspace: {optim.lr: {float: [1.0e-4, 1.0e-2]}}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("confirm: {top: 2}", "confirm.seeds: expected with how many other seeds the best run again, got none"),
        ("confirm: {seeds: 1, top: 1}", "confirm.seeds: expected two or more for one trial, got 1"),
        ("confirm: {seeds: -1}", "confirm.seeds: expected"),
        ("confirm: {seeds: 2, top: 0}", "confirm.top: expected"),
        ("confirm: {seed: 2}", "did you mean"),
        ("confirm: {seeds: 2}\nfixed: {train.seed: 4294967295}", "confirm.seeds: expected seeds below 2^32"),
    ],
)
def test_what_cannot_be_confirmed_is_refused_in_one_line(tmp_path, more, said):
    (tmp_path / "s.yaml").write_text(SPACE + more)
    with pytest.raises(SpaceError, match=r"(?s)^[^\n]*$") as refused:
        load_space(tmp_path / "s.yaml")
    assert said in str(refused.value)


def test_a_seed_that_is_searched_and_a_plan_are_refused_beside_confirm(tmp_path):
    (tmp_path / "s.yaml").write_text("recipe: gslrm_tiny\nspace: {train.seed: {choice: [1, 2]}}\nconfirm: {seeds: 2}\n")
    with pytest.raises(SpaceError, match=r"space.train.seed: expected one seed for the search beside confirm"):
        load_space(tmp_path / "s.yaml")
    (tmp_path / "p.yaml").write_text(
        "recipe: gslrm_tiny\nspace: {loss.ssim: {choice: [0.0, 0.2]}}\nplan: {kind: one_factor}\nconfirm: {seeds: 2}\n"
    )
    with pytest.raises(SpaceError, match=r"confirm: expected none beside a plan"):
        load_space(tmp_path / "p.yaml")


def test_confirmations_are_proposed_by_the_ledger_alone(desk):
    found = desk()
    searched(found)
    again = read(Journal(found.journal.folder))
    assert confirmation(again, found.space) == confirmation(ledger_of(found), found.space)


# ---------------------------------------------------------------- shown


def told_of(folder, lucky=24.0, means=((20.0, 21.0), (22.0, 22.5)), top=2, protocols=("p", "p")):
    """A sweep of three trials, of which t0000 led; two of them ran again with as many seeds as `means` has figures."""
    space = space_with("told", "gslrm_tiny", space={"optim.lr": FloatRange(ends=(1e-4, 1e-2))},
                       objective=Objective(METRIC), trials=Resources(count=3),
                       confirm=Confirm(seeds=2, top=top))  # fmt: skip
    events = [SweepOpened("told", "gslrm_tiny", space.as_plain(), {}, space.base.params), RunOpened(None, "r" * 32)]
    runs = [({"optim.lr": 1e-3 * (n + 1)}, None, value) for n, value in enumerate((lucky, 23.0, 10.0))]
    again = [(n, seed, values[seed]) for seed in range(2) for n, values in enumerate(means) if seed < len(values)]
    runs += [({"optim.lr": 1e-3 * (n + 1), SEED: 778 + seed}, n, value) for n, seed, value in again]
    for number, (params, confirms, value) in enumerate(runs):
        events.append(TrialProposed(number, params, f"f{number}", confirms=confirms))
        recipe, protocol = space.base.params | params, {PROTOCOL: protocols[bool(confirms or number == 1)]}
        events.append(TrialOpened(number, f"ray{number}", 1, params, recipe, f"f{number}", protocol))
        events.append(RunOpened(number, f"{number:032x}"))
        if value is not None:
            events.append(Reported(number, 10, {METRIC: value}))
        ended = State.COMPLETE if value is not None else State.FAIL
        events.append(TrialClosed(number, ended, "" if value is not None else "it broke"))
    recorder = Recorder(folder)
    recorder.add([*events, SweepClosed(State.COMPLETE)])
    return recorder.record(1.0)


def test_that_the_order_changed_is_said_with_n_and_spread(tmp_path):
    (said,) = sentences(told_of(tmp_path))
    assert said == (
        f"t0000 was ahead in the search with {METRIC} 24, by luck of its seed as far as is known: with others it has "
        "mean 20.5 over 2 seeds (20 to 21). t0001 is the best: mean 22.25 over 2 seeds (22 to 22.5), was 23 in the "
        "search."
    )


def test_that_others_reach_as_far_is_said(tmp_path):
    (said,) = sentences(told_of(tmp_path, means=((23.0, 25.0), (22.0, 24.0))))
    assert said.startswith(f"t0000 was ahead in the search with {METRIC} 24, and stays so with other seeds: mean 24 ")
    assert said.endswith("The seeds of t0001 reach as far: more of them may change the order.")


def test_what_is_missing_is_named(tmp_path):
    said = sentences(told_of(tmp_path, means=((24.0, None), (22.0, 22.5)), top=4))
    assert "t0001 is the best" in said[0] and "24 with 1 of 2 seeds, so without a spread" in said[0]
    assert said[1:] == [
        "3 of the 4 to confirm: no other trial of the search came to its end.",
        "t0005, which was to confirm t0000, is FAIL: it broke.",
    ]


def test_before_anything_is_confirmed_it_is_said_what_will_be(desk):
    found = desk()
    searched(found, FIRST[:2])
    record = record_of(found.journal, 0.0)
    assert sentences(record) == ["When the search has ended, its best 2 run again, each with 2 other seeds."]
    assert sentences(replace(record, ledger=replace(record.ledger, confirm=Confirm()))) == []


def test_that_trials_were_measured_differently_is_said(tmp_path):
    record = told_of(tmp_path, protocols=("p", "q"))
    unlike = "t0000: not measured as the best was, and compared as the search compared them."
    assert sentences(record)[1] == unlike
    assert "t0000: not measured as the best was" in research_report(record, Importance(0), Language.EN, "c.html")


def test_the_pages_of_mlflow_say_who_won_and_what_a_run_was_for(tmp_path):
    record = told_of(tmp_path)
    note = sweep_note(record, Links("7"))
    assert "t0001" in note.partition("**Best: ")[2][:20] and "n = 3 trials that reported it" in note
    assert "by luck of its seed as far as is known" in note and "which ran once" not in note
    table = note.partition("### Confirmed with other seeds")[2]
    assert re.findall(r"\| 22\.25&emsp; \| 22 to 22\.5&emsp; \| 2 of 2 \|", table)
    assert "t0003" not in note.partition("### Leaderboard")[2].partition("### Confirmed")[0]
    assert "It confirms [t0000]" in trial_note(record, 3, Links("7"))
    assert "With other seeds it has mean 20.5 over 2 seeds (20 to 21)." in trial_note(record, 0, Links("7"))
    assert outcome(record.trial(3)) == "✔ COMPLETE confirms t0000"


def test_the_tags_of_mlflow_name_what_a_run_confirms(tmp_path):
    ledger = told_of(tmp_path).ledger
    opened = TrialOpened(3, "ray3", 1, {}, {}, "f3")
    assert trial_tags(ledger, opened)[CONFIRMS_TAG] == "t0000"
    assert CONFIRMS_TAG not in trial_tags(ledger, replace(opened, trial=0))


def test_the_report_has_a_table_and_its_charts_leave_confirmations_out(tmp_path):
    record = told_of(tmp_path)
    html = report_page(record)
    assert "t0000 was ahead in the search" in html and '<td class="number">22.25</td>' in html
    assert "confirms t0000 with seed 778" in html
    assert [one.trial.number for one in record.by_protocol[0].searching] == [0, 1, 2]
    assert re.search(r"Best val/psnr_fg( so far)?: 23(\.0+)?, t0001", html)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (Language.EN, "With other seeds the order changes: t0000 was ahead in the search with 24"),
        (Language.KO, "다른 시드에서는 순서가 바뀝니다. 탐색에서 앞선 시행: t0000, 24"),
    ],
)
def test_the_dated_report_says_it_in_both_languages(tmp_path, language, said):
    record = told_of(tmp_path)
    text = research_report(record, importance_of(record.ledger), language, "charts.html")
    assert said in text and "22.25" in text and "confirm: {seeds: 2, top: 2}" in text
    assert f"### {Texts(language)('confirmed_title')}" in text
    assert Conclusions(record, importance_of(record.ledger)).stronger is None
    assert Conclusions(record, importance_of(record.ledger)).noise.n == 2  # of what confirms, not of what was chosen


def test_the_terminal_marks_them_and_has_the_means(tmp_path, capsys):
    record = told_of(tmp_path)
    show_confirmed(record)
    said = capsys.readouterr()
    assert re.search(r"t0001 +2 +23 +22\.25 +22 to 22\.5 +2 of 2", said.out) and "by luck of its seed" in said.err
    board = Leaderboard(record)
    assert [row[0].plain for row in map(board._row, board.shown)][:3] == ["t0000", "t0001", "t0002"]
    assert board._row(record.trial(3))[-1].plain.startswith("confirms t0000 — ")


def test_a_notice_of_the_end_has_the_mean(tmp_path):
    assert told(SweepClosed(State.COMPLETE), told_of(tmp_path).ledger).endswith(
        f"best {METRIC} 23 (t0001, step 10), with other seeds mean 22.25 over 2 seeds (22 to 22.5)"
    )


def test_what_matters_is_told_of_the_search_alone(tmp_path):
    assert importance_of(told_of(tmp_path).ledger).trials == 3


def test_the_dashboard_shows_who_won_and_what_a_run_was_for(desk):
    found = desk()
    searched(found)
    for value in (19.0, 23.0, 20.0, 21.0):  # of t1, t2, t1, t2
        run(found, value)
    client = TestClient(make_app(found.home), base_url="http://127.0.0.1:8710")
    page, values = client.get("/sweep?name=s").text, client.get("/sweep.json?name=s").json()
    assert "t0001 was ahead in the search with val/psnr_fg 24, by luck of its seed" in page
    assert "with other seeds mean 22 (21 to 23), n = 2 of 2" in page and "confirms t0001, seed 778" in page
    assert [(one["trial"], one["mean"]) for one in values["confirmed"]] == [(2, 22.0), (1, 19.5)]
    assert values["sweep"]["best"]["trial"] == 2 and values["sweep"]["judged"] == 4
    assert "to confirm" in client.get("/run?run=s/4").text
    assert "With other seeds: mean 22 over 2 seeds (21 to 23)." in client.get("/run?run=s/2").text


def test_how_far_seeds_differ_is_what_the_recorded_grid_says():
    known = {key: max(one[METRIC]) for key, one in search_table.read().curves.items()}
    twice = [(value, known[*key[:-1], 778.0]) for key, value in known.items() if (*key[:-1], 778.0) in known]
    pairs = [(one - other) ** 2 / 2 for one, other in twice if one != other]
    first = sorted((value for key, value in known.items() if key[-1] == 777.0), reverse=True)
    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    said = f"{len(pairs)} settings ran with two seeds: their best `{METRIC}` differs by a standard deviation of "
    said += f"{math.sqrt(statistics.fmean(pairs)):.2f}, and the best nine of all {len(first)} settings lie within "
    assert f"{said}{first[0] - first[8]:.2f}" in page
