"""The report: its numbers are the record's, hostile texts are texts, protocols stay apart, and it is small."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboards.charts.figure import short
from dashboards.pages.report import report_page
from dashboards.report.packing import pooled
from dashboards.thumbnails import Thumbnail, Thumbnails, thumbnails
from sweeps.book.journal import Reported, SweepOpened, TrialOpened
from sweeps.book.record import Preview, Recorder
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.tracking.pages import Links
from tests.support.recorded import METRIC, recorded

HOSTILE = "</script><script>alert('1')</script>\"&|<b>쥐</b> " + "x" * 150


@pytest.fixture(scope="module")
def record():
    return recorded(trials=60, reports=4)


def carried(html):
    """The figures and tables that the page unpacks."""
    packed = json.loads(gzip.decompress(base64.b64decode(re.search(r'data: "([^"]*)"', html)[1])))
    return restored(packed["data"], packed["pool"])


def restored(value, pool):
    """As report.js does it."""
    if isinstance(value, list):
        return [restored(one, pool) for one in value]
    if not isinstance(value, dict):
        return value
    return pool[value["pool"]] if "pool" in value else {key: restored(one, pool) for key, one in value.items()}


def rows(html, key="p0"):
    """Each row of a table as its cells' texts, markup removed."""
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row["html"], re.DOTALL) for row in carried(html)["tables"][key]]
    return [[re.sub(r"<[^>]+>", " ", cell).split() for cell in row] for row in cells]


def one_trial(name="demo", metric=METRIC, reason="", **values):
    """A sweep of one trial that reported once."""
    space = {"space": {"optim.lr": {"float": [0.1, 1.0]}}, "objective": {"metric": metric, "mode": "max"}}
    recorder = Recorder(Path("nowhere"))
    recorder.add(
        [
            SweepOpened(name, "gslrm_tiny", space | {"trials": {"count": 1}}, {"data.name": name}, {"optim.lr": 0.5}),
            TrialOpened(0, "ray", 1, {"optim.lr": 0.2} | values, {}, "print"),
            Reported(0, 1, {metric: 1.0}),
        ]
    )
    return recorder.record(100.0)


def test_every_figure_of_the_table_is_the_records_in_full(record):
    for one, cells in zip(record.ranked, rows(report_page(record)), strict=True):
        trial = one.trial
        assert cells[0] == [f"t{trial.number:04d}", trial.run_id]
        assert cells[2] == [repr(trial.best_value), short(trial.best_value)]
        assert cells[3] == [repr(trial.last_value), short(trial.last_value)]
        assert cells[5] == [str(trial.last_step)]


def test_the_first_sentence_has_the_best_its_n_and_how_far_the_finished_lie_apart(record):
    html = report_page(record)
    done = [one.trial.best_value for one in record.trials if one.trial.state == "COMPLETE"]
    lead = re.search(r'<p class="lead">(.*?)</p>', html, re.DOTALL)[1]
    assert f"{METRIC}: {max(done):.4g}, " in lead
    assert "of 60 trials" in lead and f"{len(done)} COMPLETE" in lead
    assert f"between {min(done):.4g} and {max(done):.4g}" in lead


def test_protocols_are_never_in_one_table_or_chart():
    record = recorded(trials=40, reports=4, image_sizes=(64, 128, 256))
    html = report_page(record)
    data = carried(html)
    for i, measured in enumerate(record.by_protocol):
        own = {f"t{one.trial.number:04d}" for one in measured.trials}
        assert {cells[0][0] for cells in rows(html, f"p{i}")} == own
        text = json.dumps({key: figure for key, figure in data["figures"].items() if key.startswith(f"p{i}-")})
        assert set(re.findall(r"t\d{4}", text)) <= own
        assert f"image size {measured.trials[0].recipe_params['data.image_size']}" in html
    assert "(3 protocols)" in html


