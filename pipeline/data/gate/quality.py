"""The quality report: size, place and sharpness of the masks, leakage between splits, where the cameras stand.

These are the figures and grades of the seed. They say nothing about geometry: a set that moves every view and keeps
its camera earns an A here, which is why the verdict of `checks` stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import FACELIFT_DISTANCE, FACELIFT_SIX_AZIMUTHS, RING_ELEVATION, Cameras
from pipeline.data.gate.checks import Check
from pipeline.data.gate.geometry import meeting_point
from pipeline.data.gate.scene_check import QUOTED_WIDTH, SceneCheck
from pipeline.data.pictures import prepare_view
from pipeline.data.scenes import Dataset

GRADES = (("A", 1.0, 5.0), ("B", 3.0, 10.0), ("C", 5.0, 20.0))  # below this CV in % and this offset in px
SOFT = (0.05, 0.95)  # alpha between is neither object nor background
THUMB = 24  # px of the pictures that are compared for near-duplicates
NEAR_DUPLICATE = 0.05  # difference of thumbnails, of what they show


@dataclass(frozen=True)
class Leakage:
    """How near val and test come to train: in frames of the recording, or by how much pictures differ (0…1)."""

    measured_by: Literal["frames", "pictures"]
    nearest: float | None
    near_duplicates: int  # scenes of val and test with a neighbour frame, or a near-duplicate, in train


@dataclass(frozen=True)
class View:
    """One camera of the rig, about the stated origin; mean over scenes, and the spread of its distance."""

    distance: float
    distance_std: float
    azimuth: float  # degrees from +x towards +y
    elevation: float
    fov: float  # degrees, across the width


@dataclass(frozen=True)
class Quality:
    """Figures of the checked scenes; lengths in px of an image 512 wide, shares of 1 unless a name says percent."""

    grade: str | None  # None where there is nothing to grade
    ungraded: str | None  # why
    size_ratio_percent: float
    size_cv_percent: float | None  # over scene means; None of one scene
    size_cv_within_scene_percent: float
    com_offset_px: float
    foreground_share: float
    clipped_edge_px: float  # mean per view
    clipped_views_share: float
    soft_alpha_share: float  # of the pixels the object touches; large where masks are not bimodal
    views_per_scene: int
    leakage: Leakage
    origin: str
    views: tuple[View, ...]
    ring: tuple[int, ...]  # views by azimuth
    gaps: tuple[float, ...]  # degrees of azimuth from each view of the ring to the next


def quality(found: Check) -> Quality:
    """Measure the scenes that the gate looked at."""
    ratios = torch.stack([(scene.alphas > 0.5).float().mean((1, 2)).sqrt() for scene in found.scenes]) * 100
    offset = float(np.mean([_offsets(scene).mean() for scene in found.scenes]))
    cv = float(100 * ratios.mean(1).std(correction=0) / ratios.mean()) if len(ratios) > 1 else None
    ungraded = _ungraded(found)
    borders = torch.stack([_border_pixels(scene.alphas) for scene in found.scenes])
    shares = [_soft_share(scene.alphas) for scene in found.scenes]
    origin, views = _rig(found)
    order = sorted(range(len(views)), key=lambda view: views[view].azimuth)
    azimuths = [views[view].azimuth for view in order]
    return Quality(
        grade=None if ungraded is not None or cv is None else _grade(cv, offset),
        ungraded=ungraded,
        size_ratio_percent=float(ratios.mean()),
        size_cv_percent=cv,
        size_cv_within_scene_percent=float((100 * ratios.std(1, correction=0) / ratios.mean(1)).mean()),
        com_offset_px=offset,
        foreground_share=float((ratios / 100).square().mean()),
        clipped_edge_px=float(borders.mean()),
        clipped_views_share=float((borders > 0).float().mean()),
        soft_alpha_share=float(np.mean(shares)),
        views_per_scene=len(views),
        leakage=leakage(found.dataset),
        origin=origin,
        views=views,
        ring=tuple(order),
        gaps=tuple((b - a) % 360 for a, b in zip(azimuths, azimuths[1:] + azimuths[:1], strict=True)),
    )


def _grade(size_cv_percent: float, offset: float) -> str:
    return next((name for name, size, place in GRADES if size_cv_percent < size and offset < place), "D")


def _ungraded(found: Check) -> str | None:
    """Why the figures of the masks earn no grade: masks that are none are all of one size, and so is one scene."""
    if any(scene.filled for scene in found.scenes):
        return "masks that fill the frame"
    return "one scene has no spread of sizes" if len(found.scenes) == 1 else None


def human_rigs() -> str:
    """What the figures of a rig are read against: the two rigs that FaceLift's models know."""
    azimuths = ", ".join(f"{azimuth:g}" for azimuth in sorted(FACELIFT_SIX_AZIMUTHS))
    return (
        f"FaceLift's six: distance {FACELIFT_DISTANCE}, elevation 0°, azimuths {azimuths}°; "
        f"its training ring: distance {FACELIFT_DISTANCE}, elevation {RING_ELEVATION:g}°, 32 views 11.25° apart"
    )


