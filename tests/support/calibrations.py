"""One rig written as each laboratory's program writes it, by that program's own library where there is one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import torch
from scipy.io import savemat

from pipeline.cameras import Cameras, mouse_rig

WIDTH, HEIGHT = 1152, 1024
NEITHER = (0.0,) * 5


@dataclass(frozen=True)
class Filmed:
    """A camera in OpenCV's terms: the first pixel's centre at 0, x_cam = R·X + T in mm, distortion k1 k2 p1 p2 k3, or
    k1 k2 k3 k4 of a fisheye.
    """

    name: str
    K: np.ndarray
    R: np.ndarray
    T: np.ndarray
    distortion: tuple[float, ...] = NEITHER
    fisheye: bool = False

    @property
    def c2w_opengl(self) -> np.ndarray:
        c2w = np.eye(4)
        c2w[:3] = np.column_stack([self.R.T[:, 0], -self.R.T[:, 1], -self.R.T[:, 2], -self.R.T @ self.T])
        return c2w

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels [n, 2] by OpenCV itself."""
        module = cv2.fisheye if self.fisheye else cv2
        rotation = cv2.Rodrigues(self.R)[0]
        pixels, _ = module.projectPoints(points[:, None], rotation, self.T, self.K, np.array(self.distortion))
        return pixels[:, 0]


def filmed(distortion: Sequence[float] = NEITHER, fisheye: bool = False) -> list[Filmed]:
    """The six cameras of the real rig; camera i has i + 1 sixths of the distortion."""
    rig = rigid(mouse_rig())
    K, w2c = rig.K.numpy(), rig.w2c.numpy()
    K[:, :2, 2] -= 0.5
    shares = [tuple((i + 1) / 6 * number for number in distortion) for i in range(6)]
    return [Filmed(str(i), K[i], w2c[i, :3, :3], w2c[i, :3, 3], shares[i], fisheye) for i in range(6)]


def rigid(cameras: Cameras) -> Cameras:
    """The cameras in float64, their rotations orthonormal to the last digit."""
    c2w = cameras.c2w.to(torch.float64)
    u, _, v = torch.linalg.svd(c2w[:, :3, :3])
    c2w[:, :3, :3] = u @ v
    return Cameras(c2w, cameras.fxfycxcy.to(torch.float64), cameras.width, cameras.height)


def as_list(cameras: Sequence[Filmed]) -> list[dict[str, np.ndarray]]:
    bent = any(any(camera.distortion) for camera in cameras)
    return [{"K": c.K, "R": c.R, "T": c.T} | ({"D": np.array(c.distortion)} if bent else {}) for c in cameras]


def write_pickle(folder: Path, cameras: Sequence[Filmed]) -> Path:
    (folder / "new_cam.pkl").write_bytes(pickle.dumps(as_list(cameras)))
    return folder / "new_cam.pkl"


def write_json(folder: Path, cameras: Sequence[Filmed]) -> Path:
    plain = [{key: value.tolist() for key, value in camera.items()} for camera in as_list(cameras)]
    (folder / "new_cam.json").write_text(json.dumps(plain))
    return folder / "new_cam.json"


def write_npz(folder: Path, cameras: Sequence[Filmed]) -> Path:
    entries = as_list(cameras)
    np.savez(folder / "new_cam.npz", **{key: np.stack([entry[key] for entry in entries]) for key in entries[0]})
    return folder / "new_cam.npz"


# ---------------------------------------------------------------- OpenCV


