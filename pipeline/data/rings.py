"""Cameras once round an object: which of them comes after which, and which view a reference sees in which slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.data.gate.geometry import meeting_point

_MOST_CHOICES = 20_000  # of views that are all compared; of more, one view after the other is chosen
_ON_RING = 360
_TIE_DEGREES = 0.5


def ring_order(cameras: Cameras) -> tuple[int, ...]:
    """Cameras [V] once round where their axes meet: from camera 0, azimuth rising (seen from above, leftwards)."""
    azimuth, _ = angles_about_meeting_point(cameras)
    return tuple(((azimuth - azimuth[0]) % 360).argsort().tolist())


def slots(order: Sequence[int], reference: int) -> tuple[int, ...]:
    """The views in slot order, seen from one of them: slot 0 is the reference, the next is to its right.

    order: the ring, azimuth rising. Azimuth falls from slot to slot, as in FaceLift's six.
    """
    position = list(order).index(reference)
    return tuple(order[(position - slot) % len(order)] for slot in range(len(order)))


def slot_angles(cameras: Cameras) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(Azimuths relative to the first camera, −180…180; elevations), in degrees, of cameras [V] in slot order."""
    azimuth, elevation = angles_about_meeting_point(cameras)
    relative = (azimuth - azimuth[0] + 180) % 360 - 180
    return tuple(relative.tolist()), tuple(elevation.tolist())


def angles_about_meeting_point(cameras: Cameras) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
    """Azimuth and elevation of every camera in degrees, about the point nearest to all optical axes."""
    around = cameras.centres.to(torch.float64) - meeting_point(cameras)
    azimuth = torch.atan2(around[:, 1], around[:, 0])
    elevation = torch.atan2(around[:, 2], around[:, :2].norm(dim=-1))
    return torch.rad2deg(azimuth), torch.rad2deg(elevation)


def reach(cameras: Cameras) -> float:
    """How far from the world's origin, at most, the frames of cameras [V] reach at the origin's depth, world units."""
    axis_misses = torch.linalg.cross(cameras.centres, cameras.forward).norm(dim=-1)
    half = cameras.centres.norm(dim=-1) * cameras.width / 2 / cameras.fxfycxcy[..., 0]
    return float((axis_misses + half).max())


def covering(cameras: Cameras, count: int) -> tuple[int, ...]:
    """`count` of the cameras [V], in their order, that leave the smallest gap; all, where there are no more.

    The gap is the largest angle, about the point where the axes meet, from a camera that was given, or from a place on
    the ring at their mean elevation, to the nearest one that is kept. Camera 0, the reference, is always kept; of two
    choices alike within half a degree, the one that leaves out the later cameras is taken.
    """
    num_views = len(cameras.c2w)
    if num_views <= count:
        return tuple(range(num_views))
    angles = _angles_to_be_covered(cameras)
    if comb(num_views - 1, count - 1) > _MOST_CHOICES:
        return tuple(sorted(_farthest_first(angles[:num_views], count)))
    choices = ((0, *rest) for rest in combinations(range(1, num_views), count - 1))
    return min(choices, key=lambda kept: round(float(angles[:, list(kept)].min(1).max()) / _TIE_DEGREES))


def _angles_to_be_covered(cameras: Cameras) -> Float[np.ndarray, "place view"]:
    """Angles in degrees from every camera, and then from places once round, to every camera."""
    azimuth, elevation = (np.radians(angle.numpy()) for angle in angles_about_meeting_point(cameras))
    around = np.linspace(0, 2 * np.pi, _ON_RING, endpoint=False)
    views, ring = _directions(azimuth, elevation), _directions(around, np.full_like(around, elevation.mean()))
    return np.degrees(np.arccos(np.clip(np.concatenate([views, ring]) @ views.T, -1, 1)))


def _directions(azimuth: np.ndarray, elevation: np.ndarray) -> Float[np.ndarray, "place 3"]:
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], -1)


def _farthest_first(angles: Float[np.ndarray, "view view"], count: int) -> Iterator[int]:
    """Camera 0, and then each time the camera that is farthest from those before it."""
    nearest, chosen = np.full(len(angles), np.inf), 0
    for _ in range(count):
        yield chosen
        nearest = np.minimum(nearest, angles[chosen])
        chosen = int(nearest.argmax())