def _offsets(scene: SceneCheck) -> Float[Tensor, " view"]:
    """Distance of each mask's centroid from the middle of the picture."""
    alphas = (scene.alphas > 0.5).double()
    height, width = alphas.shape[1:]
    mass = alphas.sum((1, 2))
    x = (alphas.sum(1) * (torch.arange(width) + 0.5)).sum(1) / mass - width / 2
    y = (alphas.sum(2) * (torch.arange(height) + 0.5)).sum(1) / mass - height / 2
    return torch.hypot(x, y) * QUOTED_WIDTH / width


def _border_pixels(alphas: Float[Tensor, "view height width"]) -> Float[Tensor, " view"]:
    """Mask pixels on the picture's edge."""
    inside = alphas > 0.5
    edges = (inside[:, 0], inside[:, -1], inside[:, 1:-1, 0], inside[:, 1:-1, -1])
    return torch.stack([edge.float().sum(1) for edge in edges]).sum(0)


def _soft_share(alphas: Float[Tensor, "view height width"]) -> float:
    soft = ((alphas > SOFT[0]) & (alphas < SOFT[1])).sum()
    return float(soft / (alphas > SOFT[0]).sum().clamp(min=1))


def _rig(found: Check) -> tuple[str, tuple[View, ...]]:
    """Where the cameras stand, about the world's origin, or in millimetres about where their axes meet."""
    cameras = [checked.scene.cameras.to(torch.float64) for checked in found.scenes]
    if found.dataset.manifest.unit == "mm":
        centre = meeting_point(cameras[0])
        where = ", ".join(f"{value:.1f}" for value in centre.tolist())
        origin = f"the point where the optical axes meet, ({where}) mm"
    else:
        centre, origin = torch.zeros(3, dtype=torch.float64), "the world's origin"
    offsets = torch.stack([one.centres - centre for one in cameras])
    return origin, tuple(_view(offsets[:, view], cameras[0], view) for view in range(offsets.shape[1]))


def _view(offsets: Float[Tensor, "scene 3"], cameras: Cameras, view: int) -> View:
    distances = offsets.norm(dim=-1)
    x, y, z = F.normalize(offsets, dim=-1).mean(0).tolist()
    return View(
        distance=float(distances.mean()),
        distance_std=float(distances.std(correction=0)),
        azimuth=float(np.degrees(np.arctan2(y, x))),
        elevation=float(np.degrees(np.arctan2(z, np.hypot(x, y)))),
        fov=float(2 * np.degrees(np.arctan(cameras.width / 2 / float(cameras.fxfycxcy[view, 0])))),
    )


# ---------------------------------------------------------------- leakage


def leakage(dataset: Dataset) -> Leakage:
    """How near the scenes of val and test are to one of train."""
    splits = dataset.manifest.splits
    train = [dataset.scenes[name] for name in splits.get("train", ())]
    other = [dataset.scenes[name] for split in ("val", "test") for name in splits.get(split, ())]
    if not train or not other or dataset.manifest.held_out_from_training:
        return Leakage("frames", None, 0)
    frames = [scene.notes.frame for scene in train], [scene.notes.frame for scene in other]
    if None not in frames[0] and None not in frames[1]:
        seen, asked = (np.asarray(some, dtype=np.int64) for some in frames)
        gaps = np.abs(asked[:, None] - np.sort(seen)).min(1)
        return Leakage("frames", float(gaps.min()), int((gaps <= 1).sum()))
    return _leakage_of_pictures(dataset)


def _leakage_of_pictures(dataset: Dataset, limit: int = 200) -> Leakage:
    """By how much small pictures of the first view differ, as a share of all that they show."""

    def thumbs(names: tuple[str, ...]) -> Float[Tensor, "n values"]:
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(limit, len(names))).astype(int)]
        pictures = [prepare_view(dataset.scenes[name].image(0), THUMB) for name in chosen]
        return torch.from_numpy(np.stack(pictures)).float().flatten(1) / 255

    splits = dataset.manifest.splits
    train = thumbs(splits["train"])
    other = torch.cat([thumbs(splits[split]) for split in ("val", "test") if splits.get(split)])
    nearest = torch.stack([((train - picture).abs().sum(1) / (train + picture).sum(1)).min() for picture in other])
    return Leakage("pictures", round(float(nearest.min()), 4), int((nearest < NEAR_DUPLICATE).sum()))
