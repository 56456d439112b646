"""A sweep's saved view: what MLflow's UI is told of columns and charts, as its code reads it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.pages.saved_view import experiment_note, saved_view
from dashboards.pages.table_tags import OUTCOME, STEPS, outcome, short_texts, trial_tags
from sweeps.book.journal import Event, Reported, State, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.record import Recorder, SweepRecord, TrialRecord
from sweeps.book.trial import Trial
from sweeps.tracking.pages import Links

LONGEST_TAG = 20_000  # characters of an experiment's tag in MLflow
SEARCHED = {"optim.lr": {"float": [1e-5, 1e-3]}, "loss.background": {"float": [0.0, 1.0]}}
FIGURES = {"val/mask_iou": 0.5, "val/psnr": 20.0, "train/loss": 1.0, "train/grad_norm": 2.0, "system/cpu": 1.0}


def events(trials: int, searched: dict[str, Any], figures: dict[str, float], name: str) -> Iterator[Event]:
    """Every trial reports steps 1 and 2, those of even number step 3, too, each with a picture."""
    space = {"space": searched, "objective": {"metric": "val/mask_iou", "mode": "max"}, "trials": {"count": trials}}
    yield SweepOpened(name, "gslrm_tiny", space, {}, {}, time=1.0)
    for number in range(trials):
        params = dict.fromkeys(searched, 0.123456 + number)
        yield TrialOpened(number, f"r{number}", 1, params, params, "f", time=2.0)
        for step in range(1, 4 - number % 2):
            images = {"val/preview": "blobs/a.png"}
            yield Reported(number, step, {**figures, "val/mask_iou": number + step / 10}, images, time=3.0)
        yield TrialClosed(number, "PRUNED" if number % 2 else "COMPLETE", "asha: weak" if number % 2 else "", time=4.0)


def record(
    trials: int = 3,
    searched: dict[str, Any] = SEARCHED,
    figures: dict[str, float] = FIGURES,
    name: str = "mice",
) -> SweepRecord:
    recorder = Recorder(Path())
    recorder.add(events(trials, searched, figures, name))
    return recorder.record(5.0)


def state(of: SweepRecord) -> dict[str, Any]:
    """The view as MLflow's UI opens it."""
    text = json.loads(saved_view(of))["state"]
    assert text.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(text.removeprefix("deflate;"))))  # type: ignore[no-any-return]


def test_the_columns_are_the_objective_the_figures_reported_the_settings_and_what_each_took() -> None:
    columns = state(record())["columnOrder"]
    assert [column.partition("`")[2].rstrip("`") or column for column in columns] == [
        "Run Name",
        "runDateAndNestInfo",
        "best/val/mask_iou",
        "trial.outcome",
        "val/psnr",
        "optim.lr",
        "loss.background",
        "trial.steps",
        "time/step_seconds",
        "duration",
    ]


def test_the_best_trial_comes_first() -> None:
    seen = state(record())
    assert (seen["orderByKey"], seen["orderByAsc"]) == ("metrics.`best/val/mask_iou`", False)
    assert seen["searchFilter"] == "tags.`sweep.name` = 'mice' AND tags.`trial.number` != ''"


def test_every_column_that_is_a_tag_is_one_that_the_trials_have() -> None:
    of = record()
    tags = {column.partition("`")[2].rstrip("`") for column in state(of)["selectedColumns"] if column[:4] == "tags"}
    assert all(tags == given.keys() for given in trial_tags(of).values())
    assert trial_tags(of)[1][OUTCOME] == "✂ PRUNED asha: weak"
    assert [given[STEPS] for given in trial_tags(of).values()] == ["3", "2", "3"]


def test_a_setting_that_a_trial_does_not_have_is_no_tag_of_it() -> None:
    of = record()
    del of.trials[0].trial.params["loss.background"]
    assert "loss.background" not in trial_tags(of)[0]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0005256309, 0.00047196], ["0.00053", "0.00047"]),
        ([0.0005256309, 0.00052796], ["0.000526", "0.000528"]),
        ([0.1, 0.10000001], ["0.1", "0.1"]),
        ([5, True, "white", None], ["5", "true", "white", "null"]),
        ([1.0, 1], ["1", "1"]),
        ([], []),
    ],
)
def test_numbers_have_as_few_digits_as_tell_them_apart_up_to_four(values: list[Any], texts: list[str]) -> None:
    assert short_texts(values) == texts


