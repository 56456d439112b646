"""The report in Chromium: it draws, answers to keys, fits a phone and the dark, and works in MLflow's frame."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboards.pages.report import report_page
from dashboards.thumbnails import thumbnails
from sweeps.book.record import Preview
from sweeps.conclusions.importance import importance_of
from tests.support.chromium import PATIENCE
from tests.support.recorded import METRIC, recorded

NAME = "쥐 <img src=x onerror=alert(1)> \"quoted\" & 'so'"
TRIALS, STEPS = 120, (100, 200, 300)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Of a recorded sweep; three of its trials have previews, each step's a colour of its own."""
    folder = tmp_path_factory.mktemp("report")
    record = recorded(TRIALS, reports=6, name=NAME)
    for i, step in enumerate(STEPS):
        Image.fromarray(np.full((40, 60, 3), 80 * i, np.uint8)).save(folder / f"{step}.png")
    previews = tuple(Preview("val/preview", step, folder / f"{step}.png") for step in STEPS)
    with_previews = {one.trial.number for one in record.ranked[:3]}
    trials = [replace(one, previews=previews) if one.trial.number in with_previews else one for one in record.trials]
    record = replace(record, trials=tuple(trials))
    path = folder / "report.html"
    path.write_text(report_page(record, None, importance_of(record.ledger), thumbnails(record)), encoding="utf-8")
    return path


@contextmanager
def opened(browser, path, **context):
    """The page once all is drawn; it asks no network for anything, and complains of nothing."""
    found = browser.new_context(**context)
    found.set_default_timeout(PATIENCE)
    page, said = found.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda one: said.append(one.url[:99]) if not one.url.startswith(("file:", "data:", "blob:")) else None,
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-state=drawn]")
    yield page
    assert said == []
    found.close()


@pytest.fixture(scope="module")
def page(browser, report):
    with opened(browser, report, viewport={"width": 1280, "height": 800}) as found:
        yield found


def first_cells(page, column: int) -> list[str]:
    return page.eval_on_selector_all(
        "[data-table] tbody tr", f"rows => rows.map(row => row.cells[{column}].innerText.trim())"
    )


def test_every_chart_is_drawn(page):
    drawn = page.eval_on_selector_all(
        "[data-chart]", "all => all.map(one => one.querySelectorAll('svg.main-svg').length)"
    )
    assert len(drawn) == 1 + 1 + 1 + 6 + 1 + 3
    assert min(drawn) > 0


def test_a_hostile_name_is_shown_letter_by_letter(page):
    assert page.inner_text("h1") == NAME
    assert page.title() == f"{NAME} · report"
    assert page.query_selector("img[src=x]") is None


def test_a_key_on_a_heading_sorts_all_trials(page):
    assert page.inner_text("[data-count]") == f"50 of {TRIALS} shown"
    page.focus("th button[data-sort='4']")
    page.keyboard.press("Enter")
    falling = [float(text) for text in first_cells(page, 4)]
    page.keyboard.press("Enter")
    rising = [float(text) for text in first_cells(page, 4)]
    assert falling == sorted(falling, reverse=True) and rising == sorted(rising)
    assert falling[0] > rising[-1] and len(rising) == 50  # not only those that were shown
    assert page.get_attribute("th:has([data-sort='4'])", "aria-sort") == "ascending"


def test_all_trials_are_shown_and_found_when_asked_for(page):
    page.focus("[data-all]")
    page.keyboard.press("Enter")
    assert len(first_cells(page, 0)) == TRIALS
    page.fill("[data-find]", "t0007")
    assert [text.split()[0] for text in first_cells(page, 0)] == ["t0007"]
    short = first_cells(page, 2)[0]
    page.check("[data-digits]")
    full = first_cells(page, 2)[0]
    assert len(full) > len(short) and f"{float(full):.4g}" == short
    page.uncheck("[data-digits]")
    page.fill("[data-find]", "")


def test_a_trial_that_is_followed_stands_out_in_every_chart(page):
    lines = "document.querySelectorAll('#p0-curve-0 .scatterlayer .trace').length"
    marks = "document.querySelectorAll('#p0-history .scatterlayer .trace').length"
    before = page.evaluate(lines), page.evaluate(marks)
    page.focus("[data-table] tbody tr:nth-child(3) [data-follow]")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{lines} === {before[0] + 1} && {marks} === {before[1] + 1}")
    assert page.get_attribute("[data-table] tbody tr:nth-child(3) [data-follow]", "aria-pressed") == "true"
    page.keyboard.press("Enter")
    page.wait_for_function(f"{lines} === {before[0]} && {marks} === {before[1]}")


def test_keys_switch_what_the_axis_counts(page):
    axis = "#p0-history .xtitle"
    assert page.text_content(axis) == "number of the trial"
    page.focus("[data-switch=p0-history] input:checked")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#p0-history .xtitle').textContent.startsWith('steps')")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#p0-history .xtitle').textContent.startsWith('GPU-hours')")


def test_the_slider_goes_through_the_steps_of_the_previews(page):
    def shown():
        cards = "cards => cards.map(one => [one.querySelector('img').src, one.querySelector('.at').innerText])"
        return page.eval_on_selector_all(".gallery figure", cards)

    last = shown()
    page.focus("#step")
    page.keyboard.press("ArrowLeft")
    before = shown()
    assert page.inner_text("#at") == "200"
    assert [text for _, text in last] == ["step 300"] * 3 and [text for _, text in before] == ["step 200"] * 3
    assert all(a != b and b.startswith("data:image/webp") for (a, _), (b, _) in zip(last, before, strict=True))
    page.keyboard.press("End")


def test_colours_follow_the_reader_into_the_dark_charts_too(page):
    ink = "getComputedStyle(document.querySelector('#p0-history .xtitle')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{ink} !== '{light}'")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground[4:-1].split(","))) < 40
    assert min(map(int, page.evaluate(ink)[4:-1].split(","))) > 120
    page.emulate_media(color_scheme="light")


def test_a_phone_scrolls_down_only_and_nothing_is_beyond_its_edge(browser, report):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with opened(browser, report, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        widths = page.eval_on_selector_all("figure", "all => all.map(one => one.getBoundingClientRect().right)")
        assert max(widths) <= 360


def test_it_works_in_a_frame_that_allows_scripts_alone(browser, report):
    """MLflow shows an HTML artifact so: as a blob, and with an origin of its own."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.evaluate(
        """html => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.style = "width: 1000px; height: 700px";
            frame.src = URL.createObjectURL(new Blob([html], {type: "text/html"}));
            document.body.append(frame);
        }""",
        report.read_text(encoding="utf-8"),
    )
    page.wait_for_function("document.querySelector('iframe').contentWindow !== null && window.length === 1")
    while not any(frame.url.startswith("blob:") for frame in page.frames):
        page.wait_for_timeout(100)
    frame = next(frame for frame in page.frames if frame.url.startswith("blob:"))
    frame.wait_for_selector("html[data-state=drawn]")
    assert frame.eval_on_selector_all("svg.main-svg", "all => all.length") > 10
    assert METRIC in frame.inner_text(".lead")
    page.close()
