"""The study that the ledger adds up to, and what it proposes: the same whoever asks, and whenever."""

from __future__ import annotations

import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.recipes import override
from sweeps.book.journal import Event, Reported, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import Ledger, fold
from sweeps.book.study import Proposals, began_with, is_spent, study_of, suggest, verdict
from sweeps.space.distributions import Choice, FloatRange, IntRange
from sweeps.space.objective import Objective
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, SearchSpace
from tests.support.spaces import space_with

STEPS = 100
METRIC = "val/psnr_fg"
LR = FloatRange(ends=(1e-4, 1e-2), log=True)
MASKED = Choice(ends=(True, False))
BACKGROUND = FloatRange(ends=(0.0, 0.5), when={"loss.masked": (True,)})
SPACES = {
    "one": {"optim.lr": LR},
    "mixed": {"optim.lr": LR, "data.num_input_views": IntRange(ends=(2, 4)), "loss.ssim": Choice(ends=(0.0, 0.2, 0.5))},
    "stepped": {"loss.alpha": FloatRange(ends=(0.0, 1.0), step=0.1), "loss.masked": MASKED},
    "conditional": {"optim.lr": LR, "loss.masked": MASKED, "loss.background": BACKGROUND},
}


def space_for(space=None, metric=METRIC, mode="max", count=50, **sampler) -> SearchSpace:
    return space_with(
        name="mine",
        recipe="gslrm_tiny",
        fixed={"train.max_steps": STEPS},
        space={"optim.lr": LR} if space is None else space,
        objective=Objective(metric=metric, mode=mode),
        sampler=Sampler(**sampler),
        trials=Resources(count=count),
    )


