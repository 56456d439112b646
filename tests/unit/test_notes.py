"""Descriptions of sweeps and trials: every text from outside is text, every figure is the ledger's, all of it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dashboards.pages.markdown import code, fence, plain, table
from dashboards.pages.notes import sweep_note
from dashboards.pages.trial_notes import trial_note
from pipeline.recipes import load_recipe
from sweeps.book.journal import (
    AttemptFailed,
    Event,
    GaussiansKept,
    Reported,
    RunOpened,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.record import PROTOCOL, Recorder, SweepRecord
from sweeps.space import words
from sweeps.tracking.pages import LONGEST_NOTE, Links

RECIPE = load_recipe("gslrm_tiny")
SPACE = {
    "recipe": "gslrm_tiny",
    "fixed": {"train.batch_size": 2},
    "space": {
        "optim.lr": {"float": [1e-5, 1e-3], "log": True},
        "loss.ssim": {"choice": [0.0, 0.1], "when": {"optim.lr": [1]}},
    },
    "objective": {"metric": "val/psnr", "mode": "max"},
    "trials": {"count": 4, "concurrent": 2},
}
TAGS = {"data.name": "mice", "data.geometry": "exact", "mlflow.source.git.commit": "c0ffee"}
LINKS = Links("7")
HOSTILE = [
    "<script>alert(1)</script>",
    "a|b\nc",
    "</td>\"quoted\" 'name'",
    "[x](javascript:alert(1))",
    "**bold** _low_ `tick` ``` \\",
    "쥐 실험 1번",
    "x" * 200,
]


def swept(
    values: list[float],
    name: str = "mice",
    reason: str = "asha: val/psnr 20.5 is among the weaker, at step 10 of 20",
    protocols: tuple[str, ...] = ("aaa",),
    is_over: bool = True,
    space: Mapping[str, Any] = SPACE,
) -> SweepRecord:
    """A sweep with a trial for each value, which it reaches at step 10 of 20; every second is pruned there."""
    told: list[Event] = [
        SweepOpened(name, "gslrm_tiny", dict(space), TAGS, RECIPE.params),
        RunOpened(None, "sweep-run"),
    ]
    for number, value in enumerate(values):
        params = {"optim.lr": 1e-5 * (number % 90 + 1)}
        everything = {**RECIPE.params, **params, "train.max_steps": 20}
        protocol = {PROTOCOL: protocols[number % len(protocols)]}
        told.append(TrialOpened(number, f"r{number}", 1, params, everything, f"p{number}"))
        told.append(RunOpened(number, f"run-{number}"))
        told.append(Reported(number, 10, {"val/psnr": value, "val/ssim": value / 100, "train/loss": 1.0}, {}, protocol))
        if number % 2:
            told.append(TrialClosed(number, State.PRUNED, reason))
        else:
            told += [Reported(number, 20, {"val/psnr": value - 1}), TrialClosed(number, State.COMPLETE)]
    return recorded([*told, SweepClosed(State.COMPLETE)] if is_over else told)


def recorded(told: list[Event]) -> SweepRecord:
    """What a journal of these events adds up to, one a second."""
    recorder = Recorder(Path("journal"))
    recorder.add(replace(event, time=1.7e9 + second) for second, event in enumerate(told))
    return recorder.record(1.8e9)


def test_the_result_comes_first_and_is_the_ledgers() -> None:
    record = swept([21.5, 22.25, 23.125, 20.0])
    first = sweep_note(record, LINKS).partition("\n")[0]
    assert record.ledger.best is not None
    assert record.ledger.best.number == 2
    assert "Best: [t0002](#/experiments/7/runs/run-2?workflowType=machine_learning)" in first
    assert "`val/psnr` 23.12 at step 10" in first
    assert "4 of 4 trials: 2 COMPLETE, 2 PRUNED" in first
    assert "n = 4 trials that reported it" in first
    assert "The 2 of these that are COMPLETE span 21.5 … 23.12, median 22.31" in first


def test_what_breaks_a_constraint_is_no_part_of_the_span() -> None:
    bounded = {**SPACE, "constraints": {"val/psnr": "<= 23.5"}}
    first = sweep_note(swept([21.5, 20.0, 25.0, 20.0, 23.0], space=bounded), LINKS).partition("\n")[0]
    assert "The 2 of these that are COMPLETE within the constraints span 21.5 … 23, median 22.25" in first


def test_the_leaderboard_has_the_figures_of_the_best_step_in_the_ledgers_order() -> None:
    record = swept([21.5, 22.25, 23.125, 20.0])
    rows = re.findall(
        r"^\| (\d+)&emsp; \| \[(t\d+)\].*? \| (\w+)&emsp; \| ([\d.]+)&emsp;", sweep_note(record, LINKS), re.M
    )
    ranked = [(f"t{one.number:04d}", str(one.state), f"{one.best_value:.4g}") for one in record.ledger.ranked]
    assert rows == [(str(place), *row) for place, row in enumerate(ranked, 1)]


def test_figures_of_two_protocols_stand_in_two_tables() -> None:
    note = sweep_note(swept([21.0, 22.0, 23.0, 24.0], protocols=("aaa", "bbb")), LINKS)
    assert [sorted(re.findall(r"\| \[(t\d+)\]", part)) for part in note.split("**B**, n = ")] == [
        ["t0001", "t0003"],
        ["t0000", "t0002"],
    ]
    assert "measured in 2 ways" in note


def test_a_pruned_trial_that_reached_more_than_the_best_is_named() -> None:
    note = sweep_note(swept([21.0, 25.0, 22.0]), LINKS)
    assert "Best: [t0002]" in note
    assert re.search(r"\[t0001\]\S+ reached 25 at step 10 and is PRUNED", note)


def test_what_was_pruned_is_counted_by_its_reason_without_the_figures() -> None:
    record = swept([20.0 + number for number in range(12)])
    assert "- 6 PRUNED: asha: val/psnr … is among the weaker, at step 10 of 20 ([t0001]" in sweep_note(record, LINKS)


def test_a_sweep_that_runs_says_as_of_when_and_no_importance() -> None:
    note = sweep_note(swept([21.0], is_over=False), LINKS)
    assert note.startswith("**RUNNING** as of 2027-01-15 08:00 UTC, 1 of 4 trials")
    assert "Told when the sweep has ended." in note
    assert "report.html" not in note


def test_a_sweep_before_its_first_trial_has_a_description() -> None:
    note = sweep_note(swept([], is_over=False), LINKS)
    assert "No trial has reported the objective yet." in note


def test_a_trials_description_says_what_it_tried_what_came_of_it_and_its_place() -> None:
    note = trial_note(swept([21.5, 22.25, 23.125]), 1, LINKS)
    assert note.startswith("**PRUNED**: asha: val/psnr 20.5 is among the weaker, at step 10 of 20. **`val/psnr` 22.25")
    assert "place 2 of 3 trials." in note
    assert "The sweep's best is [t0002](#/experiments/7/runs/run-2?workflowType=machine_learning) with 23.12." in note
    assert "| `optim.lr`&emsp; | `2e-05`&emsp; | `0.0005` |" in note
    assert "| `train.max_steps`&emsp; | `20`&emsp; | `1050` |" in note
    assert "Protocol `aaa`" in note


def test_descriptions_lead_to_the_gaussians_that_a_trial_has() -> None:
    opened = SweepOpened("s", "gslrm_tiny", SPACE, TAGS, RECIPE.params)
    trials: list[Event] = []
    for number in range(2):
        trials.append(TrialOpened(number, "r", 1, {}, RECIPE.params, f"p{number}"))
        trials.append(RunOpened(number, f"run-{number}"))
        trials.append(Reported(number, 10, {"val/psnr": 20.0 + number}))
        trials.append(TrialClosed(number, State.COMPLETE))
    record = recorded([opened, RunOpened(None, "sweep-run"), *trials, GaussiansKept(1, "somewhere")])
    place = "#/experiments/7/runs/run-1/artifacts/splat.html?workflowType=machine_learning"
    assert place in sweep_note(record, LINKS)
    assert place in trial_note(record, 1, LINKS)
    assert "splat.html" not in trial_note(record, 0, LINKS)


def test_faults_are_counted_by_cause_and_by_what_was_done() -> None:
    broken = AttemptFailed(0, 1, "worker_lost", "retry", "gone")
    opened = [TrialOpened(0, "r", attempt, {}, RECIPE.params, "p") for attempt in (1, 2, 3)]
    told = [SweepOpened("s", "gslrm_tiny", SPACE, TAGS, RECIPE.params), opened[0], broken, opened[1], broken, opened[2]]
    record = recorded(told)
    assert "- 2 attempts by worker&#95;lost, then retry (t0000)" in sweep_note(record, LINKS)
    assert "- 2 attempts by worker&#95;lost, then retry (t0000)" in trial_note(record, 0, LINKS)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_or_reason_is_text_and_breaks_no_table(name: str) -> None:
    record = swept([21.0, 22.0], name=name, reason=name)
    for note in (sweep_note(record, LINKS), trial_note(record, 1, LINKS)):
        outside = re.sub(r"^```\n.*?^```$", "", note, flags=re.M | re.S)
        assert "<" not in outside
        assert "](javascript" not in outside
        rows = [line for line in outside.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in rows)
        assert note.count("\n```") % 2 == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_escaped_text_is_one_line_and_holds_no_markup(name: str) -> None:
    for shown in (plain(name), code(name)):
        assert "\n" not in shown
        assert "|" not in shown
        assert "<" not in shown
    assert "\n" not in fence([name])[4:-4]
    assert "`" not in fence([name])[4:-4]
    assert len(table(["a"], [[plain(name)]]).splitlines()) == 3


def test_a_sweep_of_1000_trials_is_described_within_mlflows_limit() -> None:
    reasons = "rule <b>number</b> " + "long " * 60
    record = swept([20 + number / 1000 for number in range(1000)], name="n" * 200, reason=reasons, is_over=False)
    note = sweep_note(record, LINKS)
    assert len(note) <= LONGEST_NOTE
    assert "990 trials more in the table of trials." in note
    assert "mouselift sweep status " + "n" * 200 in note
    assert len(trial_note(record, 999, LINKS)) <= LONGEST_NOTE


def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.pages.note_parts.LONGEST_NOTE", 2500)
    note = sweep_note(swept([21.0, 22.0, 23.0]), LINKS)
    assert len(note) <= 2500
    assert re.search(r"Left out, as MLflow keeps 8,000 characters: .*question", note)
    assert "mouselift model promote mice" in note


def test_a_stronger_trial_that_was_measured_differently_is_not_compared() -> None:
    alike, differently = swept([21.0, 25.0]), swept([21.0, 25.0], protocols=("aaa", "bbb"))
    assert "reached 25 at step 10 and is PRUNED" in sweep_note(alike, LINKS)
    assert "reached 25" not in sweep_note(differently, LINKS)
    assert "with 21." in trial_note(alike, 1, LINKS)
    assert "and was measured differently." in trial_note(differently, 1, LINKS)


def test_a_trial_that_reported_no_finite_value_is_not_said_to_have_reported_nothing() -> None:
    assert "It has reported no finite value of the objective." in trial_note(swept([float("nan")]), 0, LINKS)


def test_a_space_of_an_older_version_is_told_as_far_as_it_is_known() -> None:
    """A KeyError here would keep every figure of its sweep from MLflow, for a sweep's params are made of it."""
    old = {"sampler": {"kind": "tpe"}, "scheduler": {"kind": "asha"}}
    assert words.plan(old) == {"sampler": "tpe", "scheduler": "asha"}


def test_what_is_tried_first_is_told_and_not_what_is_not() -> None:
    settings = [{}, {"optim.lr": 2e-4, "loss.masked": True}]
    assert words.plan({"enqueue": settings}) == {
        "enqueue": "the recipe as it is; optim.lr 0.0002 with loss.masked true"
    }
    assert words.plan({"enqueue": []}) == {}
