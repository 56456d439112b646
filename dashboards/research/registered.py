"""Registered versions in the index of reports: targets against their figures of the test scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dashboards.pages.markdown import code, plain, table
from dashboards.research.conclusions import TARGETS
from dashboards.research.texts import Texts
from dashboards.words import figure
from sweeps.home import Home
from sweeps.space.gates import GateResult, judge, parse_gates
from sweeps.tracking.queries import answers


@dataclass(frozen=True)
class Registered:
    """A version and its figures. spread: standard deviations over the test scenes, by plain name (`psnr`)."""

    name: str
    protocol: str = ""
    data: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    scenes: str = ""  # how many


def registered_of(home: Home) -> list[Registered]:
    """Every version of the home's registry that was tested. Raises OutageError where MLflow's store does not answer."""
    from sweeps.registry.registry import Registry
    from sweeps.registry.verification import SCENES

    with answers(home.tracking_uri):
        versions = Registry(home).list_versions()
    return [
        Registered(
            " ".join([one.ref, *(f"@{alias}" for alias in one.aliases)]),
            one.measured[0] or "",
            one.measured[1] or "",
            one.metrics,
            one.spread,
            one.tags.get(SCENES, ""),
        )
        for one in versions
        if one.metrics
    ]


def registered_tables(tested: Sequence[Registered], told: Texts) -> Iterator[str]:
    """A table for each protocol and dataset; in it the best version for each target."""
    groups: dict[tuple[str, str], list[Registered]] = {}
    for one in tested:
        groups.setdefault((one.protocol, one.data), []).append(one)
    columns = [told(key) for key in ("target", "value", "over_scenes", "verdict", "by")]
    for (protocol, data), found in groups.items():
        names = {"protocol": code(protocol or told("unknown")), "data": code(data[:12] or told("unknown"))}
        yield f"### {told('tested', **names)}"
        rows = [_row(metric, wanted, found, told) for metric, wanted in TARGETS.items()]
        yield table(columns, rows, numbers=(1,), gap="")


def _row(metric: str, wanted: str, tested: Sequence[Registered], told: Texts) -> list[str]:
    gates = parse_gates({f"test/{metric}": wanted})
    results = [(judge(gates, one.metrics)[0], one) for one in tested]
    measured = [(result, one) for result, one in results if result.value is not None]
    target = f"{code(gates[0].metric)} {gates[0].target}"
    if not measured:
        return [target, "–", "", told("unmeasured"), ""]
    most = max if gates[0].operator.startswith(">") else min
    result, one = most(measured, key=lambda found: found[0].value or 0.0)
    return [target, result.figure, _spread(metric, one, told), _verdict(result, told), plain(one.name)]


def _spread(metric: str, one: Registered, told: Texts) -> str:
    if metric not in one.spread:
        return told("unknown")
    return f"± {figure(one.spread[metric])} (n = {plain(one.scenes)})"


def _verdict(result: GateResult, told: Texts) -> str:
    return told("reached" if result.passed else "missed")
