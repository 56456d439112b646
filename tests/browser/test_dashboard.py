"""The dashboard in headless Chromium: drawn without a complaint, by keyboard, on a phone, in the dark, and live."""

from __future__ import annotations

import re
import threading
import time

import pytest
import uvicorn

from dashboards.app.app import make_app
from sweeps.book.journal import Journal, TrialOpened
from sweeps.book.record import PROTOCOL
from tests.support import dashboards
from tests.support.chromium import PATIENCE, free_port

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `browser`")
PAGES = {
    "overview": "/",
    "sweep": "/sweep?name=alpha",
    "hostile": "/sweep?name=odd",
    "run": "/run?run=live/1",
    "hostile run": "/run?run=odd/0",
    "compare": "/compare?run=live/0&run=live/1&run=alpha/2",
    "elsewhere": "/elsewhere",
    "models": "/models",
    "model": "/model?name=mouse-gslrm",
    "diff": "/diff?a=mouse-gslrm/1&b=mouse-gslrm/2",
    "3d": "/3d?run=live/0&run=live/1",
}

CANVAS = "const canvas = document.querySelector('canvas');"
TURN = f"{CANVAS} canvas.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowLeft', bubbles: true}}))"
BLANK = """(() => {
  const canvas = document.querySelector('canvas'), copy = document.createElement('canvas');
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext('2d');
  context.drawImage(canvas, 0, 0);
  return context.getImageData(0, 0, copy.width, copy.height).data.every(value => value === 255);
})()"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = dashboards.whole_home(tmp_path_factory.mktemp("dashboard"))
    dashboards.register(home)
    return home


@pytest.fixture(scope="module")
def address(home):
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(home), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def page(browser, address):
    """A page that complains of nothing."""
    yield from opened(browser, address, viewport={"width": 1280, "height": 800})


def opened(browser, address, **options):
    context = browser.new_context(base_url=address, **options)
    context.set_default_timeout(PATIENCE)
    found, said = context.new_page(), []
    found.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    yield found
    context.close()
    assert [line for line in said if "WebGL" not in line and "GPU stall" not in line] == []


def settle(page):
    """Wait until what a page asks for by itself is there."""
    page.wait_for_load_state("networkidle")
    if page.locator("[data-charts]").count():
        playwright.expect(page.locator("[data-charts] .main-svg").first).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_without_a_complaint_and_fits_a_desk(page, name):
    page.goto(PAGES[name])
    settle(page)
    playwright.expect(page.locator("h1")).to_be_visible()
    assert page.title() != "broken"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_in_the_dark(browser, address, name):
    for page in opened(
        browser, address, viewport={"width": 360, "height": 740}, color_scheme="dark", reduced_motion="reduce"
    ):
        page.goto(PAGES[name])
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        red, green, blue = map(
            int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        )
        assert max(red, green, blue) < 50


def test_charts_of_a_sweep_are_drawn(page):
    page.goto(PAGES["sweep"])
    settle(page)
    playwright.expect(page.locator(".charts figure")).not_to_have_count(0)
    assert page.locator(".charts h3", has_text="Best so far").count() == 2  # two protocols


def test_runs_are_chosen_and_compared_by_keyboard(page):
    page.goto("/sweep?name=live")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "live/1":
            break
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#chosen")).to_have_text("2 chosen")
    page.keyboard.press("Enter")  # in the form: its first button
    playwright.expect(page).to_have_url(re.compile(r"/compare\?run=live%2F1&run=live%2F0$"))


def test_a_table_is_sorted_by_its_heads(page):
    page.goto("/sweep?name=live")
    names = page.locator("tbody .trial")
    assert names.all_text_contents() == ["t0001", "t0000"]
    page.get_by_role("button", name="val/psnr").click()
    page.get_by_role("button", name="val/psnr").click()
    assert names.all_text_contents() == ["t0000", "t0001"]
    playwright.expect(page.locator("th[aria-sort=ascending]")).to_have_text("val/psnr")


def test_one_zoom_and_one_step_for_all_pictures(page):
    page.goto("/compare?run=live/0&run=live/1")
    pictures = page.locator(".window img")
    playwright.expect(pictures).to_have_count(2)
    page.locator(".window").first.hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function("document.querySelector('.window img').style.transform.includes('scale(1.2')")
    first, second = pictures.evaluate_all("found => found.map(image => image.style.transform)")
    assert first == second != ""
    before = pictures.evaluate_all("found => found.map(image => image.src)")
    page.get_by_role("slider", name="Step").press("Home")
    after = pictures.evaluate_all("found => found.map(image => image.src)")
    assert all("step=20" in source for source in before)
    assert all("step=10" in source for source in after)


def eyes(page):
    """The pictures of all canvases, once they are drawn."""
    frames = page.frames[1:]
    for frame in frames:
        frame.wait_for_selector("html[data-state=drawn]")
    page.wait_for_timeout(300)
    return [frame.evaluate("document.querySelector('canvas').toDataURL()") for frame in frames]


def test_gaussians_are_seen_and_turn_together_while_they_are_locked(page):
    page.goto("/3d?run=live/0&run=live/1")
    playwright.expect(page.locator("iframe")).to_have_count(2)
    before = eyes(page)
    assert [frame.evaluate(BLANK) for frame in page.frames[1:]] == [False, False]
    page.frames[1].evaluate(TURN)
    together = eyes(page)
    assert (before[0] != together[0], before[1] != together[1]) == (True, True)
    page.locator("#lock").click()
    page.frames[1].evaluate(TURN)
    alone = eyes(page)
    assert (together[0] != alone[0], together[1] == alone[1]) == (True, True)


def test_gaussians_are_turned_by_the_page_around_them_alone(page):
    page.goto("/3d?run=live/0&run=live/1")
    playwright.expect(page.locator("iframe")).to_have_count(2)
    before = eyes(page)
    eye = "{target: [0, 0, 0], distance: 9, azimuth: 77, elevation: 10, fov: 50}"
    page.frames[2].evaluate(f"parent.frames[0].postMessage({{mouselift: 'camera', eye: {eye}}}, '*')")
    assert eyes(page)[0] == before[0]


def test_news_arrive_and_what_is_chosen_sorted_and_scrolled_stays(page, home):
    page.goto("/sweep?name=live")
    settle(page)
    page.get_by_role("button", name="trial").click()
    page.locator("input[value='live/0']").check()
    page.evaluate("window.scrollTo(0, 120)")
    with Journal(home.journals / "live") as journal:
        params = {"optim.lr": 9e-4}
        journal.append(TrialOpened(2, "r2", 1, params, {"train.max_steps": 100, **params}, "f2", {PROTOCOL: "p" * 12}))
        dashboards.report(journal, 0, 40, 31.5)
    playwright.expect(page.locator("tr[data-key='live/0']")).to_contain_text("31.5")
    playwright.expect(page.locator("#head .lead")).to_contain_text("31.5")
    assert page.locator("input[value='live/0']").is_checked()
    assert page.evaluate("window.scrollY") == 120
    assert page.locator("tbody .trial").all_text_contents() == ["t0000", "t0001", "t0002"]
    with Journal(home.journals / "live") as journal:  # measured in another way: a table of its own
        journal.append(TrialOpened(3, "r3", 1, params, {"train.max_steps": 100, **params}, "f3", {PROTOCOL: "z" * 12}))
    playwright.expect(page.locator("#trials table")).to_have_count(2)
    assert page.locator("input[value='live/0']").is_checked()
    assert page.evaluate("window.scrollY") == 120
    assert page.locator("tbody .trial").all_text_contents() == ["t0000", "t0001", "t0002", "t0003"]


def test_a_page_whose_store_is_away_keeps_what_it_shows_says_so_and_comes_back(browser, address, home):
    context = browser.new_context(base_url=address)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto("/run?run=live/0")
    journal = Journal(home.journals / "live").path
    content = journal.read_bytes()
    journal.write_bytes(b"{}\n")
    playwright.expect(page.locator("#away")).to_contain_text("expected an event of a sweep")
    playwright.expect(page.locator("h1")).to_have_text("t0000")
    journal.write_bytes(content)
    playwright.expect(page.locator("#away")).to_be_hidden()
    journal.write_bytes(b"{}\n")
    page.goto("/run?run=live/0")
    playwright.expect(page.locator("h1")).to_have_text("Not readable now")
    journal.write_bytes(content)
    playwright.expect(page.locator("h1")).to_have_text("t0000")
    context.close()
