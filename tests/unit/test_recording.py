"""Raw recordings: what belongs together, and scenes that show what was filmed."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mouselift import app
from pipeline.cameras import mouse_rig
from pipeline.data.mice.mice import FPS, MouseSequence
from pipeline.data.mice.recording import write_recording
from pipeline.data.mice.render import render_mouse
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.recording import Recording, convert, open_recording
from pipeline.data.recording.video import open_video, write_video
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.errors import DataError

FRAMES, FPS_FILMED, SEED = 12, 100, 4
ALL = FramePlan(guard=0)
WIDTH, HEIGHT = 288, 256


@pytest.fixture(scope="session")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter-size recording of twelve frames by the real rig. Read only."""
    return write_recording(tmp_path_factory.mktemp("raw") / "filmed", FRAMES, seed=SEED, fps=FPS_FILMED, scale=0.25)


@pytest.fixture(scope="session")
def recording(filmed: Path) -> Recording:
    return open_recording(filmed)


@pytest.fixture(scope="session")
def converted(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """All twelve frames, converted without a break. Read only."""
    out = tmp_path_factory.mktemp("converted") / "mice"
    assert list(convert(recording, out, ALL)) == list(range(FRAMES + 1))
    return open_dataset(out)


@pytest.fixture
def broken(filmed: Path, tmp_path: Path) -> Path:
    """The same recording, to be broken."""
    return Path(shutil.copytree(filmed, tmp_path / "recording"))


def pictures(dataset: Dataset, frame: int) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in dataset.scenes[f"frame_{frame:06d}"].paths])


# ---------------------------------------------------------------- what it shows


def test_the_real_rig_is_a_ring_in_the_order_0_5_3_1_2_4(recording: Recording) -> None:
    assert recording.view_order == (0, 5, 3, 1, 2, 4)


def test_scenes_have_the_recordings_cameras_in_millimetres(converted: Dataset) -> None:
    rig = mouse_rig().to(torch.float64).resize(WIDTH, HEIGHT)
    for scene in converted.scenes.values():
        torch.testing.assert_close(scene.cameras.c2w, rig.c2w, atol=1e-4, rtol=0)
        torch.testing.assert_close(scene.cameras.fxfycxcy, rig.fxfycxcy)
        assert (scene.cameras.width, scene.cameras.height) == (WIDTH, HEIGHT)
    assert converted.manifest.unit == "mm"


@pytest.mark.parametrize("frame", [0, 7])
def test_a_scene_shows_the_mouse_of_its_frame(recording: Recording, converted: Dataset, frame: int) -> None:
    mesh = MouseSequence(SEED).mesh(FPS * frame / FPS_FILMED)
    truth = render_mouse(mesh, recording.cameras).astype(float)
    came = pictures(converted, frame).astype(float)
    areas = [image[..., 3].sum((1, 2)) for image in (came, truth)]
    np.testing.assert_allclose(areas[0], areas[1], rtol=0.03)  # the tail is a pixel wide at this size
    both, either = np.minimum(came, truth)[..., 3].sum(), np.maximum(came, truth)[..., 3].sum()
    assert both / either > 0.95
    inside = (came[..., 3] == 255) & (truth[..., 3] == 255)
    assert np.abs(came - truth)[inside, :3].mean() < 6


def test_colour_is_zero_where_alpha_is_zero(converted: Dataset) -> None:
    images = pictures(converted, 3)
    assert not images[images[..., 3] == 0].any() and images[images[..., 3] > 0, :3].any()


def test_keypoints_lie_on_the_mouse_of_their_frame(converted: Dataset) -> None:
    for frame in range(FRAMES):
        scene, images = converted.scenes[f"frame_{frame:06d}"], pictures(converted, frame)
        joints = MouseSequence(SEED).joints(FPS * frame / FPS_FILMED)
        pixels, _ = scene.cameras.project(torch.from_numpy(joints).expand(6, -1, 3))
        assert scene.notes.frame == frame
        np.testing.assert_allclose(scene.notes.keypoints[..., :2], pixels, atol=1e-4)
        columns, rows = pixels[:, 4:7].numpy().astype(int).transpose(2, 0, 1)  # deep in the trunk
        assert (images[np.arange(6)[:, None], rows, columns, 3] == 255).all()


