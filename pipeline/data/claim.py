"""A folder of scenes in the making: a note says which plan they follow, so that it is only ever continued."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

_UNFINISHED = re.compile(r"\..+\.\d+")  # what `write_scene` calls a scene that is not whole yet


@contextlib.contextmanager
def writing(out: Path, plan: dict[str, Any], what: str) -> Iterator[None]:
    """`claim` the folder, and leave no half scene in it, whether the work ends, fails or was killed before.

    Raises DataError as `claim`, and for a disk that is full or may not be written to.
    """
    try:
        claim(out, plan, what)
        _remove_unfinished(out)
        try:
            yield
        finally:
            _remove_unfinished(out)
    except OSError as error:
        raise DataError(
            f"{out}: expected room and leave to write, got {error.strerror or error} — "
            "mend that and run the same command again; finished scenes are kept."
        ) from None


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


def _remove_unfinished(out: Path) -> None:
    for path in out.iterdir() if out.is_dir() else ():
        if path.is_dir() and _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
