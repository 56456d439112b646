"""Gaussians to orbit, as one HTML page with its own renderer (WebGL 2) and its data in it: 28 bytes a Gaussian."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.errors import DataError
from pipeline.gaussians import SH_C0, Gaussians
from sweeps.tracking.pages import Shown

TEMPLATES = Path(__file__).parents[1] / "templates"
_LEAST_SCALE = 1e-12  # world units; the logarithm of 0 is no number
_STEPS = 65535  # of a number in 16 bits
_FRUSTUM = 0.2  # how deep a camera's pyramid is, of its distance from the origin


def splat_page(
    shown: Gaussians | Sequence[Shown],
    cameras: Cameras,
    title: str,
    inputs: Cameras | None = None,
    most: int | None = None,
    note: str = "",
) -> str:
    """The page of one scene, which begins at the first of the given cameras [V].

    It shows the colours of degree 0, each up to white, and orbits the point where that camera's axis comes nearest to
    the origin. shown: the scene, or the same scene at several steps, the last of which is shown first; inputs: the
    cameras whose pictures were given, which can be drawn and looked through; most: Gaussians of all steps together,
    each of which then keeps those that cover most; note: a line below the rest. Raises DataError for a batch.
    """
    steps = [Shown("", shown)] if isinstance(shown, Gaussians) else list(shown)
    for one in steps:
        if one.gaussians.opacities.ndim != 1:
            shape = tuple(one.gaussians.opacities.shape)
            raise DataError(f"view: expected one scene, got a batch {shape} — index it first.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    packed = [_step(one, None if most is None else max(1, most // len(steps))) for one in steps]
    facts = {"steps": [said for _, said in packed], "camera": _begin(cameras[0]), "cameras": _frusta(inputs)}
    return environment.get_template("splat.html").render(
        title=title,
        note=note,
        steps=facts["steps"],
        cameras=facts["cameras"],
        facts=json.dumps(facts).replace("<", "\\u003c"),
        data=[base64.b64encode(data).decode() for data, _ in packed],
    )


def _step(shown: Shown, most: int | None) -> tuple[bytes, dict[str, Any]]:
    """The data of one step, and what the page says of it."""
    whole = shown.gaussians.detach().to("cpu")
    kept = whole if most is None or whole.count <= most else whole[_covering(whole).topk(most).indices.sort().values]
    data, ranges = _packed(kept)
    said = f"{kept.count:,} Gaussian{'' if kept.count == 1 else 's'}"
    if kept.count < whole.count:
        said = f"{kept.count:,} of {whole.count:,} Gaussians, those that cover most"
    return data, {"label": shown.label, "said": said, "count": kept.count, **ranges}


def _covering(gaussians: Gaussians) -> Tensor:
    """What each would cover if it were seen from its widest side, as a picture's area times its opacity."""
    widths = gaussians.scales.double().sort(-1).values
    return gaussians.opacities.double() * widths[:, 1] * widths[:, 2]


def _packed(gaussians: Gaussians) -> tuple[bytes, dict[str, list[float]]]:
    """Means, logs of scales, quaternions, colours and opacities as 14 numbers of 16 bits, and the ranges of the first
    six.
    """
    means, logs = gaussians.means.double(), gaussians.scales.double().clamp(min=_LEAST_SCALE).log()
    colours = (0.5 + SH_C0 * gaussians.sh[:, 0]).clamp(0, 1)
    shares = [F.normalize(gaussians.quats, dim=-1) / 2 + 0.5, colours, gaussians.opacities[:, None]]
    columns = torch.cat([_share(means), _share(logs), *(share.double() for share in shares)], 1)
    ranges = {"means": _range(means), "scales": _range(logs)}
    return (columns * _STEPS).round().numpy().astype("<u2").tobytes(), ranges


def _range(values: Tensor) -> list[float]:
    """The least and the largest of all; one that is not empty."""
    if not values.numel():
        return [0.0, 1.0]
    least, most = float(values.min()), float(values.max())
    return [least, most if most > least else least + 1.0]


def _share(values: Tensor) -> Tensor:
    least, most = _range(values)
    return (values - least) / (most - least)


def _begin(camera: Cameras) -> dict[str, float | list[float]]:
    """Target, distance, azimuth and elevation in degrees, and the field of view of the shorter side in degrees."""
    centre, forward = camera.centres.double(), camera.forward.double()
    target = centre - (centre @ forward) * forward
    offset = centre - target
    distance = float(offset.norm())
    focal = float(camera.fxfycxcy[:2].mean())
    return {
        "target": [round(value, 6) for value in target.tolist()],
        "distance": distance,
        "azimuth": float(np.degrees(np.arctan2(float(offset[1]), float(offset[0])))),
        "elevation": float(np.degrees(np.arcsin(float(offset[2]) / distance))),
        "fov": float(np.degrees(2 * np.arctan(min(camera.width, camera.height) / 2 / focal))),
    }


def _frusta(cameras: Cameras | None) -> list[dict[str, Any]]:
    """Where the page stands to look through each camera, its centre, and four points behind its picture's corners."""
    if cameras is None:
        return []
    cameras = cameras.to("cpu", torch.float64)
    width, height = float(cameras.width), float(cameras.height)
    pixels = torch.tensor([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]], dtype=torch.float64)
    focal, middle = cameras.fxfycxcy[:, None, :2], cameras.fxfycxcy[:, None, 2:]
    rays = F.pad((pixels - middle) / focal, (0, 1), value=1.0)
    depth = _FRUSTUM * cameras.centres.norm(dim=-1)[:, None, None]
    corners = cameras.centres[:, None] + depth * (rays @ cameras.c2w[:, :3, :3].mT)
    return [
        {"eye": _begin(cameras[n]), "centre": centre, "corners": four}
        for n, (centre, four) in enumerate(zip(cameras.centres.float().tolist(), corners.float().tolist(), strict=True))
    ]
