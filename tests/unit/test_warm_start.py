"""What a sweep knows of others before its first trial: for its sampler alone, and in its own journal."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from sweeps.book.journal import Journal, Reported, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import Ledger, fold, read
from sweeps.book.record import PROTOCOL
from sweeps.book.study import Proposals, began_with, frozen_trial, study_of
from sweeps.conclusions.importance import importance_of
from sweeps.errors import SpaceError, StudyError
from sweeps.home import Home
from sweeps.reuse.warm_start import FIGURES, past_of, require_alike
from sweeps.space.distributions import Choice, FloatRange
from sweeps.space.objective import Objective
from sweeps.space.space import load_space
from tests.unit.test_study import METRIC, STEPS, Book, figure, space_for

LR = FloatRange(ends=(1e-4, 1e-2), log=True)
TAGS = {"data.digest": "d" * 64, FIGURES: "2"}


@pytest.fixture
def home(tmp_path):
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})


def swept(home, name="old", space=None, trials=12, tags=TAGS, protocol="p1"):
    """A finished sweep of this name: its journal as a driver writes it, every fourth trial PRUNED, one FAIL."""
    space = space or space_for(count=trials + 1)
    journal, proposals = Journal(home.journal(name)), Proposals(space)
    ledger = fold(Ledger(), journal.append(SweepOpened(name, "r", space.as_plain(), tags, space.base.params)))
    for number in range(trials + 1):
        proposed = proposals.next(ledger)
        recipe = space.base.params | proposed.params
        news = [proposed, TrialOpened(number, "r", 1, proposed.params, recipe, proposed.fingerprint)]
        steps = (10,) if number % 4 == 3 else (10, STEPS)
        value = figure(proposed.params)
        news += [
            Reported(number, step, {METRIC: value - (STEPS - step) / STEPS}, {}, {PROTOCOL: protocol}) for step in steps
        ]
        news += [TrialClosed(number, "FAIL" if number == trials else "PRUNED" if len(steps) == 1 else "COMPLETE")]
        for event in news:
            ledger = fold(ledger, journal.append(event))
    journal.close()
    return ledger


def opened(home, space, tags=TAGS):
    """The ledger of a new sweep of this space, from its journal."""
    past, _ = past_of(home, space, tags)
    journal = Journal(home.journal("new"))
    journal.append(SweepOpened("new", "r", space.as_plain(), {}, space.base.params, past=past))
    journal.close()
    return read(journal)


def after(home, *names, **sampler):
    return replace(space_for(**sampler), warm_start=names)


def test_finished_and_pruned_trials_are_the_past_and_no_trials_of_the_sweep(home):
    old = swept(home)
    space = after(home, "old")
    ledger = opened(home, space)
    assert (len(ledger.past), len(ledger.trials), ledger.next_number, ledger.best) == (12, 0, 0, None)
    study = study_of(ledger, space)
    kept = [(trial.state.name, trial.params, trial.value) for trial in study.trials]
    own = [frozen_trial(old, space, number) for number in range(12)]
    assert kept == [(trial.state.name, trial.params, trial.value) for trial in own]


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_the_model_begins_at_once_where_enough_is_known_and_not_before(home, kind):
    swept(home)
    drawn = Book(space_for(kind=kind, seed=4, startup_trials=5)).propose().params
    known, few = (after(home, "old", kind=kind, seed=4, startup_trials=needed) for needed in (5, 13))
    ledger = opened(home, known)
    first = Proposals(known).next(ledger)
    assert (first.trial, first.params != drawn) == (0, True)
    assert Proposals(known).next(ledger) == first
    assert Proposals(few).next(ledger).params == drawn


def test_the_model_learns_from_what_is_known(home):
    """The objective is best at 1e-3: what is proposed lies nearer to it than what chance draws."""
    swept(home, trials=30)
    space = after(home, "old", seed=1, startup_trials=5)
    ledger = opened(home, space)
    learnt = [Proposals(replace(space, sampler=replace(space.sampler, seed=seed))).next(ledger) for seed in range(12)]
    drawn = [Book(space_for(seed=seed)).propose() for seed in range(12)]
    good = [sum(figure(one.params) for one in some) for some in (learnt, drawn)]
    assert good[0] > good[1]


def test_what_is_enqueued_is_tried_before_the_model_begins(home):
    swept(home)
    space = replace(after(home, "old", startup_trials=5), enqueue=({"optim.lr": 3e-4},))
    ledger = opened(home, space)
    proposals = Proposals(space)
    first = proposals.next(ledger)
    assert first.params == {"optim.lr": 3e-4}
    second = proposals.next(fold(ledger, first))
    assert second.params != Book(space_for()).propose().params


def test_a_resumed_sweep_needs_the_others_no_more_and_proposes_the_same(home):
    swept(home)
    space = after(home, "old", startup_trials=5)
    first = Proposals(space).next(opened(home, space))
    shutil.rmtree(home.journal("old"))
    journal = Journal(home.journal("new"))
    journal.append(SweepOpened("new", "r", space.as_plain(), {}, space.base.params))  # of the next session
    ledger = read(journal)
    assert len(ledger.past) == 12 and Proposals(began_with(ledger)).next(ledger) == first


def test_importance_and_the_copy_of_optuna_are_of_the_sweeps_own_trials(home):
    swept(home)
    space = after(home, "old")
    ledger = opened(home, space)
    assert importance_of(ledger).trials == 0
    ledger = fold(ledger, Proposals(space).next(ledger))
    assert [frozen_trial(ledger, space, number).params for number in range(ledger.next_number)] == [
        ledger.trials[0].params
    ]


def test_trials_outside_the_space_are_left_out_and_counted(home):
    old = swept(home)
    space = replace(after(home, "old", space={"optim.lr": FloatRange(ends=(1e-4, 1e-3), log=True)}))
    past, said = past_of(home, space, TAGS)
    fit = [n for n, trial in old.trials.items() if trial.params["optim.lr"] <= 1e-3 and trial.state != "FAIL"]
    assert sorted(one.trial for one in past) == fit and 0 < len(fit) < 12
    assert said[0] == (
        f"old: {len(fit)} of 12 finished trials known to the sampler, {12 - len(fit)} left out: their settings are not "
        "of this space"
    )
    assert (
        said[1] == f"warm_start: tpe draws at random until it has 10 results (sampler.startup_trials), {len(fit)} known"
    )


def test_what_the_others_searched_and_this_one_does_not_has_to_stand_as_it_does_here(home):
    masked = {"optim.lr": LR, "loss.masked": Choice(ends=(True, False))}
    old = swept(home, space=space_for(masked, count=13))
    space = after(home, "old")
    past, _ = past_of(home, space, TAGS)
    own = space.base.params["loss.masked"]
    assert {one.trial for one in past} == {
        n for n, trial in old.trials.items() if trial.params["loss.masked"] == own and trial.state != "FAIL"
    }
    assert all(one.params.keys() == {"optim.lr"} for one in past)


def test_what_this_one_searches_and_the_others_did_not_is_their_recipes_own_value(home):
    swept(home)
    wide = after(home, "old", space={"optim.lr": LR, "loss.ssim": Choice(ends=(0.0, 0.2, 0.5))})
    own = wide.base.params["loss.ssim"]
    past, _ = past_of(home, wide, TAGS)
    assert len(past) == 12 and {one.params["loss.ssim"] for one in past} == {own}


def test_a_result_that_one_sweep_took_from_another_is_known_once(home):
    swept(home)
    journal = home.journal("copy") / "journal.jsonl"
    shutil.copytree(home.journal("old"), journal.parent)
    opening = re.compile(r'("kind": "TrialOpened".*"trial": )(\d+)(,.*"tags": )\{\}')
    text = opening.sub(
        lambda m: f'{m[1]}{m[2]}{m[3]}{{"trial.taken_from": "old t{int(m[2]):04d}"}}', journal.read_text()
    )
    journal.write_text(text)
    past, _ = past_of(home, after(home, "old", "copy"), TAGS)
    assert len(past) == 12


def test_a_result_that_is_known_and_taken_is_in_the_study_once(home):
    swept(home)
    space = after(home, "old")
    ledger = opened(home, space)
    params = ledger.past[0].params
    known = len(study_of(ledger, space).trials)
    taken = {"trial.taken_from": f"old t{ledger.past[0].trial:04d}"}
    for event in (TrialOpened(0, "", 1, params, {}, "f", taken), Reported(0, STEPS, {METRIC: 1.0})):
        ledger = fold(ledger, event)
    assert len(study_of(fold(ledger, TrialClosed(0, "COMPLETE")), space).trials) == known


def test_settings_in_which_recipes_differ_are_said(home):
    swept(home)
    space = after(home, "old").with_fixed({"loss.ssim": 0.5, "train.max_steps": 200})
    _, said = past_of(home, space, TAGS)
    assert said[0].endswith("known to the sampler; it had loss.ssim 0.0, here 0.5; train.max_steps 100, here 200")


@pytest.mark.parametrize(
    ("change", "tags", "shown"),
    [
        ({"objective": Objective("val/ssim", "max")}, {}, "objective: max val/psnr_fg -> max val/ssim"),
        ({"fixed": {"data.image_size": 48}}, {}, "image size: 64 -> 48"),
        ({}, {"data.digest": "e" * 64}, "data: dddddddddddd -> eeeeeeeeeeee"),
        ({}, {FIGURES: "3"}, "definition of figures: 2 -> 3"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused_with_the_difference(home, change, tags, shown):
    swept(home)
    space = after(home, "old")
    space = space.with_fixed(change["fixed"]) if "fixed" in change else replace(space, **change)
    with pytest.raises(StudyError) as refused:
        past_of(home, space, TAGS | tags)
    assert str(refused.value) == (
        "old: expected a sweep of the same objective, protocol and data to learn from, got one of another "
        f"({shown}) — leave it out of warm_start."
    )
    if not tags:  # what is known before any check is refused before any check
        with pytest.raises(StudyError, match="same objective, protocol and data"):
            require_alike(home, space)


def test_sweeps_that_were_measured_differently_are_refused_together(home):
    swept(home), swept(home, "newer", protocol="p2")
    with pytest.raises(StudyError, match=r"newer: .*\(protocol: p2 -> p1 of old\)"):
        past_of(home, after(home, "old", "newer"), TAGS)


def test_a_sweep_that_is_not_there_or_has_nothing_of_the_space_is_refused(home):
    swept(home)
    with pytest.raises(StudyError, match=r"older: expected a sweep of .*, got none — it has old\."):
        require_alike(home, after(home, "older"))
    with pytest.raises(
        StudyError, match="expected finished trials with settings of this space to learn from, got none of 12"
    ):
        past_of(home, after(home, "old", space={"optim.lr": FloatRange(ends=(0.02, 0.1))}), TAGS)


def test_a_space_whose_sampler_learns_nothing_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "recipe: gslrm_tiny\nspace: {optim.lr: {float: [1.0e-4, 1.0e-2]}}\nwarm_start: [old]\nsampler: {kind: random}\n"
    )
    with pytest.raises(SpaceError, match=r"sampler\.kind: expected tpe or gp, which learn from other sweeps"):
        load_space(path)
    assert load_space(path, ["sampler.kind=tpe"]).warm_start == ("old",)
