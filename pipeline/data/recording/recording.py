"""Raw six-camera recordings to scenes: videos, lossy mask videos and a calibration in, RGBA and cameras out.

    videos_undist/0.mp4 …          colour; lenses whose distortion the calibration knows are straightened here
    simpleclick_undist/0.mp4 …     grey silhouettes
    new_cam.pkl                    or any other calibration of pipeline/data/calibration
    keypoints2d_undist/result_view_0.pkl …   optional: (frames, joints, 3) of x, y, confidence

Frame f of every file is one moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pipeline.cameras import Cameras
from pipeline.data.calibration.calibration import AS_FOUND, Wanted, files_of, find_calibration, read_calibration
from pipeline.data.calibration.camera import PIXEL_CENTRE
from pipeline.data.calibration.lens import Undistortion, leaves, undistorted
from pipeline.data.calibration.pickles import read_pickle
from pipeline.data.gate.checks import checked
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.masks import THRESHOLD, coverage
from pipeline.data.recording.video import Video, open_video
from pipeline.data.rings import ring_order
from pipeline.data.scenes import Manifest, Notes, open_dataset, write_manifest, write_scene
from pipeline.data.unfinished import writing
from pipeline.errors import DataError
from pipeline.files import sha256_of

VIDEOS, MASKS, KEYPOINTS = "videos_undist", "simpleclick_undist", "keypoints2d_undist"
VERSION = 1  # raise it when the same recording and plan give other scenes
MAX_WRITERS = 6  # each holds one scene, 28 MB at 1152×1024

Picture = UInt8[np.ndarray, "height width 4"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """V synchronous cameras: file i is camera i. World in mm, images at the videos' own size.

    keypoints: [frames, V, joints, 3] of x, y (pixels, image corner at 0) and confidence; 0, 0, 0 is not seen.
    undistortions: what takes each lens's distortion out of its pictures; None where nothing is to be done.
    calibrated: how the calibration was read, in plain values.
    """

    folder: Path
    cameras: Cameras
    videos: tuple[Video, ...]
    masks: tuple[Video, ...]
    keypoints: Float[np.ndarray, "frame view joint 3"] | None
    files: tuple[Path, ...]
    undistortions: tuple[Undistortion | None, ...]
    calibrated: dict[str, Any]

    @property
    def num_frames(self) -> int:
        return self.videos[0].num_frames

    @property
    def fps(self) -> float:
        return self.videos[0].fps

    @property
    def view_order(self) -> tuple[int, ...]:
        """The cameras once round where their axes meet, from camera 0."""
        return ring_order(self.cameras)

    @property
    def rig(self) -> str:
        """A name that only this calibration has."""
        numbers = torch.cat([self.cameras.w2c.flatten(), self.cameras.fxfycxcy.flatten()])
        rounded = (numbers.numpy().round(4) + 0.0).tobytes()  # + 0.0: there is no −0
        return f"rig-{hashlib.sha256(rounded).hexdigest()[:8]}"

    @cached_property
    def digest(self) -> str:
        """Hash of every input file; the same wherever the folder lies."""
        total = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
            total.update(f"{name} {sha256_of(path)}\n".encode())
        return total.hexdigest()


# ---------------------------------------------------------------- opening


def open_recording(folder: str | Path, wanted: Wanted = AS_FOUND) -> Recording:
    """Open a recording and check that its files belong together; no frame is decoded.

    Raises DataError naming the file: one is missing, has another length, size or rate than the others, or the
    calibration has another number of cameras, or its lenses distort and nobody said whether the videos are undistorted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a recording, found no folder — check the path.")
    views = _num_views(folder)
    videos, masks = (
        tuple(open_video(folder / part / f"{view}.mp4") for view in range(views)) for part in (VIDEOS, MASKS)
    )
    _check_alike(videos + masks, videos[0])
    path = wanted.path or find_calibration(folder)
    rig = read_calibration(path, videos[0].width, videos[0].height, wanted, [video.path.stem for video in videos])
    if len(rig.lenses) != views:
        raise DataError(
            f"{path}: expected {views} cameras as there are videos, got {len(rig.lenses)} — "
            f"restore the missing ones, camera i as {VIDEOS}/i.mp4 and {MASKS}/i.mp4."
        )
    undistortions = rig.undistortions(path, wanted.undistorted)
    joints = [folder / KEYPOINTS / f"result_view_{view}.pkl" for view in range(views)]
    has_keypoints = (folder / KEYPOINTS).is_dir()
    files = (*files_of(path), *(video.path for video in videos + masks), *(joints if has_keypoints else ()))
    keypoints = _read_keypoints(joints, videos[0].num_frames, undistortions) if has_keypoints else None
    calibrated = rig.as_plain(wanted)
    return Recording(folder, rig.cameras, videos, masks, keypoints, files, undistortions, calibrated)


