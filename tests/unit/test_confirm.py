"""The best of a search run again with other seeds before it says who won: proposed, run, counted and judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.book.confirmations import Confirmed, Run, confirmed
from sweeps.book.journal import Journal, State, SweepClosed, SweepOpened, TrialProposed
from sweeps.book.ledger import read
from sweeps.book.remaining import seconds_left, steps_left
from sweeps.book.study import CONFIRMS, Proposals, confirmation, frozen_trial, study_of
from sweeps.errors import SpaceError
from sweeps.preflight.cost import cost_of
from sweeps.preflight.dry_run_messages import Measured
from sweeps.run.resume import resumable
from sweeps.space.distributions import Choice
from sweeps.space.plan import SEED, Confirm
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, Scheduler, load_space
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
