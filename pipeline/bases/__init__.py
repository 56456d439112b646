"""Small networks that travel with the package, for fine-tunes to start from: `train.init_from: base:NAME`.

Each is a checkpoint folder without training state, its weights in fp16. `benchmarks.bases` makes them from nothing.
Imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "base:"
FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What there is."""
    return sorted(path.parent.name for path in FOLDER.glob("*/checkpoint.json"))


def located(source: str) -> str:
    """Where the weights lie that `base:NAME`, or a path, stands for; `~` is the home folder of who runs it.

    Raises ValueError for a name that is none, so that the recipe's decoder can say where it stands.
    """
    if not source.startswith(PREFIX):
        path = Path(os.path.expanduser(source))
        # A journal, or another machine, has the path of a package that lay elsewhere.
        moved = path.parts[-3:-1] == ("pipeline", "bases") and path.name in names() and not path.exists()
        return str(FOLDER / path.name) if moved else os.path.expanduser(source)
    name = source.removeprefix(PREFIX)
    if name not in names():
        raise ValueError(f"{PREFIX} and one of {', '.join(names())}")
    return str(FOLDER / name)
