"""Calibration files of real rigs to `Cameras` and lenses: which reader a file is for, and whether the rig can be.

What each format means is said in its own file and in docs/data.md. Here the world becomes millimetres with z up, and
cameras come in the order of the videos.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pipeline.cameras import WORLD_UP, Cameras
from pipeline.data.calibration import anipose, colmap, dannce, deeplabcut, lists, nerfstudio, opencv
from pipeline.data.calibration.camera import CalibratedCamera
from pipeline.data.calibration.lens import Lens, Undistortion
from pipeline.data.calibration.pickles import read_pickle
from pipeline.data.gate.geometry import meeting_point
from pipeline.errors import DataError, DegenerateViewsError
from pipeline.text.json_file import read_json

NEAREST_MM, FARTHEST_MM = 50.0, 5000.0
SMALLEST_SPREAD = 1e-4  # two cameras about 1° apart
TILTED = math.cos(math.radians(45))  # cameras whose common up is farther from the world's have another world
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
MILLIMETRES = ("lists of K, R, T", "DANNCE")  # formats that say their unit
FOUND = (  # in a recording's folder
    "new_cam.pkl",
    "new_cam.json",
    "new_cam.npz",
    "calibration.toml",
    "calibration/calibration.toml",
    "calibration.yml",
    "calibration.yaml",
    "calibration.json",
    "*_dannce.mat",
    "calibration/hires_cam1_params.mat",
    "stereo_params.pickle",
    "camera_matrix/stereo_params.pickle",
    "transforms.json",
    "sparse/0/cameras.*",
)
READ = (
    "lists of K, R, T (.pkl, .json, .npz), OpenCV's FileStorage (.yml, .yaml, .json, or a folder of them), anipose's "
    ".toml, DANNCE's .mat (or a folder of *_params.mat), DeepLabCut's stereo_params.pickle, a folder of COLMAP's "
    "model, nerfstudio's transforms.json"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a user says about a calibration.

    path: where it is (None: where `find_calibration` finds it). mm: of one unit of its lengths; None: as the format
    says. up: where the world's up is in the calibration's axes. undistorted: whether the videos are; None: not said.
    """

    path: Path | None = None
    mm: float | None = None
    up: tuple[float, float, float] | None = None
    undistorted: bool | None = None


AS_FOUND = Wanted()


@dataclass(frozen=True)
class Calibration:
    """A rig: pinhole cameras [V] in float64 (world in mm), and what each one's lens does beside."""

    format: str
    cameras: Cameras
    lenses: tuple[Lens, ...]

    def undistortions(self, path: Path, undistorted: bool | None) -> tuple[Undistortion | None, ...]:
        """What to do with each camera's pictures; undistorted: whether that was done before, None: not said.

        Raises DataError when a lens distorts and nobody said whether the videos still show it, and when distortion is
        to be taken out of which the calibration says nothing.
        """
        bent = [i for i, lens in enumerate(self.lenses) if not lens.is_pinhole]
        if undistorted is False and not bent:
            raise DataError(f"{path}: expected coefficients to take out, got none — leave --distorted out, or store D.")
        if bent and undistorted is None:
            lens = self.lenses[bent[0]]
            raise DataError(
                f"{path}: expected to be told whether the videos are undistorted already, got lenses that distort "
                f"(camera {bent[0]}: {lens}) — pass --undistorted, or --distorted to have it taken out."
            )
        size = (self.cameras.width, self.cameras.height)
        found = tuple(
            None if undistorted or lens.is_pinhole else Undistortion(lens, tuple(numbers), size)
            for lens, numbers in zip(self.lenses, self.cameras.fxfycxcy.tolist(), strict=True)
        )
        for i, each in enumerate(found):
            if each is not None and each.reach < each.farthest:
                _log.warning(
                    "%s: camera %d: the distortion turns back at %.0f°, which no lens does: nothing is shown beyond",
                    path,
                    i,
                    math.degrees(math.atan(each.reach)),
                )
        return found

    def as_plain(self, wanted: Wanted) -> dict[str, Any]:
        """Where the rig came from, for a manifest: the format, and what the user said beside."""
        distorts = not all(lens.is_pinhole for lens in self.lenses)
        distortion = ("removed before" if wanted.undistorted else "removed") if distorts else "none"
        return {"format": self.format, "unit_mm": wanted.mm, "up": wanted.up, "distortion": distortion}


