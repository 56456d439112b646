"""The page of `data check`: one file, every view, the verdict in words, and drawings that say what the figures say."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dashboards.check_page import write_page
from pipeline.data.gate.checks import Check, check
from pipeline.data.gate.quality import quality
from pipeline.data.gate.scene_check import QUOTED_WIDTH
from pipeline.data.scenes import Dataset, open_dataset

HOSTILE = "<script>alert('mice')</script>"


@pytest.fixture(scope="module")
def found(mice: Dataset) -> Check:
    return check(mice)


@pytest.fixture(scope="module")
def page(found: Check, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(found, tmp_path_factory.mktemp("page"))


def written(found: Check, folder: Path) -> str:
    return write_page(found, quality(found), folder / "check.html").read_text(encoding="utf-8")


def data(page: str) -> Any:
    """What the page's script draws from."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def marked(page: str) -> set[int]:
    """The views whose row in the table of views says that they disagree."""
    rows = re.findall(r'<tr class="bad"><th scope="row">(\d+)</th>.*?</tr>', page, re.DOTALL)
    return {int(row) for row in rows}


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert "http://" not in page and "https://" not in page and "<link" not in page and "@import" not in page
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="([^"$]*)', page) if source)
    assert "localStorage" not in page and "fetch(" not in page


def test_the_page_names_the_verdict_and_every_view(page: str, found: Check) -> None:
    assert found.geometry.verdict == "exact"
    assert re.search(r'class="badge">.*?</span>exact</div>', page)
    assert set(re.findall(r'alt="View (\d+)"', page)) == {str(view) for view in range(6)}
    assert len(data(page)["rig"]["views"]) == len(data(page)["see"]["views"]) == 6
    assert marked(page) == set()


def test_a_name_is_text_and_never_markup(found: Check, tmp_path: Path) -> None:
    steps = ({"kind": HOSTILE, HOSTILE: [HOSTILE]},)
    manifest = replace(found.dataset.manifest, name=HOSTILE, transforms=steps)
    first, *others = found.scenes
    scenes = (replace(first, scene=replace(first.scene, name=HOSTILE)), *others)
    files = dict(found.dataset.scenes)
    files[HOSTILE] = replace(files[found.scenes[0].name], name=HOSTILE)
    hostile = Check(replace(found.dataset, manifest=manifest, scenes=files), scenes)
    page = written(hostile, tmp_path)
    assert HOSTILE not in page and html.escape(HOSTILE).replace("&#x27;", "&#39;") in page


def test_swapped_views_are_marked(mice_copy: Path, tmp_path: Path) -> None:
    for images in mice_copy.glob("*/images"):
        first, second = images / "cam_001.png", images / "cam_004.png"
        held = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(held)
    swapped = check(open_dataset(mice_copy, verify=False))
    page = written(swapped, tmp_path)
    assert {1, 4} <= marked(page) == set(swapped.geometry.views)
    assert re.search(r'class="badge">.*?</span>inconsistent</div>', page)
    assert html.escape(swapped.problems[0]).replace("&#x27;", "&#39;") in page


def test_a_drawn_tangent_misses_by_what_the_gate_measured(page: str, found: Check) -> None:
    px = QUOTED_WIDTH / found.dataset.scenes[found.scenes[0].name].cameras.width
    pairs = [pair for pair in data(page)["see"]["pairs"].values() if pair is not None]
    tangents = [tangent for pair in pairs for view in pair for tangent in view if tangent["missed"] is not None]
    assert tangents
    assert all(
        math.dist(tangent["point"], tangent["foot"]) * px == pytest.approx(tangent["missed"], abs=0.015 * px)
        for tangent in tangents
    )


def test_the_page_is_written_whole_over_an_older_one(found: Check, tmp_path: Path) -> None:
    (tmp_path / "check.html").write_text("older")
    assert written(found, tmp_path).rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["check.html"]
