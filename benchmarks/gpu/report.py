"""What was found, as one page of Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.gpu.parts import Part
from benchmarks.gpu.processes import LEFT_OUT, Result
from benchmarks.gpu.rows import Row
from benchmarks.tables import table

LEGEND = (
    "Times are medians by CUDA's events; n: runs; spread: the slowest less the fastest; peak: of PyTorch's tensors. "
    "floor: the time at 417 TFLOP/s of attention and 755 of matrix products. reference: an H200 on 2026-11-26. "
    "at most: what is asked for, and whether it holds."
)


@dataclass
class Report:
    """Tables by part, tests, and how long each took."""

    settings: str
    commit: str
    tables: dict[str, list[Row]] = field(default_factory=dict)
    tests: list[Result] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.tests if result.bad]

    def markdown(self, parts: Sequence[Part]) -> str:
        """The page."""
        titles: Mapping[str, str] = {part.name: part.title for part in parts}
        machine = [f"- {row.what}: {row.note}" for row in self.tables.get("machine", [])]
        lines = ["# GPU report", "", f"- commit: {self.commit}", f"- run as: {self.settings}", *machine, "", LEGEND]
        lines += ["", "## Tests", "", self._tests()]
        for name, rows in self.tables.items():
            if name != "machine":
                lines += ["", f"## {titles.get(name, name)}", "", table([row.cells for row in rows])]
        lines += ["", "## Seconds", "", ", ".join(f"{name} {spent:.0f}" for name, spent in self.seconds.items())]
        return "\n".join(lines) + "\n"

    def json(self) -> dict[str, Any]:
        """The same for programs."""
        tables = {name: [row.values | {"holds": row.holds} for row in rows] for name, rows in self.tables.items()}
        tests = [asdict(result) for result in self.tests]
        head = {"settings": self.settings, "commit": self.commit, "seconds": self.seconds}
        return {**head, "tests": tests, "tables": tables}

    def _tests(self) -> str:
        if not self.tests:
            return "None was run."
        counts: dict[str, int] = {}
        for result in self.tests:
            counts[result.outcome] = counts.get(result.outcome, 0) + 1
        said = [", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) + "."]
        bad = [
            {"test": one.test, "outcome": one.outcome, "reason": one.reason.replace("|", "/")}
            for one in self.tests
            if one.bad or one.outcome == LEFT_OUT
        ]
        return "\n\n".join([*said, *([table(bad)] if bad else [])])
