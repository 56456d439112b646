"""Several objectives within constraints: the front, its knee, what samplers learn of it, and what may be picked."""

from __future__ import annotations

import io
import itertools
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks import search_table
from benchmarks.search_table import RUNGS, SEED
from dashboards.app.overview import summary
from dashboards.charts.settings import settings_of
from dashboards.pages.notes import sweep_note
from dashboards.report.table import row
from dashboards.report.words import facts, result
from dashboards.research.conclusions import Conclusions, Noise
from dashboards.research.report import point, research_report
from dashboards.research.texts import Language, Texts
from sweeps.book.journal import Reported, SweepClosed, SweepOpened, TrialClosed, TrialOpened, TrialProposed
from sweeps.book.ledger import Ledger, fold
from sweeps.book.record import Recorder
from sweeps.book.study import Proposals, began_with, confirmation, study_of
from sweeps.cli.progress import Progress
from sweeps.conclusions.confirmations import sentences
from sweeps.conclusions.importance import Importance
from sweeps.conclusions.pareto import Front, front_of, picked
from sweeps.errors import RegistryError, SpaceError
from sweeps.space.distributions import Choice, FloatRange
from sweeps.space.objective import Objective, over_a_trial
from sweeps.space.plan import Confirm
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, load_space
from sweeps.tracking.pages import Links
from tests.support.spaces import space_with

PSNR, IOU, SECONDS = Objective("val/psnr_fg", "max"), Objective("val/mask_iou", "max"), "time/step_seconds"
PACE = Objective(SECONDS, "min")
SPACE = {"optim.lr": FloatRange(ends=(1e-4, 1e-2), log=True), "loss.masked": Choice(ends=(True, False))}


def space_for(*objectives, constraints=None, space=None, **sampler):
    made = space_with(
        name="mine",
        recipe="gslrm_tiny",
        fixed={"train.max_steps": RUNGS[-1]},
        space=space or SPACE,
        objective=objectives[0],
        objectives=objectives if len(objectives) > 1 else (),
        constraints=constraints or {},
        sampler=Sampler(**sampler),
        trials=Resources(count=500),
    )
    return replace(made, base=made.base)


class Book:
    """A ledger that is written as a driver writes it, without a driver."""

    def __init__(self, space) -> None:
        self.space, self.ledger, self.events = space, Ledger(), []
        self.write(SweepOpened("mine", space.base.name, space.as_plain(), {}, space.base.params))

    def write(self, event) -> None:
        self.events.append(event)
        self.ledger = fold(self.ledger, event)

    def trial(self, reports, params=None, state="COMPLETE", proposed=None) -> int:
        number = self.ledger.next_number
        params = params or {"optim.lr": 1e-3 + number * 1e-6, "loss.masked": True}
        self.write(proposed or TrialProposed(number, params, f"print-{number}"))
        self.write(TrialOpened(number, f"ray-{number}", 1, params, {"optim.lr": 0.0}, f"print-{number}"))
        for step, metrics in reports.items():
            self.write(Reported(number, step, metrics))
        if state:
            self.write(TrialClosed(number, state))
        return number


def at(step=160, **figures):
    names = {"psnr": PSNR.metric, "iou": IOU.metric, "seconds": SECONDS}
    return {step: {names[name]: value for name, value in figures.items()}}


def sweep_of(*figures, objectives=(PSNR, PACE), constraints=None) -> Book:
    book = Book(space_for(*objectives, constraints=constraints))
    for one in figures:
        book.trial(at(**one))
    return book


def numbers(front: Front | None) -> list[int]:
    assert front is not None
    return [trial.number for trial in front.trials]


def recorded(constraints=None) -> Book:
    """The recorded table as one sweep: what each of its 162 runs reported, with its CPU seconds as the cost."""
    table = search_table.read()
    book = Book(space_for(PSNR, IOU, PACE, constraints=constraints))
    for (key, curves), seconds in zip(table.curves.items(), table.cpu_seconds, strict=True):
        if key[-1] == SEED:
            cost = {SECONDS: seconds / RUNGS[-1]}
            book.trial(
                {step: {name: curve[i] for name, curve in curves.items()} | cost for i, step in enumerate(RUNGS)}
            )
    return book


