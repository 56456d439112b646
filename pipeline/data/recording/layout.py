"""Which file of a recording's folder is which camera's."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.recording.container import SUFFIXES
from pipeline.errors import DataError

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_NAMED = "0.mp4, 1.mp4 and so on"


def find_videos(folders: tuple[Path, ...]) -> tuple[tuple[Path, ...], ...]:
    """The videos of each folder by camera; in all as many as the highest number of any of them says.

    A video that is missing is named as an MP4. Raises DataError: no video, one without a camera's number, or two of
    one camera.
    """
    numbered = [_numbered(folder) for folder in folders]
    views = 1 + max(max(videos) for videos in numbered)
    return tuple(
        tuple(videos.get(view, folder / f"{view}.mp4") for view in range(views))
        for folder, videos in zip(folders, numbered, strict=True)
    )


def _numbered(folder: Path) -> dict[int, Path]:
    entries = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    videos = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not videos:
        raise DataError(f"{folder}: expected {_NAMED}, found {_instead(entries)} — check the recording.")
    found: dict[int, Path] = {}
    for path in videos:
        if not (path.stem.isascii() and path.stem.isdecimal()) or path.stem != str(int(path.stem)):
            raise DataError(f"{path}: expected videos named {_NAMED} — rename or move it.")
        if (number := int(path.stem)) in found:
            raise DataError(f"{path}: expected one video a camera, found {found[number].name} too — keep one of them.")
        found[number] = path
    return found


def _instead(entries: list[Path]) -> str:
    """What lies there, for a message."""
    below = [path for entry in entries if entry.is_dir() for path in sorted(entry.iterdir())]
    if any(path.suffix.lower() in _PICTURES for path in entries + below):
        return "pictures: make a video of each camera's, such as by ffmpeg -framerate 100 -i %06d.png -crf 10 0.mp4"
    return ", ".join(path.name for path in entries[:3]) or "none"
