"""The Grafana dashboard: valid for Grafana, and of metrics that Ray exports.

`tests/golden/ray_metrics.json` is what the endpoint of a real Ray of the pinned version exported on a machine without
a GPU, while Ray Tune ran two trials; `ray[default]` was installed, without which there is no endpoint. Of GPUs, the
names and labels are those of Ray's own definitions.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.metrics.dashboards.default_dashboard_panels import default_dashboard_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dashboards/grafana").glob("*.json"))
EXPORTED = json.loads((ROOT / "tests/golden/ray_metrics.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\bray_\w+")
LABELS = re.compile(r"\b(ray_\w+)\{([^}]*)\}")
OF_GPUS = re.compile(r"ray_node_(gpu|gram)")


@cache
def board(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def panels(file: Path) -> list[dict[str, Any]]:
    return [panel for panel in board(file)["panels"] if panel["type"] != "row"]


def expressions(file: Path) -> list[str]:
    queries = [one["query"]["query"] for one in board(file)["templating"]["list"] if one["type"] == "query"]
    return queries + [target["expr"] for panel in panels(file) for target in panel["targets"]]


def of_gpus() -> set[str]:
    """Names under which Ray's reporter exports its gauges of GPUs, which no other machine exports.

    From its source: importing it needs what `ray[default]` installs.
    """
    spec = find_spec("ray.dashboard.modules.reporter.reporter_agent")
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    return {name for gauge in re.findall(r'Gauge\(\s*"(\w+)"', text) if OF_GPUS.match(name := f"ray_{gauge}")}


def test_there_is_a_dashboard():
    assert [file.name for file in FILES] == ["ray.json"]


def test_the_metrics_were_recorded_from_the_ray_that_is_installed():
    """Another version may export others: start it with a metrics port, and record again."""
    assert EXPORTED["ray"] == importlib.metadata.version("ray")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_metric_is_one_that_ray_exports(file):
    known = set(EXPORTED["metrics"]) | of_gpus()
    named = {name for expression in expressions(file) for name in METRIC.findall(expression)}
    assert named - known == set() and len(named) > 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_label_that_is_asked_for_is_one_that_ray_gives(file):
    """`instance` is Prometheus's own."""
    asked = {
        (metric, label)
        for expression in expressions(file)
        for metric, words in LABELS.findall(expression)
        for label in re.findall(r"(\w+)=~?\"", words)
    }
    strange = {
        (metric, label)
        for metric, label in asked
        if label != "instance" and label not in EXPORTED["metrics"].get(metric, [])
    }
    assert strange == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_value_that_is_asked_for_is_one_that_ray_gave(file):
    """A node without a GPU has no resource of that name."""
    asked = {
        (metric, label, value)
        for expression in expressions(file)
        for metric, words in LABELS.findall(expression)
        for label, value in re.findall(r"(\w+)=\"([^\"]*)\"", words)
    }
    assert ("ray_actors", "Name", "ImplicitFunc") in asked
    strange = {one for one in asked if one[2] not in EXPORTED["metrics"][one[0]][one[1]]}
    assert strange == {("ray_resources", "Name", "GPU")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_metrics_of_gpus_are_used_as_rays_own_dashboard_uses_them(file):
    """Its panels give a GPU's memory in MiB, and the labels of a GPU."""
    own = [target.expr for row in default_dashboard_config.rows for panel in row.panels for target in panel.targets]
    shown = {name for expression in expressions(file) for name in METRIC.findall(expression) if OF_GPUS.match(name)}
    of_ray = {name for expression in own for name in METRIC.findall(expression)}
    assert shown - of_ray <= {"ray_node_gpu_power_milliwatts", "ray_node_gpu_temperature_celsius"}
    assert any("ray_node_gram_used" in one and "* 1024 * 1024" in one and "GpuIndex" in one for one in own)
    ours = [one for one in expressions(file) if "ray_node_gram" in one]
    assert ours and all(one.endswith("* 1024 * 1024") for one in ours)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_dashboard_is_one_that_grafana_takes(file):
    found = board(file)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", found["uid"]) and found["title"] and found["schemaVersion"] >= 36
    assert "id" not in found  # Grafana gives it
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(file):
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    used = {name for one in expressions(file) for name in re.findall(r"\$(\w+)", one)}
    assert used <= variables.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_panel_lies_on_another_or_outside(file):
    taken: set[tuple[int, int]] = set()
    for panel in board(file)["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        taken |= cells
