"""A Python that has what a model's requirements install, and nothing else of this machine: not this repository either.

The folder that `write_bare` fills goes on PYTHONPATH; the `sitecustomize` in it hides the rest from `import`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

_SITE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {hidden!r}


class Required:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)


sys.meta_path = [one for one in sys.meta_path if "editable" not in str(one).lower() and one is not PathFinder]
sys.meta_path.append(Required)
sys.path = [entry for entry in sys.path if entry != {repository!r}]
"""
_OURS = {"pipeline", "sweeps", "dashboards", "mouselift"}
_TOOLS = {"pip", "setuptools", "wheel"}


def write_bare(folder: Path, requirements: Iterable[str], repository: Path) -> Path:
    """A folder for PYTHONPATH. `pipeline` can be imported still, from wherever a model brings it."""
    kept = _closure(requirements) | _TOOLS
    dists = packages_distributions()
    hidden = {module for module, found in dists.items() if not {_normal(name) for name in found} & kept}
    folder.mkdir()
    text = _SITE.format(hidden=(hidden | _OURS) - {"pipeline"}, repository=str(repository))
    (folder / "sitecustomize.py").write_text(text)
    return folder


def _closure(requirements: Iterable[str]) -> set[str]:
    """The distributions that pip would install, by their normalised names."""
    left, found = [Requirement(line) for line in requirements], set[str]()
    while left:
        wanted = left.pop()
        name = _normal(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            left += [Requirement(line) for line in requires(wanted.name) or []]
        except PackageNotFoundError:
            found.discard(name)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
