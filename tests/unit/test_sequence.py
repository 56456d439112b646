"""Sequences: a video or a folder becomes Gaussians frame after frame, whole or not at all, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from mouselift import app
from pipeline import checkpoint
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.framing import Framing
from pipeline.data.recording.video import write_video
from pipeline.data.scenes import Dataset, Manifest, Notes, read_scene, write_manifest, write_scene
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.mvdiffusion.stage import MVDiffusionStage
from pipeline.pruning import PRUNINGS
from pipeline.reconstruction.models import load_gaussians, load_views
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.reconstruction.sequence.sequence import Progress, reconstruct_sequence
from pipeline.reconstruction.sequence.wanted import Wanted

FRAMES, SIZE = 6, 48
ROOT = Path(__file__).parents[2]
# A process of its own: one forked from a test may wait for ever for a thread that it has not.
ANOTHER = """
import sys
from pathlib import Path
import torch
from tests.unit.test_sequence import both, made

torch.set_num_threads(1)  # as here: another number of them sums in another order
video, out, models = map(Path, sys.argv[1:])
made(video, out, both(models), smooth=0.05)
"""


def moment(t: int, empty: bool = False) -> np.ndarray:
    """A dark animal that crosses a white frame of 96×72, in fits and starts."""
    picture = Image.new("RGB", (96, 72), "white")
    if not empty:
        x, y = 20 + 7 * t + (t % 2), 36 + 3 * (t % 3)
        ImageDraw.Draw(picture).ellipse((x - 14, y - 8, x + 14, y + 8), (70, 50 + 4 * t, 40))
    return np.asarray(picture)


@pytest.fixture(scope="module")
def models(tiny_recipe, views_recipe, mice: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both stages, untrained."""
    folder, recipe = tmp_path_factory.mktemp("models"), tiny_recipe()
    torch.manual_seed(0)
    checkpoint.save(folder / "gaussians", GSLRM(recipe.model), recipe, 1)
    stage = MVDiffusionStage(views_recipe(), torch.device("cpu"), mice)
    checkpoint.save(folder / "views", stage.deployed_model(), stage.recipe, 1, attachments=stage.attachments())
    return folder


@pytest.fixture(scope="module")
def reconstructor(models: Path) -> Reconstructor:
    return both(models)


def both(models: Path) -> Reconstructor:
    """Both stages, and a framing that asks for a fifth of the frame."""
    views, gaussians = (load(models / name) for load, name in ((load_views, "views"), (load_gaussians, "gaussians")))
    return Reconstructor(gaussians, replace(views, framing=Framing(0.2, 0.15, 0.25, 9)))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video([moment(t) for t in range(FRAMES)], path, 25)
    return path


def steps(source: Path, out: Path, reconstructor: Reconstructor, **wanted) -> Iterator[Progress]:
    pruning = PRUNINGS["none"]
    return reconstruct_sequence(source, out, reconstructor, Wanted(**wanted), pruning, Cutting(), size=SIZE)


