"""What `mouselift data check` found, as one HTML page that needs nothing but itself.

Pictures are inlined and the script is small and its own: the page opens from a disk, in a mail or in MLflow's frame.
Every residual on it is quoted as of an image 512 px wide, as in `checks`.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.cameras import FACELIFT_DISTANCE, RING_ELEVATION, Cameras
from pipeline.data.gate.checks import Check
from pipeline.data.gate.evidence import rests, why_unknown
from pipeline.data.gate.geometry import (
    Silhouette,
    meeting_point,
    pixel_directions,
    reach_of,
    touches,
    visual_hull,
)
from pipeline.data.gate.quality import GRADES, NEAR_DUPLICATE, Quality, human_rigs
from pipeline.data.gate.scene_check import QUOTED_WIDTH, SceneCheck, pair_residuals
from pipeline.data.pictures import on_white
from pipeline.errors import counted
from pipeline.files import write_whole

TEMPLATES = Path(__file__).with_name("templates")
SHEETS = 12  # scenes shown
THUMB = 160  # px
MASK_COLOUR, MASK_TINT = (226, 110, 20), 0.55  # what a mask covers is shown under it, this strong
CLOSE_UP = 560  # px at most of a picture with tangents on it
COARSE = 200  # px of pictures below which their pixels are shown as such
ROOM, CLOSE = 1.5, 1.08  # of an object's larger side, about it
HULL_RAYS, HULL_SAMPLES, HULL_POINTS = 90, 48, 700
TELLING_ANGLE = 60.0  # degrees between two views whose tangents are easy to see


def write_page(found: Check, measured: Quality, path: Path) -> Path:
    """Write the page of a check and return its path. Raises DataError for an image that cannot be read."""
    html = _page(found, measured)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, html)


def _page(found: Check, measured: Quality) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "value": _value, "percent": lambda share: number(100 * share, 1) + " %"}
    pairs = pair_residuals(torch.stack([scene.tangents for scene in found.scenes]))
    shown = _shown(found)
    return environment.get_template("check.html").render(
        found=found,
        geometry=found.geometry,
        rests=rests(found.geometry),
        why_unknown=why_unknown(found.geometry),
        unmeasured=_unmeasured(found),
        manifest=found.dataset.manifest,
        measured=measured,
        limits=_limits(found),
        chain=[_step(step) for step in found.dataset.manifest.transforms],
        heat=[[_heat(value, _limits(found)) for value in row] for row in pairs.tolist()],
        rows=_rows(found),
        representative=shown.check.name,
        sheets=_sheets(found, measured),
        grades=GRADES,
        near_duplicate=NEAR_DUPLICATE,
        quoted_width=QUOTED_WIDTH,
        human_rigs=human_rigs(),
        data={"see": _close_ups(found, shown), "rig": _drawing(found, shown)},
    )


# ---------------------------------------------------------------- figures


def number(value: float | None, digits: int = 2) -> str:
    """A figure as it is printed: a dash where nothing is known."""
    if value is None or math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _value(value: object) -> str:
    """A parameter of the transform chain as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """One step of the chain: what it is called, and its parameters."""
    named = [str(step[key]) for key in ("kind", "method") if step.get(key) is not None]
    parameters = {key: value for key, value in step.items() if key not in ("kind", "method")}
    return {"name": " · ".join(named) or "step", "parameters": parameters}


def _limits(found: Check) -> tuple[float, float]:
    """Quoted px up to which silhouettes of this size are exact, and approximate."""
    return found.view_limit(0), found.view_limit(1)


def _heat(value: float, limits: tuple[float, float]) -> dict[str, Any]:
    """A cell of the table of pairs: its figure, its kind and how strongly it is coloured (0…1)."""
    if math.isnan(value):
        return {"value": value, "kind": "none", "strength": 0.0}
    exact, approximate = limits
    if value > approximate:
        return {"value": value, "kind": "bad", "strength": min(1.0, round(math.log2(value / approximate) / 5, 2))}
    kind, limit = ("good", exact) if value <= exact else ("warn", approximate)
    return {"value": value, "kind": kind, "strength": round(value / limit, 2)}


