"""The page of Gaussians in headless Chromium: steps, input cameras, opacity, hands, small and dark screens."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from dashboards.pages.pages import MlflowPages
from pipeline.cameras import facelift_six
from pipeline.gaussians import Gaussians
from pipeline.splatting.rendering import render
from sweeps.tracking.pages import Shown
from tests.browser.test_view_page import animal
from tests.support.chromium import PATIENCE

SIZE = 240  # pixels
CAMERAS = facelift_six(SIZE)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A faint small animal at step 5, the whole one at step 40."""
    whole = animal()
    steps = [Shown("5", whole[:300]), Shown("40", whole)]
    made = tmp_path_factory.mktemp("splat") / "splat.html"
    made.write_text(MlflowPages().splat("t0003 · <demo> & 쥐", steps, CAMERAS, "scene_000020 of val"), encoding="utf-8")
    return made


@pytest.fixture
def opened(browser, path):
    """Opens the page; it may reach no network, and complains of nothing."""
    said, contexts = [], []

    def open_page(width=SIZE, height=SIZE, address=None, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: said.append(sent.url) if not sent.url.startswith(("file:", "about:")) else None)
        page.goto(address or path.as_uri())
        page.wait_for_selector("html[data-state=drawn]" if address is None else "iframe")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def canvas(page):
    """What it shows, once it was drawn anew."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.evaluate("document.getElementById('view').toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")
    return np.asarray(picture).astype(float)


def drawn(gaussians, view):
    """The renderer's picture and opacity from an input camera, 0…255."""
    with torch.no_grad():
        found = render(gaussians, CAMERAS[view : view + 1])
    as_bytes = [one[0].clamp(0, 1).mul(255).movedim(0, -1).numpy() for one in (found.images, found.alphas)]
    return as_bytes[0], as_bytes[1].repeat(3, -1)


def psnr(found, expected):
    return float(20 * np.log10(255 / np.sqrt(np.mean((found - expected) ** 2))))


def press(page, *keys):
    page.focus("#view")
    for key in keys:
        page.keyboard.press(key)


def test_it_draws_what_the_renderer_draws_from_each_input_camera(opened):
    page = opened()
    for view in range(6):
        press(page, "]")
        picture = canvas(page)
        assert psnr(picture, drawn(animal(), view)[0]) > 40
        assert (picture.min(-1) < 200).sum() > 500  # pixels that are no background
    assert psnr(canvas(page), drawn(animal(), 0)[0]) < 25  # another camera is another picture


def test_opacity_is_the_rendered_opacity(opened):
    page = opened()
    press(page, "]", "o")
    assert page.get_attribute("#opacity", "aria-pressed") == "true"
    assert psnr(canvas(page), drawn(animal(), 0)[1]) > 40
    page.click("#opacity")
    assert psnr(canvas(page), drawn(animal(), 0)[0]) > 40


def test_the_slider_goes_over_the_steps_by_hand_and_by_key(opened):
    page = opened()
    first: Gaussians = animal()[:300]
    assert page.inner_text("#label") == "40" and page.inner_text("#said") == "3,000 Gaussians"
    page.focus("#step")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#label") == "5" and page.inner_text("#said") == "300 Gaussians"
    assert page.get_attribute("#step", "aria-valuetext") == "5"
    press(page, "]")
    assert psnr(canvas(page), drawn(first, 0)[0]) > 40
    press(page, ".")
    assert page.input_value("#step") == "1" and psnr(canvas(page), drawn(animal(), 0)[0]) > 40


def test_the_input_cameras_are_drawn_as_frusta_and_the_one_looked_through_stands_out(opened):
    page = opened()
    press(page, "]")
    without = canvas(page)
    page.click("#cameras")
    with_cameras = canvas(page)
    blue, orange = (
        ((with_cameras - [51, 128, 217]) ** 2).sum(-1) < 300,
        ((with_cameras - [217, 89, 25]) ** 2).sum(-1) < 300,
    )
    assert blue.sum() > 200 and orange.sum() > 20
    page.click("#cameras")
    np.testing.assert_allclose(canvas(page), without, atol=1)


def test_a_page_that_shows_two_turns_them_together(opened, path):
    """Each in a sandbox, as MLflow's page and the dashboard show them."""
    both = path.with_name("both.html")
    frame = f'<iframe sandbox="allow-scripts" src="{path.name}" width="{SIZE}" height="{SIZE}"></iframe>'
    tells = "for (const one of frames) if (one !== e.source) one.postMessage(e.data, '*')"
    script = f"addEventListener('message', e => {{ {tells.replace('of frames', 'of [frames[0], frames[1]]')} }})"
    both.write_text(f"<!doctype html>{frame}{frame}<script>{script}</script>")
    page = opened(2 * SIZE + 60, SIZE + 40, both.as_uri())
    first, second = page.frames[1:]
    for one in (first, second):
        one.wait_for_selector("html[data-state=drawn]")
    before = canvas(second)
    first.focus("#view")
    page.keyboard.press("]")
    page.keyboard.press("]")
    turned = canvas(first)
    np.testing.assert_array_equal(canvas(second), turned)
    assert psnr(turned, before) < 30
    second.evaluate("window.postMessage({mouselift: 'camera', eye: {distance: 'near'}}, '*')")
    np.testing.assert_array_equal(canvas(second), turned)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_every_button_can_be_touched_and_the_scene_is_seen(opened, scheme):
    page = opened(360, 640, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("opacity", "cameras", "look", "ground", "turn", "reset"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 640
    page.tap("#ground")
    names = {"light": "grey", "dark": "white"}
    assert page.inner_text("#ground") == f"Background: {names[scheme]}"
    bar = page.locator("#bar").bounding_box()
    assert bar["y"] > 400
    colours = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.getElementById('bar')))"
    )
    light = [sum(float(part) for part in one.partition("(")[2].rstrip(")").split(",")[:3]) for one in colours]
    assert (light[0] > light[1]) == (scheme == "dark")


def test_names_are_text_and_every_control_has_a_name(opened):
    page = opened()
    assert page.inner_text("#bar strong") == "t0003 · <demo> & 쥐"
    assert "scene_000020 of val" in page.inner_text("#bar")
    for name in ("Opacity", "Cameras", "Next camera", "Turn", "Reset"):
        assert page.get_by_role("button", name=name, exact=True).count() == 1
    assert page.get_by_role("slider").count() == 1
