"""Raw six-camera recordings to scenes: videos, lossy mask videos and a calibration in, RGBA and cameras out.

    videos_undist/0.mp4 …          colour; or any other container of `container.SUFFIXES`
    simpleclick_undist/0.mp4 …     grey silhouettes
    new_cam.pkl                    or any other calibration of pipeline/data/calibration
    keypoints2d_undist/result_view_0.pkl …   optional: (frames, joints, 3) of x, y, confidence

Frame f of every file is one moment, or frame f + `starts[v]` of camera v's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
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
from pipeline.data.recording.layout import check_alike, check_lengths, check_pixels, find_videos
from pipeline.data.recording.masks import THRESHOLD, check_masks, coverage
from pipeline.data.recording.moments import Offset, first_frames
from pipeline.data.recording.video import Video, open_video
from pipeline.data.rings import ring_order
from pipeline.data.scenes import Manifest, Notes, open_dataset, write_manifest, write_scene
from pipeline.data.unfinished import writing
from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.machine.cpus import usable_cpus

VIDEOS, MASKS, KEYPOINTS = "videos_undist", "simpleclick_undist", "keypoints2d_undist"
VERSION = 1  # raise it when the same recording and plan give other scenes
# What plans of the first versions did not say, so that what those began goes on.
AS_EVER = {"format": "lists of K, R, T", "unit_mm": None, "up": None, "distortion": "none"}
MAX_WRITERS = 6  # each holds one scene, 28 MB at 1152×1024

Picture = UInt8[np.ndarray, "height width 4"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """V synchronous cameras: file i is camera i. World in mm, images at the videos' own upright size.

    keypoints: [frames, V, joints, 3] of x, y (pixels, image corner at 0) and confidence; 0, 0, 0 is not seen.
    starts: the frame of each camera's files that shows the recording's frame 0. inverted: the masks show the animal
    black on white. undistortions: what takes each lens's distortion out of its pictures; None where nothing is to be
    done. calibrated: how the calibration was read, in plain values.
    """

    folder: Path
    cameras: Cameras
    videos: tuple[Video, ...]
    masks: tuple[Video, ...]
    keypoints: Float[np.ndarray, "frame view joint 3"] | None
    files: tuple[Path, ...]
    starts: tuple[int, ...]
    inverted: bool
    undistortions: tuple[Undistortion | None, ...]
    calibrated: dict[str, Any]

    @property
    def num_frames(self) -> int:
        """Moments that every camera shows."""
        return min(video.num_frames - start for video, start in zip(self.videos, self.starts, strict=True))

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

    @property
    def reading(self) -> dict[str, Any]:
        """How the files are read, where that is not as they are: for a manifest, in plain values."""
        turned, turned_masks = ([90 * video.turns for video in part] for part in (self.videos, self.masks))
        lists = {"starts": list(self.starts), "turned": turned, "turned_masks": turned_masks}
        said: dict[str, Any] = {"inverted_masks": True} if self.inverted else {}
        if self.calibrated != AS_EVER:
            said |= {"calibration": self.calibrated}
        return said | {way: values for way, values in lists.items() if any(values)}

    @cached_property
    def digest(self) -> str:
        """Hash of every input file; the same wherever the folder lies."""
        total = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
            total.update(f"{name} {sha256_of(path)}\n".encode())
        return total.hexdigest()


# ---------------------------------------------------------------- opening


def open_recording(
    folder: str | Path, offsets: Sequence[Offset] | None = None, inverted: bool = False, wanted: Wanted = AS_FOUND
) -> Recording:
    """Open a recording and check that its files belong together; only some frames of the masks are decoded.

    offsets: where one moment lies in each camera's video; None: frame f of every file is one moment. inverted: the
    masks show the animal black on white. wanted: what is known of the calibration.
    Raises DataError naming the file: one is missing, has another length, size, rate or clock than the others, white
    masks of the background, a calibration of another number of cameras, or one whose lenses distort while nobody said
    whether the videos are undistorted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a recording, found no folder — check the path.")
    paths = find_videos((folder / VIDEOS, folder / MASKS))
    videos, masks = (tuple(map(open_video, part)) for part in paths)
    views = len(videos)
    check_alike(videos, masks)
    starts = first_frames(videos, offsets)
    check_lengths(videos, masks)
    path = wanted.path or find_calibration(folder)
    rig = read_calibration(path, videos[0].width, videos[0].height, wanted, [video.path.stem for video in videos])
    if len(rig.lenses) != views:
        raise DataError(
            f"{path}: expected {views} cameras as there are videos, got {len(rig.lenses)} — "
            f"restore the missing ones, camera i as {VIDEOS}/i.mp4 and {MASKS}/i.mp4."
        )
    undistortions = rig.undistortions(path, wanted.undistorted)
    check_pixels(videos, rig.cameras)
    check_masks(masks, inverted)
    joints = [folder / KEYPOINTS / f"result_view_{view}.pkl" for view in range(views)]
    has_keypoints = (folder / KEYPOINTS).is_dir()
    files = (*files_of(path), *(video.path for video in videos + masks), *(joints if has_keypoints else ()))
    keypoints = _read_keypoints(joints, videos, starts, undistortions) if has_keypoints else None
    calibrated = rig.as_plain(wanted)
    return Recording(folder, rig.cameras, videos, masks, keypoints, files, starts, inverted, undistortions, calibrated)


