"""The study and its searcher, driven as Ray Tune drives them: trials end in Optuna as they really ended."""

from __future__ import annotations

import math
import pickle

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pipeline.recipes import override
from sweeps.book.study import StudySearcher, open_study, put_back
from sweeps.errors import StudyError
from sweeps.space.distributions import Choice, FloatRange, IntRange
from sweeps.space.space import Objective, Sampler, SearchSpace, Trials

STEPS = 100
METRIC = "val/psnr_fg"
LR = FloatRange(ends=(1e-4, 1e-2), log=True)
MASKED = Choice(ends=(True, False))


def space_of(space=None, metric=METRIC, mode="max", count=50, **sampler) -> SearchSpace:
    return SearchSpace(
        name="mine",
        recipe="gslrm_tiny",
        fixed={"train.max_steps": STEPS},
        space={"optim.lr": LR} if space is None else space,
        objective=Objective(metric=metric, mode=mode),
        sampler=Sampler(**sampler),
        trials=Trials(count=count),
    )


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return tmp_path / "optuna.log" if request.param == "journal" else f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "optuna.log"


def search(storage, space, name="sweep") -> StudySearcher:
    return StudySearcher(open_study(storage, name, space), space)


def report(step: int, value: float | None = None, metric: str = METRIC) -> dict:
    return {"step": step, "train/mse": 0.1} | ({} if value is None else {metric: value})


def run(searcher: StudySearcher, ray_id: str, value: float = 20.0, steps: int = STEPS) -> dict | str:
    """One trial as Ray reports it: the last report arrives only with the end."""
    config = searcher.suggest(ray_id)
    if config != Searcher.FINISHED:
        searcher.on_trial_result(ray_id, report(10, value - 1))
        searcher.on_trial_complete(ray_id, report(steps, value))
    return config


def run_all(searcher: StudySearcher, prefix: str = "t") -> list[dict]:
    found = []
    while (config := run(searcher, f"{prefix}{len(found)}", value=20 + len(found))) != Searcher.FINISHED:
        found.append(config["params"])
    return found


def states(searcher: StudySearcher) -> list[str]:
    return [trial.state.name for trial in searcher.study.trials]


def test_a_trial_of_all_steps_is_complete_with_its_curve(storage):
    searcher = search(storage, space_of())
    config = run(searcher, "a", value=21.5)
    trial = searcher.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 21.5)
    assert trial.intermediate_values == {10: 20.5, STEPS: 21.5}
    assert config == {"number": 0, "params": trial.params}


def test_a_trial_the_scheduler_stopped_is_pruned_with_its_last_value(storage):
    searcher = search(storage, space_of())
    run(searcher, "a", value=12.0, steps=50)
    trial = searcher.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.PRUNED, 12.0)
    assert trial.intermediate_values == {10: 11.0, 50: 12.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_trial_that_ends_on_no_finite_number_fails_and_says_so(storage, value):
    searcher = search(storage, space_of())
    run(searcher, "a", value=value)
    trial = searcher.study.trials[0]
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["fail_reason"] == f"val/psnr_fg was {value} at step 100"
    assert trial.intermediate_values == {}


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        (None, True, "the trial raised an error"),
        (report(STEPS, 20.0), True, "the trial raised an error"),
        (None, False, "stopped before its first report"),
        ({"trial_id": "a", "done": True}, False, "stopped before its first report"),
        (report(STEPS), False, "val/psnr_fg was not reported at step 100"),
        (report(50, math.nan), False, "val/psnr_fg was nan at step 50"),
    ],
)
def test_a_trial_without_a_result_fails_and_says_why(journal, result, error, reason):
    searcher = search(journal, space_of())
    searcher.suggest("a")
    searcher.on_trial_complete("a", result, error)
    trial = searcher.study.trials[0]
    assert (trial.state, trial.user_attrs["fail_reason"]) == (TrialState.FAIL, reason)