def made(source: Path, out: Path, reconstructor: Reconstructor, **wanted) -> dict:
    """What sequence.json says when all is done."""
    for _ in steps(source, out, reconstructor, **wanted):
        pass
    return json.loads((out / "sequence.json").read_text())


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def shown(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, video: Path, reconstructor: Reconstructor) -> Path:
    """The clip, its framing smoothed, made without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    made(video, out, reconstructor, smooth=0.05)
    return out


# ---------------------------------------------------------------- the folder


def test_a_clip_leaves_a_ply_a_frame_two_videos_as_long_and_nothing_else(whole: Path) -> None:
    plys = [f"frames/{number:06d}.ply" for number in range(FRAMES)]
    assert [*files(whole)] == sorted([".sequence.json", "fixed.mp4", *plys, "sequence.json", "turntable.mp4"])
    assert len(shown(whole / "fixed.mp4")) == len(shown(whole / "turntable.mp4")) == FRAMES


def test_a_sequence_killed_at_a_third_and_continued_is_the_same_to_the_byte(
    whole: Path, video: Path, models: Path, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", ANOTHER, video, out, models], cwd=ROOT) as another:
        deadline = time.monotonic() + 120
        while len(list(out.glob(".work/[0-9]*.json"))) < FRAMES // 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        another.kill()
    assert another.returncode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "frames").glob("[0-9]*.ply")}
    (out / "frames" / ".000005.ply.1.2").write_bytes(b"half of a file")
    made(video, out, reconstructor, smooth=0.05)
    assert files(out) == files(whole)
    assert (out / "frames" / "000000.ply").stat().st_mtime_ns == kept["000000.ply"]


def test_a_model_of_unknown_framing_goes_on_with_the_same_numbers(
    video: Path, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    assert reconstructor.views is not None
    anyhow = Reconstructor(reconstructor.gaussians, replace(reconstructor.views, framing=None))
    for step in steps(video, tmp_path / "cut", anyhow, every=3):
        if step.done == 1:
            break
    said = [made(video, tmp_path / name, anyhow, every=3) for name in ("cut", "whole")]
    assert json.dumps(said[0]) == json.dumps(said[1])


def test_a_finished_sequence_is_not_made_again(whole: Path, video: Path, reconstructor: Reconstructor) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert [*steps(video, whole, reconstructor, smooth=0.05)] == [Progress("frames", FRAMES, FRAMES)]
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


@pytest.mark.parametrize(("other", "differing"), [({"smooth": 0.1}, "smooth"), ({"smooth": 0.05, "every": 2}, "every")])
def test_a_folder_of_another_plan_is_refused(
    whole: Path, video: Path, reconstructor: Reconstructor, other: dict, differing: str
) -> None:
    with pytest.raises(DataError, match=rf"expected a sequence of the same plan, got another .*{differing}"):
        made(video, whole, reconstructor, **other)


def test_another_seed_does_not_continue_a_sequence(whole: Path, video: Path, reconstructor: Reconstructor) -> None:
    other = Reconstructor(reconstructor.gaussians, reconstructor.views, seed=5)
    with pytest.raises(DataError, match="got another sampling"):
        made(video, whole, other, smooth=0.05)


# ---------------------------------------------------------------- frames that fail


def test_a_frame_that_fails_is_named_skipped_and_marked(reconstructor: Reconstructor, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(4):
        Image.fromarray(moment(t, empty=t == 2)).save(folder / f"f{t}.png")
    out = tmp_path / "out"
    told = [step for step in steps(folder, out, reconstructor) if step.failure is not None]
    said = json.loads((out / "sequence.json").read_text())
    assert [(step.done, step.failed) for step in told] == [(3, 1)] and "f2.png" in told[0].failure
    assert said["failed"] == [2] and not (out / "frames" / "000002.ply").exists()
    assert said["figures"]["flicker"]["pairs"] == 1 and said["figures"]["counts"]["cv"]["n"] == 3
    before, marked, after = (frame.astype(int) for frame in shown(out / "turntable.mp4")[1:])
    red = marked[2, SIZE // 2]
    assert red[0] > 150 and red[1:].max() < 90 and np.abs(after[2, SIZE // 2] - before[2, SIZE // 2]).max() < 40


def test_a_clip_without_an_animal_is_refused_and_nothing_is_written(
    reconstructor: Reconstructor, tmp_path: Path
) -> None:
    path = tmp_path / "empty.mp4"
    write_video([moment(t, empty=True) for t in range(3)], path, 25)
    with pytest.raises(DataError) as caught:
        made(path, tmp_path / "out", reconstructor)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_video_cut_short_loses_only_the_frames_that_are_not_there(
    video: Path, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(video)) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = stream
                if number == FRAMES - 1:
                    packet = av.Packet(b"\0" * 50)
                    packet.pts = packet.dts = 10**6
                    packet.stream = stream
                copy.mux(packet)
    said = made(path, tmp_path / "out", reconstructor)
    assert 0 < len(said["failed"]) < said["wanted"]


def test_a_video_of_masks_cuts_the_animal_out_of_any_background(reconstructor: Reconstructor, tmp_path: Path) -> None:
    rng, film, masks = np.random.default_rng(0), tmp_path / "film.mp4", tmp_path / "masks.mp4"
    animals = [(moment(t) < 200).any(-1, keepdims=True) for t in range(3)]
    room = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    write_video([np.where(animal, moment(t), room) for t, animal in enumerate(animals)], film, 25)
    write_video([np.repeat(animal * np.uint8(255), 3, -1) for animal in animals], masks, 25)
    with pytest.raises(DataError):
        made(film, tmp_path / "out", reconstructor)
    cutting = Cutting(mask=masks)
    for _ in reconstruct_sequence(film, tmp_path / "out", reconstructor, Wanted(), PRUNINGS["none"], cutting, SIZE):
        pass
    frames = json.loads((tmp_path / "out" / "sequence.json").read_text())["frames"]
    for animal, frame in zip(animals, frames, strict=True):
        middle = np.argwhere(animal[..., 0]).mean(0)[::-1] + 0.5
        assert np.abs(np.array(frame["animal_px"]) - middle).max() < 0.5


def test_masks_that_are_damaged_from_a_frame_on_fail_the_frames_from_there(
    reconstructor: Reconstructor, tmp_path: Path
) -> None:
    film, masks = tmp_path / "film.mp4", tmp_path / "masks.avi"
    write_video([moment(t) for t in range(4)], film, 25)
    with av.open(str(masks), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=96, height=72)
        stream.pix_fmt = "yuvj420p"
        for t in range(4):
            silhouette = np.repeat(((moment(t) < 200).any(-1, keepdims=True) * 255).astype(np.uint8), 3, -1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(silhouette, format="rgb24")):
                if t == 2:
                    damaged = av.Packet(bytes(packet)[:200])
                    damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
                    damaged.stream, packet = stream, damaged
                container.mux(packet)
    out = tmp_path / "out"
    for _ in reconstruct_sequence(film, out, reconstructor, Wanted(), PRUNINGS["none"], Cutting(mask=masks), SIZE):
        pass
    assert json.loads((out / "sequence.json").read_text())["failed"] == [2, 3]


def test_other_masks_under_the_same_names_do_not_continue_a_sequence(
    reconstructor: Reconstructor, tmp_path: Path
) -> None:
    frames, masks, out = tmp_path / "frames", tmp_path / "masks", tmp_path / "out"
    for folder in (frames, masks):
        folder.mkdir()
    for t in range(2):
        Image.fromarray(moment(t)).save(frames / f"{t}.png")
        Image.fromarray((moment(t) < 200).any(-1)).save(masks / f"{t}.png")

    def go_on() -> None:
        for _ in reconstruct_sequence(
            frames, out, reconstructor, Wanted(), PRUNINGS["none"], Cutting(mask=masks), SIZE
        ):
            pass

    go_on()
    Image.fromarray((moment(0) < 200).any(-1)).save(masks / "1.png")
    with pytest.raises(DataError, match="expected a sequence of the same plan, got another masks"):
        go_on()


# ---------------------------------------------------------------- what decides a frame


def test_every_frame_has_the_same_noise(reconstructor: Reconstructor, tmp_path: Path) -> None:
    still = tmp_path / "still"
    still.mkdir()
    for t in range(3):
        Image.fromarray(moment(2)).save(still / f"{t}.png")
    made(still, tmp_path / "same", reconstructor)
    fresh = made(still, tmp_path / "fresh", reconstructor, fresh_noise=True)
    first, last = ((tmp_path / "same" / "frames" / f"00000{i}.ply").read_bytes() for i in (0, 2))
    assert first == last
    others = [Gaussians.load_ply(tmp_path / "fresh" / "frames" / f"00000{i}.ply").sh for i in (0, 2)]
    assert not torch.equal(*others) and fresh["figures"]["flicker"]["render"] > 0


def test_frames_are_called_as_the_source_counts(video: Path, reconstructor: Reconstructor, tmp_path: Path) -> None:
    said = made(video, tmp_path / "out", reconstructor, every=2, start="1", end="0.2s", world="fixed")
    assert [frame["number"] for frame in said["frames"]] == [1, 3] and said["fps"] == 12.5
    assert sorted(path.name for path in (tmp_path / "out" / "frames").iterdir()) == ["000001.ply", "000003.ply"]


def test_frames_that_come_unevenly_play_for_as_long_as_they_took(reconstructor: Reconstructor, tmp_path: Path) -> None:
    path, seconds = tmp_path / "uneven.mkv", [0.0, 0.02, 0.04, 0.34, 0.36, 0.38]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=50, width=96, height=72)
        for t, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(moment(t), format="rgb24").reformat(format="yuv444p")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    said = made(path, tmp_path / "out", reconstructor)
    assert said["fps"] == pytest.approx(5 / 0.38) and said["figures"]["flicker"]["pairs"] == 4


def test_one_framing_for_all_is_one_world(video: Path, reconstructor: Reconstructor, tmp_path: Path) -> None:
    said = made(video, tmp_path / "out", reconstructor, world="fixed")
    assert len({tuple(frame["crop"]) for frame in said["frames"]}) == 1
    assert all(np.allclose(frame["to_world"], np.eye(4)) for frame in said["frames"])


# ---------------------------------------------------------------- scenes


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, mice_folder: Path) -> Path:
    """Three scenes of a recording, whose worlds are noted to be shifted and scaled, each in its own way."""
    root = tmp_path_factory.mktemp("walk") / "scenes"
    names = [f"frame_{number:06d}" for number in (10, 20, 30)]
    for place, name in enumerate(names):
        scene = read_scene(mice_folder / "scene_000003")
        images = np.stack([np.asarray(scene.image(view)) for view in range(6)])
        noted = {
            "scale": 0.02 + 0.001 * place,
            "centre": [5.0 * place, 1.0, 2.0],
            "homographies": [np.eye(3).tolist()] * 6,
            "source_c2w": scene.cameras.c2w.tolist(),
            "source_fxfycxcy": scene.cameras.fxfycxcy.tolist(),
            "source_size": [32, 32],
        }
        write_scene(root / name, images, scene.cameras, Notes(frame=10 * (place + 1), normalised=noted))
    splits = dict(zip(("train", "val", "test"), [(name,) for name in names], strict=True))
    write_manifest(root, Manifest(name="walk", transforms=({"kind": "convert", "fps": 100.0},), splits=splits))
    return root


def test_scenes_lie_in_the_recording_alike_in_either_world(
    walk: Path, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    alone = Reconstructor(reconstructor.gaussians)
    placed = []
    for world in ("object", "fixed"):
        said = made(walk, tmp_path / world, alone, world=world)
        assert [frame["number"] for frame in said["frames"]] == [10, 20, 30] and said["fps"] == 10
        points = []
        for frame in said["frames"]:
            means = Gaussians.load_ply(tmp_path / world / frame["file"]).means.double().numpy()
            matrix = np.array(frame["to_world"])
            points.append(means @ matrix[:3, :3].T + matrix[:3, 3])
        placed.append(np.stack(points))
        first, second = (np.array(frame["to_world"]) for frame in said["frames"][:2])
        assert np.allclose(first, second) == (world == "fixed")
    assert np.abs(placed[0] - placed[1]).max() < 1e-3  # mm, of float32 about the origin


def test_frames_of_scenes_are_refined_and_no_sequence_is_continued_with_other_steps(
    walk: Path, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    plain, refining = (Reconstructor(reconstructor.gaussians, refine_steps=steps) for steps in (0, 3))
    made(walk, tmp_path / "plain", plain), made(walk, tmp_path / "refined", refining)
    first, second = (Gaussians.load_ply(next((tmp_path / name).rglob("*.ply"))) for name in ("plain", "refined"))
    assert first.count != second.count or not torch.equal(first.means, second.means)
    with pytest.raises(DataError, match="expected a sequence of the same plan, got another refine_steps"):
        made(walk, tmp_path / "plain", refining)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 3, 4 and 8 of a clip, as pictures, and one without a number."""
    folder = tmp_path_factory.mktemp("frames")
    for t in (3, 4, 8):
        Image.fromarray(moment(t % 4)).save(folder / f"clip_{t:03d}.png")
    Image.fromarray(moment(0)).save(folder / "poster.png")
    return folder