def _num_views(folder: Path) -> int:
    """One more than the highest number of any video or mask."""
    numbers = []
    for part in (VIDEOS, MASKS):
        videos = [path for path in sorted((folder / part).glob("*.mp4")) if not path.name.startswith(".")]
        if not videos:
            raise DataError(f"{folder / part}: expected 0.mp4, 1.mp4 and so on, found none — check the recording.")
        for path in videos:
            if not path.stem.isdecimal() or path.stem != str(int(path.stem)):
                raise DataError(f"{path}: expected videos named 0.mp4, 1.mp4 and so on — rename or move it.")
            numbers.append(int(path.stem))
    return max(numbers) + 1


def _check_alike(videos: tuple[Video, ...], first: Video) -> None:
    for video in videos:
        if (video.width, video.height) != (first.width, first.height):
            raise DataError(
                f"{video.path}: expected {first.width}×{first.height} as {first.path.name} of {VIDEOS}, got "
                f"{video.width}×{video.height} — all views and masks have one size."
            )
        if video.num_frames != first.num_frames:
            raise DataError(
                f"{video.path}: expected {first.num_frames} frames as {first.path.name} of {VIDEOS}, got "
                f"{video.num_frames} — restore the file, or cut all to the same moments."
            )
        if video.path.parent == first.path.parent and abs(video.fps - first.fps) > 1e-3:
            raise DataError(
                f"{video.path}: expected {first.fps:g} frames a second as {first.path.name} of {VIDEOS}, got "
                f"{video.fps:g} — cameras of a recording run alike."
            )


def _read_keypoints(
    paths: list[Path], num_frames: int, undistortions: tuple[Undistortion | None, ...]
) -> Float[np.ndarray, "frame view joint 3"]:
    """Moved to pixel centres at +0.5 and, with the pictures, to where an undistorted one shows them; a joint with a
    number that is not finite becomes 0, 0, 0.
    """
    views: list[np.ndarray] = []
    for path, undistortion in zip(paths, undistortions, strict=True):
        joints = read_pickle(path)
        expected = (num_frames, views[0].shape[1] if views else "joints", 3)
        if not isinstance(joints, np.ndarray) or joints.dtype.kind != "f" or joints.ndim != 3:
            raise DataError(f"{path}: expected floats (frames, joints, 3), got {type(joints).__name__} — store those.")
        if joints.shape != (num_frames, joints.shape[1] if not views else expected[1], 3):
            raise DataError(f"{path}: expected an array {expected}, got {joints.shape} — restore the file.")
        moved = joints + np.array([PIXEL_CENTRE, PIXEL_CENTRE, 0.0])
        if undistortion is not None:
            moved[..., :2] = undistortion.pixels(moved[..., :2])
        views.append(moved)
    keypoints = np.stack(views, 1)
    keypoints[~np.isfinite(keypoints).all(-1)] = 0.0
    return keypoints


# ---------------------------------------------------------------- converting


def convert(recording: Recording, out: Path, plan: FramePlan) -> Iterator[int]:
    """Write the plan's frames as a dataset; yields how many frames are done, first those of an interrupted call.

    Scenes `frame_000123` hold RGBA at the videos' size and cameras in mm. Every scene is written whole and the
    manifest last, so a second call continues an interrupted one and ends up with the same dataset. Memory does not
    grow with the recording; one conversion at a time per folder.
    Raises DataError: a folder of something else, a file that cannot be decoded, a mask that is empty in some view
    (unless the plan skips those), a disk that is full.
    """
    splits = plan.choose(recording.num_frames, recording.fps, str(recording.folder))
    made = {"kind": "convert", "version": VERSION, "threshold": THRESHOLD, **asdict(plan)}
    made["calibration"] = recording.calibrated
    with writing(out, made | {"recording": recording.digest}, "a conversion") as done_before:
        if done_before:
            yield sum(map(len, splits.values()))
            return
        left_out = yield from _write_scenes(recording, out, sorted(sum(splits.values(), ())), plan.skip_empty)
        written = {name: tuple(frame for frame in frames if frame not in left_out) for name, frames in splits.items()}
        counts = {"scenes": sum(map(len, written.values())), "empty": len(left_out), "leakage": plan.leakage(written)}
        _write_manifest(recording, out, made | counts, written)