def test_reports_without_the_objective_leave_no_value(journal):
    searcher = search(journal, space_of())
    searcher.suggest("a")
    for result in (report(1), report(2, math.nan), {"done": False}):
        searcher.on_trial_result("a", result)
    assert searcher.study.trials[0].intermediate_values == {}


def test_a_step_that_a_restarted_trial_repeats_keeps_its_first_value(storage):
    searcher = search(storage, space_of())
    searcher.suggest("a")
    searcher.on_trial_result("a", report(10, 15.0))
    searcher.on_trial_result("a", report(10, 16.0))
    assert searcher.study.trials[0].intermediate_values == {10: 15.0}


def test_news_of_a_finished_or_unknown_trial_changes_nothing(storage):
    searcher = search(storage, space_of())
    run(searcher, "a", value=20.0)
    searcher.on_trial_result("a", report(20, 99.0))
    searcher.on_trial_complete("a", report(STEPS, 99.0))
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_complete("stranger", report(STEPS, 99.0))
    assert states(searcher) == ["COMPLETE"]
    assert searcher.study.best_value == 20.0


def test_a_trial_carries_its_ray_trial_and_the_fingerprint_of_its_recipe(journal):
    space = space_of()
    searcher = search(journal, space)
    config = searcher.suggest("ray-7")
    recipe = override(space.base_recipe(), config["params"])
    assert searcher.study.trials[0].user_attrs == {
        "ray_trial_id": "ray-7",
        "fingerprint": recipe.fingerprint,
    }


def test_min_makes_the_smallest_value_the_best(journal):
    searcher = search(journal, space_of(metric="val/lpips", mode="min"))
    for ray_id, value in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        searcher.suggest(ray_id)
        searcher.on_trial_complete(ray_id, report(STEPS, value, "val/lpips"))
    assert (searcher.study.best_value, searcher.study.best_trial.number) == (0.1, 1)


def test_a_conditional_parameter_is_asked_only_where_its_condition_holds(journal):
    background = FloatRange(ends=(0.0, 0.5), when={"loss.masked": (True,)})
    space = space_of({"loss.background": background, "loss.masked": MASKED}, count=20)
    found = run_all(search(journal, space))
    assert {params["loss.masked"] for params in found} == {True, False}
    assert all(("loss.background" in params) == params["loss.masked"] for params in found)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_no_more_trials_are_suggested_than_the_space_counts(journal, kind):
    searcher = search(journal, space_of(count=4, kind=kind, startup_trials=3))
    assert len(run_all(searcher)) == 4
    assert states(searcher) == ["COMPLETE"] * 4
    assert searcher.suggest("late") == Searcher.FINISHED


def test_trials_that_still_run_count_too(journal):
    searcher = search(journal, space_of(count=2))
    assert [isinstance(searcher.suggest(ray_id), dict) for ray_id in "abc"] == [True, True, False]


def test_a_grid_is_tried_point_by_point_and_then_over(journal):
    space = {"data.num_input_views": IntRange(ends=(2, 4)), "loss.alpha": FloatRange(ends=(0, 0.2), step=0.1)}
    found = run_all(search(journal, space_of(space, kind="grid")))
    points = {(params["data.num_input_views"], params["loss.alpha"]) for params in found}
    assert points == {(views, alpha) for views in (2, 3, 4) for alpha in (0.0, 0.1, 0.2)}
    assert len(found) == 9


@pytest.mark.parametrize("kind", ["tpe", "random", "grid", "gp"])
def test_the_same_seed_proposes_the_same_trials(tmp_path, kind):
    space = {"loss.alpha": FloatRange(ends=(0.0, 1.0), step=0.1), "loss.ssim": Choice(ends=(0.0, 0.5))}
    first, again, other = (
        run_all(search(tmp_path / f"{i}.log", space_of(space, kind=kind, seed=seed, count=5, startup_trials=4)))
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first != other


def test_a_recipe_that_ran_already_is_not_run_again(journal):
    searcher = search(journal, space_of({"loss.masked": MASKED}, kind="random", count=10))
    found = run_all(searcher)
    assert sorted(params["loss.masked"] for params in found) == [False, True]
    repeats = [trial for trial in searcher.study.trials if "reused_from" in trial.user_attrs]
    assert repeats
    for trial in repeats:
        first = searcher.study.trials[trial.user_attrs["reused_from"]]
        assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, first.value, first.params)
        assert trial.intermediate_values == first.intermediate_values


