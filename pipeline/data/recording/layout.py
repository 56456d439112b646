"""Which file of a recording's folder is which camera's, and whether they belong together."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from pipeline.cameras import Cameras
from pipeline.data.incoming.picture import SUFFIXES as PICTURES
from pipeline.data.recording.container import RATE_TOLERANCE, SUFFIXES
from pipeline.data.recording.video import Video
from pipeline.errors import DataError

ASPECT_TOLERANCE = 0.01

_NAMED = "0.mp4, 1.mp4 and so on"

_log = logging.getLogger(__name__)


def find_videos(folders: tuple[Path, ...]) -> tuple[tuple[Path, ...], ...]:
    """The videos of each folder by camera; in all as many as the highest number of any of them says.

    A video that is missing is named as an MP4; one without a camera's number is left out, and that is said. Raises
    DataError: no video, one without a number where a number is missing, or two of one camera.
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
    others = [path for path in videos if not _has_number(path)]
    for path in videos:
        if path in others:
            continue
        if (number := int(path.stem)) in found:
            raise DataError(f"{path}: expected one video a camera, found {found[number].name} too — keep one of them.")
        found[number] = path
    if (others and found.keys() != set(range(len(found)))) or not found:
        raise DataError(f"{others[0]}: expected videos named {_NAMED} — rename or move it.")
    if others:
        _log.warning("%s: left out, as no camera's number: %s", folder, ", ".join(path.name for path in others))
    return found


def _has_number(path: Path) -> bool:
    return path.stem.isascii() and path.stem.isdecimal() and path.stem == str(int(path.stem))


def _instead(entries: list[Path]) -> str:
    """What lies there, for a message."""
    below = [path for entry in entries if entry.is_dir() for path in sorted(entry.iterdir())]
    if any(path.suffix.lower() in PICTURES for path in entries + below):
        return "pictures: make a video of each camera's, such as by ffmpeg -framerate 100 -i %06d.png -crf 10 0.mp4"
    return ", ".join(path.name for path in entries[:3]) or "none"


def check_alike(videos: tuple[Video, ...], masks: tuple[Video, ...]) -> None:
    """Raises DataError for a size or a rate unlike the first video's."""
    first = videos[0]
    model = f"as {first.path.name} of {first.path.parent.name}"
    for video in videos + masks:
        if (video.width, video.height) != (first.width, first.height):
            raise DataError(
                f"{video.path}: expected {first.width}×{first.height} {model}, got {video.width}×{video.height} — all "
                "views and masks have one size."
            )
    for video in videos:
        # Their frames' times are compared more closely.
        if abs(video.fps - first.fps) > RATE_TOLERANCE * first.fps:
            raise DataError(
                f"{video.path}: expected {first.fps:g} frames a second {model}, got {video.fps:g} — cameras of a "
                "recording run alike."
            )


def check_lengths(videos: tuple[Video, ...], masks: tuple[Video, ...]) -> None:
    """Raises DataError for masks of more or fewer frames than their video."""
    for video, mask in zip(videos, masks, strict=True):
        if mask.num_frames != video.num_frames:
            raise DataError(
                f"{mask.path}: expected {video.num_frames} frames as {video.path.name} of {video.path.parent.name}, "
                f"got {mask.num_frames} — make the masks of all its frames."
            )


def check_pixels(videos: tuple[Video, ...], cameras: Cameras) -> None:
    """Raises DataError where a file says that its pixels are not square, and the calibration that they are."""
    for video, (fx, fy, _, _) in zip(videos, cameras.fxfycxcy.tolist(), strict=True):
        aspect, ratio = video.pixel_aspect, fx / fy
        if abs(math.log(aspect)) > ASPECT_TOLERANCE and abs(math.log(ratio * aspect)) > abs(math.log(ratio)):
            raise DataError(
                f"{video.path}: expected a calibration with fx / fy of {1 / aspect:.4g} for pixels {aspect:.4g} times "
                f"as wide as high, got {ratio:.4g} — calibrate pictures as they are stored or, if the file's sample "
                "aspect ratio is wrong, set that to 1:1."
            )
