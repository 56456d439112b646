"""The terms on which weights may be used: a line in their checkpoint, which what is trained from them inherits."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_whole

LICENCE_FILE = "licence.txt"
FACELIFT_LICENCE = "Adobe Research License (non-commercial): as FaceLift releases its weights"


def licence_of(source: str | Path) -> str | None:
    """What a checkpoint says of its licence; None where it says nothing.

    source: its folder, or a file of weights in it. A folder or file in FaceLift's own form has FaceLift's licence.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    said = folder / LICENCE_FILE
    if said.is_file():
        return said.read_text(encoding="utf-8").strip() or None
    is_facelift = (folder / "model_index.json").is_file() if path.is_dir() else path.suffix in (".pt", ".pth")
    return FACELIFT_LICENCE if is_facelift else None


def joined(licences: list[str | None]) -> str | None:
    """One line for weights that go together; None where none of them says anything."""
    return "; ".join(dict.fromkeys(licence for licence in licences if licence)) or None


def write_licence(licence: str, path: Path) -> Path:
    """Write the line whole; returns `path`."""
    return write_whole(path, f"{licence}\n")
