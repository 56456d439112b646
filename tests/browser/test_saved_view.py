"""A sweep's saved view in MLflow's own UI: what its table and its charts show, in headless Chromium."""

import io
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from dashboards.pages.pages import MlflowPages
from sweeps.book.journal import Journal, Reported, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.tracking import queries
from sweeps.tracking.mlflow_writer import MLflowDelivery
from tests.support.chromium import NO_ASSISTANT, PATIENCE, free_port, wait_until_healthy

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `browser`")
NAME = '쥐 & "<b>mice</b>"'
TRIALS, LAST = 12, 4  # MLflow shows the pictures of ten runs; the last step
SPACE = {
    "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True}, "loss.masked": {"choice": [True, False]}},
    "objective": {"metric": "val/psnr_fg", "mode": "max"},
    "trials": {"count": TRIALS},
}
COLUMNS = ["Run Name", "Created", "best/val/psnr_fg", "trial.outcome", "val/psnr", "val/ssim", "val/mask_iou"]
COLUMNS += ["optim.lr", "loss.masked", "trial.steps", "time/step_seconds", "Duration"]
OF_MLFLOW = ("users/current", "ResizeObserver")  # it asks who is there, and a chart that grows may be told so late

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class Served:
    """Where MLflow answers, and the sweep in it."""

    address: str
    sweep: queries.Sweep


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved-view")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with Journal(root / "journal", clock=itertools.count(1.7e9, 0.5).__next__) as journal:
        record(journal)
        assert MLflowDelivery(journal, uri, root / "artifacts", pages=MlflowPages()).start().close(240)
    (sweep,) = queries.sweeps(uri)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(root / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
            yield Served(f"http://127.0.0.1:{port}", sweep)
        finally:
            process.terminate()


def record(journal):
    """A sweep whose every third trial was pruned half way; the learning rate is what it depends on."""
    journal.append(SweepOpened(NAME, "gslrm_tiny", SPACE, {}, {"model.dim": 8}))
    for number in range(TRIALS):
        params = {"optim.lr": 1.23456789e-4 * (1 + number), "loss.masked": number % 2 == 0}
        journal.append(TrialOpened(number, f"ray_{number}", 1, params, {"model.dim": 8, **params}, f"print{number}"))
        is_pruned = number % 3 == 2
        for step in range(1, LAST // 2 + 1 if is_pruned else LAST + 1):
            values = {"val/psnr_fg": 10 + number + step / 10, "val/psnr": 20.0, "val/ssim": 0.5, "val/mask_iou": 0.8}
            values |= {"train/loss": 1 / (step + number), "train/grad_norm": 1.0, "time/step_seconds": 0.25}
            picture = journal.keep("preview.png", png(number, step))
            journal.append(Reported(number, step, values, {"val/preview": picture}))
        end = ("PRUNED", "asha: <i>weak</i> at step 2 of 4") if is_pruned else ("COMPLETE", "")
        journal.append(TrialClosed(number, *end))
    journal.append(SweepClosed("COMPLETE"))


def png(number, step):
    """A dark disc on white, 768 x 640 as a preview of six views is."""
    y, x = np.mgrid[:640, :768]
    inside = (x - 384) ** 2 + (y - 320) ** 2 < (40 + 15 * number + 10 * step) ** 2
    file = io.BytesIO()
    Image.fromarray(np.where(inside, 40, 255).astype(np.uint8)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=[(1600, 1000), (1280, 800)], ids=["1600", "1280"])
def page(browser, request, tmp_path):
    """A page of its own for each test, which complains of nothing; what it looked like at the end is kept."""
    context = browser.new_context(viewport=dict(zip(("width", "height"), request.param, strict=True)))
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_ASSISTANT)
    found, said = context.new_page(), []
    found.on("response", lambda response: said.append(response.url) if response.status >= 400 else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    yield found
    found.screenshot(path=tmp_path / "page.png")
    context.close()
    assert [one for one in said if not any(known in one for known in OF_MLFLOW)] == []


def test_the_table_has_the_columns_of_the_view_in_their_order_and_the_best_trial_first(page, served):
    page.goto(f"{served.address}/{served.sweep.ui_path}")
    links = [page.locator(".ag-row a", has_text=f"t{number:04d} · {NAME}") for number in range(TRIALS)]
    playwright.expect(links[0]).to_be_visible()
    heights = [link.bounding_box()["y"] for link in links]
    assert heights == sorted(heights, reverse=True)  # the higher its number, the better a trial was
    header = page.locator(".ag-header-cell:visible")
    playwright.expect(header.filter(has_text="trial.outcome")).to_be_visible()
    places = {cell.inner_text().strip(): cell.bounding_box()["x"] for cell in header.all()}
    seen = [name for name in sorted(places, key=places.get) if name]
    assert seen == [name for name in COLUMNS if name in places]
    assert len(seen) >= (12 if page.viewport_size["width"] == 1600 else 9)
    playwright.expect(page.get_by_text("✂ PRUNED asha: <i>weak</i>").first).to_be_visible()
    playwright.expect(page.get_by_text("0.00012", exact=True)).to_be_visible()


def test_the_charts_are_those_of_the_view_and_have_data(page, served):
    page.goto(f"{served.address}/{served.sweep.charts_path}")
    area = page.get_by_test_id("experiment-view-compare-runs-chart-area")
    lines = area.locator(".js-plotly-plot").first.locator(".scatterlayer path.js-line")
    playwright.expect(lines.nth(TRIALS - 1)).to_be_attached()
    axes = area.locator(".parcoords .dimension .label")
    playwright.expect(axes.last).to_be_visible()
    assert axes.all_text_contents()[:2] == ["optim.lr", "loss.masked"]
    headers = area.locator("[aria-expanded]").filter(has_text="(")
    sections = [(one.inner_text().split("\n")[0], one.get_attribute("aria-expanded")) for one in headers.all()]
    assert [name for name, opened in sections if opened == "true"] == [
        "Objective",
        "val/preview of the best 10 trials that have one at step 2",
        "val/preview of those that reached step 4",
        "Curves",
    ]
    assert sections[4:] and {opened for _, opened in sections[4:]} == {"false"}


def test_the_pictures_of_ten_trials_lie_in_their_card_without_scrolling_and_without_text(page, served):
    page.goto(f"{served.address}/{served.sweep.charts_path}")
    section = page.get_by_text("val/preview of the best 10 trials that have one at step 2")
    section.scroll_into_view_if_needed()
    pictures = page.locator(".rc-image img")
    page.wait_for_function("document.querySelectorAll('.rc-image img').length >= 10")
    card = page.evaluate_handle(
        "image => { while (getComputedStyle(image).overflowY != 'auto') image = image.parentElement; return image; }",
        pictures.first.element_handle(),
    ).as_element()
    assert card.evaluate("card => card.scrollHeight <= card.clientHeight")
    outer, inside = card.bounding_box(), card.query_selector_all(".rc-image img")
    assert len(inside) == 10
    for picture in inside:
        box = picture.bounding_box()
        assert box["width"] >= 200
        assert outer["x"] <= box["x"] and box["x"] + box["width"] <= outer["x"] + outer["width"]
        assert outer["y"] <= box["y"] and box["y"] + box["height"] <= outer["y"] + outer["height"]
    assert "model.dim" not in card.inner_text()
    inside[0].scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(inside[0].screenshot())).convert("L"))
    assert 0.02 < (shown < 128).mean() < 0.9
