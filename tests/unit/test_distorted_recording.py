"""A recording by lenses that distort: converted as if they did not."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import cv2
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
from pipeline.data.recording.recording import open_recording
from pipeline.data.recording.video import open_video, write_video
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.errors import DataError

FRAMES, FILMED_FPS, SEED = 3, 100, 4
WIDTH, HEIGHT = 288, 256
DISTORTION = np.array([-0.5, 0.3, 0.004, -0.006, 0.02])


@pytest.fixture(scope="session")
def bent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter-size recording whose videos, masks and keypoints OpenCV has distorted. Read only."""
    folder = write_recording(tmp_path_factory.mktemp("raw") / "bent", FRAMES, seed=SEED, fps=FILMED_FPS, scale=0.25)
    entries = pickle.loads((folder / "new_cam.pkl").read_bytes())
    for view, entry in enumerate(entries):
        entry["D"] = DISTORTION
        pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).reshape(-1, 1, 2).astype(np.float64)
        seen_from = cv2.undistortPoints(pixels, entry["K"], DISTORTION, P=entry["K"]).reshape(HEIGHT, WIDTH, 2)
        for part in ("videos_undist", "simpleclick_undist"):
            _bend(folder / part / f"{view}.mp4", seen_from.astype(np.float32))
        joints = folder / "keypoints2d_undist" / f"result_view_{view}.pkl"
        joints.write_bytes(pickle.dumps(_bent_points(pickle.loads(joints.read_bytes()), entry["K"])))
    (folder / "new_cam.pkl").write_bytes(pickle.dumps(entries))
    return folder


def _bend(path: Path, seen_from: np.ndarray) -> None:
    straight = [picture[..., :3] for picture in open_video(path).read(range(FRAMES), "rgba")]
    grey = cv2.BORDER_REPLICATE
    bent = [cv2.remap(p, seen_from[..., 0], seen_from[..., 1], cv2.INTER_CUBIC, borderMode=grey) for p in straight]
    write_video(bent, path, FILMED_FPS)


def _bent_points(joints: np.ndarray, K: np.ndarray) -> np.ndarray:
    flat = np.c_[(joints[..., :2].reshape(-1, 2) - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones(joints[..., 0].size)]
    seen, _ = cv2.projectPoints(flat, np.zeros(3), np.zeros(3), K, DISTORTION)
    return np.concatenate([seen.reshape(*joints.shape[:2], 2), joints[..., 2:]], -1)


def convert(recording: Path, out: Path, *options: str) -> Dataset:
    words = ["data", "convert", str(recording), str(out), "--guard", "0", *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return open_dataset(out)


def overlap(dataset: Dataset, frame: int) -> float:
    """Intersection over union of a scene's masks with what the pinhole cameras see."""
    cameras = mouse_rig().to(torch.float64).resize(WIDTH, HEIGHT)
    truth = render_mouse(MouseSequence(SEED).mesh(FPS * frame / FILMED_FPS), cameras)[..., 3].astype(float)
    came = np.stack([np.array(Image.open(p))[..., 3] for p in dataset.scenes[f"frame_{frame:06d}"].paths]).astype(float)
    return float(np.minimum(came, truth).sum() / np.maximum(came, truth).sum())


def test_what_a_lens_bent_is_straight_in_the_scenes(bent: Path, tmp_path: Path) -> None:
    straightened = convert(bent, tmp_path / "straightened", "--distorted")
    left = convert(bent, tmp_path / "left", "--undistorted")
    assert overlap(straightened, 1) > 0.93 and overlap(left, 1) < overlap(straightened, 1) - 0.05
    assert straightened.manifest.transforms[-1]["calibration"]["distortion"] == "removed"
    assert left.manifest.transforms[-1]["calibration"]["distortion"] == "removed before"


def test_keypoints_are_straightened_with_their_pictures(bent: Path, tmp_path: Path) -> None:
    scene = convert(bent, tmp_path / "out", "--distorted").scenes["frame_000001"]
    joints = MouseSequence(SEED).joints(FPS * 1 / FILMED_FPS)
    pixels, _ = scene.cameras.project(torch.from_numpy(joints).expand(6, -1, 3))
    np.testing.assert_allclose(scene.notes.keypoints[..., :2], pixels, atol=1e-3)


def test_distortion_without_a_word_about_the_videos_is_refused_before_anything_is_written(
    bent: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["data", "convert", str(bent), str(tmp_path / "out")])
    assert isinstance(result.exception, DataError)
    assert "pass --undistorted, or --distorted to have it taken out" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_calibration_from_elsewhere_counts_as_an_input(bent: Path, tmp_path: Path) -> None:
    recording = Path(shutil.copytree(bent, tmp_path / "recording"))
    (recording / "new_cam.pkl").rename(tmp_path / "rig.pkl")
    words = ("--calibration", str(tmp_path / "rig.pkl"), "--distorted")
    first = convert(recording, tmp_path / "first", *words).manifest.parent
    entries = pickle.loads((tmp_path / "rig.pkl").read_bytes())
    (tmp_path / "rig.pkl").write_bytes(pickle.dumps([entry | {"D": 0.9 * DISTORTION} for entry in entries]))
    assert convert(recording, tmp_path / "second", *words).manifest.parent != first


def test_without_distortion_the_pixels_are_the_videos_own(bent: Path, tmp_path: Path) -> None:
    recording = Path(shutil.copytree(bent, tmp_path / "recording"))
    entries = pickle.loads((bent / "new_cam.pkl").read_bytes())
    (recording / "new_cam.pkl").write_bytes(pickle.dumps([entry | {"D": 0 * DISTORTION} for entry in entries]))
    assert open_recording(recording).undistortions == (None,) * 6
