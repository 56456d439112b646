"""The geometry gate: do a dataset's cameras tell the truth about its images?

Silhouettes are compared across views by their epipolar tangents and by the visual hull, neither of which asks what
the animal looks like; a dataset that `data normalise` made is also followed back to its source, where every
operation on its pixels is known. All pixels are quoted as of an image 512 px wide.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor

from pipeline import config
from pipeline.data.gate.evidence import MIN_MEASURED_VIEWS, advice, rests, tangents, unmeasured, why_unknown
from pipeline.data.gate.scene_check import QUOTED_WIDTH, SceneCheck, check_scene, median_residuals, rms_over_views
from pipeline.data.scenes import (
    GEOMETRY_VERSION,
    MANIFEST_FILE,
    Dataset,
    Geometry,
    Manifest,
    Unmeasured,
    write_manifest,
)
from pipeline.errors import DataError
from pipeline.files import write_whole
from pipeline.progress import Tell, silent, told

SCENES = 60  # checked at most, evenly over the dataset
# Beyond the first a set is approximate, beyond the second inconsistent. Px are quoted; `_PIXELS` are of the image's
# own pixels, and count where images are so small that an outline cannot tell more.
VIEW_PX, VIEW_PIXELS = (1.0, 2.0), (0.3, 0.6)  # a view's median residual against the others
P95_PX, P95_PIXELS = (3.0, 10.0), (0.75, 2.0)  # 95 % of all tangents
CHAIN_PX = (0.1, 2.0)  # what the transform chain does to known points
IOU = (0.97, 0.9)  # the worst view's; a shift along the epipolar lines shows here alone
SCENE_PX, SCENE_PIXELS = 4.0, 1.5  # one scene's view, where two tangents a pair are all there is
KEYPOINT_PX = 5.0  # a detector errs by some px; twice as much in a view that is seldom clear
EXTENT, MAX_EXTENT = 0.9, 1.8  # of the object about the origin: FaceLift's scenes, and what its means can reach


@dataclass(frozen=True)
class Check:
    """What the gate found in a dataset."""

    dataset: Dataset
    scenes: tuple[SceneCheck, ...]

    @cached_property
    def own_px(self) -> float:
        """One pixel of the images, in quoted pixels."""
        return QUOTED_WIDTH / next(iter(self.dataset.scenes.values())).cameras.width

    @cached_property
    def scores(self) -> Float[Tensor, " view"]:
        """Per view, over all scenes: quoted px by which the other views' tangents miss it, in the median."""
        return median_residuals(torch.stack([scene.tangents for scene in self.scenes]))

    @cached_property
    def iou(self) -> Float[Tensor, " view"]:
        """Per view, the mean over the scenes where its mask is one; NaN where it is one in none."""
        return torch.stack([scene.iou for scene in self.scenes]).nanmean(0)

    @cached_property
    def worst_iou(self) -> float | None:
        """Of the views that have one; None where none has."""
        known = self.iou[~self.iou.isnan()]
        return float(known.min()) if len(known) else None

    @cached_property
    def unmeasured(self) -> tuple[Unmeasured, ...]:
        """The views of which nothing was measured, or whose masks are none somewhere."""
        return unmeasured(self.scenes)

    @property
    def measured_views(self) -> int:
        return len(self.iou) - len(self.unmeasured)

    @cached_property
    def contradicting(self) -> dict[str, tuple[int, ...]]:
        """Scenes that stand out on their own, with the views that disagree there."""
        limit = max(SCENE_PX, SCENE_PIXELS * self.own_px)
        by_scene = {scene.name: _above(scene.scores, limit) for scene in self.scenes}
        return {name: views for name, views in by_scene.items() if views}

    @cached_property
    def tangent_px_p95(self) -> float | None:
        """95 % of the tangents of all scenes and pairs miss by less; None where no pair can tell."""
        missed = torch.stack([scene.tangents for scene in self.scenes])
        measured = missed[~missed.isnan()]
        return float(measured.quantile(0.95)) if len(measured) else None

    @cached_property
    def chain_px_p95(self) -> float | None:
        """What the transform chain does to points, as their RMS over views; None when the dataset has none."""
        chains = [rms_over_views(scene.chain) for scene in self.scenes if scene.chain is not None]
        return float(torch.cat(chains).quantile(0.95)) if len(chains) == len(self.scenes) else None

    @cached_property
    def chain_px(self) -> Float[Tensor, " view"] | None:
        """Per view, the root mean square of what the chain does to points, over the scenes that have one."""
        chains = [scene.chain.square().mean(1) for scene in self.scenes if scene.chain is not None]
        return torch.stack(chains).mean(0).sqrt() if chains else None

    @cached_property
    def keypoint_px(self) -> Float[Tensor, " view"] | None:
        measured = [scene.keypoints for scene in self.scenes if scene.keypoints is not None]
        return torch.stack(measured).nanmedian(0).values if measured else None

    @property
    def extent(self) -> float:
        return max(scene.extent for scene in self.scenes)

    def view_limit(self, grade: int) -> float:
        """Px that a view's median residual may reach, of grade 0, exact, or 1, approximate."""
        return max(VIEW_PX[grade], VIEW_PIXELS[grade] * self.own_px)

    def silhouettes_within(self, grade: int) -> bool:
        """Whether what was measured of tangents and hull stays within the limits of grade 0, exact, or 1, approximate.

        It says nothing of what was not measured: `verdict` sees to that.
        """
        view = self.view_limit(grade)
        tangent = max(P95_PX[grade], P95_PIXELS[grade] * self.own_px)
        agree = not _above(self.scores, view) and (self.tangent_px_p95 is None or self.tangent_px_p95 <= tangent)
        return agree and not self.contradicting and (self.worst_iou is None or self.worst_iou >= IOU[grade])

    @property
    def keypoints_agree(self) -> bool:
        missed = self.keypoint_px
        return missed is None or not (float(missed.nanmedian()) > KEYPOINT_PX or _above(missed, 2 * KEYPOINT_PX))

    @property
    def verdict(self) -> Literal["exact", "approximate", "inconsistent", "unknown"]:
        chain = self.chain_px_p95 or 0.0
        if not (self.silhouettes_within(1) and self.keypoints_agree) or chain > CHAIN_PX[1]:
            return "inconsistent"
        if self.unmeasured or self.measured_views < MIN_MEASURED_VIEWS:
            return "unknown"
        return "exact" if self.silhouettes_within(0) and chain <= CHAIN_PX[0] else "approximate"

    @cached_property
    def views(self) -> tuple[int, ...]:
        """The views that disagree. Tangents name the guilty one; a chain's residuals and the hull's loss spread over
        all views, so they decide only when the tangents name no view, and the hull's only when they reached each.
        """
        if self.verdict in ("exact", "unknown"):
            return ()
        grade = int(self.verdict == "inconsistent")
        single = {view for views in self.contradicting.values() for view in views}
        points = () if self.keypoint_px is None else _above(self.keypoint_px, KEYPOINT_PX)
        named = {*_above(self.scores, self.view_limit(grade)), *single, *points}
        if not named and self.chain_px is not None:
            named = set(_above(self.chain_px, CHAIN_PX[0]))
        named = named or {one.view for one in self.unmeasured}
        return tuple(sorted(named)) or _above(-self.iou, -IOU[0])

    @cached_property
    def geometry(self) -> Geometry:
        """The verdict, as the manifest keeps it."""
        chain, known, counted = self.chain_px_p95, self.verdict != "unknown", tangents(self.scenes)
        believed = chain is not None and ((known and self.silhouettes_within(1)) or chain > CHAIN_PX[1])
        return Geometry(
            version=GEOMETRY_VERSION,
            verdict=self.verdict,
            reprojection_px_p95=_figure(chain if believed else self.tangent_px_p95 if known or counted else None),
            measured_by="transform chain" if believed else "silhouettes",
            silhouette_iou=_figure(self.worst_iou if known or self.measured_views else None),
            views=self.views,
            scenes=len(self.scenes),
            at_odds=tuple(self.contradicting) if len(self.contradicting) < len(self.scenes) else (),
            extent=round(self.extent, 4),
            measured_views=self.measured_views,
            tangents=counted,
            unmeasured=self.unmeasured,
        )

    @property
    def problems(self) -> list[str]:
        """Everything that keeps the dataset from training GS-LRM, a line each."""
        return list(problems_of(self.geometry, self.dataset.manifest))