def read_calibration(
    path: Path, width: int, height: int, wanted: Wanted = AS_FOUND, videos: Sequence[str] = ()
) -> Calibration:
    """A rig of V ≥ 2 cameras of images of width×height, from any format of docs/data.md.

    videos: their names without ending; where there are as many as cameras, the cameras come in their order.
    Raises DataError: no such file, other contents, no unit, a skewed K, a principal point outside the image, another
    image size, a rotation that is none, axes that do not meet in view of every camera, distances beyond 50 to 5000 mm.
    """
    kind, read = _read(path, (width, height))
    if len(read) < 2:
        raise DataError(
            f"{path}: expected 2 or more cameras, got {len(read)} — give the whole rig, or the folder of its files."
        )
    for i, camera in enumerate(read):
        if camera.size not in (None, (width, height)):
            raise DataError(
                f"{path}: camera {camera.name or i}: expected the calibration of {width}×{height} as the videos are, "
                f"got one of {camera.size[0]}×{camera.size[1]} — use the calibration of these videos' size."
            )
    mm = _mm(path, kind, wanted.mm)
    chosen = _ordered(path, read, videos)
    cameras = _cameras(path, chosen, mm, (width, height))
    cameras.check(str(path))
    _check_rig(path, cameras)
    return Calibration(kind, _upright(path, cameras, wanted.up), tuple(camera.lens for camera in chosen))


def find_calibration(folder: Path) -> Path:
    """The one calibration of a recording's folder. Raises DataError where there is none or more than one."""
    files = [path for pattern in FOUND for path in sorted(folder.glob(pattern)) if path.is_file()]
    found = list(dict.fromkeys(path.parent if _is_part(path) else path for path in files))
    if len(found) != 1:
        came = " and ".join(path.relative_to(folder).as_posix() for path in found) or "none"
        raise DataError(
            f"{folder}: expected one of {', '.join(FOUND)}, got {came} — keep one, or say which with --calibration."
        )
    return found[0]


def _is_part(path: Path) -> bool:
    """Whether a calibration is the folder that the file lies in."""
    return path.name in colmap.FILES or path.match(dannce.PER_CAMERA)


def files_of(path: Path) -> list[Path]:
    """The files that a calibration consists of; hidden ones are none of it."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))


def mm_of(text: str) -> float:
    """Millimetres of one unit: mm, cm, m, or a number of them. Raises DataError."""
    try:
        mm = UNITS[text] if text in UNITS else float(text)
    except ValueError:
        mm = math.nan
    if not (mm > 0 and math.isfinite(mm)):
        raise DataError(
            f"--calibration-unit: expected mm, cm, m or the millimetres of one unit, got {text} — such as 23.5 for a "
            "calibration in squares of 23.5 mm."
        )
    return mm


def up_of(text: str) -> tuple[float, float, float]:
    """A direction as x,y,z. Raises DataError."""
    try:
        x, y, z = map(float, text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not (math.isfinite(length := math.hypot(x, y, z)) and length > 0):
        raise DataError(f"--up: expected a direction x,y,z, got {text} — such as 0,-1,0.")
    return x / length, y / length, z / length


# ---------------------------------------------------------------- formats


def _read(path: Path, size: tuple[int, int]) -> tuple[str, list[CalibratedCamera]]:
    """The format's name and its cameras."""
    if path.name in colmap.FILES:
        path = path.parent
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise DataError(f"{path}: expected a calibration, found none — check the path.")
    match path.suffix.lower():
        case ".pkl" | ".pickle":
            content = read_pickle(path)
            if deeplabcut.is_one(content):
                return "DeepLabCut 3D", deeplabcut.cameras_of(path, content)
            return "lists of K, R, T", lists.cameras_of(path, content)
        case ".npz":
            return "lists of K, R, T", lists.read_npz(path)
        case ".json":
            return _read_json(path, size)
        case ".yml" | ".yaml":
            return "OpenCV", opencv.read(path)
        case ".toml":
            return "anipose", anipose.read(path)
        case ".mat":
            return "DANNCE", dannce.read(path)
    raise DataError(f"{path}: expected a calibration of {READ}, got {path.suffix or 'no ending'} — convert it.")


