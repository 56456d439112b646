"""A folder of scenes in the making: a note says which plan they follow, so that it is only ever continued."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pipeline.data.gate.checks import checked
from pipeline.data.incoming.names import check_names
from pipeline.data.scenes import (
    CAMERAS_FILE,
    GEOMETRY_VERSION,
    MANIFEST_FILE,
    Dataset,
    Scene,
    open_dataset,
    write_manifest,
)
from pipeline.errors import DataError
from pipeline.files import write_whole
from pipeline.machine.cpus import usable_cpus
from pipeline.machine.outputs import require_folder, require_locks
from pipeline.text.json_file import read_json

_UNFINISHED = re.compile(r"\..+\.\d+")  # what `files` calls a scene, or a file, that is not whole yet


@contextlib.contextmanager
def writing(out: Path, plan: dict[str, Any], what: str) -> Iterator[bool]:
    """`claim` the folder for this process alone. No unfinished scene stays in it, neither of this work, however that
    ends, nor of an earlier process that was killed. Gives whether the folder was finished before with this content.

    Raises DataError as `claim`, for a folder that another process is writing, for a finished one whose files were
    changed, and for a disk that is full or may not be written to.
    """
    try:
        require_folder(out)
        require_locks(out)
        note = claim(out, plan, what)
        with note.open("rb+") as held:  # NFS locks for one alone only what may be written
            _hold(held, out)
            finished = (out / MANIFEST_FILE).is_file() and _is_judged(open_dataset(out))
            _remove_unfinished(out)
            try:
                yield finished
            finally:
                _remove_unfinished(out)
    except OSError as error:
        raise DataError(
            f"{out}: expected room and leave to write, got {error.strerror or error} — "
            "make room or give leave, and run the same command again; finished scenes are kept."
        ) from None


def _is_judged(dataset: Dataset) -> bool:
    """Whether the gate spoke of a dataset; a verdict by older rules is made anew."""
    geometry = dataset.manifest.geometry
    if geometry is not None and geometry.version != GEOMETRY_VERSION:
        checked(dataset)
    return geometry is not None


def _hold(file: IO[bytes], out: Path) -> None:
    """Take a lock that the system releases when the process ends, even by a kill."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{out}: expected to write it alone, got another command at it — wait until it ends.") from None


def derived(
    source: Dataset, out: Path, step: dict[str, Any], write: Callable[[Scene, Path], None], **changes: Any
) -> Iterator[int]:
    """A dataset made scene by scene from another; yields how many are done, last after its geometry check.

    step: this link of the transform chain. write: makes one scene's folder, where it is not there yet. changes: of
    the manifest. Scenes are called as their folders, wherever the source lists them.
    Raises DataError as `writing` and `checked`, and where two scenes are called the same.
    """
    names = {key: Path(scene.name).name for key, scene in sorted(source.scenes.items())}
    check_names(source.root, names)

    def make(key: str) -> None:
        if not (out / names[key] / CAMERAS_FILE).is_file():
            write(source.scenes[key], out / names[key])

    manifest = source.manifest
    with writing(out, step | {"source": source.digest}, "scenes") as done_before:
        if done_before:
            yield len(names)
            return
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for done, _ in enumerate(pool.map(make, names), start=1):
                yield done
        fresh = {
            "name": out.name,
            "parent": source.digest,
            "transforms": (*manifest.transforms, step),
            "splits": {split: tuple(names[key] for key in keys) for split, keys in manifest.splits.items()},
            "geometry": None,
            "digest": None,
        }
        checked(write_manifest(out, replace(manifest, **fresh | changes)))


def claim(out: Path, plan: dict[str, Any], what: str) -> Path:
    """Note the plan in a new folder before its first scene, or see that the folder's note says the same.

    plan: plain values with a `kind`, which names the note. what: the folder's contents, for messages. Returns the note.
    Raises DataError when the folder follows another plan or holds anything else.
    """
    note, plan = out / f".{plan['kind']}.json", json.loads(json.dumps(plan))
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, got a file — choose another.")
    out.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        if any(not path.name.startswith(note.name) for path in out.iterdir()):  # a claim may have been killed
            raise DataError(f"{out}: expected an empty folder, got other files — choose another.")
        write_whole(note, json.dumps(plan))
    came = read_json(note, DataError)
    if not isinstance(came, dict):
        raise DataError(f"{note}: expected the plan of this folder, got another sort of file — choose another folder.")
    if differing := [key for key in {**plan, **came} if plan.get(key) != came.get(key)]:
        raise DataError(
            f"{out}: expected {what} of the same plan, got another {', '.join(differing)} — choose another folder."
        )
    return note


def _remove_unfinished(out: Path) -> None:
    for path in out.iterdir() if out.is_dir() else ():
        if not _UNFINISHED.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