def write_storage(path: Path, values: dict[str, object]) -> Path:
    """By OpenCV's FileStorage; a dict becomes a map."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    _store(storage, values)
    storage.release()
    return path


def _store(storage: cv2.FileStorage, values: dict[str, object]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            storage.startWriteStruct(key, cv2.FileNode_MAP)
            _store(storage, value)
            storage.endWriteStruct()
        else:
            storage.write(key, value)


def _as_storage(camera: Filmed) -> dict[str, object]:
    return {
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "camera_matrix": camera.K,
        "distortion_coefficients": np.array([camera.distortion]),
        "R": camera.R,
        "T": camera.T.reshape(3, 1),
        "fisheye_model": int(camera.fisheye),
    }


def write_opencv_yaml(folder: Path, cameras: Sequence[Filmed]) -> Path:
    return write_storage(folder / "calibration.yml", {f"cam{c.name}": _as_storage(c) for c in cameras})


def write_opencv_json(folder: Path, cameras: Sequence[Filmed]) -> Path:
    return write_storage(folder / "calibration.json", {f"cam{c.name}": _as_storage(c) for c in cameras})


def write_opencv_folder(folder: Path, cameras: Sequence[Filmed]) -> Path:
    """A file per camera, with the first line of OpenCV 4 and before."""
    (folder / "calibration").mkdir()
    for camera in cameras:
        path = write_storage(folder / "calibration" / f"{camera.name}.yml", _as_storage(camera))
        path.write_text(path.read_text().replace("%YAML 1.2", "%YAML:1.0"))
    return folder / "calibration"


def write_easymocap(folder: Path, cameras: Sequence[Filmed]) -> Path:
    (folder / "calibration").mkdir()
    lens = {f"K_0{c.name}": c.K for c in cameras} | {f"dist_0{c.name}": np.array([c.distortion]) for c in cameras}
    place = {f"R_0{c.name}": cv2.Rodrigues(c.R)[0] for c in cameras} | {f"T_0{c.name}": c.T[:, None] for c in cameras}
    write_storage(folder / "calibration" / "intri.yml", lens)
    write_storage(folder / "calibration" / "extri.yml", place)
    return folder / "calibration"


def write_stereo_calib(folder: Path, cameras: Sequence[Filmed]) -> Path:
    """OpenCV's stereo_calib: the first camera is the world."""
    (folder / "calibration").mkdir()
    first, second = cameras
    R, T = _relative(first, second)
    lens = {"M1": first.K, "D1": np.array([first.distortion]), "M2": second.K, "D2": np.array([second.distortion])}
    write_storage(folder / "calibration" / "intrinsics.yml", lens)
    write_storage(folder / "calibration" / "extrinsics.yml", {"R": R, "T": T[:, None], "R1": np.eye(3)})
    return folder / "calibration"


# ---------------------------------------------------------------- laboratories


def write_anipose(folder: Path, cameras: Sequence[Filmed]) -> Path:
    tables = [
        f'[cam_{i}]\nname = "{camera.name}"\nsize = [ {WIDTH}, {HEIGHT},]\nmatrix = {camera.K.tolist()}\n'
        f"distortions = {list(camera.distortion)}\nrotation = {cv2.Rodrigues(camera.R)[0].ravel().tolist()}\n"
        f"translation = {camera.T.tolist()}\n" + ("fisheye = true\n" if camera.fisheye else "")
        for i, camera in enumerate(cameras)
    ]
    (folder / "calibration.toml").write_text("\n".join(tables) + "\n[metadata]\nadjusted = false\nerror = 0.5\n")
    return folder / "calibration.toml"


def write_label3d(folder: Path, cameras: Sequence[Filmed]) -> Path:
    params, names = np.empty((len(cameras), 1), object), np.empty((1, len(cameras)), object)
    for i, camera in enumerate(cameras):
        params[i, 0], names[0, i] = _as_matlab(camera), f"Camera{i + 1}"
    savemat(folder / "label3d_dannce.mat", {"params": params, "camnames": names})
    return folder / "label3d_dannce.mat"


def write_dannce_folder(folder: Path, cameras: Sequence[Filmed]) -> Path:
    (folder / "calibration").mkdir()
    for i, camera in enumerate(cameras):
        savemat(folder / "calibration" / f"hires_cam{i + 1}_params.mat", _as_matlab(camera))
    return folder / "calibration"


def _as_matlab(camera: Filmed) -> dict[str, np.ndarray]:
    """As MATLAB's cameraParameters: row vectors, the first pixel's centre at (1, 1)."""
    k1, k2, p1, p2, k3 = camera.distortion
    K = camera.K.T + np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0]])
    rest = {"RDistort": np.array([[k1, k2, k3]]), "TDistort": np.array([[p1, p2]])}
    return {"K": K, "r": camera.R.T, "t": camera.T[None]} | rest


