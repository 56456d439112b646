"""A note in a folder that says which plan its scenes follow, so that an interrupted work is only ever continued."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import DataError


def claim(out: Path, plan: dict[str, Any], what: str) -> None:
    """Note the plan in a new folder before its first scene, or see that the folder's note says the same.

    plan: plain values with a `kind`, which names the note. what: the folder's contents, for messages.
    Raises DataError when the folder follows another plan or holds anything else.
    """
    note, plan = out / f".{plan['kind']}.json", json.loads(json.dumps(plan))
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, got a file — choose another.")
    out.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        if any(not path.name.startswith(note.name) for path in out.iterdir()):  # a claim may have been killed
            raise DataError(f"{out}: expected an empty folder, got other files — choose another.")
        temporary = note.with_name(f"{note.name}.{os.getpid()}")
        temporary.write_text(json.dumps(plan))
        temporary.replace(note)
    came = json.loads(note.read_text())
    if differing := [key for key in {**plan, **came} if plan.get(key) != came.get(key)]:
        raise DataError(
            f"{out}: expected {what} of the same plan, got another {', '.join(differing)} — choose another folder."
        )
