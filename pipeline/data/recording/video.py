"""Video files: read frame after frame, written as H.264. Everything the house knows of PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from pipeline.errors import DataError

FPS = 30
ORDINARY_CRF = 18  # visually lossless for most; libx264's scale

Picture = UInt8[np.ndarray, "height width *channel"]


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Video:
    """What a video file says of itself. Sizes in pixels."""

    path: Path
    width: int
    height: int
    num_frames: int
    fps: float

    def read(self, chosen: Sequence[int], pixels: Literal["rgba", "gray"]) -> Iterator[Picture]:
        """The chosen frames (ascending numbers from 0) as uint8 RGBA [H, W, 4] or grey [H, W], in full range.

        Every frame up to the last one is decoded, one after another, in the thread that asks; one is held at a time.
        Raises DataError naming the file and the frame where decoding fails or a promised frame never comes.
        """
        if not chosen:
            return
        wanted, last = iter(chosen), chosen[-1]
        target, number, reformatter = next(wanted), -1, VideoReformatter()
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1  # one thread per camera: that is parallel enough
                for number, frame in enumerate(container.decode(stream)):
                    if frame.is_corrupt:
                        raise self._damaged(number, "a damaged one")
                    if number == target:
                        yield reformatter.reformat(frame, format=pixels, threads=1).to_ndarray()
                        if number == last:
                            return
                        target = next(wanted)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(number + 1, error.strerror) from None
        raise self._damaged(number + 1, "the end of the file")

    def _damaged(self, frame: int, came: str | None) -> DataError:
        return DataError(f"{self.path}: expected frame {frame} of {self.num_frames}, got {came} — restore the file.")


def open_video(path: Path) -> Video:
    """Read a video's size, rate and length; nothing is decoded. Raises DataError naming the file."""
    if not path.is_file():
        raise DataError(f"{path}: expected a video, found none — restore it.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: expected a video, got a file without one — restore it.")
            stream = container.streams.video[0]
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            return Video(path, stream.width, stream.height, frames, float(stream.average_rate or FPS))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: expected a whole video, got {error.strerror} — restore the file.") from None


# ---------------------------------------------------------------- writing


def write_video(frames: Iterable[UInt8[np.ndarray, "height width 3"]], path: Path, fps: int = FPS) -> None:
    """H.264, yuv420p: plays in every browser. Odd sizes lose their last row or column. The file appears whole."""
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)


class VideoWriter:
    """`write_video`, frame by frame; the file appears at the end of the `with`, if nothing was raised in it."""

    def __init__(self, path: Path, fps: int = FPS, crf: int = ORDINARY_CRF) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._fps, self._crf = fps, crf

    def __enter__(self) -> VideoWriter:
        self._container = av.open(str(self._temporary), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps), options={"crf": str(self._crf)})
        self._stream.pix_fmt = "yuv420p"
        self._started = False
        return self

    def write(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        height, width = (side - side % 2 for side in frame.shape[:2])
        if not self._started:
            self._stream.width, self._stream.height, self._started = width, height, True
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._temporary.replace(self.path)
            return
        with suppress(av.FFmpegError):
            self._container.close()
        self._temporary.unlink(missing_ok=True)
