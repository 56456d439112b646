"""Video files: read frame after frame, written as H.264. All who read or write videos come here.

What is read is each frame's upright picture, as players, ffmpeg and OpenCV show it, on the pixel grid as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from pipeline.data.recording import container as containers
from pipeline.data.recording.container import Packets
from pipeline.errors import DataError
from pipeline.files import whole

FPS = 30
FAST_COLUMNS = 16  # of a picture's width; what is beyond a multiple of it is its own case in swscale
MAX_TICKS = 1001  # of a frame rate's denominator: 30000/1001 is television's
# With x264's defaults the same small pictures, 48 px wide, gave ten different files in 4,000 runs, on one thread, too;
# with these options one. Which of them does it is not known.
REPEATABLE = "threads={}:lookahead-threads=1:sync-lookahead=0:mbtree=0"
ORDINARY_CRF = 18  # visually lossless for most; libx264's scale

Picture = UInt8[np.ndarray, "height width *channel"]
Frame = UInt8[np.ndarray, "height width 3"]


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Video:
    """What a video file holds, by its content.

    width, height: pixels of the upright picture. turns: quarter turns, anticlockwise, that make it upright.
    pixel_aspect: width over height that the file gives to a pixel of the upright picture.
    """

    path: Path
    width: int
    height: int
    fps: float
    packets: Packets
    turns: int
    pixel_aspect: float

    @property
    def num_frames(self) -> int:
        return len(self.packets.stamps)

    @cached_property
    def times(self) -> Float[np.ndarray, " frame"]:
        """Seconds at which each frame is shown, on the file's own clock; from 0 where the file only counts."""
        stamps, tick = np.array(self.packets.stamps), float(self.packets.tick)
        return (stamps if self.packets.clocked else stamps - stamps[0]) * tick

    def read(self, chosen: Sequence[int], pixels: Literal["rgba", "gray"]) -> Iterator[Picture]:
        """The chosen frames (ascending numbers from 0) as uint8 RGBA [H, W, 4] or grey [H, W], in full range.

        Every frame up to the last one is decoded, one after another, in the thread that asks; one is held at a time.
        Raises DataError naming the file and the frame where decoding fails, a promised frame never comes, another
        comes in its place, or one of another size.
        """
        if not chosen:
            return
        numbers, last = iter(chosen), chosen[-1]
        target, number, reformatter = next(numbers), -1, VideoReformatter()
        try:
            with containers.opened(self.path) as (container, stream):
                for number, frame in enumerate(container.decode(stream)):
                    self._check(number, frame)
                    if number == target:
                        yield self._upright(_converted(reformatter, frame, pixels))
                        if number == last:
                            return
                        target = next(numbers)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(number + 1, error.strerror) from None
        raise self._damaged(number + 1, "the end of the file")

    def sample(self, count: int) -> Iterator[UInt8[np.ndarray, "height width"]]:
        """At most `count` grey frames, spread over the video as far as frames decode alone. Raises DataError."""
        keys, reformatter = self.packets.keys, VideoReformatter()
        try:
            with containers.opened(self.path) as (container, stream):
                for i in range(min(count, len(keys))):
                    container.seek(keys[i * len(keys) // min(count, len(keys))], stream=stream)
                    frame = next(container.decode(stream), None)
                    if frame is not None:
                        yield self._upright(_converted(reformatter, frame, "gray"))
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"{self.path}: expected frames, got {error.strerror} — restore the file.") from None

    def _upright(self, picture: Picture) -> Picture:
        return np.ascontiguousarray(np.rot90(picture, self.turns)) if self.turns else picture

    def _check(self, number: int, frame: av.VideoFrame) -> None:
        """The frame is whole, the one that the file lists at this place, and like the others."""
        if frame.is_corrupt:
            raise self._damaged(number, "a damaged one")
        stamps, tick = self.packets.stamps, self.packets.tick
        if self.packets.clocked and number < len(stamps) and frame.pts != stamps[number]:
            came = "one without a time" if frame.pts is None else f"that of {float(frame.pts * tick):g} s"
            raise self._damaged(number, f"{came} in place of that of {float(stamps[number] * tick):g} s")
        containers.refuse_unfit(self.path, frame)
        if (size := containers.upright_size(frame)) != (self.width, self.height):
            raise DataError(
                f"{self.path}: expected {self.width}×{self.height} in every frame, got {size[0]}×{size[1]} from frame "
                f"{number} on — cut the recording there."
            )

    def _damaged(self, frame: int, came: str | None) -> DataError:
        return DataError(f"{self.path}: expected frame {frame} of {self.num_frames}, got {came} — restore the file.")


def _converted(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: Literal["rgba", "gray"]) -> Picture:
    if pixels == "gray" or frame.width % FAST_COLUMNS == 0:
        picture: Picture = reformatter.reformat(frame, format=pixels, threads=1).to_ndarray()
        return picture
    # swscale's fast way from 4:2:0 to RGBA leaves up to four of the last columns empty; its RGB is the same and whole.
    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])


def open_video(path: Path) -> Video:
    """Read a video's packets and its first frame; no other is decoded. What is done as its header says is logged.

    Raises DataError naming the file: it is no video, holds two, no frame, frames without times or with times that
    jump back, pictures that are mirrored, at an angle, interlaced, HDR or too large.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a video, found {'a folder' if path.is_dir() else 'none'} — restore it.")
    try:
        with containers.opened(path) as (container, stream):
            announced = (stream.width, stream.height)
            packets, first = containers.scan(path, container, stream)
            containers.refuse_unfit(path, first)
            containers.say_changes(path, stream, first, announced)
            fps, turns = containers.rate(path, stream, packets, FPS), containers.quarter_turns(first)
            aspect = float(stream.sample_aspect_ratio or 1)
            aspect = 1 / aspect if turns % 2 else aspect
            return Video(path, *containers.upright_size(first), fps, packets, turns, aspect)
    except (av.FFmpegError, OSError) as error:
        came = containers.describe(path, error.strerror)
        raise DataError(f"{path}: expected a whole video, got {came}") from None


# ---------------------------------------------------------------- writing


def write_video(frames: Iterable[Frame], path: Path, fps: float = FPS, threads: int | None = None) -> None:
    """H.264, yuv420p: plays in every browser. Odd sizes lose their last row or column. The file appears whole.

    threads: of the encoder; 1 gives the same bytes on machines with other numbers of cores.
    """
    with video_writer(path, fps, threads=threads) as write:
        for frame in frames:
            write(frame)


@contextmanager
def video_writer(
    path: Path, fps: float = FPS, crf: int = ORDINARY_CRF, threads: int | None = None
) -> Iterator[Callable[[Frame], None]]:
    """`write_video`, frame by frame: gives what writes one; the file appears when the block ends."""
    with whole(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(MAX_TICKS)
        options = {"crf": str(crf)} | ({} if threads is None else {"x264-params": REPEATABLE.format(threads)})
        stream = container.add_stream("libx264", rate=rate, options=options)
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