def called(models: Path, *options: object) -> Result:
    which = ["--views", models / "views", "--gaussians", models / "gaussians"]
    return CliRunner().invoke(app, [str(part) for part in ("reconstruct", *options, *which)])


def test_the_command_takes_a_folder_of_frames(
    models: Path, numbered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = called(models, numbered, "--sequence", "-o", tmp_path / "out", "--fps", 10, "--prune", "none", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 0 and said["finished"] and (said["wanted"], said["failed"], said["fps"]) == (3, [], 10)
    assert sorted(path.stem for path in (tmp_path / "out" / "frames").iterdir()) == ["000003", "000004", "000008"]
    assert "without 5 to 7" in caplog.text and "without a number: poster.png" in caplog.text


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("frames", ("--every", 2), "--every: expected a video, or a folder with --sequence"),
        ("frames", ("--sequence", "--from", 9), "expected frames by --from 9, got none of its 3"),
        ("frames", ("--sequence", "--mask", "video"), "expected a folder with a mask of each frame's name"),
        ("frames", ("--sequence", "--format", "splat"), "--format: expected ply for a sequence"),
        ("video", ("--fps", 25), "--fps 25: expected a folder of frames, got a video"),
        ("video", ("--mask", "frames"), "expected a video of masks, as long"),
        ("video", ("frames", "--sequence", "--mask", "video"), "expected a sequence alone, got 2 inputs"),
        ("video", ("--from", "soon"), "--from soon: expected a frame's number"),
        ("video", ("--world", "moon"), "--world moon: expected one of object, fixed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_nothing_is_written(
    models: Path, numbered: Path, video: Path, tmp_path: Path, what: str, options: tuple, message: str
) -> None:
    places = {"frames": numbered, "video": video}
    result = called(models, places[what], "-o", tmp_path / "out", *(places.get(option, option) for option in options))
    assert isinstance(result.exception, DataError) and message in str(result.exception)
    assert "\n" not in str(result.exception) and not (tmp_path / "out").exists()