def beaten(one, others, objectives) -> bool:
    signs = [1.0 if objective.mode == "max" else -1.0 for objective in objectives]
    mine = [sign * one[objective.metric] for sign, objective in zip(signs, objectives, strict=True)]
    for other in others:
        theirs = [sign * other[objective.metric] for sign, objective in zip(signs, objectives, strict=True)]
        if all(a >= b for a, b in zip(theirs, mine, strict=True)) and theirs != mine:
            return True
    return False


@pytest.mark.parametrize("bound", [None, 0.55, 0.6])
def test_the_front_of_the_recorded_table_is_that_of_brute_force(bound):
    constraints = {} if bound is None else {IOU.metric: f">= {bound}"}
    book = recorded(constraints)
    figures = {number: trial.figures for number, trial in book.ledger.trials.items()}
    allowed = {n: one for n, one in figures.items() if bound is None or one[IOU.metric] >= bound}
    expected = {n for n, one in allowed.items() if not beaten(one, allowed.values(), (PSNR, IOU, PACE))}
    front = front_of(book.ledger)
    assert len(figures) == 162 and 3 < len(expected) < len(allowed)
    assert set(numbers(front)) == expected and front.judged == 162
    assert set(front.broken) == figures.keys() - allowed.keys()
    assert book.ledger.best.number == max(allowed, key=lambda n: figures[n][PSNR.metric])


def test_figures_are_those_of_the_best_checkpoint_and_of_the_whole_trial_for_costs():
    book = Book(space_for(PSNR, IOU, PACE))
    book.trial(
        at(40, psnr=15.0, iou=0.7, seconds=0.3)
        | at(80, psnr=16.0, iou=0.8, seconds=0.1)
        | at(160, psnr=14.0, iou=0.9, seconds=0.2)
    )
    assert book.ledger.trials[0].figures == {PSNR.metric: 16.0, IOU.metric: 0.8, SECONDS: 0.2}
    assert over_a_trial("system/peak_gpu_memory_gb", [3.0, 9.0, 5.0]) == 9.0


def test_a_report_made_twice_counts_once():
    book = Book(space_for(PSNR, PACE))
    number = book.trial(at(40, psnr=15.0, seconds=0.3), state="")
    book.write(TrialOpened(number, "ray-again", 2, {"optim.lr": 1e-3}, {"optim.lr": 0.0}, "print-0"))
    book.write(Reported(number, 40, {PSNR.metric: 99.0, SECONDS: 9.0}))
    assert book.ledger.trials[number].figures == {PSNR.metric: 15.0, SECONDS: 0.3}


def test_the_knee_lies_farthest_out_between_the_ends():
    book = sweep_of(
        {"psnr": 20.0, "seconds": 1.0}, {"psnr": 19.5, "seconds": 0.3}, {"psnr": 15.0, "seconds": 0.1},
        {"psnr": 15.0, "seconds": 0.5},
    )  # fmt: skip
    front = front_of(book.ledger)
    assert numbers(front) == [0, 1, 2] and front.knee == 1
    assert picked(book.ledger, "knee") == (book.ledger.trials[1], PSNR)
    assert picked(book.ledger, SECONDS) == (book.ledger.trials[2], PSNR)  # no champion is compared by a cost
    assert picked(book.ledger, PSNR.metric) == (book.ledger.trials[0], PSNR)
    assert "3 of 4 COMPLETE trials on the front, each with one seed." in front.notes[0]
    assert "Knee: t0001." in front.notes[-1]


@pytest.mark.parametrize(
    "figures",
    [
        [{"psnr": 20.0, "seconds": 1.0}, {"psnr": 15.0, "seconds": 0.1}],  # its ends alone
        [
            {"psnr": 20.0, "seconds": 1.0},
            {"psnr": 16.0, "seconds": 0.8},
            {"psnr": 15.0, "seconds": 0.1},
        ],  # bent inwards
        [{"psnr": 20.0, "seconds": 1.0}, {"psnr": 18.0, "seconds": 0.6}, {"psnr": 15.0, "seconds": 0.0}],  # straight
    ],
)
def test_a_front_that_does_not_bulge_has_no_knee(figures):
    book = sweep_of(*figures)
    assert len(front_of(book.ledger).trials) == len(figures) and front_of(book.ledger).knee is None
    with pytest.raises(RegistryError, match="expected a front that bulges, got one that does not"):
        picked(book.ledger, "knee")