def test_each_state_has_a_sign_of_its_own_and_its_reason_one_line() -> None:
    texts = [outcome(TrialRecord(Trial(0, state=one), reason="a\n b")) for one in State]
    assert len({text[0] for text in texts}) == len(State)
    assert all(text.endswith(" a b") for text in texts)


def test_what_is_open_first_is_objective_pictures_and_curves_and_the_rest_waits_closed() -> None:
    seen = state(record())
    opened = [section["name"] for section in seen["compareRunSections"] if section["display"]]
    closed = [section["name"] for section in seen["compareRunSections"] if not section["display"]]
    assert opened == [
        "Objective",
        "val/preview of all trials at step 2",
        "val/preview of those that reached step 3",
        "Curves",
    ]
    assert closed == ["System metrics", "best", "best/val", "train", "val"]


def test_every_chart_stands_in_a_section_that_is_there() -> None:
    seen = state(record())
    sections = {section["uuid"]: section["name"] for section in seen["compareRunSections"]}
    charts = [(sections[chart["metricSectionId"]], chart["type"]) for chart in seen["compareRunCharts"]]
    assert charts[:2] == [("Objective", "LINE"), ("Objective", "PARALLEL")]
    assert [kind for _, kind in charts[2:]] == ["IMAGE", "IMAGE", "LINE", "LINE", "LINE"]
    assert len({chart["uuid"] for chart in seen["compareRunCharts"]}) == len(charts)


def test_pictures_are_without_params_and_their_card_is_as_high_as_they_need() -> None:
    few, many = state(record(trials=3)), state(record(trials=30))
    for seen in (few, many):
        pictures = [chart for chart in seen["compareRunCharts"] if chart["type"] == "IMAGE"]
        assert [chart["step"] for chart in pictures] == [2, 3]
        assert all(chart["showRunParams"] is False for chart in pictures)
    heights = [seen["compareRunSections"][1]["cardHeight"] for seen in (few, many)]
    assert heights[1] - heights[0] == 3 * 300  # ten of thirty are shown, three in a row
    assert many["compareRunSections"][1]["name"] == "val/preview of the best 10 trials that have one at step 2"


def test_pictures_with_long_names_have_a_row_each() -> None:
    heights = [state(record(name="m" * length))["compareRunSections"][1]["cardHeight"] for length in (10, 80)]
    assert heights[1] - heights[0] == 2 * 300


def test_a_sweep_that_has_only_begun_has_a_view() -> None:
    recorder = Recorder(Path())
    recorder.add(list(events(3, SEARCHED, FIGURES, "mice"))[:1])
    seen = state(recorder.record(1.0))
    assert "metrics.`val/psnr`" not in seen["selectedColumns"]
    assert "tags.`optim.lr`" in seen["selectedColumns"]


def test_a_sweep_without_an_objective_has_a_view() -> None:
    recorder = Recorder(Path())
    recorder.add([SweepOpened("one", "gslrm_tiny", {}, {}, {}, time=1.0)])
    assert "orderByKey" not in state(recorder.record(1.0))


def test_the_view_of_a_large_sweep_fits_into_a_tag() -> None:
    searched = {f"section.setting_{number}": {"float": [0.0, 1.0]} for number in range(60)}
    figures = {f"group_{number}/figure_{number}": 1.0 for number in range(200)} | FIGURES
    assert len(saved_view(record(40, searched, figures, "m" * 80))) < LONGEST_TAG


def test_an_experiment_says_what_its_latest_sweep_found_and_takes_its_name_for_text() -> None:
    note = experiment_note(record(name="<b>mice</b>"), Links("7"))
    assert note.startswith("3 of 3 trials, val/mask_iou 2.3 by t0002 in &lt;b&gt;mice&lt;/b&gt;, the latest sweep: ")
    assert note.count("(#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=") == 2
