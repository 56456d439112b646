"""The folder of a sequence: what is kept of each frame as soon as it is done, and what is made of all of them.

    frames/000123.ply     the Gaussians of the source's frame 123
    turntable.mp4         a camera that goes once round while time runs
    fixed.mp4             the source beside what was made of it, from the source's own camera
    sequence.json         everything in numbers
    .work/                until the sequence is finished: each frame's record and pictures

A frame is done when its record is there, which is written last. So whoever continues goes on after the last record,
and the videos and figures are made from what lies in the folder alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydantic import TypeAdapter

from pipeline.data.incoming.picture import read_picture
from pipeline.data.pictures import write_png
from pipeline.data.recording.video import write_video
from pipeline.errors import DataError
from pipeline.files import write_whole
from pipeline.gaussians import Gaussians
from pipeline.reconstruction.sequence.panels import failed, unknown
from pipeline.reconstruction.sequence.temporal import Seen
from pipeline.text.json_file import read_json

FRAMES, WORK, SUMMARY = "frames", ".work", "sequence.json"
FIXED, TURNTABLE = "fixed", "turntable"
_SOLID = 127  # of 255: alpha above it shows the animal

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Record:
    """One frame: `failure` says why there are no Gaussians of it, and the rest is None then.

    time: seconds on the source's clock. count: Gaussians kept. centre: their mean place, weighted by opacity, in the
    PLY's world; centre_px: where the source's own camera shows it; animal_px: the centre of mass of the animal in the
    source; both in pixels of the source. crop: left, top and side of the framed square in the source's pixels.
    to_source: 4×4, from the PLY's world to the recording's; of scenes alone. changes: what was done to the picture.
    """

    number: int
    time: float
    failure: str | None = None
    count: int | None = None
    centre: tuple[float, float, float] | None = None
    centre_px: tuple[float, float] | None = None
    animal_px: tuple[float, float] | None = None
    crop: tuple[float, float, float] | None = None
    to_source: tuple[tuple[float, ...], ...] | None = None
    cut_by: str | None = None
    changes: tuple[str, ...] = ()


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class Pictures:
    """Of one frame: places in the two videos, and source and render of the figures' size, RGBA of 8 bits."""

    fixed: Pixels
    turntable: Pixels
    source: UInt8[np.ndarray, "size size 4"]
    made: UInt8[np.ndarray, "size size 4"]


def is_begun(out: Path) -> bool:
    """Whether a sequence was begun there."""
    return (out / WORK).is_dir() or (out / SUMMARY).is_file()


class SequenceFolder:
    """Writes and reads the folder; every file appears whole."""

    def __init__(self, out: Path) -> None:
        """Nothing stays in it of a file that an earlier process was killed over."""
        self.out, self.frames, self.work = out, out / FRAMES, out / WORK
        for folder in (self.frames, self.work):
            if folder.is_dir():
                for path in folder.glob(".*"):
                    path.unlink()

    @property
    def is_finished(self) -> bool:
        """Whether all was made, and nothing is left to do."""
        path = self.out / SUMMARY
        return path.is_file() and read_json(path, DataError)["finished"] is True

    @property
    def failed(self) -> int:
        """Frames of a finished sequence that failed."""
        return len(read_json(self.out / SUMMARY, DataError)["failed"])

    def begin(self) -> None:
        """Make room for frames."""
        self.frames.mkdir(exist_ok=True)
        self.work.mkdir(exist_ok=True)

    def records(self) -> dict[int, Record]:
        """Of the frames that are done, by number."""
        read = (_RECORD.validate_json(path.read_bytes()) for path in sorted(self.work.glob("*.json")))
        return {record.number: record for record in read}

    def keep(self, record: Record, gaussians: Gaussians, pictures: Pictures, sh_degree: int | None) -> None:
        """Keep a frame that was reconstructed; its record comes last."""
        name = _name(record.number)
        gaussians.save_ply(self.frames / f"{name}.ply", sh_degree)
        for kind in (FIXED, TURNTABLE):
            write_png(getattr(pictures, kind), self._picture(record.number, kind))
        for kind in ("source", "made"):
            write_png(getattr(pictures, kind), self._picture(record.number, kind))
        self._write(record)

    def keep_failure(self, record: Record) -> None:
        """Keep that a frame failed."""
        self._write(record)

    def write_videos(self, records: Sequence[Record], fps: float) -> None:
        """Both videos anew, a picture for each record; a frame that failed shows the last good one, marked."""
        for kind in (FIXED, TURNTABLE):
            if any(record.failure is None for record in records):
                write_video(self._shown(records, kind), self.out / f"{kind}.mp4", fps, threads=1)

    def moments(self, records: Sequence[Record]) -> Iterator[Seen | None]:
        """What the figures of flicker are made of; None for a frame that failed."""
        for record in records:
            if record.failure is not None:
                yield None
                continue
            source, made = (_rgba(self._picture(record.number, kind)) for kind in ("source", "made"))
            animal = (source[..., 3] > _SOLID) | (made[..., 3] > _SOLID)
            yield Seen(source[..., :3], made[..., :3], animal)

    def write_summary(self, values: dict[str, object]) -> None:
        """Write `sequence.json`."""
        write_whole(self.out / SUMMARY, json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    def clear(self) -> None:
        """Take away what is needed until the end only."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _write(self, record: Record) -> None:
        write_whole(self.work / f"{_name(record.number)}.json", json.dumps(asdict(record)))

    def _shown(self, records: Sequence[Record], kind: str) -> Iterator[Pixels]:
        first = next(record for record in records if record.failure is None)
        last = unknown(_rgb(self._picture(first.number, kind)))
        for record in records:
            if record.failure is None:
                last = _rgb(self._picture(record.number, kind))
            yield last if record.failure is None else failed(last, record.number)

    def _picture(self, number: int, kind: str) -> Path:
        return self.work / f"{_name(number)}.{kind}.png"


def _name(number: int) -> str:
    return f"{number:06d}"


def _rgb(path: Path) -> Pixels:
    return np.asarray(read_picture(path))


def _rgba(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    return np.asarray(read_picture(path).convert("RGBA"))