def _rows(found: Check) -> list[dict[str, Any]]:
    """What is known of each view, over all scenes."""
    unmeasured = {one.view: one.why for one in found.unmeasured}
    return [
        {
            "view": view,
            "residual": float(found.scores[view]),
            "iou": float(found.iou[view]),
            "chain": None if found.chain_px is None else float(found.chain_px[view]),
            "keypoint": None if found.keypoint_px is None else float(found.keypoint_px[view]),
            "disagrees": view in found.geometry.views,
            "unmeasured": unmeasured.get(view),
        }
        for view in range(len(found.iou))
    ]


# ---------------------------------------------------------------- scenes and pictures


def _unmeasured(found: Check) -> list[dict[str, Any]]:
    """The views of which nothing was measured: why, where, and what their mask covers there."""
    scenes = {scene.name: scene for scene in found.scenes}
    return [
        {"view": one.view, "why": one.why, "where": f"{counted(one.scenes, 'scene')}, first {one.first}"}
        | {"picture": _inline(_covered(scenes[one.first], one.view))}
        for one in found.unmeasured
    ]


def _covered(scene: SceneCheck, view: int) -> Image.Image:
    """A view's picture, whatever its alpha, with what its mask covers under a colour."""
    picture = scene.scene.image(view).convert("RGB")
    share = MASK_TINT * scene.crops[view].whole().astype(np.float32)[..., None] / 255
    tinted = np.asarray(picture) * (1 - share) + np.array(MASK_COLOUR) * share
    image = Image.fromarray(tinted.round().astype(np.uint8))
    image.thumbnail((2 * THUMB, 2 * THUMB))
    return image


@dataclass(frozen=True)
class Shown:
    """A checked scene, and its cameras in float64."""

    check: SceneCheck
    cameras: Cameras


def _shown(found: Check) -> Shown:
    """The scene that stands for the dataset: the worst of an inconsistent one, one of an unknown one that could not
    be measured, else the first.
    """
    telling = {one.first for one in found.unmeasured}
    chosen = next((scene for scene in found.scenes if scene.name in telling), found.scenes[0])
    if found.geometry.verdict == "inconsistent":
        chosen = max(found.scenes, key=lambda scene: (float(scene.scores.nan_to_num().max()), -_worst_iou(scene)))
    return Shown(chosen, chosen.scene.cameras.to(torch.float64))


def _inline(image: Image.Image, lossless: bool = False) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86, lossless=lossless)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def _square(outlines: Sequence[Silhouette], largest: float = 0.0) -> Box:
    """A square about everything the outlines hold, roomy up to a side of `largest`; it may leave the picture."""
    low = torch.stack([outline.outline.amin(0) for outline in outlines]).amin(0)
    high = torch.stack([outline.outline.amax(0) for outline in outlines]).amax(0)
    size = float((high - low).max())
    side = max(8, math.ceil(max(CLOSE * size, min(ROOM * size, largest))))
    left, top = (((low + high) - side) / 2).floor().long().tolist()
    return left, top, left + side, top + side


def _sheets(found: Check, measured: Quality) -> dict[str, Any]:
    """Contact sheets: the scenes that stand out and others beside them, their views in ring order."""
    scenes = _sample(found)
    box = _square([outline for scene in scenes for outline in scene.outlines])

    def thumb(scene: SceneCheck, view: int) -> str:
        picture = _cut(on_white(scene.scene.image(view)), box)
        sampling = Image.Resampling.NEAREST if picture.width < THUMB else Image.Resampling.LANCZOS
        return _inline(picture.resize((THUMB, THUMB), sampling))

    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda scene: [thumb(scene, view) for view in measured.ring], scenes))
    sheets = [
        {
            "name": scene.name,
            "at_odds": found.contradicting.get(scene.name, ()),
            "residual": None if bool(scene.scores.isnan().all()) else float(scene.scores.nan_to_num().max()),
            "iou": _worst_iou(scene),
            "views": list(zip(measured.ring, thumbs, strict=True)),
        }
        for scene, thumbs in zip(scenes, pictures, strict=True)
    ]
    return {"scenes": sheets, "side": box[2] - box[0], "at_odds": len(found.contradicting)}


