"""Replicates: the best settings of a sweep again, over seeds, and every refusal word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.book.journal import Journal, Reported, State, SweepOpened, TrialClosed, TrialOpened, TrialProposed
from sweeps.conclusions.comparisons import comparisons_of
from sweeps.conclusions.replicates import with_the_best_of
from sweeps.errors import SpaceError, StudyError
from sweeps.home import Home
from sweeps.launch import Audience, Launch, looked_up
from sweeps.space.objective import Objective
from tests.support.planned import METRIC, planned_space, planned_sweep

AGAIN = {"kind": "replicate", "seeds": [0, 1, 2], "of": "search", "top": 2}
VALUES = {0.0: 18.0, 0.1: 20.0, 0.2: 19.0}  # what the search found for each loss.ssim
SSIM = {"loss.ssim": {"choice": [0.0, 0.1, 0.2]}}


@pytest.fixture
def home(tmp_path):
    """A home with a search that ended, of three trials."""
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    space = planned_space(tmp_path / "search", space=SSIM, plan={})
    with Journal(home.journal("search")) as journal:
        journal.append(SweepOpened("search", "gslrm_tiny", space.as_plain(), {}, space.base.params))
        for number, (ssim, value) in enumerate(VALUES.items()):
            params = {"loss.ssim": ssim}
            journal.append(TrialOpened(number, f"r{number}", 1, params, space.base.params | params, f"f{number}"))
            journal.append(Reported(number, 100, {METRIC: value}))
            journal.append(TrialClosed(number, State.COMPLETE))
    return home


def again(tmp_path, **changes):
    return planned_space(tmp_path / "again", space=SSIM, **{"plan": AGAIN} | changes)


def test_the_best_run_again_with_every_seed_the_best_first(home, tmp_path):
    space = looked_up(again(tmp_path), home)
    assert space.enqueued == [{"loss.ssim": one, "train.seed": seed} for seed in (0, 1, 2) for one in (0.1, 0.2)]
    assert space.trials.count == 6
    assert looked_up(space, home) is space  # of a sweep that is taken up again nothing is looked up


def test_each_is_held_against_the_one_that_had_won(home, tmp_path):
    space = looked_up(again(tmp_path), home)
    (found,) = comparisons_of(planned_sweep(tmp_path / "book", space, lambda p: 2.0 * p["loss.ssim"])).comparisons
    assert (found.effect, found.against) == ("loss.ssim 0.2", "loss.ssim 0.1")


def refusal(space, ledger):
    with pytest.raises(SpaceError) as error:
        with_the_best_of(space, ledger)
    return str(error.value)


def test_a_sweep_that_is_not_there_is_refused(home, tmp_path):
    with pytest.raises(StudyError, match=r"serach: expected a sweep of .* — it has search\."):
        looked_up(again(tmp_path, plan=AGAIN | {"of": "serach"}), home)


def test_what_cannot_be_run_again_is_refused_in_one_line(home, tmp_path):
    from sweeps.book.ledger import ledger_of

    ledger = ledger_of(home, "search")
    assert refusal(again(tmp_path, plan=AGAIN | {"top": 4}), ledger) == (
        "question: plan.of: search: expected 4 settings with a finished trial, got 3 — lower plan.top, or let that "
        "sweep end."
    )
    assert refusal(replace(again(tmp_path), objective=Objective("val/psnr", "max")), ledger) == (
        "question: plan.of: search: expected a sweep by val/psnr, got one by val/psnr_fg — name another sweep, or its "
        "objective."
    )
    assert refusal(again(tmp_path, fixed={"train.max_steps": 200}), ledger) == (
        "question: plan.of: search: expected a sweep over train.max_steps 200, got 100 — name another sweep, or give "
        "this one the same space."
    )
    narrower = planned_space(tmp_path / "narrow", plan=AGAIN, space={"loss.ssim": {"choice": [0.0, 0.2]}})
    assert refusal(narrower, ledger).startswith(
        'question: plan.of: search: expected a sweep over space.loss.ssim {"choice": [0.0, 0.2], "when": {}}, got '
    )
    wider = planned_space(tmp_path / "wide", plan=AGAIN, space=SSIM | {"loss.masked": {"choice": [True, False]}})
    assert "expected a sweep over space.loss.masked" in refusal(wider, ledger)


def test_of_a_sweep_with_seeds_the_best_are_those_of_the_best_mean(tmp_path):
    source = planned_space(tmp_path / "source", space=SSIM)
    record = planned_sweep(tmp_path / "book", source, lambda p: 5.0 * p["loss.ssim"])
    space = with_the_best_of(again(tmp_path), record.ledger)
    assert [one["loss.ssim"] for one in space.enqueued[:2]] == [0.2, 0.1]


def test_without_its_kind_a_plan_replicates_nothing(home, tmp_path):
    space = planned_space(tmp_path / "none", space=SSIM, plan={"kind": "none", "of": "search"})
    assert looked_up(space, home) is space


def test_a_job_that_is_queued_again_goes_on_with_what_it_looked_up_first(home, tmp_path):
    """Whatever became of the sweep that it replicates; and an older sweep of that name is refused, not misread."""
    began = looked_up(again(tmp_path), home)
    with Journal(home.journal("twice")) as journal:
        journal.append(SweepOpened("twice", "gslrm_tiny", began.as_plain(), {}, began.base.params))
    launch = Launch(home, Audience())
    (home.journal("search") / "journal.jsonl").unlink()
    assert launch._as_begun("twice", again(tmp_path)).enqueued == began.enqueued
    plain = {key: value for key, value in began.as_plain().items() if key != "plan"}
    with Journal(home.journal("older")) as journal:
        journal.append(SweepOpened("older", "gslrm_tiny", plain, {}, began.base.params))
    with pytest.raises(StudyError, match="search: expected a sweep"):
        launch._as_begun("older", again(tmp_path))


def test_settings_that_break_a_constraint_are_not_among_the_best(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    bounds = {"constraints": {"val/mask_iou": ">= 0.85"}}
    space = planned_space(tmp_path / "search", space=SSIM, plan={}, **bounds)
    with Journal(home.journal("search")) as journal:
        journal.append(SweepOpened("search", "gslrm_tiny", space.as_plain(), {}, space.base.params))
        for number, (ssim, value) in enumerate(VALUES.items()):
            params, iou = {"loss.ssim": ssim}, 0.5 if value == max(VALUES.values()) else 0.9
            journal.append(TrialOpened(number, f"r{number}", 1, params, space.base.params | params, f"f{number}"))
            journal.append(Reported(number, 100, {METRIC: value, "val/mask_iou": iou}))
            journal.append(TrialClosed(number, State.COMPLETE))
    found = looked_up(again(tmp_path), home)
    assert [one["loss.ssim"] for one in found.enqueued[:2]] == [0.2, 0.0]
    with pytest.raises(SpaceError, match=r"expected 3 settings with a finished trial within its constraints, got 2"):
        looked_up(again(tmp_path, plan=AGAIN | {"top": 3}), home)


def test_settings_that_a_search_confirmed_come_first_in_that_order(tmp_path):
    """By the mean of all runs the third, which was never confirmed, would be ahead of both."""
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    space = planned_space(tmp_path / "search", space=SSIM, plan={}, confirm={"seeds": 2, "top": 2})
    seed = space.base.train.seed
    runs = [(0.0, None, seed, 25.0), (0.1, None, seed, 24.0), (0.2, None, seed, 23.5)]
    runs += [(ssim, n, seed + k, value) for k in (1, 2) for n, ssim, value in ((0, 0.0, 20.0), (1, 0.1, 21.0))]
    with Journal(home.journal("search")) as journal:
        journal.append(SweepOpened("search", "gslrm_tiny", space.as_plain(), {}, space.base.params))
        for number, (ssim, confirms, own, value) in enumerate(runs):
            params = {"loss.ssim": ssim} | ({} if confirms is None else {"train.seed": own})
            journal.append(TrialProposed(number, params, f"f{number}", confirms=confirms))
            journal.append(TrialOpened(number, f"r{number}", 1, params, space.base.params | params, f"f{number}"))
            journal.append(Reported(number, 100, {METRIC: value}))
            journal.append(TrialClosed(number, State.COMPLETE))
    found = looked_up(again(tmp_path), home)
    assert [one["loss.ssim"] for one in found.enqueued[:2]] == [0.1, 0.0]
