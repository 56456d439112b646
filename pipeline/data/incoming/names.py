"""Names of scenes, said and written: each a folder of its own, on the usual file systems, in any manifest."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import DataError

LONGEST = 200  # bytes: file systems take 255, and files in the making are called a little longer
CAMERAS_FILE = "opencv_cameras.json"  # of a scene
MANIFEST_FILE = "dataset.yaml"  # of a dataset, beside its scenes


def check_names(where: Path, names: Mapping[str, str]) -> None:
    """See that no scene would overwrite another or be lost. names: what each source is to be called.

    File systems of macOS and Windows take names for one that differ in case or Unicode form alone. Raises DataError
    before anything is written.
    """
    seen: dict[str, str] = {MANIFEST_FILE: "the manifest"}
    for source, name in names.items():
        if not _can_be_written(name):
            raise DataError(
                f"{where}: expected names in UTF-8 that begin with no dot, got {name!a} — rename {source!a}."
            )
        if (count := len(name.encode())) > LONGEST:
            raise DataError(f"{where}: expected names of up to {LONGEST} bytes, got {count} — rename {source}.")
        same = unicodedata.normalize("NFC", name).casefold()
        if same in seen:
            raise DataError(
                f"{where}: expected scenes of different names (suffix, case and Unicode form aside), got {seen[same]} "
                f"and {source} — rename one."
            )
        seen[same] = source


def named(some: Sequence[str], limit: int = 8) -> str:
    """The first of these in one line, and how many more there are."""
    more = f" and {len(some) - limit} more" if len(some) > limit else ""
    return ", ".join(some[:limit]) + more


def _can_be_written(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and not name.startswith(".")