def test_equal_recipes_count_as_one_whatever_their_params(journal):
    """The recipe's own num_input_views is 4, so leaving it out and choosing 4 is the same recipe."""
    views = Choice(ends=(2, 4), when={"loss.masked": (True,)})
    space = space_of({"loss.masked": MASKED, "data.num_input_views": views}, kind="grid")
    found = run_all(search(journal, space))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [(report(STEPS, 20.0), False, "COMPLETE"), (report(50, 9.0), False, "PRUNED"), (None, True, "FAIL")],
)
def test_a_repeat_of_a_running_trial_waits_and_ends_as_it_does(journal, result, error, state):
    searcher = search(journal, space_of({"loss.masked": MASKED}, kind="random", count=10))
    assert [searcher.suggest(ray_id) is None for ray_id in "abc"] == [False, False, True]
    assert set(states(searcher)) == {"RUNNING"}
    for ray_id in "ab":
        searcher.on_trial_complete(ray_id, result, error)
    assert set(states(searcher)) == {state}


def test_a_recipe_whose_trial_failed_is_run_again(journal):
    searcher = search(journal, space_of({"loss.masked": MASKED}, kind="random", count=3))
    for ray_id in "abc":
        assert searcher.suggest(ray_id) != Searcher.FINISHED
        searcher.on_trial_complete(ray_id, error=True)
    assert len({trial.params["loss.masked"] for trial in searcher.study.trials}) < 3


def test_recipes_that_differ_in_a_file_alone_are_both_run(journal):
    files = Choice(ends=("human.pt", "mouse.pt"))
    assert len(run_all(search(journal, space_of({"train.init_from": files}, kind="grid")))) == 2


def test_params_that_the_recipe_refuses_together_fail_without_a_run(journal):
    space = {"data.num_views": Choice(ends=(2, 6)), "data.num_input_views": Choice(ends=(1, 4))}
    base = space_of(space, kind="grid")
    searcher = search(journal, base)
    assert len(run_all(searcher)) == 3
    (refused,) = [trial for trial in searcher.study.trials if trial.state is TrialState.FAIL]
    assert refused.params == {"data.num_views": 2, "data.num_input_views": 4}
    assert "expected at most data.num_views 2, got 4" in refused.user_attrs["fail_reason"]


def test_an_interrupted_sweep_leaves_no_trial_running(storage):
    searcher = search(storage, space_of())
    run(searcher, "a")
    searcher.suggest("b")
    searcher.suggest("c")
    searcher.put_back()
    assert states(searcher) == ["COMPLETE", "WAITING", "WAITING"]


def test_a_study_that_nobody_runs_is_put_back_by_name_and_one_that_is_not_there_stays_so(storage):
    searcher = search(storage, space_of())
    searcher.suggest("a")
    put_back(storage, "sweep")
    put_back(storage, "another")
    assert states(searcher) == ["WAITING"]


def test_a_trial_that_waits_is_the_next_with_its_params_and_its_curve(storage):
    searcher = search(storage, space_of())
    first = searcher.suggest("a")
    searcher.on_trial_result("a", report(10, 15.0))
    searcher.put_back()
    resumed = StudySearcher(open_study(storage, "sweep", space_of(), resume=True), space_of())
    assert resumed.suggest("b") == first
    resumed.on_trial_complete("b", report(STEPS, 20.0))
    assert resumed.study.trials[0].intermediate_values == {10: 15.0, STEPS: 20.0}
    assert states(resumed) == ["COMPLETE"]