def problems_of(geometry: Geometry, manifest: Manifest, allow_inconsistent: bool = False) -> Iterator[str]:
    """What keeps a dataset of this verdict from training GS-LRM, a line each.

    allow_inconsistent: take cameras that contradict their images, and those of which nobody knows.
    """
    if not allow_inconsistent:
        yield from doubts(geometry, manifest)
    # Where cameras contradict one another, or their masks say nothing, there is no such thing as the object's place.
    placed = geometry.verdict not in ("inconsistent", "unknown")
    if manifest.unit == "mm" or (placed and geometry.extent > MAX_EXTENT):
        unit = " millimetres" if manifest.unit == "mm" else ""
        yield (
            f"expected the object within ±{MAX_EXTENT} of the origin, got ±{geometry.extent:.3g}{unit} — "
            "run `mouselift data normalise`, or set data.normalise=object_centred."
        )


def doubts(geometry: Geometry, manifest: Manifest) -> Iterator[str]:
    """What is the matter with cameras that contradict their images, or of which nobody knows, and what to do."""
    if geometry.verdict == "unknown":
        yield (
            f"expected masks that show whether cameras fit their images, got {why_unknown(geometry)}; measured were "
            f"{rests(geometry)} — {advice(geometry)}; "
            "data.allow_inconsistent_geometry=true trains on it all the same."
        )
    if geometry.verdict == "inconsistent":
        who = f"views {', '.join(map(str, geometry.views))}" if geometry.views else "the views"
        at, more = geometry.at_odds[:3], len(geometry.at_odds) - 3
        where = f" in {', '.join(at)}{f' and {more} more' if more > 0 else ''}" if at else ""
        yield (
            f"expected cameras that fit their images, got {figures(geometry, 1)}, {who} "
            f"disagree{where} — {_mend(manifest)}; data.allow_inconsistent_geometry=true trains on it all the same."
        )