def _read_keypoints(
    paths: list[Path],
    videos: Sequence[Video],
    starts: Sequence[int],
    undistortions: Sequence[Undistortion | None],
) -> Float[np.ndarray, "frame view joint 3"]:
    """From each video's start on, moved to pixel centres at +0.5 and to where an undistorted picture shows them; a
    joint with a number not finite becomes 0, 0, 0.
    """
    views: list[np.ndarray] = []
    for path, video, undistortion in zip(paths, videos, undistortions, strict=True):
        joints = read_pickle(path)
        expected = (video.num_frames, views[0].shape[1] if views else "joints", 3)
        if not isinstance(joints, np.ndarray) or joints.dtype.kind != "f" or joints.ndim != 3:
            raise DataError(f"{path}: expected floats (frames, joints, 3), got {type(joints).__name__} — store those.")
        if joints.shape != (video.num_frames, joints.shape[1] if not views else expected[1], 3):
            raise DataError(f"{path}: expected an array {expected}, got {joints.shape} — restore the file.")
        moved = joints + np.array([PIXEL_CENTRE, PIXEL_CENTRE, 0.0])
        if undistortion is not None:
            moved[..., :2] = undistortion.pixels(moved[..., :2])
        views.append(moved)
    count = min(len(joints) - start for joints, start in zip(views, starts, strict=True))
    keypoints = np.stack([joints[start : start + count] for joints, start in zip(views, starts, strict=True)], 1)
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
    made = {"kind": "convert", "version": VERSION, "threshold": THRESHOLD, **asdict(plan), **recording.reading}
    with writing(out, made | {"recording": recording.digest}, "a conversion") as done_before:
        if done_before:
            yield sum(map(len, splits.values()))
            return
        left_out = yield from _write_scenes(recording, out, sorted(sum(splits.values(), ())), plan.skip_empty)
        written = {name: tuple(frame for frame in frames if frame not in left_out) for name, frames in splits.items()}
        counts = {"scenes": sum(map(len, written.values())), "empty": len(left_out), "leakage": plan.leakage(written)}
        _write_manifest(recording, out, made | counts, written)


def summary(out: Path) -> dict[str, Any]:
    """A converted dataset in plain values: its folder, scenes, splits, digest, view order, leakage and verdict."""
    manifest = open_dataset(out, verify=False).manifest
    made, geometry = manifest.transforms[-1], manifest.geometry
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
        "verdict": None if geometry is None else geometry.verdict,
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
    writers_count = min(MAX_WRITERS, usable_cpus())
    waiting: deque[Future[tuple[int, bool]]] = deque()
    with ExitStack() as stack:
        cameras = range(len(recording.videos))
        views = [stack.enter_context(closing(_cut_out(recording, camera, frames))) for camera in cameras]
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


def _cut_out(recording: Recording, camera: int, frames: list[int]) -> Generator[Picture, None, None]:
    """One camera's frames with the mask as straight alpha, undistorted, and colour 0 where alpha is 0."""
    video, mask, undistortion = recording.videos[camera], recording.masks[camera], recording.undistortions[camera]
    places, said = None if undistortion is None else undistortion.places(), False
    chosen = [frame + recording.starts[camera] for frame in frames]
    for grey, image in zip(mask.read(chosen, "gray"), video.read(chosen, "rgba"), strict=True):
        alpha = coverage(255 - grey if recording.inverted else grey)
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
