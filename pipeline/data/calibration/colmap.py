"""COLMAP's sparse models: a folder with cameras.txt and images.txt, or cameras.bin and images.bin.

OpenCV's axes, x_cam = R(quaternion w x y z)·X + t; pixel centres at +0.5, as in this house. A reconstruction has no
unit and no upright. Camera models: SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV and
OPENCV_FISHEYE. Each image of the model is a camera of the rig and is called by its file. Points are not read.

pycolmap 4.2 is the test's independent writer and no reader here: on a damaged binary file it can loop for minutes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.data.calibration.camera import (
    PIXEL_CENTRE,
    CalibratedCamera,
    image_size,
    intrinsics,
    natural,
    numbers,
    read_text,
    vector,
)
from pipeline.data.calibration.lens import PINHOLE, Lens, lens_of
from pipeline.errors import DataError


class Model(NamedTuple):
    """A camera model: how many parameters come first as focal lengths, and how many distortion ones follow cx, cy."""

    identity: int  # in binary files
    focal: int
    distortion: int


MODELS = {
    "SIMPLE_PINHOLE": Model(0, 1, 0),
    "PINHOLE": Model(1, 2, 0),
    "SIMPLE_RADIAL": Model(2, 1, 1),
    "RADIAL": Model(3, 1, 2),
    "OPENCV": Model(4, 2, 4),
    "OPENCV_FISHEYE": Model(5, 2, 4),
    "FULL_OPENCV": Model(6, 2, 8),
}
FILES = ("cameras.bin", "images.bin", "cameras.txt", "images.txt")
POINT_BYTES = 24  # x, y, point of an image, in binary files


class Image(NamedTuple):
    """A picture of the model."""

    camera: int
    name: str
    quaternion: tuple[float, ...]  # w x y z
    translation: tuple[float, ...]


class Intrinsics(NamedTuple):
    """A camera of the model; several images may share it."""

    model: str
    size: tuple[Any, Any]
    params: tuple[float, ...]


def is_one(folder: Path) -> bool:
    """Whether a folder holds a sparse model, or a part of one."""
    return any((folder / file).is_file() for file in FILES)


def read(folder: Path) -> list[CalibratedCamera]:
    """The images in the order of their names; binary files come first, as in COLMAP. Raises DataError."""
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    reader, end = (_Binary, ".bin") if binary else (_Text, ".txt")
    paths = [folder / f"{part}{end}" for part in ("cameras", "images")]
    try:
        cameras, images = dict(reader(paths[0]).cameras()), list(reader(paths[1]).images())
    except _Damaged as error:
        raise DataError(str(error)) from None
    return [_camera(paths, image, cameras) for image in sorted(images, key=lambda image: natural(image.name))]


def _camera(paths: list[Path], image: Image, cameras: dict[int, Intrinsics]) -> CalibratedCamera:
    where = f"{paths[1]}: {image.name}"
    if image.camera not in cameras:
        raise DataError(f"{where}: expected a camera of {paths[0].name}, got {image.camera} — restore both files.")
    quaternion = numbers(where, "the quaternion", image.quaternion, ((4,),))
    if not 1e-6 < np.abs(quaternion).max() < 1e6:
        raise DataError(f"{where}: expected a quaternion w x y z, got {image.quaternion} — restore the file.")
    K, lens, size = _intrinsics(f"{paths[0]}: camera {image.camera}", cameras[image.camera])
    R = Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_matrix()
    return CalibratedCamera(K, R, vector(where, "the translation", image.translation), lens, image.name, size)


def _intrinsics(where: str, camera: Intrinsics) -> tuple[np.ndarray, Lens, tuple[int, int]]:
    model = MODELS.get(camera.model)
    if model is None:
        raise DataError(f"{where}: expected a model of {', '.join(MODELS)}, got {camera.model} — reconstruct with one.")
    given = numbers(where, f"the parameters of {camera.model}", camera.params, ((model.focal + 2 + model.distortion,),))
    fx, fy, (cx, cy) = given[0], given[model.focal - 1], given[model.focal : model.focal + 2]
    K = intrinsics(where, "K", [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], PIXEL_CENTRE)
    distortion = given[model.focal + 2 :]
    padded = [*distortion, *(0.0,) * (4 - len(distortion))]  # RADIAL has no p1 p2
    lens = lens_of(where, padded, fisheye=camera.model == "OPENCV_FISHEYE") if model.distortion else PINHOLE
    return K, lens, image_size(where, *camera.size)


class _Damaged(Exception):  # noqa: N818  an answer, and never leaves this file
    """A file does not hold what it promises."""


class _Text:
    """cameras.txt: id model width height params…; images.txt: id qw qx qy qz tx ty tz camera name, then its points."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [line for line in read_text(path).splitlines() if not line.startswith("#")]

    def cameras(self) -> Iterator[tuple[int, Intrinsics]]:
        for line in filter(str.strip, self.lines):
            try:
                identity, model, width, height, *params = line.split()
                yield int(identity), Intrinsics(model, (width, height), tuple(map(float, params)))
            except ValueError:
                raise self._damaged("id, model, width, height and parameters", line) from None

    def images(self) -> Iterator[Image]:
        lines = iter(self.lines)
        for line in lines:
            if not line.strip():
                continue
            try:
                _, *pose, camera, name = line.strip().split(maxsplit=9)
                quaternion, translation = tuple(map(float, pose[:4])), tuple(map(float, pose[4:]))
                yield Image(int(camera), name, quaternion, translation)
            except ValueError:
                raise self._damaged("id, quaternion, translation, camera and name", line) from None
            next(lines, None)  # its points, often none

    def _damaged(self, expected: str, line: str) -> _Damaged:
        return _Damaged(f"{self.path}: expected {expected}, got {line.strip()[:60]!r} — restore the file.")


class _Binary:
    """The same in little-endian numbers, each file with a count before its entries."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        try:
            self.content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: expected a file, got {error.strerror} — restore it.") from None

    def cameras(self) -> Iterator[tuple[int, Intrinsics]]:
        names = {model.identity: name for name, model in MODELS.items()}
        for _ in range(self._next("<Q")[0]):
            identity, number, width, height = self._next("<iiQQ")
            if number not in names:
                raise _Damaged(
                    f"{self.path}: camera {identity}: expected a model of {', '.join(MODELS)}, got number {number} — "
                    "reconstruct with one."
                )
            model = MODELS[names[number]]
            params = self._next(f"<{model.focal + 2 + model.distortion}d")
            yield identity, Intrinsics(names[number], (width, height), params)
        self._end()

    def images(self) -> Iterator[Image]:
        for _ in range(self._next("<Q")[0]):
            _, *pose, camera = self._next("<i7di")
            end = self.content.find(b"\0", self.at)
            name = self.content[self.at : end].decode(errors="replace")
            self.at = end + 1 if end >= 0 else len(self.content) + 1
            yield Image(camera, name, tuple(pose[:4]), tuple(pose[4:]))
            (points,) = self._next("<Q")
            self.at += POINT_BYTES * points
        self._end()

    def _end(self) -> None:
        if self.at != len(self.content):
            raise _Damaged(
                f"{self.path}: expected {self.at} bytes by its counts, got {len(self.content)} — restore the file."
            )

    def _next(self, form: str) -> tuple[Any, ...]:
        start, self.at = self.at, self.at + struct.calcsize(form)
        if self.at > len(self.content):
            raise _Damaged(f"{self.path}: expected more entries, got the end of the file — restore it.")
        return struct.unpack_from(form, self.content, start)
