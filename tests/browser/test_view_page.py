"""The page that orbits Gaussians, in headless Chromium: what its canvas shows, and what hands change."""

import base64
import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dashboards.pages.splat import splat_page
from pipeline.cameras import facelift_ring
from pipeline.gaussians import Gaussians
from pipeline.reconstruction.turntable import render_frames, turntable_around
from tests.support.chromium import PATIENCE

SIZE = 200  # pixels

pytestmark = pytest.mark.browser


def animal(count: int = 3000) -> Gaussians:
    """Faint layers of all sizes around an ellipsoid with one end red, which stands off the origin."""
    chance = torch.Generator().manual_seed(0)
    means = torch.randn(count, 3, generator=chance)
    means = means / means.norm(dim=-1, keepdim=True) * torch.tensor([0.7, 0.3, 0.3]) + torch.tensor([0.05, 0.0, 0.1])
    colours = torch.where(means[:, :1] > 0.4, torch.tensor([[1.2, -1.0, -1.0]]), torch.tensor([[-0.7, -0.9, -1.1]]))
    return Gaussians(
        means=means,
        quats=torch.randn(count, 4, generator=chance),
        scales=(0.5 * torch.randn(count, 3, generator=chance) - 3.6).exp(),
        opacities=0.3 * torch.rand(count, generator=chance),
        sh=colours[:, None] + 0.2 * torch.randn(count, 1, 3, generator=chance),
    )


@pytest.fixture(scope="module")
def around():
    return turntable_around(facelift_ring(SIZE, 8), SIZE, views=8)


@pytest.fixture(scope="module")
def page(browser, around, tmp_path_factory):
    """The page at the size of the renderer's pictures; it may reach no network, and complains of nothing."""
    path = tmp_path_factory.mktemp("view") / "view.html"
    path.write_text(splat_page(animal(), around, "a <mouse>"), encoding="utf-8")
    context = browser.new_context(viewport={"width": SIZE, "height": SIZE}, has_touch=True)
    context.set_default_timeout(PATIENCE)
    found, said = context.new_page(), []
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    found.goto(path.as_uri())
    found.wait_for_selector("html[data-state=drawn]")
    yield found
    assert said == []
    context.close()


def canvas(page) -> np.ndarray:
    """What it shows, once it was drawn anew."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.evaluate("document.getElementById('view').toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")
    return np.asarray(picture).astype(int)


def changed(page, before: np.ndarray) -> np.ndarray:
    """What it shows after the next change; nobody says when a turn of the wheel has arrived."""
    end = time.monotonic() + PATIENCE / 1000
    while np.array_equal(now := canvas(page), before):
        assert time.monotonic() < end
    return now


def rendered(cameras) -> np.ndarray:
    return render_frames(animal(), cameras)[0].astype(int)


def test_the_canvas_shows_what_our_renderer_draws(page, around):
    off = np.abs(canvas(page) - rendered(around[:1]))
    assert off.max() <= 4 and off.mean() < 0.2  # of 255
    assert np.abs(canvas(page) - rendered(around[1:2])).mean() > 2


def test_keys_turn_it_to_where_the_turntable_comes_by(page, around):
    page.focus("#view")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")  # 10 degrees each
    off = np.abs(canvas(page) - rendered(around[2:3]))
    page.click("#reset")
    assert off.max() <= 4 and off.mean() < 0.2


def test_a_drag_orbits_the_wheel_zooms_and_reset_undoes_both(page):
    before = canvas(page)
    page.mouse.move(100, 60)
    page.mouse.down()
    page.mouse.move(40, 80, steps=3)
    page.mouse.up()
    turned = canvas(page)
    page.mouse.wheel(0, -400)
    closer = changed(page, turned)
    page.click("#reset")
    np.testing.assert_array_equal(canvas(page), before)
    assert np.abs(turned - before).mean() > 2
    assert (closer.min(-1) < 200).sum() > 1.2 * (turned.min(-1) < 200).sum()


def test_grey_lies_behind_what_is_clear(page):
    white = canvas(page)
    page.click("#ground")
    grey = canvas(page)
    page.click("#ground")
    black = canvas(page)
    page.click("#ground")
    assert black[0, 0].tolist() == [15] * 3
    assert (white[0, 0].tolist(), grey[0, 0].tolist()) == ([255] * 3, [128] * 3)
    assert (grey <= white + 1).all()


def test_the_title_is_text_and_the_page_small(page):
    assert page.inner_text("#bar strong") == "a <mouse>"
    assert len(page.content()) < 250_000
