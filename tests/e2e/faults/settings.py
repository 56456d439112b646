"""Commands with other constants or another clock: a `sitecustomize` that their environment puts first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_SOURCE = """
import importlib.util, sys, time

VALUES, SKEW = {values!r}, {skew!r}
if SKEW:
    real = time.time
    time.time = lambda: real() + SKEW


class Patches:
    def find_spec(self, name, path=None, target=None):
        if name not in VALUES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def run_and_patch(module):
            run(module)
            vars(module).update(VALUES[name])

        spec.loader.exec_module = run_and_patch
        return spec


sys.meta_path.insert(0, Patches())
"""


def patched(folder: Path, values: dict[str, dict[str, Any]], clock_ahead: float = 0.0) -> dict[str, str]:
    """The environment in which modules have these values, and the clock is so many seconds ahead."""
    place = folder / "patches"
    place.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(values))
    (place / "sitecustomize.py").write_text(_SOURCE.format(values=plain, skew=clock_ahead))
    here = str(Path(__file__).parents[3])
    paths = (str(place), here, os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
