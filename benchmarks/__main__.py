"""`make bench`: every benchmark in one run, as one table each; medians of repeated runs."""

from __future__ import annotations

import json
import sys

from benchmarks import checkpointing, data, overhead, rasterizer, sweep, training, views


def main() -> None:
    """Print a Markdown table a benchmark, or with `--json` everything as JSON."""
    modules = {"rasterizer": rasterizer, "training": training, "views": views, "data": data, "sweep": sweep}
    modules |= {"checkpointing": checkpointing, "overhead": overhead}
    tables = {name: module.rows() for name, module in modules.items()}
    if "--json" in sys.argv:
        print(json.dumps(tables))
        return
    for name, rows in tables.items():
        print(f"\n## {name}\n\n{table(rows)}")


def table(rows: list[dict[str, object]]) -> str:
    """Rows as Markdown; a row may leave columns out."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    main()