class Book:
    """A ledger that is written as a driver writes it, without a driver."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.ledger = space, Ledger()
        self.events: list[Event] = []
        self.proposals = Proposals(space)
        base = space.base
        self.write(SweepOpened("mine", base.name, space.as_plain(), {}, base.params))

    def write(self, event: Event) -> None:
        self.events.append(event)
        self.ledger = fold(self.ledger, event)

    def propose(self):
        """The next proposal, written down and, if it is a trial, begun."""
        proposed = self.proposals.next(self.ledger)
        self.write(proposed)
        if proposed.trial in self.ledger.trials:
            recipe = {"optim.lr": 0.0}
            self.write(
                TrialOpened(proposed.trial, f"ray-{proposed.trial}", 1, proposed.params, recipe, proposed.fingerprint)
            )
        return proposed

    def end(self, number: int, value: float, state: str = "COMPLETE", steps: tuple[int, ...] = (10, STEPS)) -> None:
        for step in steps:
            self.write(Reported(number, step, {self.space.objective.metric: value - (STEPS - step) / STEPS}))
        self.write(TrialClosed(number, state))

    def run_all(self, most: int = 50) -> list[dict]:
        """Trials one after the other until the space is spent."""
        for _ in range(most):
            if is_spent(self.ledger, self.space):
                break
            proposed = self.propose()
            if proposed.trial in self.ledger.trials:
                self.end(proposed.trial, figure(proposed.params))
        return [trial.params for trial in self.ledger.trials.values()]

    @property
    def study(self) -> optuna.Study:
        return study_of(self.ledger, self.space)


def figure(params: dict) -> float:
    """An objective with a best place, so that there is something to learn."""
    distance = abs(math.log10(params.get("optim.lr", 1e-3)) + 3) + abs(params.get("loss.alpha", 0.5) - 0.7)
    return 20 - distance + params.get("loss.background", 0.0) - (0.5 if params.get("loss.masked") is False else 0.0)


def lived_through(space: SearchSpace, upto: int) -> Book:
    """A sweep two trials at a time, with a pruned, a failed, a broken and a running trial in it."""
    book = Book(space)
    running: list[int] = []
    while book.ledger.next_number < upto:
        proposed = book.propose()
        if proposed.trial in book.ledger.trials:
            running.append(proposed.trial)
        if len(running) == 2:
            number = running.pop(0)
            if number % 5 == 3:
                book.end(number, figure(book.ledger.trials[number].params) - 3, "PRUNED", steps=(10,))
            elif number % 7 == 4:
                book.write(TrialClosed(number, "FAIL", "the trial raised an error", cause="exception"))
            else:
                book.end(number, figure(book.ledger.trials[number].params))
    return book


FIRST = ({}, {"optim.lr": 3e-4, "loss.masked": True, "loss.background": 0.25})


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_what_is_enqueued_is_tried_first_and_then_what_would_have_come_first(kind):
    plain = space_for(SPACES["conditional"], kind=kind, seed=3, startup_trials=4)
    book, without = Book(replace(plain, enqueue=FIRST)), Book(plain)
    found, others = book.run_all(6), without.run_all(4)
    own = plain.base.params
    assert found[0] == {"optim.lr": own["optim.lr"], "loss.masked": False}  # as gslrm_tiny has them
    assert found[1] == FIRST[1] and found[2:] == others


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_a_successor_tries_what_is_enqueued_and_was_not_tried_yet(kind):
    space = replace(space_for(SPACES["conditional"], kind=kind, seed=3, startup_trials=2), enqueue=FIRST)
    lived, ledger = lived_through(space, upto=9), Ledger()
    for event in lived.events:
        if type(event).__name__ == "TrialProposed":
            again = Proposals(space).next(ledger)
            assert (again.trial, again.params, again.repeats) == (event.trial, event.params, event.repeats)
        ledger = fold(ledger, event)
    restored = began_with(lived.ledger)
    assert restored.enqueue == FIRST and study_of(lived.ledger, restored).trials[1].params == FIRST[1]


def test_a_grid_has_all_its_points_beside_what_is_enqueued():
    choice = {"data.num_input_views": Choice(ends=(2, 3, 4, 5))}
    book = Book(replace(space_for(choice, kind="grid"), enqueue=({"data.num_input_views": 3},)))
    found = [params["data.num_input_views"] for params in book.run_all()]
    assert found[0] == 3 and sorted(found) == [2, 3, 4, 5]  # the grid's own 3 is a repeat, and not run


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
@pytest.mark.parametrize("shape", SPACES)
def test_a_successor_proposes_what_the_driver_before_it_would_have(shape, kind):
    """At any time, with finished, pruned, failed and running trials, and whatever was asked for before."""
    space = space_for(SPACES[shape], kind=kind, seed=3, startup_trials=4)
    lived = lived_through(space, upto=13)
    ledger = Ledger()
    for event in lived.events:
        if type(event).__name__ == "TrialProposed":
            again = Proposals(space).next(ledger)  # by a process that knows the journal alone
            assert (again.trial, again.params, again.repeats) == (event.trial, event.params, event.repeats)
        ledger = fold(ledger, event)
    assert ledger == lived.ledger


@pytest.mark.parametrize("shape", SPACES)
@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_draws_at_the_start_are_those_of_a_stock_study_of_the_same_seed(shape, kind):
    space = space_for(SPACES[shape], kind=kind, seed=7, startup_trials=6)
    samplers = optuna.samplers
    stock = samplers.RandomSampler(seed=7) if kind == "random" else samplers.TPESampler(seed=7, n_startup_trials=6)
    study = optuna.create_study(direction="maximize", sampler=stock)
    drawn = [suggest(study.ask(), space) for _ in range(6)]
    book = Book(space)
    assert [book.propose().params for _ in range(6)] == drawn


@pytest.mark.parametrize("kind", ["tpe", "gp"])
@pytest.mark.parametrize("shape", SPACES)
def test_a_model_proposes_what_it_does_on_a_stock_study_that_lived_through_it_all(shape, kind):
    """A study of Optuna's own that was asked and told as the trials went; the sampler has the trial's own seed."""
    space = space_for(SPACES[shape], kind=kind, seed=3, startup_trials=4)
    book = lived_through(space, upto=12)
    stock = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    trials = {}
    for event in book.events:
        match event.__class__.__name__:
            case "TrialProposed":
                stock.enqueue_trial(event.params)
                trials[event.trial] = stock.ask()
                suggest(trials[event.trial], space)
                assert trials[event.trial].number == event.trial
            case "Reported":
                trials[event.trial].report(event.metrics[METRIC], event.step)
            case "TrialClosed":
                value = event.state == "COMPLETE" and book.ledger.trials[event.trial].last_value
                stock.tell(event.trial, value or None, state=TrialState[event.state])
    for number, one in book.ledger.not_run.items():  # a repeat ends as its first; stock knows no repeats
        first = book.ledger.trials[one.repeats]
        if first.state.is_final:
            for step, value in first.curve:
                trials[number].report(value, step)
            stock.tell(number, first.last_value if first.state == "COMPLETE" else None, TrialState[first.state])
    own, number = book.study, book.ledger.next_number
    assert [t.state for t in own.trials] == [t.state for t in stock.trials]
    assert [t.value for t in own.trials] == [t.value for t in stock.trials]
    assert [t.intermediate_values for t in own.trials] == [t.intermediate_values for t in stock.trials]
    conditional = shape == "conditional"
    kinds = {
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=3 + number, n_startup_trials=4, multivariate=True, group=conditional, constant_liar=True
        ),
        "gp": lambda: optuna.samplers.GPSampler(seed=3 + number, n_startup_trials=4),
    }
    stock.sampler = kinds[kind]()
    assert book.proposals.next(book.ledger).params == suggest(stock.ask(), space)


def test_a_study_keeps_numbers_states_values_and_curves():
    book = lived_through(space_for(SPACES["conditional"], startup_trials=3, seed=1), upto=9)
    for trial in book.study.trials:
        known = book.ledger.trials[trial.number]
        assert trial.params == known.params
        assert trial.intermediate_values == dict(known.curve)
        assert trial.state.name == ("RUNNING" if known.state.is_open else known.state)
        assert trial.user_attrs["ray_trial_id"] == f"ray-{trial.number}"
        if known.state == "COMPLETE":
            assert trial.value == known.last_value
        if known.state == "PRUNED":
            assert trial.value == known.curve[-1][1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_in_no_curve(value):
    book = Book(space_for())
    book.propose()
    book.write(Reported(0, STEPS, {METRIC: value}))
    book.write(TrialClosed(0, *verdict(STEPS, value, METRIC, STEPS)))
    (trial,) = book.study.trials
    assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {})
    assert trial.user_attrs["reason"] == f"val/psnr_fg was {value} at step 100"


@pytest.mark.parametrize(
    ("step", "value", "state", "reason"),
    [
        (None, None, "FAIL", "stopped before its first report"),
        (STEPS, None, "FAIL", "val/psnr_fg was not reported at step 100"),
        (50, math.nan, "FAIL", "val/psnr_fg was nan at step 50"),
        (50, 12.0, "PRUNED", "stopped by the scheduler at step 50 of 100 with val/psnr_fg 12"),
        (50, None, "PRUNED", "stopped by the scheduler at step 50 of 100 without a figure"),
        (STEPS, 12.0, "COMPLETE", ""),
    ],
)
def test_how_a_trial_ended_follows_from_its_last_report(step, value, state, reason):
    assert verdict(step, value, METRIC, STEPS) == (state, reason)


def test_min_makes_the_smallest_value_the_best():
    book = Book(space_for(metric="val/lpips", mode="min"))
    for value in (0.3, 0.1, 0.2):
        book.end(book.propose().trial, value, steps=(STEPS,))
    assert (book.study.best_value, book.study.best_trial.number) == (0.1, 1)


def test_a_conditional_parameter_is_asked_only_where_its_condition_holds():
    found = Book(space_for(SPACES["conditional"], count=20)).run_all()
    assert {params["loss.masked"] for params in found} == {True, False}
    assert all(("loss.background" in params) == params["loss.masked"] for params in found)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_no_more_trials_are_proposed_than_the_space_counts(kind):
    book = Book(space_for(count=4, kind=kind, startup_trials=3))
    assert len(book.run_all()) == 4
    assert is_spent(book.ledger, book.space)


def test_trials_that_still_run_count_too():
    book = Book(space_for(count=2))
    book.propose()
    assert not is_spent(book.ledger, book.space)
    book.propose()
    assert is_spent(book.ledger, book.space)


def test_a_grid_is_tried_point_by_point_and_then_over():
    space = {"data.num_input_views": IntRange(ends=(2, 4)), "loss.alpha": FloatRange(ends=(0, 0.2), step=0.1)}
    found = Book(space_for(space, kind="grid")).run_all()
    points = {(params["data.num_input_views"], params["loss.alpha"]) for params in found}
    assert points == {(views, alpha) for views in (2, 3, 4) for alpha in (0.0, 0.1, 0.2)}
    assert len(found) == 9


def test_a_grid_goes_on_with_the_points_that_are_left():
    space = space_for({"data.num_input_views": IntRange(ends=(2, 4)), "loss.masked": MASKED}, kind="grid")
    whole = Book(space).run_all()
    book = Book(space)
    book.run_all(most=4)
    book.proposals = Proposals(space)  # a new process
    assert book.run_all() == whole


@pytest.mark.parametrize("kind", ["tpe", "random", "grid", "gp"])
def test_the_same_seed_proposes_the_same_trials(kind):
    space = {"loss.alpha": FloatRange(ends=(0.0, 1.0), step=0.1), "loss.ssim": Choice(ends=(0.0, 0.5))}
    first, again, other = (
        Book(space_for(space, kind=kind, seed=seed, count=5, startup_trials=4)).run_all() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_recipe_that_ran_already_is_not_run_again():
    book = Book(space_for({"loss.masked": MASKED}, kind="random", count=10))
    assert sorted(params["loss.masked"] for params in book.run_all(most=12)) == [False, True]
    assert book.ledger.not_run
    for number, one in book.ledger.not_run.items():
        repeat, first = book.study.trials[number], book.study.trials[one.repeats]
        assert (repeat.state, repeat.value, repeat.params) == (TrialState.COMPLETE, first.value, first.params)
        assert repeat.intermediate_values == first.intermediate_values
        assert repeat.user_attrs == {"repeats": one.repeats}


def test_equal_recipes_count_as_one_whatever_their_params():
    """The recipe's own num_input_views is 4, so leaving it out and choosing 4 is the same recipe."""
    views = Choice(ends=(2, 4), when={"loss.masked": (True,)})
    assert len(Book(space_for({"loss.masked": MASKED, "data.num_input_views": views}, kind="grid")).run_all()) == 3


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED", "FAIL"])
def test_a_repeat_of_a_running_trial_runs_and_ends_as_it_does(state):
    book = Book(space_for({"loss.masked": MASKED}, kind="random", count=10))
    while not book.ledger.not_run:
        book.propose()
    assert {trial.state for trial in book.study.trials} == {TrialState.RUNNING}
    for number in list(book.ledger.trials):
        book.end(number, 20.0, state)
    assert {trial.state.name for trial in book.study.trials} == {state}