def _read_json(path: Path, size: tuple[int, int]) -> tuple[str, list[CalibratedCamera]]:
    content = read_json(path, DataError)
    if isinstance(content, dict) and "frames" in content:
        return "nerfstudio", nerfstudio.cameras_of(path, content, size)
    return (
        ("OpenCV", opencv.read(path))
        if isinstance(content, dict)
        else ("lists of K, R, T", lists.cameras_of(path, content))
    )


def _read_folder(folder: Path) -> tuple[str, list[CalibratedCamera]]:
    if colmap.is_one(folder):
        return "COLMAP", colmap.read(folder)
    if any(folder.glob(dannce.PER_CAMERA)):
        return "DANNCE", dannce.read_folder(folder)
    if files := [path for path in files_of(folder) if path.suffix.lower() in opencv.ENDINGS]:
        return "OpenCV", opencv.read_folder(folder, files)
    came = ", ".join(path.name for path in files_of(folder)[:4]) or "no files"
    raise DataError(f"{folder}: expected a calibration of {READ}, got {came} — convert it.")


def _mm(path: Path, kind: str, given: float | None) -> float:
    """Millimetres of one unit. Raises DataError where neither the format nor the user says."""
    if given is None and kind not in MILLIMETRES:
        raise DataError(
            f"{path}: expected the unit of its lengths, which {kind} does not say — pass --calibration-unit mm, cm or "
            "m (what the board's squares were measured in), or the millimetres of one unit."
        )
    return 1.0 if given is None else given


# ---------------------------------------------------------------- which camera is which video


def _ordered(path: Path, cameras: list[CalibratedCamera], videos: Sequence[str]) -> list[CalibratedCamera]:
    """The cameras in the videos' order: by their names, by the numbers in them, or as they come, which is said."""
    names = [camera.name for camera in cameras if camera.name is not None]
    if len(names) != len(cameras) or len(videos) != len(cameras):
        return cameras
    keys = _keys(names)
    if set(keys) == set(videos):
        return [cameras[keys.index(video)] for video in videos]
    numbered = [tuple(map(int, re.findall("[0-9]+", key))) for key in keys]
    counted = {tuple((i + first,) for i in range(len(cameras))) for first in (0, 1)}
    if tuple(sorted(numbered)) in counted:
        order = sorted(range(len(cameras)), key=lambda i: numbered[i])
        cameras, keys = [cameras[i] for i in order], [keys[i] for i in order]
    pairs = ", ".join(f"{key} is {video}" for key, video in zip(keys, videos, strict=True))
    _log.warning("%s: cameras are taken in their order: %s", path, pairs)
    return cameras


def _keys(names: list[str]) -> list[str]:
    """What tells names apart: 3 of images/3.png, of 3/frame_01.png and of cam/3."""
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    stems = [path.stem for path in paths]
    folders = [path.parent.name for path in paths]
    return stems if len(set(stems)) == len(names) or len(set(folders)) < len(names) else folders


# ---------------------------------------------------------------- numbers


