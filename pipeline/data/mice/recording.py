"""A procedural mouse that walks, filmed by the real rig, in the raw layout of real recordings."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from pipeline.cameras import Cameras, mouse_rig
from pipeline.data.calibration.camera import PIXEL_CENTRE
from pipeline.data.mice.mice import FPS, MouseSequence
from pipeline.data.mice.render import render_mouse
from pipeline.data.recording.recording import KEYPOINTS, MASKS, VIDEOS
from pipeline.data.recording.video import video_writer
from pipeline.errors import DataError
from pipeline.files import whole_folder
from pipeline.progress import Tell, silent, told

ARENA_GREY = (148, 144, 138)
WHITE = (255, 255, 255)
MASK_CRF = 23  # libx264's default: rings around silhouettes as real masks do


def write_recording(
    out: Path,
    frames: int,
    seed: int = 0,
    fps: int = 100,
    scale: float = 1.0,
    keypoints: bool = True,
    backdrop: tuple[int, int, int] = ARENA_GREY,
    tell: Tell = silent,
) -> Path:
    """Film `frames` frames of a wandering mouse with the six cameras of the real rig and return the folder.

    scale: of the images, 1 is 1152×1024 (sides are rounded to even numbers). keypoints: write ten joints too.
    backdrop: the one colour, RGB in bytes, of all that is not the mouse. tell: hears of each frame.
    The folder appears whole. Raises DataError when there is one already, and for fewer than one frame.
    """
    if out.exists():
        raise DataError(f"{out}: expected no folder yet, found one — choose another.")
    if frames < 1 or scale <= 0:
        raise DataError(f"{out}: expected a frame or more, and pictures larger than nothing, got less — ask for more.")
    cameras, mouse = _rig(scale), MouseSequence(seed)
    moments = [FPS * frame / fps for frame in range(frames)]
    with whole_folder(out) as temporary:
        _film(temporary, mouse, cameras, told(moments, "frames", frames, tell), fps, backdrop)
        _write_calibration(temporary / "new_cam.pkl", cameras)
        if keypoints:
            (temporary / KEYPOINTS).mkdir()
            _write_keypoints(temporary / KEYPOINTS, cameras, np.stack([mouse.joints(moment) for moment in moments]))
    return out


def write_walk(out: Path, frames: int, size: int, seed: int = 0, tell: Tell = silent) -> Path:
    """`write_recording` of a mouse on white, pictures about `size` wide, in the mouse's own 25 frames a second."""
    return write_recording(out, frames, seed, round(FPS), size / mouse_rig().width, backdrop=WHITE, tell=tell)


def _film(
    folder: Path,
    mouse: MouseSequence,
    cameras: Cameras,
    moments: Iterable[float],
    fps: int,
    backdrop: tuple[int, int, int],
) -> None:
    """Videos and mask videos of six cameras."""
    for part in (VIDEOS, MASKS):
        (folder / part).mkdir()
    with ExitStack() as stack:
        colour, grey = (
            [stack.enter_context(video_writer(folder / part / f"{view}.mp4", fps, crf)) for view in range(6)]
            for part, crf in ((VIDEOS, 18), (MASKS, MASK_CRF))
        )
        for moment in moments:
            for view, image in enumerate(render_mouse(mouse.mesh(moment), cameras)):
                colour[view](_before(backdrop, image))
                grey[view](np.repeat(image[..., 3:], 3, -1))


def _rig(scale: float) -> Cameras:
    real = mouse_rig().to(torch.float64)
    return real.resize(2 * round(scale * real.width / 2), 2 * round(scale * real.height / 2))


def _before(
    backdrop: tuple[int, int, int], image: UInt8[np.ndarray, "height width 4"]
) -> UInt8[np.ndarray, "height width 3"]:
    alpha = image[..., 3:] / 255
    return np.rint(image[..., :3] * alpha + np.array(backdrop) * (1 - alpha)).astype(np.uint8)


def _write_calibration(path: Path, cameras: Cameras) -> None:
    """As the published one: pixel centres at whole numbers, T now (3,), now (3, 1)."""
    K, w2c = cameras.K.numpy(), cameras.w2c.numpy()
    K[:, :2, 2] -= PIXEL_CENTRE
    entries = [{"K": K[i], "R": w2c[i, :3, :3], "T": w2c[i, :3, 3:] if i % 2 else w2c[i, :3, 3]} for i in range(len(K))]
    path.write_bytes(pickle.dumps(entries))


def _write_keypoints(folder: Path, cameras: Cameras, joints: np.ndarray) -> None:
    """joints: [frames, n, 3] in mm; every one is seen, confidence 1."""
    frames, count = joints.shape[:2]
    pixels, _ = cameras.project(torch.from_numpy(joints).reshape(-1, 3).expand(len(cameras.c2w), -1, -1))
    for view, seen in enumerate(pixels.numpy() - PIXEL_CENTRE):
        full = np.concatenate([seen.reshape(frames, count, 2), np.ones((frames, count, 1))], -1)
        (folder / f"result_view_{view}.pkl").write_bytes(pickle.dumps(full))
