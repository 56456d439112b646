"""Videos as cameras, editors and networks leave them: read as players show them, or refused in one line."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from pipeline.data.recording.video import open_video
from pipeline.errors import DataError
from tests.support.mutations import mutations

WIDTH, HEIGHT, FRAMES = 96, 64, 12
BRIGHT = 20  # grey that each frame adds to the one before
COLOURS = np.array([[200, 30, 30], [30, 180, 60], [20, 40, 220], [128, 128, 128], [255, 255, 255], [0, 0, 0]], np.uint8)


def flat(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that can be told by its grey, but for its black top left corner."""
    picture = np.full((height, width, 3), BRIGHT * number, np.uint8)
    picture[: height // 4, : width // 4] = 0
    return picture


def greys(pictures: Iterator[np.ndarray]) -> list[int]:
    """The numbers of flat frames."""
    return [round(float(np.median(picture)) / BRIGHT) for picture in pictures]


def film(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    shots: Sequence[np.ndarray] | None = None,
    times: Sequence[int] | None = None,
    prepare: Callable[[VideoStream], object] = lambda stream: None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of flat frames, or of `shots`, at 30 frames a second, or at `times` in milliseconds."""
    shots = [flat(number) for number in range(FRAMES)] if shots is None else shots
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width = shots[0].shape[:2]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, shot in enumerate(shots):
            frame = av.VideoFrame.from_ndarray(shot, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def joined_packets(parts: Sequence[Path], path: Path, duration: int) -> Path:
    """One stream of several videos' packets, each `duration` ticks after the one before."""
    with av.open(str(path), "w") as target:
        out = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as source:
                out = out or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + number * duration, packet.dts + number * duration
                        packet.stream = out
                        target.mux(packet)
    return path


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# ---------------------------------------------------------------- containers and codecs

KINDS = {
    "B-frames": ("a.mp4", "libx264", "yuv420p", {"bf": "3"}),
    "HEVC": ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "MPEG-4": ("a.m4v", "mpeg4", "yuv420p", {}),
    "H.264 in AVI": ("a.avi", "libx264", "yuv420p", {"bf": "3"}),
    "MPEG-4 in AVI": ("a.avi", "mpeg4", "yuv420p", {"bf": "2"}),
    "MJPEG": ("a.avi", "mjpeg", "yuvj420p", {}),
    "raw pictures in AVI": ("a.avi", "rawvideo", "yuv420p", {}),
    "QuickTime": ("a.mov", "libx264", "yuv420p", {}),
    "Matroska": ("a.mkv", "libx264", "yuv420p", {"bf": "3"}),
    "WebM": ("a.webm", "libvpx-vp9", "yuv420p", {"cpu-used": "8"}),
    "MPEG-2": ("a.mpg", "mpeg2video", "yuv420p", {}),
    "a transport stream": ("a.ts", "libx264", "yuv420p", {}),
    "GIF": ("a.gif", "gif", "rgb8", {}),
    "lossless grey of 16 bit": ("a.mkv", "ffv1", "gray16le", {}),
    "with transparency": ("a.mov", "qtrle", "argb", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_of_any_usual_kind_gives_the_frames_that_were_filmed(tmp_path: Path, kind: str) -> None:
    name, codec, pixels, options = KINDS[kind]
    video = open_video(film(tmp_path / name, codec, pixels, options=options))
    assert (video.width, video.height, video.num_frames) == (WIDTH, HEIGHT, FRAMES)
    assert greys(video.read([0, 3, 4, 11], "gray")) == [0, 3, 4, 11]


@pytest.mark.parametrize("width", [95, 96, 97, 98, 100, 104])
def test_a_picture_of_any_width_keeps_its_last_row_and_column(tmp_path: Path, width: int) -> None:
    video = open_video(film(tmp_path / "a.mkv", "ffv1", shots=[flat(6, width, 63)]))
    picture = next(video.read([0], "rgba"))
    assert picture.shape == (63, width, 4) and (picture[..., 3] == 255).all()
    np.testing.assert_allclose(picture[30:, 30:, :3].astype(int), 6 * BRIGHT, atol=2)


def test_another_layout_of_pixels_in_mid_stream_is_read_by_its_own(tmp_path: Path) -> None:
    """As trail cameras write MJPEG: the first frame with more colour than those after it."""
    parts = [film(tmp_path / f"{kind}.avi", "mjpeg", f"yuvj{kind}p", [flat(n)]) for kind, n in ((422, 3), (420, 7))]
    assert greys(open_video(joined_packets(parts, tmp_path / "a.avi", 1)).read([0, 1], "gray")) == [3, 7]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("space", [1, 5], ids=["bt709", "bt601"])
def test_colours_are_read_by_their_range_space_and_depth(
    tmp_path: Path, pixels: str, full_range: bool, space: int
) -> None:
    picture, path = np.repeat(np.repeat(COLOURS.reshape(2, 3, 3), 32, 0), 32, 1), tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 1 + full_range
        frame = VideoReformatter().reformat(
            av.VideoFrame.from_ndarray(picture, format="rgb24"),
            format=pixels,
            dst_colorspace=space,
            dst_color_range=1 + full_range,
        )
        frame.colorspace, frame.color_range = space, 1 + full_range
        container.mux([*stream.encode(frame), *stream.encode()])
    came = next(open_video(path).read([0], "rgba"))[16::32, 16::32, :3].reshape(6, 3)
    np.testing.assert_allclose(came.astype(int), COLOURS, atol=2)


# ---------------------------------------------------------------- what a header asks for


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_rotation_flag_turns_the_picture_as_players_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, degrees: int, corner: tuple[int, int]
) -> None:
    path = film(tmp_path / "a.mp4", shots=[flat(9)] * 3, prepare=lambda stream: stream.set_display_rotation(degrees))
    video = open_video(path)
    picture = next(video.read([2], "gray"))
    assert picture.shape == (video.height, video.width) == ((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT))
    assert picture[corner] < 10 and sum(picture[y, x] < 10 for y in (0, -1) for x in (0, -1)) == 1
    assert f"turned by {degrees % 360}° anticlockwise" in said(caplog)


def test_pixels_that_are_not_square_are_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def anamorphic(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    video = open_video(film(tmp_path / "a.mp4", prepare=anamorphic))
    assert (video.width, video.height, round(video.pixel_aspect, 3)) == (WIDTH, HEIGHT, 1.333)
    assert "4/3 as wide as high; they are taken as stored" in said(caplog)


def test_sound_and_a_cover_are_no_videos(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for number in range(FRAMES):
            container.mux(video.encode(av.VideoFrame.from_ndarray(flat(number), format="rgb24")))
        container.mux(video.encode())
    assert greys(open_video(path).read(range(FRAMES), "gray")) == list(range(FRAMES))


# ---------------------------------------------------------------- what a header promises


def patched(path: Path, mark: bytes, offset: int, layout: str, value: int) -> Path:
    """The file with a number changed, so far behind a mark."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, content.index(mark) + offset, value)
    path.write_bytes(content)
    return path


def test_frames_that_an_edit_list_leaves_out_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4", options={"bf": "0"})
    assert open_video(path).num_frames == FRAMES
    patched(path, b"elst", 16, ">I", 3 * 512)
    video = open_video(path)
    assert greys(video.read(range(video.num_frames), "gray")) == list(range(3, FRAMES))
    assert f"leaves out 3 of {FRAMES} frames" in said(caplog)


def test_an_index_that_promises_more_frames_than_there_are_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = patched(film(tmp_path / "a.avi", "mjpeg", "yuvj420p"), b"strh", 8 + 32, "<I", 50)
    assert open_video(path).num_frames == FRAMES
    assert f"promises 50 frames, its content has {FRAMES}" in said(caplog)


def test_a_length_that_is_not_the_frames_is_said_with_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = film(tmp_path / "a.mkv", "mjpeg", "yuvj420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 1 < open_video(path).num_frames < FRAMES
    assert "promises 0.4 s, its frames last 0.1" in said(caplog)


def test_a_file_cut_off_in_its_last_frame_gives_the_whole_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.avi", "mjpeg", "yuvj420p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    video = open_video(path)
    assert greys(video.read(range(video.num_frames), "gray")) == list(range(video.num_frames))
    assert f"ends in the middle of frame {video.num_frames}, which is left out" in said(caplog)
    assert f"promises {FRAMES} frames, its content has {video.num_frames}" in said(caplog)


def test_frames_that_come_unevenly_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film(tmp_path / "a.mkv", shots=[flat(5)] * 4, times=[0, 10, 20, 80])
    assert open_video(tmp_path / "a.mkv").times.round(3).tolist() == [0, 0.01, 0.02, 0.08]
    assert "unevenly, 0.01 to 0.06 s apart" in said(caplog)


def test_an_ordinary_video_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pipeline"):
        open_video(film(tmp_path / "a.mp4"))
    assert said(caplog) == ""


# ---------------------------------------------------------------- what is refused


def two_videos(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=30) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for stream in streams:
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(flat(3), format="rgb24")), *stream.encode()])


def sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(silence), *stream.encode()])


def no_frame(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()


def joined(path: Path) -> None:
    """Two takes put behind each other: the second one's times begin again."""
    one, two = (film(path.with_name(f"{name}.mpg"), "mpeg2video").read_bytes() for name in "ab")
    path.write_bytes(one + two)


def hdr(stream: VideoStream) -> None:
    stream.codec_context.color_trc = 16


def mirrored(stream: VideoStream) -> None:
    stream.set_display_matrix([-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "got an empty file; copy it again — "),
    "a web page": (lambda path: path.write_text("<!doctype html><title>404</title>"), "got a web page"),
    "a Git-LFS pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "got a pointer of Git LFS in its place; `git lfs pull` fetches the file — ",
    ),
    "a playlist": (
        lambda path: path.write_text(f"ffconcat version 1.0\nfile '{film(path.with_name('other.mp4')).name}'\n"),
        "got a playlist",
    ),
    "a stream without a container": (
        lambda path: film(path.with_name("a.h264")).rename(path),
        "got H.264 or HEVC without a container, and so without times",
    ),
    "a picture": (lambda path: film(path.with_name("a.png"), "png", "rgb24", [flat(3)]).rename(path), "got a picture"),
    "raw numbers": (lambda path: path.write_bytes(bytes(range(256)) * 20), "read are mp4, m4v, mov"),
    "a folder": (Path.mkdir, "found a folder"),
    "sound alone": (sound_alone, "got a file without one"),
    "no frame": (no_frame, "expected a video, got "),
    "two videos": (two_videos, "expected one video in the file, got 2 — keep one"),
    "at an angle": (lambda path: film(path, prepare=lambda s: s.set_display_rotation(45)), "got 45°"),
    "mirrored": (lambda path: film(path, prepare=mirrored), "got one that mirrors it"),
    "interlaced": (
        lambda path: film(path, options={"x264-params": "tff=1"}),
        "expected whole frames, got interlaced ones",
    ),
    "HDR": (lambda path: film(path, prepare=hdr), "expected ordinary colours, got HDR"),
    "times that begin again": (joined, "expected times that grow, got frame 12 before"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_have_to_be_guessed_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(tmp_path / "0.mp4")
    with pytest.raises(DataError, match=message) as refusal:
        open_video(tmp_path / "0.mp4")
    assert str(refusal.value).startswith(f"{tmp_path / '0.mp4'}: expected ")
    assert "\n" not in str(refusal.value) and " — " in str(refusal.value)


def test_another_size_in_mid_stream_is_refused_where_it_comes(tmp_path: Path) -> None:
    parts = [film(tmp_path / f"{w}.ts", shots=[flat(5, w)] * 4, options={"bf": "0"}) for w in (96, 64)]
    path = joined_packets(parts, tmp_path / "a.ts", 4 * 3000)
    with pytest.raises(DataError, match=r"expected 96×64 in every frame, got 64×64 from frame 4 on"):
        list(open_video(path).read(range(8), "gray"))


def test_a_frame_that_the_decoder_leaves_out_is_missed(tmp_path: Path) -> None:
    """Frames before the first one that decodes alone never come; those after it are not taken for them."""
    with (
        av.open(str(film(tmp_path / "a.mkv", options={"x264-params": "keyint=6:scenecut=0:bframes=0"}))) as source,
        av.open(str(tmp_path / "b.mkv"), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number > 0:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(
        DataError, match=r"b.mkv: expected frame 0 of 11, got that of 0.2 s in place of that of 0.033 s"
    ):
        list(open_video(tmp_path / "b.mkv").read(range(11), "gray"))


def ends_well(path: Path) -> bool:
    """Whether a video gives as many frames of its size as it says, or one line."""
    try:
        video = open_video(path)
        shapes = [picture.shape for picture in video.read(range(video.num_frames), "rgba")]
    except DataError as refusal:
        return "\n" not in str(refusal) and " — " in str(refusal)
    return shapes == [(video.height, video.width, 4)] * video.num_frames


@pytest.mark.parametrize("kind", ["B-frames", "MPEG-4", "MJPEG", "Matroska"])
def test_a_mutated_file_gives_as_many_frames_as_it_says_of_one_size_or_is_refused(tmp_path: Path, kind: str) -> None:
    """What a bit changes within a picture, where its codec has no checksum, cannot be seen."""
    name, codec, pixels, options = KINDS[kind]
    path = film(tmp_path / name, codec, pixels, options=options)
    for content in mutations(path.read_bytes(), seed=1, count=60):
        path.write_bytes(content)
        assert ends_well(path)