def test_a_recipe_whose_trial_failed_is_run_again():
    book = Book(space_for({"loss.masked": MASKED}, kind="random", count=3))
    for _ in range(3):
        book.write(TrialClosed(book.propose().trial, "FAIL", "the trial raised an error"))
    assert len({str(trial.params) for trial in book.ledger.trials.values()}) < 3


def test_recipes_that_differ_in_a_file_alone_are_both_run():
    files = Choice(ends=("human.pt", "mouse.pt"))
    assert len(Book(space_for({"train.init_from": files}, kind="grid")).run_all()) == 2


def test_params_that_the_recipe_refuses_together_fail_without_a_run():
    space = {"data.num_views": Choice(ends=(2, 6)), "data.num_input_views": Choice(ends=(1, 4))}
    book = Book(space_for(space, kind="grid"))
    assert len(book.run_all()) == 3
    (refused,) = [trial for trial in book.study.trials if trial.state is TrialState.FAIL]
    assert refused.params == {"data.num_views": 2, "data.num_input_views": 4}
    assert "expected at most data.num_views 2, got 4" in refused.user_attrs["reason"]


def test_a_proposal_names_the_recipe_that_its_values_make():
    book = Book(space_for())
    proposed = book.propose()
    assert proposed.fingerprint == override(book.space.base, proposed.params).fingerprint


