"""The page that orbits Gaussians: what it holds."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch

from dashboards.pages.splat import splat_page
from pipeline.cameras import facelift_ring
from pipeline.errors import DataError
from pipeline.gaussians import SH_C0, Gaussians
from tests.unit.test_gaussians import random_gaussians

CAMERAS = facelift_ring(32, 4)


def contents(html: str) -> tuple[dict, np.ndarray]:
    facts = re.search(r'id="facts">(.*?)</script>', html)
    data = re.search(r'id="data-0">(.*?)</script>', html)
    assert facts is not None and data is not None
    said = json.loads(facts[1])
    return said | said["steps"][0], np.frombuffer(base64.b64decode(data[1]), "<u2").reshape(-1, 14) / 65535


def test_the_page_holds_every_gaussian_within_the_steps_of_16_bits() -> None:
    gaussians = random_gaussians(50)
    facts, columns = contents(splat_page(gaussians, CAMERAS, "a"))

    def between(name: str, shares: np.ndarray) -> np.ndarray:
        least, most = facts[name]
        return least + (most - least) * shares

    np.testing.assert_allclose(between("means", columns[:, :3]), gaussians.means, atol=1e-4)
    np.testing.assert_allclose(np.exp(between("scales", columns[:, 3:6])), gaussians.scales, rtol=1e-3)
    quats = gaussians.quats / gaussians.quats.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(2 * columns[:, 6:10] - 1, quats, atol=1e-4)
    np.testing.assert_allclose(columns[:, 10:13], (0.5 + SH_C0 * gaussians.sh[:, 0]).clamp(0, 1), atol=1e-4)
    np.testing.assert_allclose(columns[:, 13], gaussians.opacities, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_gaussian_are_pages_too(count: int) -> None:
    facts, columns = contents(splat_page(random_gaussians(count), CAMERAS, "a"))
    assert facts["count"] == len(columns) == count and np.isfinite(facts["means"]).all()


def test_it_begins_where_the_first_camera_stands() -> None:
    camera = contents(splat_page(random_gaussians(), CAMERAS[2:], "a"))[0]["camera"]
    np.testing.assert_allclose(camera["target"], [0, 0, 0], atol=1e-5)
    a, e = np.radians(camera["azimuth"]), np.radians(camera["elevation"])
    away = camera["distance"] * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    np.testing.assert_allclose(away, CAMERAS.centres[2], atol=1e-5)
    assert camera["fov"] == pytest.approx(50)


def test_it_names_no_other_place_and_a_title_stays_text() -> None:
    html = splat_page(random_gaussians(), CAMERAS, "</script><b>")
    assert not re.search(r"https?://|src=|href=|@import|url\(", html)
    assert "<b>" not in html and "&lt;/script&gt;&lt;b&gt;" in html


def test_a_batch_is_refused() -> None:
    batch = Gaussians(*(value[None] for value in vars(random_gaussians()).values()))
    with pytest.raises(DataError, match=r"view: expected one scene, got a batch \(1, 40\) — index it first"):
        splat_page(batch, CAMERAS, "a")


def test_gaussians_of_a_gpu_or_of_training_are_taken() -> None:
    gaussians = random_gaussians()
    gaussians.means.requires_grad_()
    assert contents(splat_page(gaussians, CAMERAS, "a"))[0]["count"] == 40
    assert torch.is_grad_enabled()
