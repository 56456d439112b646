"""What a video file really holds, and what its header says about it.

Every packet is looked at, none but the first frame's is decoded. Where header and content disagree, the content
decides and both are logged. What would have to be guessed is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

from pipeline.data.incoming.picture import MAX_PIXELS
from pipeline.errors import DataError
from pipeline.machine.contents import VIDEO, described

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".gif")
# FFmpeg's names of containers whose frames have times. A playlist is none of them: it would read other files.
FORMATS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,gif"
_LENGTH_IN_HEADER = ("matroska,webm", "flv")  # and no number of frames
UNEVEN = 1.5  # times the mean: frames so far apart have lost one between them
RATE_TOLERANCE = 0.01  # of a header's frames a second, to another's and to the frames' own times
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_BEGINNINGS = {
    b"#EXTM3U": "a playlist",
    b"ffconcat": "a playlist",
    b"\0\0\0\x01": "H.264 or HEVC without a container, and so without times",
    b"\0\0\x01": "MPEG video without a container, and so without times",
    b"YUV4MPEG": "raw pictures (Y4M)",
}

_log = logging.getLogger(__name__)


class Packets(NamedTuple):
    """The packets of a video that become frames. Times in units of `tick` seconds on the file's own clock.

    stamps: of every frame, ascending. keys: of those that decode alone. tick: seconds. clocked: the times are the
    frames' own; AVI only counts.
    """

    stamps: tuple[int, ...]
    keys: tuple[int, ...]
    tick: Fraction
    clocked: bool


class _Packet(NamedTuple):
    time: int | None
    decoded_at: int | None
    has_own_time: bool
    is_key: bool
    is_discarded: bool
    is_corrupt: bool


# ---------------------------------------------------------------- opening


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its one video stream, to be decoded in the thread that asks.

    Raises DataError for a file without a video, with several, or of an unknown codec, and FFmpegError or OSError for
    what FFmpeg cannot open.
    """
    with av.open(str(path), metadata_errors="replace", options={"format_whitelist": FORMATS}) as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # no covers
        if not streams:
            raise DataError(f"{path}: expected a video, got a file without one — restore it.")
        if len(streams) > 1:
            raise DataError(
                f"{path}: expected one video in the file, got {len(streams)} — keep one: "
                f"ffmpeg -i {path.name} -map 0:v:0 -c copy one{path.suffix}"
            )
        stream, context = streams[0], streams[0].codec_context
        if context is None:
            raise DataError(f"{path}: expected a codec that FFmpeg knows, got another — encode it as H.264.")
        if context.width * context.height > MAX_PIXELS:
            size = f"{context.width}×{context.height}"
            raise DataError(f"{path}: expected at most {MAX_PIXELS} pixels a frame, got {size} — scale it down.")
        context.thread_count = 1  # one thread per camera: that is parallel enough
        context.options = {"max_pixels": str(MAX_PIXELS)}
        if context.name == "mjpeg":  # the other decoders mark what is damaged; this one leaves grey in its place
            context.options |= {"err_detect": "explode"}
        yield container, stream


def describe(path: Path, reason: str | None) -> str:
    """What came in place of a video, and what to do about it."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        known = next((what for beginning, what in _BEGINNINGS.items() if head.startswith(beginning)), None)
        came = known or described(path)
    except OSError as error:
        return f"{error.strerror} — give leave to read it."
    if came in ("other bytes", VIDEO):
        return f"{reason} (read are {', '.join(suffix[1:] for suffix in SUFFIXES)}) — restore the file."
    return f"{came} — restore the file, or make an MP4 of it."


# ---------------------------------------------------------------- packets


def scan(path: Path, container: InputContainer, stream: VideoStream) -> tuple[Packets, av.VideoFrame]:
    """Every packet's times, and the first frame. Logs where the header promises another number or length.

    Raises DataError: no frame, times that are missing or jump back, a file that cannot be read on.
    """
    found: list[_Packet] = []
    first = None
    try:
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if packet.size:
                found.append(_packet(packet))
    except (av.FFmpegError, OSError) as error:
        many = f"frame {len(found)} of {stream.frames}" if stream.frames else f"more than {len(found)} frames"
        raise DataError(f"{path}: expected {many}, got {error.strerror} — restore the file.") from None
    whole = _without_cut_tail(path, found)
    shown = [packet for packet in whole if not packet.is_discarded]
    if first is None or not shown:
        raise DataError(f"{path}: expected a video, got one without a frame — restore the file.")
    _check_times(path, whole)
    _say_promises(path, container, stream, whole)
    tick = Fraction(stream.time_base or 1)
    stamps = sorted(packet.time for packet in shown if packet.time is not None)
    keys = sorted(packet.time for packet in shown if packet.is_key and packet.time is not None)
    clocked = container.format.name != "avi" and all(packet.has_own_time for packet in shown)
    return Packets(tuple(stamps), tuple(keys), tick, clocked), first


def _packet(packet: av.Packet) -> _Packet:
    time = packet.dts if packet.pts is None else packet.pts
    marks = (bool(packet.is_keyframe), bool(packet.is_discard), bool(packet.is_corrupt))
    return _Packet(time, packet.dts, packet.pts is not None, *marks)


def _without_cut_tail(path: Path, packets: list[_Packet]) -> list[_Packet]:
    """Without what was cut off in its middle at the file's end."""
    whole = list(packets)
    while whole and whole[-1].is_corrupt:
        whole.pop()
    if whole != packets:
        _log.warning("%s: the file ends in the middle of frame %d, which is left out", path, len(whole))
    for number, packet in enumerate(whole):
        if packet.is_corrupt:
            raise DataError(f"{path}: expected frame {number}, got a damaged one — restore the file.")
    return whole


