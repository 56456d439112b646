"""Descriptions in MLflow's own UI, on the pages of a sweep's run and of a trial's, in headless Chromium."""

from mlflow import MlflowClient

from tests.browser import test_saved_view as recorded

page, served = recorded.page, recorded.served
expect, pytestmark = recorded.playwright.expect, recorded.pytestmark
MODE = "workflowType=machine_learning"
BEST, PRUNED = recorded.TRIALS - 2, 2  # the last trial, which is the highest, was pruned


def run_of(served, number=None):
    """The run of a trial, or of the sweep."""
    client = MlflowClient(served.address)
    parent = client.get_run(served.sweep.run_id)
    if number is None:
        return parent
    where = f"tags.`trial.number` = '{number}'"
    return client.search_runs([parent.info.experiment_id], where)[0]


def run_page(served, number=None):
    """The address of a trial's page, or of the sweep's."""
    info = run_of(served, number).info
    return f"{served.address}/#/experiments/{info.experiment_id}/runs/{info.run_id}?{MODE}"


def open_whole(page, address):
    page.goto(address)
    page.get_by_text("Show more").first.click()


def test_the_page_of_a_sweep_says_its_result_before_anything_is_opened(page, served):
    page.goto(run_page(served))
    result = page.get_by_text(f"{recorded.TRIALS} of {recorded.TRIALS} trials")
    expect(result).to_be_visible()
    assert result.bounding_box()["y"] < page.viewport_size["height"] / 3


def test_the_page_of_a_sweep_has_a_leaderboard_that_leads_to_the_runs(page, served):
    open_whole(page, run_page(served))
    rows = page.locator("table").filter(has_text="place").locator("tbody tr")
    expect(rows).to_have_count(10)
    with page.context.expect_page() as opened:  # MLflow gives every link of a description a tab of its own
        rows.nth(1).get_by_role("link").click()
    expect(opened.value.get_by_text(f"t{BEST:04d} · {recorded.NAME}").first).to_be_visible()
    assert MODE in opened.value.url


def test_a_hostile_name_and_reason_are_text(page, served):
    open_whole(page, run_page(served, PRUNED))
    expect(page.get_by_text("asha: <i>weak</i> at step 2 of 4").first).to_be_visible()
    expect(page.get_by_role("link", name=recorded.NAME, exact=True).first).to_be_visible()


def test_the_params_of_a_sweep_are_what_it_searches(page, served):
    page.goto(run_page(served))
    expect(page.get_by_text("log 1e-05 … 0.001").first).to_be_visible()
    expect(page.get_by_text("max val/psnr_fg").first).to_be_visible()
    expect(page.get_by_text("model.dim")).to_have_count(0)


def test_no_tag_of_a_trial_is_a_hash_or_json(served):
    tags = run_of(served, PRUNED).data.tags
    shown = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
    assert not [value for value in shown.values() if value.startswith("{") or len(value) > 100]
    assert not {"fingerprint", "data.digest", "trial.params", "ray.trial_id"} & shown.keys()
