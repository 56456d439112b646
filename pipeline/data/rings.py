"""Cameras once round an object: which of them comes after which, and which view a reference sees in which slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.data.gate.geometry import meeting_point


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