def summary(out: Path) -> dict[str, Any]:
    """A converted dataset in plain values: its folder, scenes, splits, digest, view order and leakage."""
    manifest = open_dataset(out, verify=False).manifest
    made = manifest.transforms[-1]
    return {
        "folder": str(out),
        "scenes": made["scenes"],
        "empty": made["empty"],
        "splits": {name: len(scenes) for name, scenes in manifest.splits.items()},
        "leakage": made["leakage"],
        "view_order": list(manifest.view_order or ()),
        "rig": manifest.rig,
        "parent": manifest.parent,
        "digest": manifest.digest,
    }


def scene_name(frame: int) -> str:
    """The folder of a frame's scene."""
    return f"frame_{frame:06d}"


def _write_scenes(
    recording: Recording, out: Path, frames: list[int], skip_empty: bool
) -> Generator[int, None, set[int]]:
    """Yields how many frames are done; returns those that were left out."""
    missing = [frame for frame in frames if not (out / scene_name(frame)).is_dir()]
    done = len(frames) - len(missing)
    left_out: set[int] = set()
    yield done
    for frame, written in _written(recording, out, missing, skip_empty):
        done += 1
        if not written:
            left_out.add(frame)
        yield done
    return left_out


def _written(recording: Recording, out: Path, frames: list[int], skip_empty: bool) -> Iterator[tuple[int, bool]]:
    """Each frame and whether it became a scene, in order.

    One thread per camera decodes ahead, others compress; `waiting` bounds how many scenes are in memory.
    """
    writers_count = min(MAX_WRITERS, os.cpu_count() or 1)
    waiting: deque[Future[tuple[int, bool]]] = deque()
    with ExitStack() as stack:
        inputs = list(zip(recording.videos, recording.masks, recording.undistortions, strict=True))
        views = [stack.enter_context(closing(_cut_out(*each, frames))) for each in inputs]
        readers = [_pool(stack, 1) for _ in views]
        writers = _pool(stack, writers_count)
        for frame in frames:
            pictures = [reader.submit(next, view) for reader, view in zip(readers, views, strict=True)]
            waiting.append(writers.submit(_write, recording, out, frame, pictures, skip_empty))
            if len(waiting) > writers_count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pool(stack: ExitStack, workers: int) -> ThreadPoolExecutor:
    """Threads that end with the stack, however it ends, without starting what still waits."""
    pool = ThreadPoolExecutor(workers)
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _cut_out(
    video: Video, mask: Video, undistortion: Undistortion | None, frames: list[int]
) -> Generator[Picture, None, None]:
    """One camera's frames with the mask as straight alpha, undistorted, and colour 0 where alpha is 0."""
    places, said = None if undistortion is None else undistortion.places(), False
    for grey, image in zip(mask.read(frames, "gray"), video.read(frames, "rgba"), strict=True):
        alpha = coverage(grey)
        packed = image.view(np.uint32)[..., 0]
        packed *= alpha > 0
        image[..., 3] = alpha
        if places is None:
            yield image
            continue
        straight = undistorted(image, places)
        if not said and leaves(image, straight):
            _log.warning("%s: without distortion the animal reaches beyond the picture in some frames", video.path)
            said = True
        yield straight


def _write(
    recording: Recording, out: Path, frame: int, pictures: list[Future[Picture]], skip_empty: bool
) -> tuple[int, bool]:
    """The frame and True, or False when it was left out for an empty mask."""
    images = np.stack([picture.result() for picture in pictures])
    pictures.clear()  # a scene is in memory once
    seen = images[..., 3].any((1, 2))
    if not seen.all():
        if skip_empty:
            return frame, False
        view = int(np.flatnonzero(~seen)[0])
        raise DataError(
            f"{recording.masks[view].path}: expected a mouse in frame {frame}, view {view}, got no grey above "
            f"{THRESHOLD} — pass --skip-empty to leave such frames out, or choose other frames."
        )
    keypoints = None if recording.keypoints is None else recording.keypoints[frame]
    write_scene(out / scene_name(frame), images, recording.cameras, Notes(frame, keypoints))
    return frame, True


def _write_manifest(recording: Recording, out: Path, made: dict[str, Any], splits: dict[str, tuple[int, ...]]) -> None:
    for name, frames in splits.items():
        if not frames:
            raise DataError(f"{out}: expected scenes in {name}, got only frames with empty masks — choose more frames.")
    source = {"recording_frames": recording.num_frames, "fps": recording.fps}
    manifest = Manifest(
        name=out.name,
        parent=recording.digest,
        transforms=(json.loads(json.dumps(made | source)),),
        unit="mm",
        rig=recording.rig,
        view_order=recording.view_order,
        splits={name: tuple(map(scene_name, frames)) for name, frames in splits.items()},
    )
    checked(write_manifest(out, manifest))