def test_what_breaks_a_constraint_is_never_best_nor_on_the_front_nor_picked():
    book = sweep_of(
        {"psnr": 20.0, "seconds": 1.0, "iou": 0.7}, {"psnr": 18.0, "seconds": 0.5, "iou": 0.9},
        {"psnr": 17.0, "seconds": 0.05, "iou": math.nan}, {"psnr": 16.0, "seconds": 0.4, "iou": 0.8},
        constraints={IOU.metric: ">= 0.8"},
    )  # fmt: skip
    ledger = book.ledger
    assert ledger.best.number == 1 and numbers(front_of(ledger)) == [1, 3] and front_of(ledger).broken == (0, 2)
    assert picked(ledger, SECONDS)[0].number == 3
    assert [one.reason for one in ledger.unmet(ledger.trials[0])] == ["val/mask_iou 0.7, wanted >= 0.8"]


def test_one_objective_within_constraints_has_a_best_and_no_front():
    figures, bound = [{"psnr": 20.0, "iou": 0.7}, {"psnr": 18.0, "iou": 0.9}], {IOU.metric: ">= 0.8"}
    book = sweep_of(*figures, objectives=(PSNR,), constraints=bound)
    assert book.ledger.best.number == 1 and front_of(book.ledger) is None
    study = study_of(book.ledger, book.space)
    assert [trial.values for trial in study.trials] == [[20.0], [18.0]]
    assert [trial.constraints[IOU.metric] for trial in study.trials] == pytest.approx([0.1, -0.1])
    with pytest.raises(RegistryError, match=r"expected a sweep of several objectives.*got one objective"):
        picked(book.ledger, "knee")


def test_a_bound_on_the_objective_itself_holds():
    book = sweep_of({"psnr": 20.0}, {"psnr": 18.0}, objectives=(PSNR,), constraints={PSNR.metric: "<= 19"})
    assert book.ledger.best.number == 1


def test_a_pick_that_is_no_objective_is_refused():
    book = sweep_of({"psnr": 20.0, "seconds": 1.0})
    with pytest.raises(RegistryError, match=r"expected one of knee, val/psnr_fg, time/step_seconds, got val/ssim"):
        picked(book.ledger, "val/ssim")


def test_a_trial_without_one_of_the_figures_is_no_result():
    book = sweep_of({"psnr": 20.0, "seconds": 1.0}, {"psnr": 21.0})
    assert [trial.state.name for trial in study_of(book.ledger, book.space).trials] == ["COMPLETE", "FAIL"]
    front = front_of(book.ledger)
    assert numbers(front) == [0] and front.unmeasured == (1,)
    assert "Left out without a figure of each objective: t0001." in front.notes


def figures_of(params) -> dict[str, float]:
    """Two objectives that pull apart, and a bound that cuts off one end."""
    lr = math.log10(params["optim.lr"]) + 3  # -1 to 1
    bonus = 0.5 if params["loss.masked"] else 0.0
    return {PSNR.metric: 18 + lr + bonus, SECONDS: 0.2 + 0.1 * (lr + 1) ** 2, IOU.metric: 0.8 - 0.1 * lr}


def searched(kind, trials=40, constraints=None, seed=0, upto=None) -> Book:
    """A sweep two at a time, with a pruned and a failed trial in it, until it has so many proposals."""
    book = Book(space_for(PSNR, PACE, constraints=constraints, kind=kind, seed=seed, startup_trials=8))
    proposals, running = Proposals(book.space), []
    while book.ledger.next_number < trials:
        proposed = proposals.next(book.ledger)
        book.write(proposed)
        if proposed.trial not in book.ledger.trials:
            continue
        running.append(proposed.trial)
        if len(running) == 2:
            number = running.pop(0)
            params = book.ledger.trials[number].params
            book.write(TrialOpened(number, f"ray-{number}", 1, params, {"optim.lr": 0.0}, f"print-{number}"))
            book.write(Reported(number, 40 if number == 5 else 160, figures_of(params)))
            book.write(TrialClosed(number, {5: "PRUNED", 6: "FAIL"}.get(number, "COMPLETE")))
    return book