def test_more_trials_asked_for_are_new_ones():
    space = space_for({"loss.alpha": FloatRange(ends=(0.0, 0.9), step=0.1)}, kind="random", count=5)
    book = Book(space)
    first = book.run_all()
    book.write(SweepClosed("COMPLETE"))
    book.space = replace(space, trials=Resources(count=8))
    book.proposals = Proposals(book.space)
    rest = book.run_all()[len(first) :]
    assert len(rest) == 3
    assert not {params["loss.alpha"] for params in first} & {params["loss.alpha"] for params in rest}


def test_a_journal_that_does_not_name_what_was_not_run_has_its_numbers_all_the_same():
    """Older versions kept repeats in Optuna's storage alone."""
    book = Book(space_for())
    for number in (0, 3):
        book.write(TrialOpened(number, f"ray-{number}", 1, {"optim.lr": 1e-3}, {}, "0123"))
        book.end(number, 20.0)
    assert [trial.state.name for trial in book.study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert book.propose().trial == 4


def test_the_space_of_a_ledger_is_the_one_it_began_with():
    space = space_for(SPACES["conditional"], kind="gp", seed=5)
    again = began_with(Book(space).ledger)
    assert again.base == space.base
    assert replace(again, fixed={}) == replace(space, fixed={})


def test_every_state_of_a_trial_has_one_in_the_study():
    for state in State:
        book = Book(space_for())
        book.propose()
        book.ledger = replace(book.ledger, trials={0: replace(book.ledger.trials[0], state=state, last_value=1.0)})
        assert book.study.trials[0].state.name == ("RUNNING" if state.is_open or state == "KILLED" else state)


@pytest.mark.parametrize(
    ("path", "ends", "step"),
    [
        ("optim.lr", (1e-6, 2e-6), 2.5e-7),
        ("optim.lr", (1e-6, 2e-6), 1e-6 / 3),
        ("loss.alpha", (0.0, 1.0), 0.1),
    ],
)
def test_every_point_of_a_grid_of_floats_can_stand_in_a_study(path, ends, step):
    book = Book(space_for({path: FloatRange(ends=ends, step=step)}, kind="grid"))
    found = book.run_all()
    assert len(book.study.trials) == len(found) == round((ends[1] - ends[0]) / step) + 1
