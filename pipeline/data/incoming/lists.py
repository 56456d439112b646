"""FaceLift's lists of scenes: `*train*.txt`, `*val*.txt` and perhaps `*test*.txt`, a scene folder per line."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePath, PureWindowsPath

from pipeline.data.incoming.names import named
from pipeline.errors import DataError
from pipeline.text.encoding import read_text

SPLITS = ("train", "val", "test")
# The names of splits as words of their own, perhaps one behind the other: of data_mouse_train.txt, not of latest.txt.
_NAMED = re.compile(r"(?<![a-z])(?:train|val(?:idation)?|test)+(?![a-z])")

_log = logging.getLogger(__name__)


def listed_splits(root: Path, data_root: Path | None) -> dict[str, tuple[str, ...]] | None:
    """Scene folders of a folder's lists, relative to it, in splits; None where it has no list.

    Of a list for training and one for validation neither may be missing or empty: what is not listed is not taken.
    Without a test list its split is empty. Raises DataError, too, for a file that two splits claim.
    """
    if unread := [
        path.name for path in _texts(root) if _has_a_splits_name(path) and not _NAMED.search(path.name.lower())
    ]:
        _log.warning(
            "%s: no lists by their names, and not read: %s; a list is called mice_train.txt", root, named(unread)
        )
    files = {split: _list_of(root, split) for split in SPLITS}
    there = [file for file in files.values() if file is not None]
    if not there:
        return None
    if twice := next((file for file in there if there.count(file) > 1), None):
        raise DataError(f"{twice}: expected a list of one split, got the names of two in its own — rename it.")
    lists = {split: () if file is None else _read_list(root, file, data_root) for split, file in files.items()}
    for split in ("train", "val"):
        if not lists[split]:
            came = f"{' and '.join(file.name for file in there)} alone" if files[split] is None else "an empty one"
            raise DataError(
                f"{root}: expected a list *{split}*.txt that names scenes, got {came} — add it, or take every list "
                "out of the folder to have all its scenes split."
            )
    if both := {*lists["train"]} & {*lists["val"], *lists["test"]}:
        _log.warning("%s: listed for training and for evaluation: %s", root, named(sorted(both)))
    return lists


def _list_of(root: Path, split: str) -> Path | None:
    files = [path for path in _texts(root) if any(split in word for word in _NAMED.findall(path.name.lower()))]
    if len(files) > 1:
        raise DataError(f"{root}: expected one list for {split}, got {', '.join(f.name for f in files)} — keep one.")
    return files[0] if files else None


def _texts(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith("."))


def _has_a_splits_name(path: Path) -> bool:
    return any(split in path.name.lower() for split in SPLITS)


def _read_list(root: Path, file: Path, data_root: Path | None) -> tuple[str, ...]:
    """Scene folders relative to `root`. Its last line need not end; `#` begins a comment; a scene counts once."""
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", read_text(file, DataError))]
    found: dict[str, PurePath] = {}
    for line in lines:
        if not line or (line.startswith("#") and not (root / line).is_dir()):
            continue
        path = _path_of(root, line)
        name = os.path.normpath(_relocated(root, path, data_root))
        if name in found and found[name] != path and not (root / path).is_dir():
            raise DataError(
                f"{file}: expected scenes of different folders, got {found[name]} and {path} for {name} — rename one."
            )
        if name in found:
            _log.warning("%s: %s is listed more than once and taken once", file, name)
        found.setdefault(name, path)
    return tuple(found)


def _path_of(root: Path, line: str) -> PurePath:
    """A line as a path; of Windows where it has its separators and is no name that is there."""
    if "\\" not in line or (root / line).exists():
        return Path(line)
    windows = PureWindowsPath(line)
    return windows if windows.is_absolute() else Path(windows.as_posix())


def _relocated(root: Path, path: PurePath, data_root: Path | None) -> str:
    """A listed path: as it stands, below `data_root` by its longest tail found there, or by name beside the list."""
    if not path.is_absolute():
        return str(path)
    if isinstance(path, Path) and path.is_dir():
        return os.path.relpath(path, root)
    if data_root is None:
        return path.name
    for tail in (Path(*path.parts[i:]) for i in range(1, len(path.parts))):
        if (data_root / tail).is_dir():
            return os.path.relpath(data_root / tail, root)
    raise DataError(f"{path}: expected the scene below --data-root {data_root}, found none — check that folder.")