def write_deeplabcut(folder: Path, cameras: Sequence[Filmed]) -> Path:
    """Two cameras, in squares of a millimetre."""
    first, second = cameras
    R, T = _relative(first, second)
    pair = {
        "cameraMatrix1": first.K,
        "cameraMatrix2": second.K,
        "distCoeffs1": np.array([first.distortion]),
        "distCoeffs2": np.array([second.distortion]),
        "R": R,
        "T": T[:, None],
        "roi1": (0, 0, 4, 4),
        "image_shape": [(WIDTH, HEIGHT), (WIDTH, HEIGHT)],
    }
    (folder / "stereo_params.pickle").write_bytes(pickle.dumps({"camera-1-camera-2": pair}))
    return folder / "stereo_params.pickle"


def _relative(first: Filmed, second: Filmed) -> tuple[np.ndarray, np.ndarray]:
    R = second.R @ first.R.T
    return R, second.T - R @ first.T


# ---------------------------------------------------------------- reconstructions


def write_colmap_text(folder: Path, cameras: Sequence[Filmed]) -> Path:
    _reconstruction(cameras).write_text(_made(folder / "sparse" / "0"))
    return folder / "sparse" / "0"


def write_colmap_binary(folder: Path, cameras: Sequence[Filmed]) -> Path:
    _reconstruction(cameras).write_binary(_made(folder / "sparse" / "0"))
    return folder / "sparse" / "0"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _reconstruction(cameras: Sequence[Filmed]) -> pycolmap.Reconstruction:
    """Images in another order than the cameras', as COLMAP registers them."""
    model = pycolmap.Reconstruction()
    for number, camera in enumerate(reversed(cameras), 1):
        (fx, _, cx), (_, fy, cy), _ = camera.K
        params = [fx, fy, cx + 0.5, cy + 0.5, *camera.distortion, *(() if camera.fisheye else (0, 0, 0))]
        kind = "OPENCV_FISHEYE" if camera.fisheye else "FULL_OPENCV"
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(model=kind, width=WIDTH, height=HEIGHT, params=params, camera_id=number + 10)
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(camera.R), camera.T)
        image = pycolmap.Image(name=f"{camera.name}.png", camera_id=number + 10, image_id=number)
        model.add_image_with_trivial_frame(image, pose)
    return model


APPLIED = np.array([[1.0, 0, 0, 4], [0, 0, 1, 5], [0, -1, 0, 6], [0, 0, 0, 1]])


def write_nerfstudio(folder: Path, cameras: Sequence[Filmed]) -> Path:
    """Frames in another order, in the world that `applied_transform` and a scale of 0.01 made."""
    names = ("k1", "k2", "k3", "k4") if cameras[0].fisheye else ("k1", "k2", "p1", "p2", "k3")
    frames = []
    for camera in reversed(cameras):
        (fx, _, cx), (_, fy, cy), _ = camera.K
        moved = APPLIED @ camera.c2w_opengl
        moved[:3, 3] *= 0.01
        pinhole = {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5, "w": WIDTH, "h": HEIGHT}
        lens = dict(zip(names, camera.distortion, strict=True))
        frames.append({"file_path": f"images/{camera.name}.png", "transform_matrix": moved.tolist()} | pinhole | lens)
    model = "OPENCV_FISHEYE" if cameras[0].fisheye else "OPENCV"
    whole = {"camera_model": model, "applied_transform": APPLIED[:3].tolist(), "applied_scale": 0.01, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(whole))
    return folder / "transforms.json"


Writer = Callable[[Path, Sequence[Filmed]], Path]

WRITERS: dict[str, Writer] = {
    "list, pickle": write_pickle,
    "list, JSON": write_json,
    "list, NPZ": write_npz,
    "OpenCV YAML": write_opencv_yaml,
    "OpenCV JSON": write_opencv_json,
    "OpenCV, a file per camera": write_opencv_folder,
    "OpenCV, EasyMocap's two files": write_easymocap,
    "anipose": write_anipose,
    "DANNCE, Label3D": write_label3d,
    "DANNCE, a file per camera": write_dannce_folder,
    "COLMAP text": write_colmap_text,
    "COLMAP binary": write_colmap_binary,
    "nerfstudio": write_nerfstudio,
}
PAIR_WRITERS: dict[str, Writer] = {"OpenCV stereo_calib": write_stereo_calib, "DeepLabCut 3D": write_deeplabcut}
FISHEYE_WRITERS = ("OpenCV YAML", "OpenCV JSON", "OpenCV, a file per camera", "anipose", "COLMAP text", "COLMAP binary")
