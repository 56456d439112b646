"""What descriptions of sweeps and of trials share: sections that fit into MLflow's limit, names with links, faults."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboards.pages.markdown import link, plain
from dashboards.words import setting, trial_name
from sweeps.book.ledger import Ledger
from sweeps.book.record import TrialRecord
from sweeps.errors import counted
from sweeps.tracking.pages import LONGEST_NOTE, Links

# Metrics that are shown beside the objective, where a recipe has them.
BESIDE = ("val/psnr_fg", "val/psnr", "val/ssim", "val/lpips", "val/mask_iou")
NAMES = 5  # trials that a line names at most
_ROOM_FOR_NAMES = 200  # characters: of sections that are left out


class Section:
    """A heading and the Markdown below it: the first of `bodies` for which there is room.

    Those of the lowest urgency number are given room first, wherever they stand.
    """

    def __init__(self, heading: str, *bodies: str, urgency: int = 0) -> None:
        self.bodies = [f"### {heading}\n\n{body}" if heading else body for body in bodies if body]
        self.name, self.urgency = heading.lower() or "a paragraph", urgency


def fitted(sections: Sequence[Section]) -> str:
    """The sections in their order, as far as MLflow keeps them; those that are left out are named."""
    shown: dict[int, str] = {}
    left, room = [], LONGEST_NOTE - _ROOM_FOR_NAMES
    for section in sorted(sections, key=lambda one: one.urgency):
        body = next((body for body in section.bodies if len(body) + 2 <= room), None)
        if body is not None:
            shown[id(section)] = body
            room -= len(body) + 2
        elif section.bodies:
            left.append(section.name)
    parts = [shown[id(section)] for section in sections if id(section) in shown]
    if left:
        parts.append(f"Left out, as MLflow keeps 8,000 characters: {', '.join(left)}.")
    return "\n\n".join(parts)


def faults_of(trials: Iterable[TrialRecord], links: Links) -> str:
    """Attempts that broke, by cause and by what was done."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for one in trials:
        for fault in one.faults:
            groups.setdefault((fault.cause, fault.action), []).append(one)
    lines = []
    for (cause, action), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        once = list({one.trial.number: one for one in found}.values())
        done = f"{counted(len(found), 'attempt')} by {plain(cause)}, then {plain(action)}"
        lines.append(f"- {done} ({names(once, links)})")
    return "\n".join(lines)


def names(trials: Sequence[TrialRecord], links: Links) -> str:
    """The first of these trials by name, and how many more there are."""
    more = f" and {len(trials) - NAMES} more" if len(trials) > NAMES else ""
    return f"{', '.join(run(one, links) for one in trials[:NAMES])}{more}"


def run(one: TrialRecord, links: Links) -> str:
    """A trial's name with a link to its run, once it has one."""
    name = trial_name(one.trial.number)
    return name if one.trial.run_id is None else link(name, links.run(one.trial.run_id))


def of_steps(one: TrialRecord) -> str:
    """How many steps its recipe has, behind a step."""
    return f" of {one.recipe_params['train.max_steps']}" if "train.max_steps" in one.recipe_params else ""


def settings(params: Mapping[str, Any]) -> str:
    """What the sampler chose, in one line, by the last words of the paths."""
    return ", ".join(f"{path.rpartition('.')[2]} {setting(value)}" for path, value in params.items())


def checkout(ledger: Ledger) -> list[str]:
    """The commands that bring the code back, where the sweep knows its commit."""
    commit = ledger.tags.get("mlflow.source.git.commit")
    if commit is None:
        return []
    dirty = ledger.tags.get("mlflow.source.git.dirty") == "true"
    changes = ["git apply diff.patch   # code/diff.patch of the sweep's run"] if dirty else []
    return [f"git checkout {shlex.quote(commit)}", *changes]
