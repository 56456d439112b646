"""`make bench`: every benchmark in one run, as one table each; medians of repeated runs."""

from __future__ import annotations

import json
import sys

from benchmarks import activations, checkpointing, data, overhead, rasterizer, sweep, training, views
from benchmarks.tables import table


def main() -> None:
    """Print a Markdown table a benchmark, or with `--json` everything as JSON."""
    modules = {"rasterizer": rasterizer, "training": training, "views": views, "data": data, "sweep": sweep}
    modules |= {"checkpointing": checkpointing, "overhead": overhead, "activations": activations}
    tables = {name: module.rows() for name, module in modules.items()}
    if "--json" in sys.argv:
        print(json.dumps(tables))
        return
    for name, rows in tables.items():
        print(f"\n## {name}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