def _check_times(path: Path, packets: list[_Packet]) -> None:
    if any(packet.time is None for packet in packets):
        raise DataError(
            f"{path}: expected a time for every frame, got some without — write it anew: ffmpeg -i {path.name} new.mp4"
        )
    decoded = [(number, p.decoded_at) for number, p in enumerate(packets) if p.decoded_at is not None]
    for (_, before), (number, after) in pairwise(decoded):
        if after < before:
            raise DataError(
                f"{path}: expected times that grow, got frame {number} before the one that it follows — cut the "
                "recording there, or write it anew with even times."
            )


def _say_promises(path: Path, container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> None:
    """Log where frames are left out, or are more or fewer, longer or shorter than the header says."""
    if discarded := sum(packet.is_discarded for packet in packets):
        _log.warning("%s: its edit list leaves out %d of %d frames, as players do", path, discarded, len(packets))
    if stream.frames and stream.frames != len(packets):
        _log.warning("%s: its header promises %d frames, its content has %d", path, stream.frames, len(packets))
    if container.format.name in _LENGTH_IN_HEADER and len(container.streams) == 1 and container.duration:
        _say_length(path, stream, [packet.time for packet in packets if packet.time is not None], container.duration)


def _say_length(path: Path, stream: VideoStream, times: list[int], duration: int) -> None:
    """Log a header's length, in microseconds, that is another than the frames'; it may count from the clock's 0."""
    tick, count = float(stream.time_base or 1), len(times)
    spread = (max(times) - min(times)) * tick
    step = spread / (count - 1) if count > 1 else 1 / float(stream.average_rate or 1)
    promised, lasts = duration / av.time_base, spread + step
    missing = [(promised - length) / step if step else 0.0 for length in (lasts, lasts + min(times) * tick)]
    if not any(-1.5 < frames < 0.5 for frames in missing):  # some writers leave out the last frame's own time
        _log.warning("%s: its header promises %.4g s, its frames last %.4g s", path, promised, lasts)


def rate(path: Path, stream: VideoStream, packets: Packets, fallback: float) -> float:
    """Frames a second: the header's where the frames' times agree within 1 %, else the times'. Logs the latter.

    Logs frames that come unevenly too. Raises DataError when all come at once.
    """
    announced = float(stream.average_rate or fallback)
    if len(packets.stamps) < 2:
        return announced
    steps = np.diff(packets.stamps) * float(packets.tick)
    if steps.sum() <= 0:
        raise DataError(f"{path}: expected times that grow, got one time for all frames — write it anew.")
    step = steps.mean()
    if steps.max() >= UNEVEN * step:
        _log.warning("%s: its frames come unevenly, %.4g to %.4g s apart", path, steps.min(), steps.max())
        step = max(np.median(steps), packets.tick)  # a pause is no slower camera
    if abs(step - 1 / announced) <= max(RATE_TOLERANCE / announced, packets.tick):
        return announced
    _log.warning("%s: its header promises %.6g frames a second, its frames come at %.6g", path, announced, 1 / step)
    return float(1 / step)


# ---------------------------------------------------------------- frames


def quarter_turns(frame: av.VideoFrame) -> int:
    """Quarter turns, anticlockwise, that make the frame upright, as its display matrix asks."""
    return round(frame.rotation / 90) % 4


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of the upright picture, in pixels."""
    return (frame.height, frame.width) if quarter_turns(frame) % 2 else (frame.width, frame.height)


def refuse_unfit(path: Path, frame: av.VideoFrame) -> None:
    """Raises DataError for a frame that is mirrored, at an angle, interlaced or HDR."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
        if frame.rotation % 90 or a * d - b * c < 0:
            came = "one that mirrors it" if a * d - b * c < 0 else f"{frame.rotation}°"
            raise DataError(
                f"{path}: expected a display matrix that turns the picture by quarters, got {came} — write the file "
                "anew with the pixels as they are to be seen, and without the matrix."
            )
    if frame.interlaced_frame:
        raise DataError(
            f"{path}: expected whole frames, got interlaced ones, of two moments each — deinterlace it, such as with "
            "ffmpeg's bwdif, before masks are made."
        )
    if frame.color_trc in HDR:
        raise DataError(
            f"{path}: expected ordinary colours, got HDR ({ColorTrc(frame.color_trc).name}) — map its tones to bt709."
        )


def say_changes(path: Path, stream: VideoStream, frame: av.VideoFrame, announced: tuple[int, int]) -> None:
    """Log what is done to the pictures because the file says so, and what of it is not."""
    if announced != (frame.width, frame.height):
        came = (*announced, frame.width, frame.height)
        _log.warning("%s: its header promises %d×%d pixels, its frames have %d×%d", path, *came)
    if turns := quarter_turns(frame):
        _log.warning("%s: turned by %d° anticlockwise, as its display matrix asks", path, 90 * turns)
    if stream.sample_aspect_ratio not in (None, 0, 1):
        aspect = stream.sample_aspect_ratio
        _log.warning("%s: its pixels are %s as wide as high; they are taken as stored, unscaled", path, aspect)
    if any(part.is_alpha for part in frame.format.components) or "alpha_mode" in stream.metadata:
        _log.warning("%s: its transparency is not used; silhouettes come from the masks' grey", path)