def _mend(manifest: Manifest) -> str:
    """What to do about cameras that contradict their images, by how these came about."""
    if manifest.transforms and manifest.transforms[-1].get("kind") == "generated":
        return (
            "the model's views do not show one object, and GS-LRM would learn its contradictions: look at them on the "
            "page of `mouselift data check`, train that model longer or on more scenes, and generate again"
        )
    if any(step.get("method") == "pixel_based" for step in manifest.transforms):
        return "pixel_based moves images and keeps their cameras: normalise with object_centred"
    return "look for views that are swapped, mirrored or moved, or another image's cameras"


def figures(geometry: Geometry, digits: int = 2) -> str:
    """By how much cameras miss their images, in words."""
    px, iou = geometry.reprojection_px_p95, geometry.silhouette_iou
    missed = [] if px is None else [f"{px:.{digits}f} px (p95, at {QUOTED_WIDTH}) by {geometry.measured_by}"]
    filled = [] if iou is None else [f"silhouette IoU {iou:.3f}"]
    return " and ".join(missed + filled) or "nothing measured"


def require_geometry(dataset: Dataset, cache: Path, allow_inconsistent: bool = False) -> Geometry:
    """The verdict of the manifest, or of a check made now and kept in `cache` by the data's digest.

    Raises DataError for a dataset that GS-LRM must not be trained on.
    """
    stored = dataset.manifest.geometry
    current = stored is not None and stored.version == GEOMETRY_VERSION and dataset.manifest.digest is not None
    geometry = stored if current and stored is not None else _remembered(dataset, cache)
    for problem in problems_of(geometry, dataset.manifest, allow_inconsistent):
        raise DataError(f"{dataset.root}: {problem}")
    return geometry