def _worst_iou(scene: SceneCheck) -> float:
    """NaN where no view has one."""
    known = scene.iou[~scene.iou.isnan()]
    return float(known.min()) if len(known) else math.nan


def _sample(found: Check) -> list[SceneCheck]:
    """At most `SHEETS` scenes in their order: those at odds first, then evenly of the rest."""
    bad = [i for i, scene in enumerate(found.scenes) if scene.name in found.contradicting][:SHEETS]
    rest = [i for i in range(len(found.scenes)) if i not in bad]
    even = np.linspace(0, len(rest) - 1, min(SHEETS - len(bad), len(rest))).round().astype(int).tolist()
    return [found.scenes[i] for i in sorted({*bad, *(rest[i] for i in even)})]


def _cut(picture: Image.Image, box: Box) -> Image.Image:
    """The box of a picture, white beyond its edge."""
    canvas = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), "white")
    canvas.paste(picture, (-box[0], -box[1]))
    return canvas


# ---------------------------------------------------------------- epipolar tangents


def _close_ups(found: Check, shown: Shown) -> dict[str, Any]:
    """Every view of one scene and, for every pair, the tangents of one drawn in the other."""
    outlines = shown.check.outlines
    pairs = {f"{i}-{j}": _drawn_tangents(shown, i, j) for i, j in combinations(range(len(outlines)), 2)}
    pairs |= {key: None for key in pairs if {*map(int, key.split("-"))} & {*shown.check.filled}}
    return {
        "views": [_close_up(shown, view) for view in range(len(outlines))],
        "pairs": pairs,
        "filled": list(shown.check.filled),
        "first": _first_pair(found, shown),
        "size": [shown.cameras.width, shown.cameras.height],
        "pixelated": shown.cameras.width < COARSE,
    }


def _close_up(shown: Shown, view: int) -> dict[str, Any]:
    outline = shown.check.outlines[view]
    width, height = shown.cameras.width, shown.cameras.height
    left, top, right, bottom = _square([outline], CLOSE * max(width, height))
    inside = (max(0, left), max(0, top), min(width, right), min(height, bottom))
    picture = on_white(shown.check.scene.image(view)).crop(inside)
    picture.thumbnail((CLOSE_UP, CLOSE_UP))
    return {
        "image": _inline(picture, lossless=width < COARSE),
        "box": [left, top, right - left],
        "inside": [inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1]],
        "outline": _path(outline.outline),
    }


def _path(outline: Float[Tensor, "n 2"]) -> str:
    """An SVG path; where the next point is not beside the last a new contour begins."""
    jumps = [True, *((outline[1:] - outline[:-1]).norm(dim=-1) > 1.5).tolist()]
    return "".join(
        f"{'M' if jump else 'L'}{x:.1f} {y:.1f}" for jump, (x, y) in zip(jumps, outline.tolist(), strict=True)
    )


