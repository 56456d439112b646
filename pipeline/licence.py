"""The terms on which weights may be used: a line in their checkpoint, which what is trained from them inherits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.files import write_whole
from pipeline.machine import contents

LICENCE_FILE = "licence.txt"
PIPELINE_INDEX = "model_index.json"  # of a diffusers pipeline, such as FaceLift's pipeckpts
FACELIFT_LICENCE = "Adobe Research License (non-commercial): as FaceLift releases its weights"


def licence_of(source: str | Path) -> str | None:
    """What weights say of their licence; None where they say nothing.

    source: a checkpoint folder, a file of weights in one, or FaceLift's own files, which say it by their form: a
    pipeline folder, a file of weights of one of its parts, or a torch file.
    """
    path = Path(source)
    if not path.exists():
        return None
    is_torch = path.is_file() and contents.described(path) in (contents.TORCH, contents.OLD_TORCH)
    if is_torch or (path / PIPELINE_INDEX).is_file():
        return FACELIFT_LICENCE
    said = (path if path.is_dir() else path.parent) / LICENCE_FILE
    if said.is_file():
        return said.read_text(encoding="utf-8", errors="replace").strip() or None
    is_part = path.is_file() and (path.absolute().parent.parent / PIPELINE_INDEX).is_file()
    return FACELIFT_LICENCE if is_part else None


def joined(licences: Iterable[str | None]) -> str | None:
    """One line for weights that go together, or into one another; None where none of them says anything."""
    return "; ".join(dict.fromkeys(licence for licence in licences if licence)) or None


def write_licence(licence: str, path: Path) -> Path:
    """Write the line whole; returns `path`."""
    return write_whole(path, f"{licence}\n")


def inherited(*sources: str | Path | None) -> dict[str, Callable[[Path], object]]:
    """What a checkpoint attaches that was trained from these: their licence, where they have one."""
    return attached(joined(licence_of(source) for source in sources if source is not None))


def attached(licence: str | None) -> dict[str, Callable[[Path], object]]:
    """A licence as what a checkpoint holds beside its weights; nothing for None."""
    return {} if licence is None else {LICENCE_FILE: lambda path: write_licence(licence, path)}