def test_a_joint_that_is_no_number_was_not_seen(broken: Path) -> None:
    path = broken / "keypoints2d_undist/result_view_2.pkl"
    joints = pickle.loads(path.read_bytes())
    joints[3, 1, 0] = np.nan
    path.write_bytes(pickle.dumps(joints))
    keypoints = open_recording(broken).keypoints
    assert keypoints[3, 2, 1].tolist() == [0, 0, 0] and np.isfinite(keypoints).all()


def test_the_manifest_says_where_everything_came_from(recording: Recording, converted: Dataset) -> None:
    manifest, made = converted.manifest, converted.manifest.transforms[-1]
    assert (manifest.parent, manifest.rig, manifest.view_order) == (recording.digest, recording.rig, (0, 5, 3, 1, 2, 4))
    assert (made["kind"], made["scenes"], made["empty"], made["threshold"]) == ("convert", FRAMES, 0, 127)
    assert made["leakage"] == {"val": 1, "test": 2}
    assert manifest.splits["val"] == ("frame_000010",)


def test_a_recording_is_the_same_wherever_it_lies_and_another_when_a_byte_changes(
    recording: Recording, broken: Path
) -> None:
    assert open_recording(broken).digest == recording.digest
    (broken / "videos_undist/4.mp4").write_bytes((broken / "videos_undist/3.mp4").read_bytes())
    changed = open_recording(broken)
    assert changed.digest != recording.digest and changed.rig == recording.rig


# ---------------------------------------------------------------- videos


def test_chosen_frames_are_those_that_were_written(tmp_path: Path) -> None:
    write_video((np.full((48, 64, 3), 10 * i, np.uint8) for i in range(25)), tmp_path / "a.mp4")
    video = open_video(tmp_path / "a.mp4")
    assert (video.width, video.height, video.num_frames, video.fps) == (64, 48, 25, 30)
    chosen = [0, 3, 4, 17, 24]
    brightness = [picture.mean() for picture in video.read(chosen, "gray")]
    np.testing.assert_allclose(brightness, [10 * i for i in chosen], atol=2)


def test_a_promised_frame_that_never_comes_is_missed(filmed: Path) -> None:
    video = open_video(filmed / "videos_undist/0.mp4")
    video = replace(video, packets=video.packets._replace(stamps=(*video.packets.stamps, *range(8))))
    with pytest.raises(DataError, match=r"0.mp4: expected frame 12 of 20, got the end of the file"):
        list(video.read([3, 15], "rgba"))


# ---------------------------------------------------------------- what does not belong together


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fewer_cameras(folder: Path) -> None:
    path = folder / "new_cam.pkl"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes())[:5]))


def film(path: Path, width: int = WIDTH, height: int = HEIGHT, frames: int = FRAMES, fps: int = FPS_FILMED) -> None:
    write_video([np.full((height, width, 3), 200, np.uint8)] * frames, path, fps)


def fewer_joints(folder: Path) -> None:
    path = folder / "keypoints2d_undist/result_view_1.pkl"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes())[:-1]))


