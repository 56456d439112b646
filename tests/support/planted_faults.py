"""Sets of procedural mice that are good, and the same with a known fault planted: what the gate is measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from pipeline.cameras import Cameras, circle, facelift_ring, facelift_six, focal_pixels, look_at, mouse_rig
from pipeline.data.gate.checks import check
from pipeline.data.mice.mice import ARENA, MouseSequence, scene_name
from pipeline.data.mice.render import render_mouse
from pipeline.data.scenes import Geometry, Manifest, open_dataset, write_manifest, write_scene
from pipeline.errors import DataError

EXTENT = 0.8  # of the mice about the origin, where the world is FaceLift's
LATER = 5  # video frames, a fifth of a second
ELEVATIONS = (-15.0, 40.0, 10.0, 60.0, 25.0, 0.0)  # degrees, of a ring that is no ring of FaceLift's

Pictures = UInt8[np.ndarray, "view height width 4"]


class Shot(NamedTuple):
    """A mouse seen by a rig, and the same a moment `later` by the same cameras."""

    images: Pictures
    cameras: Cameras
    later: Pictures


Rig = Callable[[int, int], Cameras]  # of an image width and a scene's number
Fault = Callable[[Shot], Shot]


# ---------------------------------------------------------------- rigs


def _elevated(size: int, _: int) -> Cameras:
    rings = [
        circle(
            torch.tensor([math.radians(60.0 * view)]).double(), math.radians(elevation), 2.7, focal_pixels(size), size
        )
        for view, elevation in enumerate(ELEVATIONS)
    ]
    return _joined(rings)


def _random(size: int, scene: int) -> Cameras:
    """Six cameras anywhere above the floor, none upright, each with its own lens; others in every scene."""
    draw = np.random.default_rng(scene).uniform
    cameras = []
    for view in range(6):
        azimuth, elevation, roll = math.radians(60 * view) + draw(-0.4, 0.4), draw(-0.1, 1.1), draw(-0.5, 0.5)
        distance = draw(2.0, 6.0)
        around = [math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation)]
        c2w = look_at(distance * torch.tensor([around]).double(), torch.from_numpy(draw(-0.1, 0.1, (1, 3))))
        turn = torch.eye(4).double()
        turn[:2, :2] = torch.tensor([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        focal = 0.36 * size * distance * draw(0.85, 1.0)
        middle = size / 2 + draw(-0.04, 0.04, 2) * size
        cameras.append(Cameras(c2w @ turn, torch.tensor([[focal, 1.02 * focal, *middle]]).double(), size, size))
    return _joined(cameras)


def _joined(cameras: Sequence[Cameras]) -> Cameras:
    first = cameras[0]
    parts = (torch.cat([one.c2w for one in cameras]), torch.cat([one.fxfycxcy for one in cameras]))
    return Cameras(*parts, first.width, first.height)


MOUSE_RIG = "mouse rig, mm"
RIGS: dict[str, Rig] = {
    MOUSE_RIG: lambda size, _: mouse_rig().resize(size, round(size * 1024 / 1152)),
    "FaceLift's ring": lambda size, _: facelift_ring(size, 8),
    "other elevations": _elevated,
    "random poses and lenses": _random,
    "FaceLift's six": lambda size, _: facelift_six(size),
}


def photographed(rig: str, scenes: int, size: int, scale: float = 1.0, seed: int = 7) -> list[Shot]:
    """Another mouse in each scene, `scale` times its size; pictures `size` px wide."""
    return [_shot(rig, scene, size, scale, seed) for scene in range(scenes)]


def _shot(rig: str, scene: int, size: int, scale: float, seed: int) -> Shot:
    sequence, in_arena = MouseSequence(100 * seed + scene, wander=rig == MOUSE_RIG), rig == MOUSE_RIG
    moments = [sequence.mesh(frame) for frame in (0, LATER)]
    centre = moments[0].centre
    reach = float(np.ptp(moments[0].vertices, axis=0).max()) / 2
    placed = [mesh.transform(scale if in_arena else scale * EXTENT / reach, centre) for mesh in moments]
    if in_arena:
        placed = [mesh.transform(1.0, -np.array([*ARENA, centre[2]])) for mesh in placed]
    cameras = RIGS[rig](size, scene).to(torch.float64)
    now, later = (render_mouse(mesh, cameras) for mesh in placed)
    return Shot(now, cameras, later)


# ---------------------------------------------------------------- faults


def _with_image(shot: Shot, view: int, image: np.ndarray) -> Shot:
    images = shot.images.copy()
    images[view] = image
    return shot._replace(images=images)


def _with_alpha(shot: Shot, change: Callable[[np.ndarray], np.ndarray]) -> Shot:
    images = shot.images.copy()
    images[..., 3] = change(images[..., 3])
    return shot._replace(images=images)


def _with_camera(shot: Shot, view: int, k: Sequence[float] = (1, 1, 0, 0), translation: float = 1.0) -> Shot:
    """View `view`'s fx, fy times k[:2], its cx, cy moved by k[2:] of the width; its w2c's translation scaled."""
    cameras = shot.cameras
    fxfycxcy, w2c = cameras.fxfycxcy.clone(), cameras.w2c.clone()
    fxfycxcy[view, :2] *= torch.tensor(k[:2])
    fxfycxcy[view, 2:] += cameras.width * torch.tensor(k[2:])
    w2c[view, :3, 3] *= translation
    return shot._replace(cameras=replace(cameras, c2w=torch.linalg.inv(w2c), fxfycxcy=fxfycxcy))


def swapped(shot: Shot) -> Shot:
    order = list(range(len(shot.images)))
    order[1], order[4] = 4, 1
    return shot._replace(images=shot.images[order])


def mirrored(shot: Shot) -> Shot:
    return _with_image(shot, 2, shot.images[2][:, ::-1])


def wrong_k(shot: Shot) -> Shot:
    return _with_camera(shot, 3, (1.1, 1.1, 0.03, -0.02))


def opaque(shot: Shot) -> Shot:
    return _with_alpha(swapped(shot), lambda alpha: np.full_like(alpha, 255))


def inverted(shot: Shot) -> Shot:
    return _with_alpha(shot, lambda alpha: 255 - alpha)


def empty(shot: Shot) -> Shot:
    image = shot.images[3].copy()
    image[..., 3] = 0
    return _with_image(shot, 3, image)


def shifted_in_time(shot: Shot) -> Shot:
    return _with_image(shot, 5, shot.later[5])


def turned(shot: Shot) -> Shot:
    return _with_image(shot, 0, shot.images[0][::-1, ::-1])


def cropped(shot: Shot) -> Shot:
    """Nine tenths of a picture from its middle, at its old size."""
    height, width = shot.images.shape[1:3]
    box = (0.05 * width, 0.05 * height, 0.95 * width, 0.95 * height)
    picture = Image.fromarray(shot.images[4]).resize((width, height), Image.Resampling.BICUBIC, box)
    return _with_image(shot, 4, np.asarray(picture))


def centimetres(shot: Shot) -> Shot:
    return _with_camera(shot, 1, translation=0.1)


FAULTS: dict[str, Fault] = {
    "two views swapped": swapped,
    "a view mirrored": mirrored,
    "a camera's focal length × 1.1, its principal point moved": wrong_k,
    "opaque alpha, two views swapped": opaque,
    "inverted masks": inverted,
    "a view's masks empty": empty,
    "a view a fifth of a second late": shifted_in_time,
    "a view turned by 180°": turned,
    "a view cropped, K as it was": cropped,
    "a camera in cm, the others in mm": centimetres,
}


# ---------------------------------------------------------------- what the gate says


@dataclass(frozen=True)
class Said:
    """The gate's words on one set: a verdict, or why it refused to judge."""

    verdict: str
    geometry: Geometry | None
    why: str


def judged(shots: Sequence[Shot], folder: Path, rig: str) -> Said:
    """Write a set to `folder` and have it checked."""
    for number, shot in enumerate(shots):
        write_scene(folder / scene_name(number), shot.images, shot.cameras)
    names = tuple(map(scene_name, range(len(shots))))
    unit: Literal["mm", "scene"] = "mm" if rig == MOUSE_RIG else "scene"
    write_manifest(folder, Manifest(name=folder.name, unit=unit, splits={"train": names, "val": (), "test": ()}))
    try:
        found = check(open_dataset(folder, verify=False))
    except DataError as error:
        return Said("refused", None, str(error))
    return Said(found.geometry.verdict, found.geometry, " ".join(found.problems))