def _cameras(path: Path, read: list[CalibratedCamera], mm: float, size: tuple[int, int]) -> Cameras:
    R, T = np.stack([camera.R for camera in read]), mm * np.stack([camera.T for camera in read])
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(R), 1, 1)
    c2w[:, :3, :3] = torch.from_numpy(R).mT
    c2w[:, :3, 3] = torch.from_numpy(-np.einsum("vji,vj->vi", R, T))
    return Cameras(c2w, _fxfycxcy(path, np.stack([camera.K for camera in read])), *size)


def _fxfycxcy(path: Path, K: Float[np.ndarray, "view 3 3"]) -> Float[torch.Tensor, "view 4"]:
    for i, matrix in enumerate(K):
        rest = matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
        if not np.allclose(rest, [0, 0, 0, 0, 1], rtol=0, atol=1e-6):
            raise DataError(
                f"{path}: camera {i}: expected K = fx 0 cx, 0 fy cy, 0 0 1, got {matrix.round(4).tolist()} — "
                "store it untransposed and without skew."
            )
    return torch.from_numpy(K[:, [0, 1, 0, 1], [0, 1, 2, 2]])


def _check_rig(path: Path, cameras: Cameras) -> None:
    """Principal points lie in the image; the axes meet where every camera looks, at a distance in mm."""
    for i, (_, _, cx, cy) in enumerate(cameras.fxfycxcy.tolist()):
        if not (0 < cx < cameras.width and 0 < cy < cameras.height):
            raise DataError(
                f"{path}: camera {i}: expected a principal point inside {cameras.width}×{cameras.height}, got "
                f"({cx:.1f}, {cy:.1f}) — use the calibration of these videos' size."
            )
    if _spread(cameras) < SMALLEST_SPREAD:
        raise DataError(f"{path}: expected cameras that look from several sides, got parallel axes — check R.")
    try:
        middle = meeting_point(cameras)
    except DegenerateViewsError as error:
        raise DataError(f"{path}: {error}") from None
    distances = (cameras.centres - middle).norm(dim=-1)
    if not NEAREST_MM <= float(distances.min()) <= float(distances.max()) <= FARTHEST_MM:
        raise DataError(
            f"{path}: expected cameras {NEAREST_MM:g} to {FARTHEST_MM:g} mm from where their axes meet, got "
            f"{float(distances.min()):.3g} to {float(distances.max()):.3g} — store T in millimetres, or say its unit "
            "with --calibration-unit."
        )
    pixels, depth = cameras.project(middle.expand(len(distances), 1, 3))
    inside = (pixels > 0) & (pixels < torch.tensor([cameras.width, cameras.height]))
    if not bool((seen := inside.all(-1) & (depth > 0)).all()):
        raise DataError(
            f"{path}: camera {int((~seen).nonzero()[0, 0])}: expected to see where the axes meet, got it out of view — "
            "store R and T so that x_cam = R·X + T."
        )


def _spread(cameras: Cameras) -> float:
    """0 when all axes are parallel, up to 2/3; the mean squared sine to the direction they share most."""
    shared = torch.einsum("vi,vj->ij", cameras.forward, cameras.forward) / len(cameras.forward)
    return 1 - float(torch.linalg.eigvalsh(shared)[-1])


def _upright(path: Path, cameras: Cameras, up: tuple[float, float, float] | None) -> Cameras:
    """The world turned so that `up` is z; without it, cameras that stand askew in their world are named."""
    if up is not None:
        turn = Rotation.align_vectors([WORLD_UP], [up])[0].as_matrix()
        return cameras.transform(1.0, torch.from_numpy(turn))
    shared = -cameras.c2w[:, :3, 1].mean(0)
    if float(shared.norm()) > 0.5 and float(shared[2] / shared.norm()) < TILTED:
        direction = ",".join(f"{float(part) + 0.0:.2f}" for part in shared / shared.norm())
        _log.warning(
            "%s: z is taken as up, and the cameras' own up is %s there: pass --up %s if they stand upright",
            path,
            direction,
            direction,
        )
    return cameras