@pytest.mark.parametrize("constraints", [{}, {IOU.metric: ">= 0.78"}])
@pytest.mark.parametrize(("kind", "trials"), [("tpe", 26), ("gp", 15), ("nsga2", 26)])  # gp takes a second a trial
def test_samplers_of_optuna_take_several_objectives_and_a_successor_proposes_the_same(kind, trials, constraints):
    book, ledger = searched(kind, trials, constraints), Ledger()
    restored = began_with(book.ledger)
    assert restored.aims == book.space.aims
    for event in book.events:
        if isinstance(event, TrialProposed):
            again = Proposals(restored).next(ledger)
            assert (again.trial, again.params) == (event.trial, event.params)
        ledger = fold(ledger, event)
    assert front_of(ledger) == front_of(book.ledger) is not None


def test_nsga2_breeds_from_what_came_before():
    """Its children share values with their parents, which no random draw of a range does."""
    book = searched("nsga2", 32)
    drawn = [trial.params["optim.lr"] for trial in book.ledger.trials.values()]
    assert any(value in drawn[:place] for place, value in enumerate(drawn) if place >= 16)


def test_samplers_keep_to_constraints_once_they_know_them():
    """Half of all draws break the bound; of what tpe proposes later fewer do."""
    book = searched("tpe", 60, {IOU.metric: ">= 0.8"})
    late = [trial for number, trial in book.ledger.trials.items() if number >= 30 and trial.figures]
    broken = sum(bool(book.ledger.unmet(trial)) for trial in late)
    assert len(late) >= 25 and broken / len(late) < 0.35


REFUSED = {
    "objectives: [{metric: val/psnr}, {metric: val/ssim}]\nconfirm: {seeds: 2}": (
        "confirm: expected none beside several objectives, of which none says alone who won"
    ),
    "objectives: [{metric: val/psnr_fg}]\nobjective: {metric: val/psnr}": (
        "objectives: expected it in place of objective, got both"
    ),
    "objectives: [{metric: time/step_seconds, mode: min}, {metric: val/psnr}]": (
        "objectives.0.metric: expected one of val/psnr, .* a cost — name a validated one first"
    ),
    "objectives: [{metric: val/psnr}, {metric: val/psnr}]": (
        "objectives.1.metric: expected each figure once, got val/psnr again"
    ),
    "objectives: [{metric: val/psnr}, {metric: time/step_seconds}]": (
        "objectives.1.mode: expected min, the better way of time/step_seconds, got max"
    ),
    "objectives: [{metric: val/psnr}, {metric: time/step_second, mode: min}]": (
        "objectives.1.metric: .*did you mean time/step_seconds"
    ),
    'constraints: {val/mask_io: ">= 0.8"}': ("constraints.val/mask_io: .*did you mean val/mask_iou"),
    'constraints: {val/mask_iou: "> 0.8"}': ("constraints.val/mask_iou: expected >= or <=, got '> 0.8'"),
    "constraints: {val/mask_iou: 0.8}": (r"constraints.val/mask_iou: "),
    'constraints: {val/mask_iou: "about 3"}': (
        "constraints.val/mask_iou: expected a comparison with a number, got 'about 3'"
    ),
    "sampler: {kind: nsga2, startup_trials: 1}": (
        "sampler.startup_trials: expected 2 or more, nsga2's population, got 1"
    ),
    'constraints: {val/mask_iou: ">= 0.8"}\nwarm_start: [other]': (
        "warm_start: expected one objective and no constraints"
    ),
    'constraints: {val/mask_iou: ">= 0.8"}\nplan: {kind: one_factor}': ("constraints: expected none beside a plan"),
}