def _first_pair(found: Check, shown: Shown) -> list[int]:
    """The worst pair of an inconsistent dataset, else one whose views stand well apart."""
    pairs = pair_residuals(shown.check.tangents[None]).triu(1)
    forward = shown.cameras.forward
    angles = torch.rad2deg((forward @ forward.mT).clamp(-1, 1).acos())
    telling = pairs if found.geometry.verdict == "inconsistent" else -(angles - TELLING_ANGLE).abs()
    above = torch.ones_like(pairs, dtype=torch.bool).triu(1)
    telling = torch.where(above & ~pairs.isnan(), telling, -torch.inf)
    first = int(telling.argmax()) if bool(telling.isfinite().any()) else 1
    return [first // len(pairs), first % len(pairs)]


def _drawn_tangents(shown: Shown, i: int, j: int) -> list[list[dict[str, Any]]] | None:
    """For view i, then for view j: its two touching points and the other's two tangent lines."""
    views = (i, j)
    outlines = [shown.check.outlines[view].outline for view in views]
    rays = [pixel_directions(shown.cameras[[view]], at[None])[0] for view, at in zip(views, outlines, strict=True)]
    touched = touches(shown.cameras[[i, j]], rays)
    if touched is None:
        return None
    points = [outline[touch.ends] for outline, touch in zip(outlines, touched, strict=True)]

    def drawn(here: int, there: int) -> list[dict[str, Any]]:
        feet, along = _line(shown.cameras[views[here]], touched[there].planes, points[here])
        missed = shown.check.tangents[views[there], views[here]].tolist()
        return [
            {
                "point": _rounded(points[here][k]),
                "foot": _rounded(feet[k]),
                "along": _rounded(along[k], 5),
                "missed": None if math.isnan(missed[k]) else round(missed[k], 2),
            }
            for k in range(2)
        ]

    return [drawn(0, 1), drawn(1, 0)]


def _line(camera: Cameras, normals: Float[Tensor, "n 3"], pixels: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
    """Of world planes seen edge-on by a camera: the feet of pixels on their lines, and the lines' directions."""
    in_camera = normals @ camera.c2w[:3, :3]
    across = in_camera[:, :2] / camera.fxfycxcy[:2]
    offset = in_camera[:, 2] - across @ camera.fxfycxcy[2:]
    length = across.norm(dim=-1, keepdim=True)
    across, offset = across / length, offset / length[:, 0]
    feet = pixels - ((across * pixels).sum(-1) + offset)[:, None] * across
    return feet, torch.stack([-across[:, 1], across[:, 0]], -1)


# ---------------------------------------------------------------- the rig


def _drawing(found: Check, shown: Shown) -> dict[str, Any]:
    """The cameras of one scene and what its masks leave of the object, for the drawing."""
    cameras, check = shown.cameras, shown.check
    in_scene_unit = found.dataset.manifest.unit == "scene"
    target = torch.zeros(3, dtype=torch.float64) if in_scene_unit else meeting_point(cameras)
    reach = reach_of(check.outlines, cameras, check.centre)
    hull = visual_hull(check.alphas, cameras, check.centre, reach, HULL_RAYS, HULL_SAMPLES).points
    hull = hull[:: max(1, len(hull) // HULL_POINTS)]
    floor = min(0.0, float(hull[:, 2].min() if len(hull) else check.centre[2] - reach))
    corners = torch.tensor([[0, 0], [cameras.width, 0], [cameras.width, cameras.height], [0, cameras.height]])
    in_camera = (corners[None] - cameras.fxfycxcy[:, None, 2:]) / cameras.fxfycxcy[:, None, :2]
    in_camera = torch.cat([in_camera, torch.ones_like(in_camera[..., :1])], -1) @ cameras.c2w[:, :3, :3].mT
    return {
        "target": _rounded(target, 4),
        "distance": float((cameras.centres - target).norm(dim=-1).mean()),
        "floor": floor,
        "unit": "" if in_scene_unit else " mm",
        "views": [
            {
                "centre": _rounded(cameras.centres[view], 4),
                "corners": [_rounded(corner, 4) for corner in in_camera[view]],
                "bad": view in found.geometry.views,
            }
            for view in range(len(cameras.c2w))
        ],
        "points": [_rounded(point, 3) for point in hull],
        "object": {"centre": _rounded(check.centre, 4), "reach": reach},
        "facelift": {"distance": FACELIFT_DISTANCE, "elevation": RING_ELEVATION} if in_scene_unit else None,
    }


def _rounded(values: Tensor, digits: int = 2) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
