"""Gaussians to orbit, as one HTML page with its own renderer (WebGL 2) and its data in it: 28 bytes a Gaussian."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jinja2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.errors import DataError
from pipeline.gaussians import SH_C0, Gaussians

TEMPLATES = Path(__file__).parents[1] / "templates"
_LEAST_SCALE = 1e-12  # world units; the logarithm of 0 is no number
_STEPS = 65535  # of a number in 16 bits


def splat_page(gaussians: Gaussians, cameras: Cameras, title: str) -> str:
    """The page of one scene, which begins at the first of the given cameras [V].

    It shows the colours of degree 0, each up to white, and orbits the point where that camera's axis comes nearest to
    the origin. Raises DataError for a batch.
    """
    if gaussians.opacities.ndim != 1:
        shape = tuple(gaussians.opacities.shape)
        raise DataError(f"view: expected one scene, got a batch {shape} — index it first.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    data, ranges = _packed(gaussians.detach())
    facts = {"count": gaussians.count, **ranges, "camera": _begin(cameras)}
    return environment.get_template("splat.html").render(
        title=title,
        count=gaussians.count,
        facts=json.dumps(facts),
        data=base64.b64encode(data).decode(),
    )


def _packed(gaussians: Gaussians) -> tuple[bytes, dict[str, list[float]]]:
    """Means, logs of scales, quaternions, colours and opacities as 14 numbers of 16 bits, and the ranges of the first
    six.
    """
    means, logs = gaussians.means.double(), gaussians.scales.double().clamp(min=_LEAST_SCALE).log()
    colours = (0.5 + SH_C0 * gaussians.sh[:, 0]).clamp(0, 1)
    shares = [F.normalize(gaussians.quats, dim=-1) / 2 + 0.5, colours, gaussians.opacities[:, None]]
    columns = torch.cat([_share(means), _share(logs), *(share.double() for share in shares)], 1)
    ranges = {"means": _range(means), "scales": _range(logs)}
    return (columns.cpu() * _STEPS).round().numpy().astype("<u2").tobytes(), ranges


def _range(values: Tensor) -> list[float]:
    """The least and the largest of all; one that is not empty."""
    if not values.numel():
        return [0.0, 1.0]
    least, most = float(values.min()), float(values.max())
    return [least, most if most > least else least + 1.0]


def _share(values: Tensor) -> Tensor:
    least, most = _range(values)
    return (values - least) / (most - least)


def _begin(cameras: Cameras) -> dict[str, float | list[float]]:
    """Target, distance, azimuth and elevation in degrees, and the field of view of the shorter side in degrees."""
    centre, forward = cameras.centres[0].double(), cameras.forward[0].double()
    target = centre - (centre @ forward) * forward
    offset = centre - target
    distance = float(offset.norm())
    focal = float(cameras.fxfycxcy[0, :2].mean())
    return {
        "target": [round(value, 6) for value in target.tolist()],
        "distance": distance,
        "azimuth": float(np.degrees(np.arctan2(float(offset[1]), float(offset[0])))),
        "elevation": float(np.degrees(np.arcsin(float(offset[2]) / distance))),
        "fov": float(np.degrees(2 * np.arctan(min(cameras.width, cameras.height) / 2 / focal))),
    }