@pytest.mark.parametrize(("written", "message"), REFUSED.items(), ids=REFUSED)
def test_aims_that_cannot_be_had_are_refused_in_one_line(tmp_path, written, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: gslrm_tiny\nspace: {{loss.masked: {{choice: [true, false]}}}}\n{written}\n")
    with pytest.raises(SpaceError, match=message) as refused:
        load_space(path)
    assert "\n" not in str(refused.value)


def test_the_first_of_several_is_the_objective(tmp_path):
    path = tmp_path / "mine.yaml"
    written = "objectives: [{metric: val/ssim}, {metric: system/peak_gpu_memory_gb, mode: min}]"
    path.write_text(f"recipe: gslrm_tiny\nspace: {{loss.masked: {{choice: [true, false]}}}}\n{written}\n")
    space = load_space(path)
    assert space.objective == Objective("val/ssim", "max") and space.aims.count_costs and space.aims.are_several
    assert list(itertools.chain(space.aims.metrics)) == ["val/ssim", "system/peak_gpu_memory_gb"]


def test_the_best_checkpoint_is_one_within_the_constraints_where_there_is_one():
    book = Book(space_for(PSNR, constraints={IOU.metric: ">= 0.8"}))
    book.trial(at(40, psnr=18.0, iou=0.7) | at(80, psnr=16.0, iou=0.8) | at(160, psnr=17.0, iou=0.79))
    trial = book.ledger.trials[0]
    assert (trial.best_step, trial.best_value) == (80, 16.0) and not book.ledger.unmet(trial)
    book.trial(at(40, psnr=15.0, iou=0.7) | at(80, psnr=16.0, iou=0.75))
    assert book.ledger.trials[1].best_step == 80
    assert book.ledger.reason_of(book.ledger.trials[1]) == ("breaks a constraint: val/mask_iou 0.75, wanted >= 0.8")
    assert [one.number for one in book.ledger.ranked] == [0, 1]


def test_what_breaks_a_constraint_is_not_confirmed():
    space = space_for(PSNR, constraints={IOU.metric: ">= 0.8"}, seed=0)
    book = Book(replace(space, confirm=Confirm(seeds=2, top=1), trials=Resources(count=2)))
    book.trial(at(psnr=20.0, iou=0.7))
    book.trial(at(psnr=18.0, iou=0.9))
    assert [trial.number for trial in book.ledger.top] == [1]
    proposed = confirmation(book.ledger, book.space)
    assert (proposed.confirms, proposed.trial) == (1, 2)


def recorded_of(book: Book, folder):
    recorder = Recorder(folder)
    recorder.add(book.events)
    return recorder.record(1.0)


def test_of_a_sweep_whose_every_trial_breaks_a_constraint_none_is_called_the_best(tmp_path):
    book = sweep_of({"psnr": 20.0, "iou": 0.5}, {"psnr": 21.0, "iou": 0.6}, objectives=(PSNR,),
                    constraints={IOU.metric: ">= 0.8"})  # fmt: skip
    record = recorded_of(book, tmp_path)
    assert result(record, record.ranked, PSNR).startswith("No trial keeps the constraints, of 2 trials (2 COMPLETE)")
    assert "No trial keeps the constraints." in sweep_note(record, Links("1"))
    assert "reported the objective yet" not in sweep_note(record, Links("1"))
    assert summary("mine", record, interrupted=False)["none_within"]
    assert point(Conclusions(record, Importance(0)), Texts(Language.EN)) == "no trial within the constraints"
    assert "best" not in line_of_a_report(book)
    book.write(SweepClosed("COMPLETE"))
    assert "model promote" not in sweep_note(recorded_of(book, tmp_path), Links("1"))


def line_of_a_report(book: Book) -> str:
    """What a sweep without a terminal says when one more trial reports."""
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console, RUNGS[-1], clock=itertools.count(0.0, 1000.0).__next__)
    book.trial(at(40, psnr=1.0, iou=0.0), state="")
    for event in book.events:
        progress(event)
    return console.file.getvalue().splitlines()[-1]


