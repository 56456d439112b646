"""Rigs and balls for geometry tests: everything here is known in closed form, and knows nothing of the code tested."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.cameras import Cameras, look_at


def random_rig(seed: int, views: int = 6, width: int = 288, height: int = 256) -> Cameras:
    """Millimetre cameras all round a point near (47, 49, 60): other K, other distances, principal points off centre."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)

    azimuth = torch.arange(views) * (2 * math.pi / views) + draw(-0.25, 0.25, views)
    elevation, distance = draw(-0.05, 0.5, views), draw(250, 420, views)
    around = torch.stack([azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], -1)
    middle = torch.tensor([47.0, 49.0, 60.0], dtype=torch.float64)
    c2w = look_at(middle + distance[:, None] * around, middle + draw(-12, 12, views, 3))
    roll, turn = draw(-0.06, 0.06, views), torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    turn[:, 0, 0], turn[:, 1, 1], turn[:, 0, 1], turn[:, 1, 0] = roll.cos(), roll.cos(), -roll.sin(), roll.sin()
    fxfycxcy = torch.cat([draw(380, 430, views, 2), draw(-20, 20, views, 2) + torch.tensor([width / 2, height / 2])], 1)
    return Cameras(c2w @ turn, fxfycxcy, width, height)


def ball(cameras: Cameras, centre: Tensor, radius: float) -> np.ndarray:
    """RGBA [V, H, W, 4] of a ball: a ray hits it when it passes the centre within the radius; edges one pixel soft."""
    rays = cameras.rays()
    towards = centre - rays.origins
    along = (towards * rays.directions).sum(-1)
    passes = (towards.square().sum(-1) - along.square()).clamp(min=0).sqrt()
    pixel = along / cameras.fxfycxcy[:, None, None, :2].mean(-1)
    alpha = ((radius - passes) / pixel + 0.5).clamp(0, 1) * 255
    picture = torch.stack([torch.full_like(alpha, value) for value in (90, 70, 50)] + [alpha], -1)
    picture[..., :3] *= (alpha > 0)[..., None]
    return picture.round().byte().numpy()
