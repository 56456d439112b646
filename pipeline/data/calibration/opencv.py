"""OpenCV's FileStorage (YAML 1.0 or 1.2, and JSON): cameras with x_cam = R·X + T, the first pixel's centre at 0.

`R` is a 3×3 matrix or a rotation vector; lengths are in the unit that the board's squares were given in, which the
file does not say. Distortion is OpenCV's, of its fisheye model where `fisheye_model` is 1. The format names no keys, so
those of OpenCV's samples and of EasyMocap are known, in any case, in one of these layouts:

    a file per camera in one folder:    camera_matrix, distortion_coefficients, R, T
    a map per camera in one file:       cam0: {camera_matrix: …, …}, or a list called cameras (CMU Panoptic)
    a suffix per camera:                K_01, dist_01, R_01 (or Rot_01), T_01, in one file or two (intri, extri)
    OpenCV's stereo_calib:              M1, D1, M2, D2 and R, T of the second camera, in one file or two
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import config
from pipeline.data.calibration.camera import (
    CalibratedCamera,
    image_size,
    intrinsics,
    natural,
    rotation,
    vector,
)
from pipeline.data.calibration.lens import is_distortion, lens_of
from pipeline.errors import DataError
from pipeline.text.encoding import read_text
from pipeline.text.json_file import read_json

ENDINGS = (".yml", ".yaml", ".json")
KEYS = {
    "K": ("camera_matrix", "cameramatrix", "intrinsic_matrix", "intrinsics", "mtx", "k", "m"),
    "D": ("distortion_coefficients", "dist_coeffs", "distcoeffs", "distortion", "dist", "d"),
    "R": ("rotation_matrix", "rotation", "rot", "rvec", "r"),
    "T": ("translation_vector", "translation", "tvec", "t"),
}
MEANINGS = {key: meaning for meaning, keys in KEYS.items() for key in keys}
SUFFIXED = re.compile(rf"({'|'.join(sorted(MEANINGS, key=len, reverse=True))})(?:_(\w+)|(\d+))", re.IGNORECASE)
NEEDED = ("K", "R", "T")

Parts = dict[str, Any]  # K, D, R, T and others of one camera


def read(path: Path) -> list[CalibratedCamera]:
    """The cameras of one file. Raises DataError."""
    return cameras_of(path, _tree(path))


def read_folder(folder: Path, paths: Sequence[Path]) -> list[CalibratedCamera]:
    """A file per camera, in the order of their names; or files that each hold a part of all. Raises DataError."""
    trees = {path: _tree(path) for path in sorted(paths, key=lambda path: natural(path.name))}
    parts = {path: _parts(str(path), tree) for path, tree in trees.items()}
    if all("K" in found for found in parts.values()):
        return [_camera(str(path), path.stem, found) for path, found in parts.items()]
    merged: dict[str, Any] = {}
    for path, tree in trees.items():
        known = {str(key) for key in tree if SUFFIXED.fullmatch(str(key)) or str(key).lower() in MEANINGS}
        if twice := sorted(known & merged.keys()):
            raise DataError(f"{path}: expected {twice[0]} in one file of the folder, got it again — take one out.")
        merged |= tree
    return cameras_of(folder, merged)


def cameras_of(path: Path, tree: Mapping[str, Any]) -> list[CalibratedCamera]:
    """The cameras of a file's content, matrices as arrays. Raises DataError."""
    listed = tree.get("cameras")
    if isinstance(listed, list):
        tree = {str(each.get("name", i)) if isinstance(each, dict) else str(i): each for i, each in enumerate(listed)}
    elif isinstance(listed, dict):
        tree = listed
    maps = {name: _parts(f"{path}: {name}", each) for name, each in tree.items() if isinstance(each, dict)}
    nested = {name: found for name, found in maps.items() if "K" in found}
    alone = _parts(str(path), tree)
    cameras = nested or _stereo(tree) or _suffixed(tree) or ({path.stem: alone} if "K" in alone else {})
    if not cameras:
        came = ", ".join(map(str, list(tree)[:6])) or "nothing"
        raise DataError(
            f"{path}: expected camera_matrix, distortion_coefficients, R and T of each camera, got {came} — name them "
            "so."
        )
    return [_camera(f"{path}: {name}", name, cameras[name]) for name in cameras]