def test_the_best_so_far_of_a_report_is_within_the_constraints_and_then_the_one_that_was_confirmed():
    space = space_for(PSNR, constraints={IOU.metric: ">= 0.8"})
    book = Book(replace(space, confirm=Confirm(seeds=1, top=2), trials=Resources(count=3)))
    for psnr, iou in ((20.0, 0.9), (25.0, 0.5), (19.0, 0.9)):
        book.trial(at(psnr=psnr, iou=iou))
    assert "best val/psnr_fg 20.000 (t0000, step 160)" in line_of_a_report(book)
    book = Book(book.space)
    for psnr in (20.0, 18.0, 19.0):
        book.trial(at(psnr=psnr, iou=0.9))
    for psnr in (17.0, 18.5):
        proposed = confirmation(book.ledger, book.space)
        book.trial(at(psnr=psnr, iou=0.9), proposed.params, proposed=proposed)
    assert book.ledger.best.number == 2
    assert "best val/psnr_fg 19.000 (t0002, step 160)" in line_of_a_report(book)


def test_a_report_names_every_objective_and_the_constraints(tmp_path):
    book = sweep_of({"psnr": 20.0, "seconds": 1.0, "iou": 0.9}, constraints={IOU.metric: ">= 0.8"})
    said = dict(facts(recorded_of(book, tmp_path)))
    assert (said["Objectives"], said["Constraints"]) == (
        "max val/psnr_fg; min time/step_seconds",
        "val/mask_iou >= 0.8",
    )


def test_trials_that_are_not_confirmed_for_a_constraint_are_said_to_be(tmp_path):
    space = space_for(PSNR, constraints={IOU.metric: ">= 0.8"})
    space = replace(space, confirm=Confirm(seeds=1, top=2), trials=Resources(count=2))
    none, one = Book(space), Book(space)
    for psnr in (20.0, 21.0):
        none.trial(at(psnr=psnr, iou=0.5))
        one.trial(at(psnr=psnr, iou=0.9 if psnr == 20.0 else 0.5))
    assert sentences(recorded_of(none, tmp_path)) == [
        "No trial of the search came to its end within the constraints, so none is confirmed."
    ]
    few = "1 of the 2 to confirm: no other trial of the search came to its end within the constraints."
    assert sentences(recorded_of(one, tmp_path))[1:] == [few]
    proposed = confirmation(one.ledger, space)
    one.trial(at(psnr=22.0, iou=0.7), proposed.params, proposed=proposed)
    assert sentences(recorded_of(one, tmp_path))[1:] == [
        few,
        "t0002, which confirms t0000, breaks a constraint: val/mask_iou 0.7, wanted >= 0.8.",
    ]


def test_what_breaks_a_constraint_is_named_in_the_report_and_never_tied_with_the_best(tmp_path):
    book = sweep_of({"psnr": 20.0, "iou": 0.9}, {"psnr": 20.1, "iou": 0.5}, {"psnr": 20.2, "iou": 0.9},
                    objectives=(PSNR,), constraints={IOU.metric: ">= 0.8"})  # fmt: skip
    record = recorded_of(book, tmp_path)
    cells = row(record.trial(1), settings_of(record), (), None)
    assert cells[-1].key == "breaks a constraint: val/mask_iou 0.5, wanted >= 0.8"
    found = Conclusions(record, Importance(0))
    said = research_report(record, Importance(0), Language.EN, "c.html")
    assert said.count("breaks a constraint: ") == 1
    assert re.search(r"constraints: {val/mask_iou: '>= 0.8'}", said)  # of the sweep that repeats its best
    found.__dict__["noise"] = Noise(1.0, None, 1)  # wider than the three lie apart
    assert [one.trial.number for one in found.tied] == [0]


def test_one_report_without_a_cost_leaves_that_of_the_others():
    book = Book(space_for(PSNR, PACE))
    book.trial(at(40, psnr=15.0, seconds=math.nan) | at(80, psnr=16.0, seconds=0.1) | at(160, psnr=17.0, seconds=0.3))
    assert book.ledger.trials[0].figures[SECONDS] == pytest.approx(0.2)
    book.trial(at(psnr=15.0, seconds=math.inf))
    assert SECONDS not in book.ledger.trials[1].figures and front_of(book.ledger).unmeasured == (1,)
