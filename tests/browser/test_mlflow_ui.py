"""MLflow's own pages on a real store, by the links that `mouselift ui` prints, in headless Chromium."""

import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import COMMAND, stop
from tests.support.chromium import NO_ASSISTANT, PATIENCE, free_port, wait_until_healthy

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `browser`")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(spine, promoted):
    """What `mouselift ui` prints while it serves: the address, and the link of each sweep by its name."""
    port = free_port()
    process = spine.seat.start(COMMAND, "ui", "--port", str(port))
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        address, _, page = process.stdout.readline().strip().partition("/#/")
        name, state, link = process.stderr.readline().split()
        assert (address, name, state) == (f"http://127.0.0.1:{port}", "spine", "COMPLETE")
        assert page == "experiments?workflowType=machine_learning"
        yield address, link
    finally:
        stop(process)


@pytest.fixture
def page(browser, request, tmp_path):
    """A page of its own for each test; what it looked like at the end is kept beside the other files of the test."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_ASSISTANT)
    found = context.new_page()
    yield found
    found.screenshot(path=tmp_path / f"{request.node.name}.png")
    context.close()


def test_the_link_of_a_sweep_lists_its_trials_best_first(page, served, spine):
    page.goto(served[1])
    names = [f"t{trial.number:04d} · spine" for trial in spine.seat.ledger("spine").ranked]
    for name in names:
        playwright.expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    heights = [page.get_by_role("link", name=name, exact=True).bounding_box()["y"] for name in names]
    assert heights == sorted(heights)


def test_the_table_of_trials_shows_objective_searched_settings_and_state(page, served):
    page.goto(served[1])
    for column in ("best/val/psnr_fg", "optim.lr", "data.num_input_views", "trial.outcome"):
        playwright.expect(page.get_by_role("columnheader", name=column).first).to_be_visible()
    playwright.expect(page.get_by_text("PRUNED").first).to_be_visible()


def test_the_experiment_shows_the_sweep_as_the_parent_of_its_trials(page, served, spine):
    page.goto(served[1].partition("&")[0])
    sweep = page.get_by_role("row").filter(has=page.get_by_role("link", name="spine", exact=True))
    playwright.expect(sweep).to_be_visible()
    playwright.expect(page.get_by_role("link", name="t0000 · spine")).to_have_count(0)
    sweep.get_by_role("button").first.click()
    playwright.expect(page.get_by_role("link", name="t0000 · spine")).to_be_visible()


def test_the_page_of_a_trial_shows_its_curves(page, served, spine):
    page.goto(f"{served[0]}/{_metrics_of_the_best(spine)}")
    for metric in ("train/loss", "val/psnr_fg", "time/step_seconds"):
        page.get_by_placeholder("Search metric charts").fill(f"^{metric}$")
        playwright.expect(page.get_by_text(metric.partition("/")[2], exact=True)).to_be_visible()
        playwright.expect(page.locator(".js-plotly-plot .scatterlayer path.js-line").first).to_be_visible()


def test_the_page_of_a_trial_shows_the_preview_of_a_step(page, served, spine):
    page.goto(f"{served[0]}/{_metrics_of_the_best(spine)}")
    page.get_by_placeholder("Search metric charts").fill("val/preview")
    slider = page.get_by_role("slider")
    playwright.expect(slider).to_have_attribute("aria-valuemax", "12")
    track = page.locator("span.TRACK").bounding_box()
    page.mouse.click(track["x"] + track["width"] - 1, track["y"] + track["height"] / 2)
    playwright.expect(slider).to_have_attribute("aria-valuenow", "12")
    picture = page.locator("img[src*='preview']")
    picture.scroll_into_view_if_needed()
    playwright.expect(picture).to_be_visible()
    page.wait_for_function("image => image.complete && image.naturalWidth > 64", arg=picture.element_handle())


def test_the_page_of_the_registered_model_shows_the_champion(page, served, promoted):
    page.goto(f"{served[0]}/#/models/mouse-gslrm?workflowType=machine_learning")
    for number, version in promoted.versions.items():
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"Version {number}", exact=True))
        for alias in version["aliases"]:
            playwright.expect(row.get_by_text(f"@ {alias}", exact=True)).to_be_visible()


def _metrics_of_the_best(spine):
    book = spine.seat.ledger("spine")
    run = MlflowClient(spine.seat.home.tracking_uri).get_run(book.best.run_id)
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics?workflowType=machine_learning"