def test_a_trial_asked_for_when_the_driver_died_is_asked_for_again(storage):
    searcher = search(storage, space_of(count=1))
    searcher.study.ask()
    searcher.put_back()
    config = searcher.suggest("a")
    assert config["number"] == 0 and config["params"]
    assert searcher.suggest("b") is None


def test_a_pickled_searcher_carries_on_in_the_same_study(storage):
    searcher = search(storage, space_of(count=3))
    run(searcher, "a")
    searcher.suggest("b")
    restored = pickle.loads(pickle.dumps(searcher))
    restored.on_trial_complete("b", report(STEPS, 30.0))
    run(restored, "c", value=10.0)
    assert restored.suggest("d") == Searcher.FINISHED
    assert states(searcher) == ["COMPLETE"] * 3
    assert restored.study.best_trial.number == 1


@pytest.mark.parametrize("kind", ["tpe", "random", "grid"])
def test_a_resumed_study_proposes_new_trials(journal, kind):
    space = space_of({"loss.alpha": FloatRange(ends=(0.0, 0.9), step=0.1)}, kind=kind, count=5)
    first = run_all(search(journal, space))
    more = space_of(space.space, kind=kind, count=8)
    rest = run_all(StudySearcher(open_study(journal, "sweep", more, resume=True), more), prefix="again")
    assert len(rest) == 3
    assert not {params["loss.alpha"] for params in first} & {params["loss.alpha"] for params in rest}


def test_a_new_sweep_under_a_taken_name_is_refused(storage):
    search(storage, space_of())
    with pytest.raises(StudyError) as error:
        open_study(storage, "sweep", space_of())
    assert str(error.value) == (
        "sweep: expected a new name, got that of an earlier sweep — choose another with --name."
    )


def test_an_unknown_sweep_is_not_resumed(storage):
    with pytest.raises(StudyError) as error:
        open_study(storage, "sweep", space_of(), resume=True)
    assert str(error.value) == (
        "sweep: expected the name of a sweep, got an unknown one — `mouselift sweep run` starts one."
    )


@pytest.mark.parametrize(
    "other", [{"mode": "min", "metric": "val/lpips"}, {"space": {"optim.lr": FloatRange(ends=(1e-4, 1e-3))}}]
)
def test_a_study_is_not_resumed_with_another_space(journal, other):
    open_study(journal, "sweep", space_of())
    with pytest.raises(StudyError) as error:
        open_study(journal, "sweep", space_of(**other), resume=True)
    assert str(error.value) == (
        "sweep: expected the recipe, ranges and objective it began with, got others — "
        "undo the change, or start a sweep under a new name."
    )


def test_a_storage_that_is_no_database_is_refused_in_one_line():
    with pytest.raises(StudyError, match=r"^MOUSELIFT_STORAGE: expected the URL of a database, got .* — mend it\.$"):
        open_study("nonsense://x", "sweep", space_of())


def test_two_sweeps_share_a_storage_without_mixing(journal):
    one, two = search(journal, space_of(), "one"), search(journal, space_of(), "two")
    run(one, "a")
    run(two, "a")
    run(two, "b")
    assert (len(one.study.trials), len(two.study.trials)) == (1, 2)


def test_ray_gets_no_metric_to_insist_on(journal):
    searcher = search(journal, space_of())
    assert searcher.metric is None
    assert searcher.set_search_properties(METRIC, "max", {}) is True


def test_the_samplers_are_those_the_space_names(journal):
    samplers = optuna.samplers
    kinds = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "grid": samplers.GridSampler,
        "gp": samplers.GPSampler,
    }
    for kind, sampler in kinds.items():
        study = open_study(journal, kind, space_of({"loss.masked": MASKED}, kind=kind))
        assert isinstance(study.sampler, sampler)


def test_a_line_cut_off_in_the_file_of_studies_spoils_nothing_that_follows(journal):
    space = space_of()
    searcher = search(journal, space)
    run(searcher, "a")
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_i')
    run(StudySearcher(open_study(journal, "sweep", space, resume=True), space), "b")
    study = open_study(journal, "sweep", space, resume=True)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
