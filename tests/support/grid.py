"""The recorded grid of `gslrm_tiny` (tests/golden/importance) as a sweep: its space, its ledger and its journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeps.book.journal import (
    Event,
    Journal,
    Reported,
    RunOpened,
    State,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.home import Home
from sweeps.space.distributions import Choice
from sweeps.space.objective import Objective
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, SearchSpace
from tests.support.spaces import space_with

GRID: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/importance/gslrm_tiny.json").read_text())
OPENED = 1_790_000_000.0


def space() -> SearchSpace:
    """What was searched."""
    return space_with(
        "grid",
        "gslrm_tiny",
        fixed={"train.max_steps": GRID["steps"], "train.validate_every": 30, "optim.warmup_steps": 10},
        space={path: Choice(ends=tuple(values)) for path, values in GRID["space"].items()},
        objective=Objective(GRID["metric"], "max"),
        sampler=Sampler(kind="grid"),
        trials=Resources(count=len(GRID["trials"])),
    )


def events(name: str = "grid", most: int | None = None) -> list[Event]:
    """The sweep from its opening to its end, with the first `most` trials."""
    made = space()
    tags = {"data.name": "mice", "data.digest": "4ab5b9f1ba08" * 5, "mlflow.source.git.commit": "0a321b46" * 5}
    found: list[Event] = [
        SweepOpened(name, "gslrm_tiny", made.as_plain(), tags, made.base.params),
        RunOpened(None, f"{0:032x}"),
    ]
    for number, row in enumerate(GRID["trials"][:most]):
        params = row["params"]
        found.append(TrialOpened(number, f"ray{number}", 1, params, made.base.params | params, f"print{number}", tags))
        found.append(RunOpened(number, f"{number + 1:032x}"))
        found += [Reported(number, int(step), {GRID["metric"]: value}) for step, value in row["curve"].items()]
        found.append(TrialClosed(number, State.COMPLETE))
    return [*found, SweepClosed(State.COMPLETE)]


def write(home: Home, name: str, what: list[Event]) -> Path:
    """The same as a journal of a home, an event a second."""
    times = iter(range(10_000))
    with Journal(home.journal(name), clock=lambda: OPENED + next(times)) as journal:
        for event in what:
            journal.append(event)
    return journal.folder
