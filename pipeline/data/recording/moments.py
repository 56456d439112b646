"""Which frame of every camera shows one moment.

Without offsets, frame f of every video is one moment, and the files have to bear it out: as many frames, shown at the
same times to half a frame. With offsets the user says where one moment lies in each video, and that decides.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.recording.video import Video
from pipeline.errors import DataError
from pipeline.text.encoding import read_text
from pipeline.text.json_file import read_json
from pipeline.text.yaml_file import read_yaml

OPTION = "--offsets"
FILES = (".yaml", ".yml", ".json", ".csv")


@dataclass(frozen=True)
class Offset:
    """Where a moment lies in a video: after so many frames or, in seconds, so long after its first frame."""

    value: float
    in_seconds: bool = False

    def frame(self, video: Video) -> int:
        """The frame shown nearest to it. Raises DataError where the video has none within half a frame."""
        if not self.in_seconds:
            number, apart = round(self.value), 0.0
        else:
            distances = np.abs(video.times - video.times[0] - self.value)
            number = int(distances.argmin())
            apart = float(distances[number]) * video.fps
        if not number < video.num_frames or apart > 0.5 + 1e-6:
            unit = " s" if self.in_seconds else ""
            raise DataError(
                f"{OPTION}: expected a moment within the {video.num_frames} frames of {video.path.name}, got "
                f"{self.value:g}{unit} — name one that it shows."
            )
        return number


def parse_offsets(text: str) -> tuple[Offset, ...]:
    """One offset per camera, from `120,132,118` (frames), `1.2s,1.32s,1.18s` (seconds), or a file of such values.

    A YAML or JSON file is a list, or a mapping from cameras 0, 1 and so on; a CSV has the columns camera, offset.
    Raises DataError.
    """
    path = Path(text)
    listed = _read_file(path) if path.suffix.lower() in FILES else list(enumerate(text.split(",")))
    values = {str(camera): value for camera, value in listed}
    cameras = [str(camera) for camera in range(len(listed))]
    if not listed or set(values) != set(cameras):
        came = ", ".join(str(camera) for camera, _ in listed) or "none"
        raise DataError(f"{OPTION} {text}: expected cameras 0, 1 and so on, each once, got {came} — correct them.")
    return tuple(_parse(values[camera], f"{OPTION} {text}: camera {camera}") for camera in cameras)


def first_frames(videos: Sequence[Video], offsets: Sequence[Offset] | None) -> tuple[int, ...]:
    """The frame of each video that shows the recording's first moment, which all of them have.

    Raises DataError: videos that contradict what is said of their moments, naming the file and the numbers.
    """
    if offsets is None:
        _check_counts(videos)
        _check_times(videos, [video.times for video in videos])
        return (0,) * len(videos)
    if len(offsets) != len(videos):
        raise DataError(f"{OPTION}: expected {len(videos)} as there are videos, got {len(offsets)} — name each camera.")
    moments = [offset.frame(video) for offset, video in zip(offsets, videos, strict=True)]
    starts = tuple(moment - min(moments) for moment in moments)
    count = min(video.num_frames - start for video, start in zip(videos, starts, strict=True))
    shown = [video.times[start : start + count] for video, start in zip(videos, starts, strict=True)]
    _check_times(videos, [times - times[0] for times in shown])
    return starts


def _check_counts(videos: Sequence[Video]) -> None:
    first = videos[0]
    for video in videos:
        if video.num_frames != first.num_frames:
            counts = ", ".join(str(other.num_frames) for other in videos)
            raise DataError(
                f"{video.path}: expected {first.num_frames} frames as {first.path.name} of {first.path.parent.name}, "
                f"got {video.num_frames} (all: {counts}) — restore the file or, if the cameras did not start together, "
                f"say with {OPTION} where in each video one moment is."
            )


def _check_times(videos: Sequence[Video], shown: Sequence[np.ndarray]) -> None:
    """Each frame is shown within half a frame of the first camera's. shown: [frames] per video, in seconds."""
    for video, times in zip(videos, shown, strict=True):
        late = np.abs(times - shown[0]) * videos[0].fps > 0.5 + 1e-6
        if late.any():
            frame = int(late.argmax())
            raise DataError(
                f"{video.path}: expected frame {frame} at {shown[0][frame]:.6g} s as {videos[0].path.name}, got "
                f"{times[frame]:.6g} s: frames of one number are not one moment — {_remedy(frame)}."
            )


def _remedy(frame: int) -> str:
    if frame == 0:
        return f"say with {OPTION} where in each video one moment is; 0 for each if that is their first frame"
    return "write each video and its masks anew at one steady rate"


def _parse(value: Any, where: str) -> Offset:
    text = str(value).strip()
    in_seconds = text.endswith("s")
    try:
        number = float(text.removesuffix("s"))
    except ValueError:
        number = math.nan
    whole = in_seconds or number.is_integer()
    if not (math.isfinite(number) and number >= 0 and whole and not isinstance(value, bool)):
        raise DataError(
            f"{where}: expected frames from 0 such as 120, or seconds such as 1.2s, got {text!r} — write one of them."
        )
    return Offset(number, in_seconds)


def _read_file(path: Path) -> list[tuple[Any, Any]]:
    """Cameras and their values, as they stand in a file."""
    match path.suffix.lower():
        case ".csv":
            return _rows(path)
        case ".json":
            values = read_json(path, DataError)
        case _:
            values = read_yaml(path, DataError).values
    if isinstance(values, dict):
        return list(values.items())
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list or mapping of offsets, got {type(values).__name__} — write one.")
    return list(enumerate(values))


def _rows(path: Path) -> list[tuple[Any, Any]]:
    """The first cell of each row of a CSV, and the rest of it; without a head."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(read_text(path, DataError).splitlines()) if row]
    except csv.Error as error:
        raise DataError(f"{path}: expected rows of camera, offset, got {error} — write such rows.") from None
    body = rows[1:] if rows and not rows[0][0].isdecimal() else rows
    return [(row[0], ",".join(row[1:])) for row in body]
