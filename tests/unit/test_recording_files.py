"""Recordings as laboratories have them: cameras that started apart, masks the wrong way round, flags in files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mouselift import app
from pipeline.data.mice.recording import write_recording
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.layout import find_videos
from pipeline.data.recording.moments import parse_offsets
from pipeline.data.recording.recording import Recording, convert, open_recording
from pipeline.data.recording.video import open_video, write_video
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.errors import DataError

FRAMES, FPS = 12, 100
PLAN = FramePlan(frames=(3, 5, 7), guard=0)


@pytest.fixture(scope="session")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of twelve frames at an eighth of its size. Read only."""
    return write_recording(tmp_path_factory.mktemp("raw") / "filmed", FRAMES, seed=4, fps=FPS, scale=0.125)


@pytest.fixture(scope="session")
def converted(filmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """All of its frames, as they are. Read only."""
    return made(open_recording(filmed), tmp_path_factory.mktemp("converted") / "mice")


@pytest.fixture
def raw(filmed: Path, tmp_path: Path) -> Path:
    """The same recording, to be changed."""
    return Path(shutil.copytree(filmed, tmp_path / "recording"))


def made(recording: Recording, out: Path) -> Dataset:
    list(convert(recording, out, PLAN))
    return open_dataset(out)


def alphas(dataset: Dataset, frame: int) -> np.ndarray:
    """[view, height, width] of one scene."""
    paths = dataset.scenes[f"frame_{frame:06d}"].paths
    return np.stack([np.array(Image.open(path))[..., 3] for path in paths]).astype(int)


def pictures(path: Path) -> list[np.ndarray]:
    video = open_video(path)
    return [picture[..., :3].copy() for picture in video.read(range(video.num_frames), "rgba")]


def copied(
    path: Path, change: Callable[[av.Packet, int], bool] = lambda packet, number: True, **stream: object
) -> None:
    """Write a video's packets anew; `change` may give one another time, or leave it out by False."""
    other = path.with_name(f"other{path.suffix}")
    with av.open(str(path)) as source, av.open(str(other), "w") as target:
        out = target.add_stream_from_template(source.streams.video[0])
        if "turned" in stream:
            out.set_display_rotation(stream["turned"])
        if "aspect" in stream:
            out.codec_context.sample_aspect_ratio = stream["aspect"]
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and change(packet, number):
                packet.stream = out
                target.mux(packet)
    other.replace(path)


def each(folder: Path, camera: int) -> tuple[Path, Path]:
    return folder / f"videos_undist/{camera}.mp4", folder / f"simpleclick_undist/{camera}.mp4"


# ---------------------------------------------------------------- the way up


def test_a_camera_that_was_mounted_upside_down_and_flagged_is_converted_upright(
    raw: Path, converted: Dataset, tmp_path: Path
) -> None:
    """Its masks were made by a tool that shows videos upright, as OpenCV and ffmpeg do; so was its calibration."""
    colour, _ = each(raw, 2)
    write_video([np.rot90(picture, 2) for picture in pictures(colour)], colour, FPS)
    copied(colour, turned=180)
    dataset = made(open_recording(raw), tmp_path / "mice")
    assert dataset.manifest.transforms[-1]["turned"] == [0, 0, 180, 0, 0, 0]
    one, other = (np.array(Image.open(d.scenes["frame_000005"].paths[2])).astype(int) for d in (dataset, converted))
    inside = (one[..., 3] == 255) & (other[..., 3] == 255)
    assert inside.sum() > 50 and np.abs(one - other)[inside, :3].mean() < 6


def test_pixels_that_are_not_square_need_a_calibration_of_such(raw: Path) -> None:
    copied(each(raw, 3)[0], aspect=Fraction(4, 3))
    with pytest.raises(
        DataError, match=r"3.mp4: expected a calibration with fx / fy of 0.75 for pixels 1.333 times as"
    ):
        open_recording(raw)
    calibration = raw / "new_cam.pkl"
    cameras = pickle.loads(calibration.read_bytes())
    cameras[3]["K"][0, 0] *= 0.75
    calibration.write_bytes(pickle.dumps(cameras))
    assert open_recording(raw).videos[3].pixel_aspect == pytest.approx(4 / 3)


# ---------------------------------------------------------------- moments


def cut(folder: Path, camera: int, missing: int) -> None:
    """The camera started later: its first frames and what belongs to them are not there."""
    for path in each(folder, camera):
        write_video(pictures(path)[missing:], path, FPS)
    joints = folder / f"keypoints2d_undist/result_view_{camera}.pkl"
    joints.write_bytes(pickle.dumps(pickle.loads(joints.read_bytes())[missing:]))


def test_cameras_that_started_apart_are_refused_with_all_numbers_and_the_option(raw: Path) -> None:
    cut(raw, 4, 2)
    with pytest.raises(DataError, match=r"4.mp4: .*, got 10 \(all: 12, 12, 12, 12, 10, 12\) .* --offsets"):
        open_recording(raw)


@pytest.mark.parametrize("offsets", ["7,7,7,7,5,7", "0.07s,0.07s,0.07s,0.07s,0.05s,0.07s"])
def test_offsets_bring_the_frames_of_one_moment_together(
    raw: Path, converted: Dataset, tmp_path: Path, offsets: str
) -> None:
    cut(raw, 4, 2)
    recording = open_recording(raw, offsets=parse_offsets(offsets))
    assert (recording.num_frames, recording.starts) == (10, (2, 2, 2, 2, 0, 2))
    dataset = made(recording, tmp_path / "mice")
    assert dataset.manifest.transforms[-1]["starts"] == [2, 2, 2, 2, 0, 2]
    assert np.abs(alphas(dataset, 3) - alphas(converted, 5)).mean() < 0.5
    notes = [d.scenes[name].notes.keypoints for d, name in ((dataset, "frame_000003"), (converted, "frame_000005"))]
    np.testing.assert_allclose(*notes)


LISTS = {
    "a.yaml": "[3, 1s, 0]",
    "b.yaml": "0: 3\n2: 0\n1: 1s\n",
    "c.json": '{"0": 3, "1": "1s", "2": 0}',
    "d.csv": "camera,offset\n0,3\n1,1s\n2,0\n",
    "e.csv": '\ufeff2,0\n0,"3"\n\n1, 1s\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_offsets_are_read_from_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LISTS[name])
    offsets = parse_offsets(str(tmp_path / name))
    assert [(offset.value, offset.in_seconds) for offset in offsets] == [(3, False), (1, True), (0, False)]


WRONG_OFFSETS = {
    "1,2,x": "camera 2: expected frames from 0 such as 120, or seconds such as 1.2s, got 'x'",
    "1,-2,3": "camera 1: expected frames from 0",
    "1,2.5": "camera 1: expected frames from 0",
    "1,nan": "camera 1: expected frames from 0",
    "": "camera 0: expected frames from 0",
    "none.yaml": "none.yaml: expected .*No such file",
}


@pytest.mark.parametrize("text", WRONG_OFFSETS)
def test_offsets_that_cannot_be_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(DataError, match=WRONG_OFFSETS[text]) as refusal:
        parse_offsets(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("0,1\n0,2\n", "each once, got 0, 0"), ("1,1\n2,2\n", "got 1, 2"), ("", "got none")],
)
def test_a_camera_twice_or_left_out_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "offsets.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        parse_offsets(str(tmp_path / "offsets.csv"))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [("1,2", "expected 6 as there are videos, got 2"), ("0,0,12,0,0,0", "within the 12 frames of 2.mp4, got 12"),
     ("0,0,1s,0,0,0", "within the 12 frames of 2.mp4, got 1 s")],
)  # fmt: skip
def test_a_moment_that_a_video_does_not_show_is_refused(filmed: Path, offsets: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_recording(filmed, offsets=parse_offsets(offsets))


def late(milliseconds: int, after: int = 0) -> Callable[[av.Packet, int], bool]:
    """Packets from frame `after` on come so much later."""

    def change(packet: av.Packet, _: int) -> bool:
        if packet.pts * packet.time_base > (after - 0.5) / FPS:
            ticks = round(milliseconds / 1000 / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return True

    return change


def as_matroska(folder: Path, change: Callable[[av.Packet, int], bool], cameras: Sequence[int]) -> None:
    """The colour videos without B-frames in Matroska, where packets keep the times they are given."""
    for camera in range(6):
        path = each(folder, camera)[0]
        shots, other = pictures(path), path.with_suffix(".mkv")
        with av.open(str(other), "w") as target:
            stream = target.add_stream("libx264", rate=FPS, options={"bf": "0"})
            stream.height, stream.width = shots[0].shape[:2]
            for number, shot in enumerate([*shots, None]):
                frame = None if shot is None else av.VideoFrame.from_ndarray(shot, format="rgb24")
                for packet in stream.encode(frame):
                    if camera not in cameras or change(packet, number):
                        target.mux(packet)
        path.unlink()


def test_a_camera_whose_clock_begins_later_is_refused_until_offsets_say_otherwise(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_matroska(raw, late(30), [3])
    with pytest.raises(DataError, match=r"3.mkv: expected frame 0 at 0 s as 0.mkv, got 0.03 s: .* --offsets"):
        open_recording(raw)
    assert "promises" not in caplog.text
    assert open_recording(raw, offsets=parse_offsets("0,0,0,0,0,0")).starts == (0,) * 6


def test_a_camera_that_dropped_frames_is_refused_with_or_without_offsets(raw: Path) -> None:
    as_matroska(raw, late(20, after=6), [3])
    for offsets in (None, parse_offsets("0,0,0,0,0,0")):
        with pytest.raises(DataError, match=r"3.mkv: expected frame 6 at 0.06 s as 0.mkv, got 0.08 s: frames of one"):
            open_recording(raw, offsets=offsets)


def test_a_pause_that_all_cameras_made_is_none_between_them(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_matroska(raw, late(500, after=6), range(6))
    assert open_recording(raw).num_frames == FRAMES
    assert "0.mkv: its frames come unevenly, 0.01 to 0.51 s apart" in caplog.text


# ---------------------------------------------------------------- masks


def inverted(folder: Path, cameras: Sequence[int] = range(6)) -> None:
    for camera in cameras:
        path = each(folder, camera)[1]
        write_video([255 - picture for picture in pictures(path)], path, FPS)


def test_masks_the_wrong_way_round_are_refused_with_their_views_and_the_option(raw: Path) -> None:
    inverted(raw)
    message = (
        r"simpleclick_undist/0.mp4: .* got white on 9\d% of the picture and 100% of its border \(views 0, 1, 2, 3, 4"
    )
    with pytest.raises(DataError, match=rf"{message}, 5\) — pass --invert-masks"):
        open_recording(raw)


def test_inverted_masks_are_turned_over_on_request(raw: Path, converted: Dataset, tmp_path: Path) -> None:
    inverted(raw)
    dataset = made(open_recording(raw, inverted=True), tmp_path / "mice")
    assert dataset.manifest.transforms[-1]["inverted_masks"] is True
    assert np.abs(alphas(dataset, 3) - alphas(converted, 3)).mean() < 0.5


def test_some_masks_the_wrong_way_round_are_named(raw: Path) -> None:
    inverted(raw, [1, 4])
    with pytest.raises(DataError, match=r"simpleclick_undist/1.mp4: .*\(views 1, 4\) — turn those videos over"):
        open_recording(raw)


def test_masks_that_cannot_be_sought_in_are_looked_at_too(raw: Path) -> None:
    path = each(raw, 2)[1]
    shots = [255 - picture for picture in pictures(path)]
    with av.open(str(path.with_suffix(".ts")), "w") as target:
        stream = target.add_stream("mpeg2video", rate=FPS)
        stream.height, stream.width = shots[0].shape[:2]
        for shot in [*shots, None]:
            target.mux(stream.encode(None if shot is None else av.VideoFrame.from_ndarray(shot, format="rgb24")))
    path.unlink()
    with pytest.raises(DataError, match=r"simpleclick_undist/2.ts: .*\(views 2\)"):
        open_recording(raw)


def test_right_masks_are_not_inverted_by_mistake(filmed: Path) -> None:
    with pytest.raises(DataError, match=r"\(views 0, 1, 2, 3, 4, 5\) — leave --invert-masks out"):
        open_recording(filmed, inverted=True)


def test_masks_of_0_and_1_are_refused_with_the_greys_there_are(raw: Path) -> None:
    path = each(raw, 5)[1]
    write_video([(picture > 127).astype(np.uint8) for picture in pictures(path)], path, FPS)
    with pytest.raises(
        DataError, match=r"5.mp4: expected a mouse above grey 127, got greys 0 to \d in all 12 frames of"
    ):
        open_recording(raw)


def test_a_mouse_that_comes_late_is_no_empty_mask(raw: Path) -> None:
    path = each(raw, 5)[1]
    write_video([picture * (number > 8) for number, picture in enumerate(pictures(path))], path, FPS)
    assert open_recording(raw).num_frames == FRAMES


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "mpeg4"), (".MOV", "libx264"), (".mkv", "ffv1")])
def test_other_containers_are_found_and_convert_alike(
    raw: Path, converted: Dataset, tmp_path: Path, suffix: str, codec: str
) -> None:
    for path in each(raw, 2):
        shots = pictures(path)
        with av.open(
            str(path.with_suffix(suffix)), "w", format=suffix.lower()[1:].replace("mkv", "matroska")
        ) as target:
            stream = target.add_stream(codec, rate=FPS)
            stream.height, stream.width = shots[0].shape[:2]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
            for shot in [*shots, None]:
                frame = None if shot is None else av.VideoFrame.from_ndarray(shot, format="rgb24")
                target.mux(stream.encode(frame))
        path.unlink()
    assert np.abs(alphas(made(open_recording(raw), tmp_path / "mice"), 3) - alphas(converted, 3)).mean() < 1


FOUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "a camera twice": (
        lambda raw: shutil.copy(each(raw, 2)[0], raw / "videos_undist/2.avi"),
        r"2.mp4: expected one video a camera, found 2.avi too",
    ),
    "folders of pictures": (
        lambda raw: [
            shutil.rmtree(raw / "videos_undist"),
            (raw / "videos_undist/0").mkdir(parents=True),
            Image.new("RGB", (8, 8)).save(raw / "videos_undist/0/000001.png"),
        ],
        "videos_undist: expected 0.mp4, 1.mp4 and so on, found pictures: make a video of each camera's",
    ),
    "other files": (
        lambda raw: [shutil.rmtree(raw / "videos_undist"), (raw / "videos_undist").mkdir(),
                     (raw / "videos_undist/0.h5").touch()],
        "found 0.h5 — check the recording",
    ),
    "another numeral": (
        lambda raw: each(raw, 2)[0].rename(raw / "videos_undist/٢.mp4"),
        "expected videos named 0.mp4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_what_lies_in_place_of_videos_is_named(raw: Path, case: str) -> None:
    spoil, message = FOUND[case]
    spoil(raw)
    with pytest.raises(DataError, match=message) as refusal:
        open_recording(raw)
    assert "\n" not in str(refusal.value)


def test_a_film_that_no_camera_made_is_left_out_and_that_is_said(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    (raw / "videos_undist/preview.gif").write_bytes(b"GIF89a")
    assert len(find_videos((raw / "videos_undist",))[0]) == 6
    assert "videos_undist: left out, as no camera's number: preview.gif" in caplog.text


# ---------------------------------------------------------------- the command


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", "convert", *map(str, words), "--frames", "3,5,7", "--guard", "0"])
    return result.exit_code, result.stdout, result.stderr


def test_convert_ends_with_the_verdict(filmed: Path, tmp_path: Path) -> None:
    code, out, err = run(filmed, tmp_path / "mice")
    verdict = open_dataset(tmp_path / "mice").manifest.geometry.verdict
    assert (code, out.strip()) == (0, str(tmp_path / "mice")) and f"{verdict}: " in err
    code, out, _ = run(filmed, tmp_path / "mice", "--json")
    assert json.loads(out)["verdict"] == verdict


def test_a_set_that_contradicts_its_cameras_is_said_with_what_to_do(raw: Path, tmp_path: Path) -> None:
    for one, other in zip(each(raw, 1), each(raw, 5), strict=True):
        one.rename(one.with_suffix(".x"))
        other.rename(one)
        one.with_suffix(".x").rename(other)
    shutil.rmtree(raw / "keypoints2d_undist")
    code, _, err = run(raw, tmp_path / "mice")
    assert code == 0 and "inconsistent: " in err and " — " in err


def test_the_command_takes_offsets_and_inverted_masks(raw: Path, tmp_path: Path) -> None:
    inverted(raw)
    cut(raw, 4, 2)
    code, out, _ = run(raw, tmp_path / "mice", "--offsets", "2,2,2,2,0,2", "--invert-masks", "--json")
    assert code == 0 and json.loads(out)["scenes"] == 3


def test_a_refusal_leaves_nothing_behind(raw: Path, tmp_path: Path) -> None:
    inverted(raw)
    with pytest.raises(DataError, match="--invert-masks"):
        CliRunner().invoke(app, ["data", "convert", str(raw), str(tmp_path / "mice")], catch_exceptions=False)
    assert not (tmp_path / "mice").exists()
