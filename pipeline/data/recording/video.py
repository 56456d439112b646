"""Video files: read frame after frame, written as H.264. Everything the house knows of PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from pipeline.errors import DataError
from pipeline.files import whole

FPS = 30
ORDINARY_CRF = 18  # visually lossless for most; libx264's scale

Picture = UInt8[np.ndarray, "height width *channel"]
Frame = UInt8[np.ndarray, "height width 3"]


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
        numbers, last = iter(chosen), chosen[-1]
        target, number, reformatter = next(numbers), -1, VideoReformatter()
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
                        target = next(numbers)
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


def write_video(frames: Iterable[Frame], path: Path, fps: int = FPS) -> None:
    """H.264, yuv420p: plays in every browser. Odd sizes lose their last row or column. The file appears whole."""
    with video_writer(path, fps) as write:
        for frame in frames:
            write(frame)


@contextmanager
def video_writer(path: Path, fps: int = FPS, crf: int = ORDINARY_CRF) -> Iterator[Callable[[Frame], None]]:
    """`write_video`, frame by frame: gives what writes one; the file appears when the block ends."""
    with whole(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf)})
        stream.pix_fmt = "yuv420p"
        started = False

        def write(frame: Frame) -> None:
            nonlocal started
            height, width = (side - side % 2 for side in frame.shape[:2])
            if not started:
                stream.width, stream.height, started = width, height, True
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))

        yield write
        container.mux(stream.encode())