def _remembered(dataset: Dataset, cache: Path) -> Geometry:
    path = cache / f"geometry-{dataset.digest[:16]}-{GEOMETRY_VERSION}.json"
    if path.is_file():
        return TypeAdapter(Geometry).validate_json(path.read_text(encoding="utf-8"))
    geometry = check(dataset).geometry
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(config.as_plain(geometry)))
    return geometry


def check(dataset: Dataset, limit: int = SCENES, tell: Tell = silent) -> Check:
    """Look at up to `limit` scenes, evenly over the dataset. tell: hears of each.

    Raises DataError for a scene whose masks are missing or empty, and for a camera that looks away from the object
    or has it behind it.
    """
    names = sorted(dataset.scenes)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(limit, len(names))).round().astype(int))]
    counts = {len(dataset.scenes[name].files) for name in chosen}
    if len(counts) > 1:
        raise DataError(f"{dataset.root}: expected as many views in every scene, got {sorted(counts)} — split it.")
    # One after the other: two threads are a quarter faster, and hold a gigabyte of freed memory between them.
    return Check(dataset, tuple(check_scene(dataset.scenes[name]) for name in told(chosen, "gate", len(chosen), tell)))


def checked(dataset: Dataset, tell: Tell = silent) -> Dataset:
    """The dataset with the gate's verdict in its manifest. Raises DataError where a scene cannot be judged."""
    return write_manifest(dataset.root, replace(dataset.manifest, geometry=check(dataset, tell=tell).geometry))


def store(found: Check) -> bool:
    """Write the verdict into the dataset's manifest, with the digest of what was looked at; content that was changed
    since the manifest was written becomes a link of the chain.

    False for a folder that has no manifest or cannot be written to, where nothing is left behind, and for a look at
    fewer scenes than training asks for.
    """
    dataset, manifest = found.dataset, found.dataset.manifest
    thorough = len(found.scenes) >= min(SCENES, len(dataset.scenes))
    if not (thorough and (dataset.root / MANIFEST_FILE).is_file() and os.access(dataset.root, os.W_OK)):
        return False
    edited = manifest.digest is not None and manifest.digest != dataset.content_digest
    chain = ({"kind": "edited", "was": manifest.digest},) if edited else ()
    write_manifest(dataset.root, replace(manifest, transforms=manifest.transforms + chain, geometry=found.geometry))
    return True


def _figure(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _above(values: Float[Tensor, " view"], limit: float) -> tuple[int, ...]:
    return tuple(torch.nonzero(values.nan_to_num(-torch.inf) > limit)[:, 0].tolist())


def as_plain(found: Check) -> dict[str, Any]:
    """What `mouselift data check --json` prints of the gate."""
    geometry = config.as_plain(found.geometry)
    del geometry["version"], geometry["at_odds"]
    return geometry | {
        "problems": found.problems,
        "view_residual_px": _rounded(found.scores),
        "view_silhouette_iou": _rounded(found.iou, 4),
        "scenes": [_scene_as_plain(scene) for scene in found.scenes],
    }


def _scene_as_plain(scene: SceneCheck) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": scene.name, "centre_world": scene.centre_world.tolist()}
    plain["centre_scene"] = scene.centre.tolist()
    plain["view_residual_px"] = _rounded(scene.scores)
    if scene.chain is not None:
        plain["chain_residual_px_p95"] = round(float(rms_over_views(scene.chain).quantile(0.95)), 4)
    return plain


def _rounded(values: Float[Tensor, " view"], digits: int = 3) -> list[float | None]:
    """None where nothing is known: JSON has no NaN."""
    return [round(value, digits) if math.isfinite(value) else None for value in values.tolist()]