def remove_camera_5(folder: Path) -> None:
    for part in ("videos_undist", "simpleclick_undist"):
        (folder / part / "5.mp4").unlink()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "recording: expected a recording, found no folder"),
    "no videos": (lambda f: shutil.rmtree(f / "videos_undist"), "videos_undist: expected 0.mp4, 1.mp4 and so on"),
    "no video 3": (lambda f: (f / "videos_undist/3.mp4").unlink(), "videos_undist/3.mp4: expected a video, found none"),
    "no video 5": (lambda f: (f / "videos_undist/5.mp4").unlink(), "videos_undist/5.mp4: expected a video, found none"),
    "no mask 2": (lambda f: (f / "simpleclick_undist/2.mp4").unlink(), "simpleclick_undist/2.mp4: expected a video"),
    "no camera 5": (remove_camera_5, "new_cam.pkl: expected 5 cameras as there are videos, got 6"),
    "no calibration": (lambda f: (f / "new_cam.pkl").unlink(), "expected one of new_cam.pkl, .* got none"),
    "two calibrations": (lambda f: (f / "new_cam.json").write_text("[]"), "got new_cam.pkl and new_cam.json"),
    "five cameras": (fewer_cameras, "new_cam.pkl: expected 6 cameras as there are videos, got 5"),
    "another name": (lambda f: (f / "videos_undist/3.mp4").rename(f / "videos_undist/c.mp4"), "videos named 0.mp4"),
    "shorter": (
        lambda f: film(f / "videos_undist/4.mp4", frames=9),
        "videos_undist/4.mp4: expected 12 frames as 0.mp4 of videos_undist, got 9",
    ),
    "a longer mask": (lambda f: film(f / "simpleclick_undist/0.mp4", frames=13), "expected 12 frames .*, got 13"),
    "smaller": (
        lambda f: film(f / "videos_undist/1.mp4", width=256),
        "1.mp4: expected 288×256 as 0.mp4 .*, got 256×256",
    ),
    "slower": (lambda f: film(f / "videos_undist/1.mp4", fps=50), "expected 100 frames a second as 0.mp4 .*, got 50"),
    "truncated": (
        lambda f: truncate(f / "videos_undist/2.mp4"),
        "videos_undist/2.mp4: expected a whole video, got Inv",
    ),
    "text": (lambda f: (f / "videos_undist/2.mp4").write_text("hello"), "2.mp4: expected a whole video"),
    "shorter joints": (fewer_joints, r"result_view_1.pkl: expected an array \(12, 10, 3\), got \(11, 10, 3\)"),
    "no joints 4": (
        lambda f: (f / "keypoints2d_undist/result_view_4.pkl").unlink(),
        "result_view_4.pkl: expected a pickle, found none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_belong_together_are_refused_in_one_line(broken: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(broken)
    with pytest.raises(DataError, match=message) as refusal:
        open_recording(broken)
    assert "\n" not in str(refusal.value) and " — " in str(refusal.value)


def with_index_first(path: Path) -> bytes:
    """The same video with its index before its frames, so that a cut file opens and breaks later."""
    other = path.with_name("first.mp4")
    with av.open(str(path)) as source, av.open(str(other), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = other.read_bytes()
    other.unlink()
    return content


@pytest.mark.parametrize("damage", ["cut", "scratched"])
def test_a_damaged_video_stops_the_conversion_and_names_the_file_and_a_frame(
    broken: Path, tmp_path: Path, damage: str
) -> None:
    path = broken / "videos_undist/3.mp4"
    content = bytearray(with_index_first(path))
    half = len(content) * 2 // 3
    path.write_bytes(content[:half] if damage == "cut" else content[:half] + b"\x5a" * 40 + content[half + 40 :])
    with pytest.raises(DataError, match=r"videos_undist/3.mp4: expected frame \d+ of 12, got .* — restore the file"):
        list(convert(open_recording(broken), tmp_path / "out", ALL))
    assert not list((tmp_path / "out").glob(".frame_*"))


def black_out(folder: Path, frames: set[int]) -> None:
    """Empty the mask of camera 4 in some frames."""
    path = folder / "simpleclick_undist/4.mp4"
    masks = list(open_video(path).read(range(FRAMES), "gray"))
    shown = [np.repeat(mask[..., None] * (i not in frames), 3, -1).astype(np.uint8) for i, mask in enumerate(masks)]
    write_video(shown, path, FPS_FILMED)


def test_an_empty_mask_is_refused_by_frame_and_view(broken: Path, tmp_path: Path) -> None:
    black_out(broken, {5, 6})
    with pytest.raises(DataError, match=r"simpleclick_undist/4.mp4: expected a mouse in frame 5, view 4, .*--skip-e"):
        list(convert(open_recording(broken), tmp_path / "out", ALL))


def test_frames_with_empty_masks_are_left_out_on_request_and_counted(broken: Path, tmp_path: Path) -> None:
    black_out(broken, {5, 6})
    list(convert(open_recording(broken), tmp_path / "out", replace(ALL, skip_empty=True)))
    dataset = open_dataset(tmp_path / "out")
    assert not {"frame_000005", "frame_000006"} & dataset.scenes.keys() and len(dataset.scenes) == FRAMES - 2
    assert (dataset.manifest.transforms[-1]["scenes"], dataset.manifest.transforms[-1]["empty"]) == (FRAMES - 2, 2)


def test_a_split_of_empty_masks_only_is_refused(broken: Path, tmp_path: Path) -> None:
    black_out(broken, {11})
    with pytest.raises(DataError, match="expected scenes in test, got only frames with empty masks"):
        list(convert(open_recording(broken), tmp_path / "out", replace(ALL, skip_empty=True)))


# ---------------------------------------------------------------- interruptions

SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.recording import convert, open_recording
for done in convert(open_recording(sys.argv[1]), Path(sys.argv[2]), FramePlan(guard=0)):
    print(done, flush=True)
    time.sleep(0.2)
"""


def test_a_killed_conversion_is_continued_and_ends_up_the_same(
    filmed: Path, recording: Recording, converted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "mice"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_CONVERSION, str(filmed), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.strip() == "3")
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("frame_*/opencv_cameras.json")}
    assert 3 <= len(kept) < FRAMES and not (out / "dataset.yaml").exists()
    (out / ".frame_000009.1").mkdir()  # as a kill in the middle of a scene leaves it
    assert next(iter(convert(recording, out, ALL))) == len(kept)
    list(convert(recording, out, ALL))
    assert open_dataset(out).digest == converted.digest
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(out.glob(".frame_*"))


def test_a_full_disk_is_one_clear_line_leaves_no_half_scene_and_is_no_end(
    recording: Recording, converted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save, saved = tmp_path / "mice", Image.Image.save, []

    def save_until_full(image: Image.Image, *args: object, **options: object) -> None:
        saved.append(image)
        if len(saved) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, *args, **options)

    monkeypatch.setattr(Image.Image, "save", save_until_full)
    with pytest.raises(DataError, match="mice: expected room and leave to write, got No space left on device — "):
        list(convert(recording, out, ALL))
    assert not list(out.glob(".frame_*")) and len(list(out.glob("frame_*"))) <= 3
    assert all(len(list(scene.glob("images/*.png"))) == 6 for scene in out.glob("frame_*"))
    monkeypatch.undo()
    list(convert(recording, out, ALL))
    assert open_dataset(out).digest == converted.digest


def test_a_folder_of_another_plan_recording_or_kind_is_refused(
    recording: Recording, broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mice"
    list(convert(recording, out, replace(ALL, step=2)))
    with pytest.raises(DataError, match="expected a conversion of the same plan, got another step, seed — choose"):
        list(convert(recording, out, replace(ALL, step=3, seed=1)))
    (broken / "videos_undist/4.mp4").write_bytes((broken / "videos_undist/3.mp4").read_bytes())
    with pytest.raises(DataError, match="got another recording"):
        list(convert(open_recording(broken), out, replace(ALL, step=2)))
    with pytest.raises(DataError, match="expected an empty folder, got other files"):
        list(convert(recording, broken, ALL))


def test_a_conversion_of_before_calibrations_had_formats_goes_on(recording: Recording, tmp_path: Path) -> None:
    list(convert(recording, tmp_path / "mice", replace(ALL, step=4)))
    plan = json.loads((tmp_path / "mice/.convert.json").read_text())
    assert "calibration" not in plan and "calibration" not in open_dataset(tmp_path / "mice").manifest.transforms[-1]
    other = replace(recording, calibrated=recording.calibrated | {"unit_mm": 10.0})
    assert other.reading["calibration"]["unit_mm"] == 10.0


# ---------------------------------------------------------------- command line


def test_the_command_prints_what_it_made(filmed: Path, tmp_path: Path) -> None:
    out = tmp_path / "mice"
    words = ["data", "convert", str(filmed), str(out), "--frames", "1,4,8,10", "--join", "9", "--guard", "0", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["folder"] == str(out) and said["splits"] == {"train": 2, "val": 1, "test": 1}
    assert said["leakage"] == {"val": 4, "test": None} and said["view_order"] == [0, 5, 3, 1, 2, 4]
    assert said["digest"] == open_dataset(out).digest