def _camera(where: str, name: str, parts: Parts) -> CalibratedCamera:
    if missing := [key for key in NEEDED if key not in parts]:
        raise DataError(
            f"{where}: expected K, R and T of a camera in a shared world, got no {', '.join(missing)} — add them; a "
            "calibration of the lens alone does not say where the camera stands."
        )
    size = [parts.get(key) for key in ("image_width", "image_height")]
    return CalibratedCamera(
        intrinsics(where, "K", parts["K"]),
        rotation(where, "R", parts["R"]),
        vector(where, "T", parts["T"]),
        lens_of(where, parts.get("D"), fisheye=bool(parts.get("fisheye_model", False))),
        name,
        None if None in size else image_size(where, *size),
    )


def _parts(where: str, tree: Mapping[str, Any]) -> Parts:
    """K, D, R, T by what the keys mean, without empty ones; other keys as they are."""
    held: dict[str, list[str]] = {}
    for key, value in tree.items():
        name = "D" if is_distortion(key, value) else MEANINGS.get(str(key).lower(), str(key))
        if value is not None or name not in KEYS:
            held.setdefault(name, []).append(key)
    if "K" in held and (twice := next((keys for name, keys in held.items() if name in KEYS and len(keys) > 1), None)):
        raise DataError(f"{where}: expected one of {' and '.join(twice)}, got both — keep one of the two.")
    return {name: tree[keys[-1]] for name, keys in held.items()}


def _stereo(tree: Mapping[str, Any]) -> dict[str, Parts]:
    """The pair of OpenCV's stereo_calib: the first camera is the world."""
    if not {"M1", "M2", "R", "T"} <= tree.keys():
        return {}
    first, second = ({"K": tree[f"M{i}"], "D": tree.get(f"D{i}")} for i in (1, 2))
    return {"1": first | {"R": np.eye(3), "T": np.zeros(3)}, "2": second | {"R": tree["R"], "T": tree["T"]}}


def _suffixed(tree: Mapping[str, Any]) -> dict[str, Parts]:
    """Keys like K_01 by what stands behind them; EasyMocap's Rot_01 is R_01 as a matrix and comes first."""
    cameras: dict[str, Parts] = {}
    for key in sorted(tree, key=lambda key: "rot" in str(key).lower()):
        if found := SUFFIXED.fullmatch(str(key)):
            cameras.setdefault(found[2] or found[3], {})[MEANINGS[found[1].lower()]] = tree[key]
    return {name: cameras[name] for name in sorted(cameras, key=natural) if "K" in cameras[name]}


# ---------------------------------------------------------------- files


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast where it is there


class _Storage(_Loader):
    """YAML as FileStorage writes it: matrices by their tag; a key that comes twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _matrix(loader: _Storage, node: yaml.MappingNode) -> Any:
    return _array(loader.construct_mapping(node, deep=True))


_Storage.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def _array(matrix: Mapping[str, Any]) -> Any:
    return np.asarray(matrix["data"], dtype=np.float64).reshape(int(matrix["rows"]), int(matrix["cols"]))


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = matrices_in(read_json(path, DataError)) if path.suffix == ".json" else _yaml(read_text(path, DataError))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise DataError(
            f"{path}: expected OpenCV's YAML or JSON, got {config.one_line(error)} — restore the file."
        ) from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: expected keys and matrices of OpenCV, got {type(tree).__name__} — restore the file.")
    return tree


def _yaml(text: str) -> Any:
    text = re.sub(r"\A%YAML:1\.0", "%YAML 1.1", text)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
        raise yaml.YAMLError("an alias, which FileStorage never writes")
    return yaml.load(text, Loader=_Storage)  # noqa: S506  a SafeLoader


def matrices_in(tree: Any) -> Any:
    """A JSON tree with FileStorage's matrices as arrays. Raises KeyError, TypeError or ValueError for a broken one."""
    if isinstance(tree, dict):
        return _array(tree) if tree.get("type_id") == "opencv-matrix" else {k: matrices_in(v) for k, v in tree.items()}
    return [matrices_in(each) for each in tree] if isinstance(tree, list) else tree