@pytest.mark.parametrize("place", ["name", "metric", "setting"])
def test_a_hostile_text_is_a_text(place):
    record = {
        "name": lambda: one_trial(HOSTILE),
        "metric": lambda: one_trial(metric=HOSTILE),
        "setting": lambda: one_trial(**{"optim.lr": HOSTILE}),
    }[place]()
    html = report_page(record, Links('1"><script>'))
    visible = html.partition("const PACKED")[0]
    assert "alert('1')</script>" not in html and "<b>쥐" not in html and '"><script>' not in html
    assert "&lt;b&gt;쥐" in visible or "&lt;b&gt;쥐" in json.dumps(carried(html), ensure_ascii=False)
    assert "<b>쥐" not in json.dumps(carried(html)["figures"], ensure_ascii=False)


def test_many_trials_with_more_pictures_than_room_are_below_three_megabytes():
    record = recorded(trials=200, reports=20)
    noise = base64.b64encode(np.random.default_rng(0).bytes(60_000)).decode()
    pictures = Thumbnails(tuple(Thumbnail(n, Preview("val/preview", 1, Path()), noise) for n in range(20)))
    html = report_page(record, None, Importance(1000, note="not told"), pictures)
    assert len(html.encode()) < 3_000_000
    assert len(rows(html)) == 200
    left_out = int(re.search(r"(\d+) left out to keep this file small", html)[1])
    assert 0 < left_out < 20
    assert html.count("<tr>") < 100  # the others wait until a reader asks


def test_plotly_is_there_once_and_nothing_is_fetched(record):
    html = report_page(record)
    assert html.count('plotly: "') == 1
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert "http" not in html.partition("const PACKED")[0]


def test_importance_below_its_n_is_refused_in_words_and_not_drawn():
    record = recorded(trials=5, reports=4)
    html = report_page(record, None, importance_of(record.ledger))
    assert "Not told: too few: " in html
    assert "importance" not in carried(html)["figures"]


def test_importance_is_told_with_its_interval_and_what_is_not_told_from_chance(record):
    found = Importance(
        40, 200, {"optim.lr": 0.6, "loss.ssim": 0.01}, {"optim.lr": (0.5, 0.7), "loss.ssim": (0.0, 0.03)},
        {"optim.lr": (0.0, 0.05), "loss.ssim": (0.0, 0.05)},
    )  # fmt: skip
    html = report_page(record, None, found)
    assert "It mattered: optim.lr 60% (50% to 70%)." in html
    assert "Not told from chance: loss.ssim." in html
    assert "over 40 trials at step 200" in html


def test_a_sweep_without_trials_and_one_that_runs_have_a_page():
    empty = recorded(trials=0)
    assert "No trial has begun." in report_page(empty)
    running = recorded(trials=3, reports=2, is_closed=False)
    assert "so far" in report_page(running) and "it runs; read " in report_page(running)


def test_values_that_are_not_finite_are_said_and_do_not_break_the_page():
    record = one_trial()
    bad = record.trials[0].metrics[METRIC][0]._replace(value=float("nan"))
    trial = replace(record.trials[0], metrics={METRIC: (bad,), "train/loss": (bad,)})
    html = report_page(replace(record, trials=(trial,)))
    assert "1 value not finite" in html


def test_long_lists_are_carried_once():
    long = list(range(100))
    packed = pooled({"a": {"x": long}, "b": [{"y": long}], "c": [1, 2]})
    assert packed["pool"] == [long]
    assert packed["data"] == {"a": {"x": {"pool": 0}}, "b": [{"y": {"pool": 0}}], "c": [1, 2]}


def test_thumbnails_begin_with_the_last_of_each_trial_and_count_what_they_leave_out(tmp_path):
    record = recorded(trials=4, reports=4)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    trials = [
        replace(one, previews=tuple(Preview("val/preview", step, tmp_path / "good.png") for step in (1, 2, 3)))
        for one in record.trials[:3]
    ]
    trials.append(replace(record.trials[3], previews=(Preview("val/preview", 1, tmp_path / "bad.png"),)))
    record = replace(record, trials=tuple(trials))
    whole = thumbnails(record)
    assert (len(whole.pictures), whole.left_out, whole.unread) == (9, 0, 1)
    assert [one.preview.step for one in whole.pictures[:4]] == [3, 3, 3, 2]
    some = thumbnails(record, most_bytes=4 * len(whole.pictures[0].uri))
    assert (len(some.pictures), some.left_out) == (4, 5)
    assert thumbnails(record, most_trials=1).trials == [next(n for n in whole.trials)]
