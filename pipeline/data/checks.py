"""The geometry gate: do a dataset's cameras tell the truth about its images?

Silhouettes are compared across views by their epipolar tangents and by the visual hull, neither of which asks what
the animal looks like; a dataset that `data normalise` made is also followed back to its source, where every
operation on its pixels is known. All pixels are quoted as of an image 512 px wide.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor

from pipeline import config
from pipeline.cameras import Cameras
from pipeline.data.foreground import read_alphas
from pipeline.data.geometry import Silhouette, reach_of, silhouette, tangency, triangulate, visual_hull
from pipeline.data.scenes import MANIFEST_FILE, Dataset, Geometry, Manifest, Scene, write_manifest
from pipeline.data.warp import Warp
from pipeline.errors import DataError

VERSION = 1  # counts up when a verdict below may come out otherwise
QUOTED_WIDTH = 512
SCENES = 60  # checked at most, evenly over the dataset
EXACT_PX, APPROXIMATE_PX = 1.0, 2.0  # of a view's median residual against the others
CHAIN_EXACT_PX = 0.1  # of what the transform chain does to known points
SCENE_PX = 4.0  # of one scene's view, where two tangents a pair are all there is
RESOLVED = 0.3  # of a pixel: what an antialiased outline can tell; counts where images are small
MIN_IOU = 0.9
MIN_VIEWS = 2
EXTENT, MAX_EXTENT = 0.9, 1.8  # of the object about the origin; beyond the second FaceLift's means cannot reach
LOOK_AT = 0.9  # least cosine between an optical axis and the way to the object
CHAIN_POINTS = 300  # of a scene's hull
MIN_CONFIDENCE = 0.25  # of a keypoint (MAMMAL)
KEYPOINT_PX = 5.0


@dataclass(frozen=True)
class SceneCheck:
    """What one scene shows.

    centre: [3] of the object in the scene's own world; centre_world: in the world of the recording, where the chain
    leads back to it. tangents: [V, V, 2] px, NaN where a pair cannot tell; iou: [V]; chain: [V, n] px or None;
    keypoints: [V] px or None; extent: largest |coordinate| of the hull.
    """

    name: str
    centre: Float[Tensor, " 3"]
    centre_world: Float[Tensor, " 3"]
    tangents: Float[Tensor, "view view 2"]
    iou: Float[Tensor, " view"]
    chain: Float[Tensor, "view n"] | None
    keypoints: Float[Tensor, " view"] | None
    extent: float
    alphas: Float[Tensor, "view height width"]
    outlines: tuple[Silhouette, ...]

    @property
    def scores(self) -> Float[Tensor, " view"]:
        """Per view, the median over the others of how far their tangents miss it."""
        return _scores(self.tangents[None])


@dataclass(frozen=True)
class Check:
    """What the gate found in a dataset."""

    dataset: Dataset
    scenes: tuple[SceneCheck, ...]

    @cached_property
    def own_px(self) -> float:
        """One pixel of the images, in quoted pixels."""
        return QUOTED_WIDTH / self._cameras[0].width

    @cached_property
    def scores(self) -> Float[Tensor, " view"]:
        """Per view, over all scenes: quoted px by which the other views' tangents miss it, in the median."""
        return _scores(torch.stack([scene.tangents for scene in self.scenes]))

    @cached_property
    def iou(self) -> Float[Tensor, " view"]:
        return torch.stack([scene.iou for scene in self.scenes]).mean(0)

    @cached_property
    def contradicting(self) -> dict[str, tuple[int, ...]]:
        """Scenes that stand out on their own, with the views that disagree there."""
        limit = max(SCENE_PX, 1.5 * self.own_px)
        found = {scene.name: _above(scene.scores, limit) for scene in self.scenes}
        return {name: views for name, views in found.items() if views}

    @cached_property
    def silhouettes_agree(self) -> bool:
        limit = max(APPROXIMATE_PX, 2 * RESOLVED * self.own_px)
        return not (_above(self.scores, limit) or self.contradicting or float(self.iou.min()) < MIN_IOU)

    @cached_property
    def chain_px(self) -> Float[Tensor, " n"] | None:
        """What the transform chain does to each point, as the RMS over views; None when the dataset has none."""
        chains = [rms_over_views(scene.chain) for scene in self.scenes if scene.chain is not None]
        return torch.cat(chains) if len(chains) == len(self.scenes) else None

    @cached_property
    def keypoint_px(self) -> Float[Tensor, " view"] | None:
        known = [scene.keypoints for scene in self.scenes if scene.keypoints is not None]
        return torch.stack(known).nanmedian(0).values if known else None

    @property
    def extent(self) -> float:
        return max(scene.extent for scene in self.scenes)

    @cached_property
    def views(self) -> tuple[int, ...]:
        """The views that disagree. Tangents name the guilty one; a chain's residuals spread over all views."""
        limit = max(EXACT_PX if self.silhouettes_agree else APPROXIMATE_PX, 2 * RESOLVED * self.own_px)
        single = {view for views in self.contradicting.values() for view in views}
        points = () if self.keypoint_px is None else _above(self.keypoint_px, KEYPOINT_PX)
        named = {*_above(self.scores, limit), *single, *points}
        if not named:
            chains = [s.chain.square().mean(1) for s in self.scenes if s.chain is not None]
            named = set(_above(torch.stack(chains).mean(0).sqrt(), CHAIN_EXACT_PX)) if chains else set()
        return tuple(sorted(named)) or _above(-self.iou, -MIN_IOU)

    @property
    def keypoints_agree(self) -> bool:
        """Detectors err by some px in every view, and by more in a view that is seldom clear."""
        known = self.keypoint_px
        return known is None or not (float(known.nanmedian()) > KEYPOINT_PX or _above(known, 2 * KEYPOINT_PX))

    @cached_property
    def geometry(self) -> Geometry:
        """The verdict, as the manifest keeps it."""
        chain = None if self.chain_px is None else float(self.chain_px.quantile(0.95))
        believed = chain is not None and (self.silhouettes_agree or chain > APPROXIMATE_PX)
        measured = torch.stack([scene.tangents for scene in self.scenes])
        tangents = float(measured[~measured.isnan()].quantile(0.95)) if bool((~measured.isnan()).any()) else 0.0
        if not (self.silhouettes_agree and self.keypoints_agree) or (chain or 0) > APPROXIMATE_PX:
            verdict = "inconsistent"
        elif (chain or 0) > CHAIN_EXACT_PX or float(self.scores.nan_to_num().max()) > max(
            EXACT_PX, RESOLVED * self.own_px
        ):
            verdict = "approximate"
        else:
            verdict = "exact"
        return Geometry(
            verdict=verdict,  # type: ignore[arg-type]
            reprojection_px_p95=round(chain if believed and chain is not None else tangents, 4),
            measured_by="transform chain" if believed else "silhouettes",
            silhouette_iou=round(float(self.iou.min()), 4),
            views=() if verdict == "exact" else self.views,
            scenes=len(self.scenes),
            at_odds=tuple(self.contradicting) if len(self.contradicting) < len(self.scenes) else (),
            extent=round(self.extent, 4),
        )

    @property
    def problems(self) -> list[str]:
        """Everything that keeps the dataset from training GS-LRM, a line each."""
        return list(problems_of(self.geometry, self.dataset.manifest))

    @property
    def _cameras(self) -> list[Cameras]:
        return [scene.cameras for scene in self.dataset.scenes.values()]


def problems_of(geometry: Geometry, manifest: Manifest, allow_inconsistent: bool = False) -> Iterator[str]:
    """What keeps a dataset of this verdict from training GS-LRM, a line each."""
    if geometry.verdict == "inconsistent" and not allow_inconsistent:
        who = f"views {', '.join(map(str, geometry.views))}" if geometry.views else "the views"
        at, more = geometry.at_odds[:3], len(geometry.at_odds) - 3
        where = f" in {', '.join(at)}{f' and {more} more' if more > 0 else ''}" if at else ""
        legacy = any(step.get("method") == "pixel_based" for step in manifest.transforms)
        mend = (
            "pixel_based moves images and keeps their cameras: normalise with object_centred"
            if legacy
            else "look for views that are swapped, mirrored or moved, or another image's cameras"
        )
        yield (
            f"expected cameras that fit their images, got {geometry.reprojection_px_p95:.1f} px (p95, at "
            f"{QUOTED_WIDTH}) by {geometry.measured_by} and silhouette IoU {geometry.silhouette_iou:.3f}, {who} "
            f"disagree{where} — {mend}; data.allow_inconsistent_geometry=true trains on it all the same."
        )
    # Where cameras contradict one another there is no such thing as the object's place.
    if manifest.unit == "mm" or (geometry.extent > MAX_EXTENT and geometry.verdict != "inconsistent"):
        unit = " millimetres" if manifest.unit == "mm" else ""
        yield (
            f"expected the object within ±{EXTENT} of the origin, got ±{geometry.extent:.3g}{unit} — "
            "run `mouselift data normalise`, or set data.normalise=object_centred."
        )


def require_geometry(dataset: Dataset, cache: Path, allow_inconsistent: bool = False) -> Geometry:
    """The verdict of the manifest, or of a check made now and kept in `cache` by the data's digest.

    Raises DataError for a dataset that GS-LRM must not be trained on.
    """
    geometry = dataset.manifest.geometry or _remembered(dataset, cache)
    for problem in problems_of(geometry, dataset.manifest, allow_inconsistent):
        raise DataError(f"{dataset.root}: {problem}")
    return geometry


def _remembered(dataset: Dataset, cache: Path) -> Geometry:
    path = cache / f"geometry-{dataset.digest[:16]}-{VERSION}.json"
    if path.is_file():
        return TypeAdapter(Geometry).validate_json(path.read_text())
    geometry = check(dataset).geometry
    cache.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(config.as_plain(geometry)))
    temporary.replace(path)
    return geometry


def check(dataset: Dataset, limit: int = SCENES) -> Check:
    """Look at up to `limit` scenes, evenly over the dataset.

    Raises DataError for a scene whose masks are missing or empty, and for a camera that looks away from the object
    or has it behind it.
    """
    names = sorted(dataset.scenes)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(limit, len(names))).round().astype(int))]
    counts = {len(dataset.scenes[name].files) for name in chosen}
    if len(counts) > 1:
        raise DataError(f"{dataset.root}: expected as many views in every scene, got {sorted(counts)} — split it.")
    with ThreadPoolExecutor() as pool:
        return Check(dataset, tuple(pool.map(lambda name: check_scene(dataset.scenes[name]), chosen)))


def checked(dataset: Dataset) -> Dataset:
    """The dataset with the gate's verdict in its manifest. Raises DataError where a scene cannot be judged."""
    return write_manifest(dataset.root, replace(dataset.manifest, geometry=check(dataset).geometry))


def store(found: Check) -> bool:
    """Write the verdict into the dataset's manifest, with the digest of what was looked at; content that was changed
    since the manifest was written becomes a link of the chain.

    False for a folder that has no manifest, where nothing is left behind; training remembers its verdict elsewhere.
    """
    dataset, manifest = found.dataset, found.dataset.manifest
    if not (dataset.root / MANIFEST_FILE).is_file():
        return False
    edited = manifest.digest is not None and manifest.digest != dataset.content_digest
    chain = ({"kind": "edited", "was": manifest.digest},) if edited else ()
    write_manifest(dataset.root, replace(manifest, transforms=manifest.transforms + chain, geometry=found.geometry))
    return True


def check_scene(scene: Scene) -> SceneCheck:
    """One scene's masks against its cameras. Raises DataError."""
    if len(scene.files) < MIN_VIEWS:
        raise DataError(
            f"{scene.folder}: expected {MIN_VIEWS} or more views to compare, got {len(scene.files)} — add some."
        )
    alphas = read_alphas(scene)
    return check_views(scene, alphas)


def check_views(scene: Scene, alphas: Float[Tensor, "view height width"]) -> SceneCheck:
    """The same with the masks at hand, before they are files."""
    cameras = scene.cameras.to(torch.float64)
    outlines = outlines_of(scene, alphas)
    centre = centre_of(outlines, cameras)
    _check_sight(scene, cameras, centre)
    hull = visual_hull(alphas, cameras, centre, reach_of(outlines, cameras, centre))
    px = QUOTED_WIDTH / cameras.width
    warp = Warp.of(scene)
    return SceneCheck(
        name=scene.name,
        centre=centre,
        centre_world=centre if warp is None else centre_of(outlines, warp.cameras),
        tangents=tangency(outlines, cameras) * px,
        iou=hull.iou,
        chain=None if warp is None else chain_residuals(warp, alphas, outlines, cameras) * px,
        keypoints=None if scene.notes.keypoints is None else keypoint_residuals(scene.notes.keypoints, cameras) * px,
        extent=float(hull.points.abs().max()) if len(hull.points) else float(centre.abs().max()),
        alphas=alphas,
        outlines=outlines,
    )


def chain_residuals(
    warp: Warp, alphas: Float[Tensor, "view height width"], outlines: Sequence[Silhouette], stored: Cameras
) -> Float[Tensor, "view n"]:
    """Reprojection error in pixels, under the stored cameras, of points spread through the object."""
    centre = centre_of(outlines, warp.cameras)
    hull = visual_hull(alphas, warp.cameras, centre, reach_of(outlines, warp.cameras, centre))
    points = hull.points[:: max(1, len(hull.points) // CHAIN_POINTS)] if len(hull.points) else centre[None]
    return warp.residuals(points, stored)


def rms_over_views(residuals: Float[Tensor, "view n"]) -> Float[Tensor, " n"]:
    """The root mean square over views: a point's reprojection error."""
    return residuals.square().mean(0).sqrt()


def outlines_of(scene: Scene, alphas: Float[Tensor, "view height width"]) -> tuple[Silhouette, ...]:
    """The silhouette of every view. Raises DataError for an empty mask."""
    outlines = []
    for view, alpha in enumerate(alphas):
        found = silhouette(alpha.numpy())
        if found is None:
            path = scene.folder / scene.files[view]
            raise DataError(f"{path}: expected a mask of the object, got an empty one — drop the scene.")
        outlines.append(found)
    return tuple(outlines)


def centre_of(outlines: Sequence[Silhouette], cameras: Cameras) -> Float[Tensor, " 3"]:
    """The object's centre of mass, triangulated from its masks' so that one wrong view hardly moves it."""
    centres = torch.stack([outline.centre for outline in outlines])[:, None]
    return triangulate(cameras, centres, robust=max(3.0, cameras.width / 100))[0][0]


def keypoint_residuals(keypoints: Float[np.ndarray, "view joint 3"], cameras: Cameras) -> Float[Tensor, " view"]:
    """Per view, the median distance (pixels) of confident joints from where the other views put them."""
    known = torch.from_numpy(keypoints)
    seen = known[..., 2] >= MIN_CONFIDENCE
    residuals = torch.full(known.shape[:2], torch.nan, dtype=torch.float64)
    for joint in range(known.shape[1]):
        views = torch.nonzero(seen[:, joint])[:, 0]
        if len(views) >= 3:
            _, missed = triangulate(cameras[views], known[views, joint, None, :2], robust=5.0)
            residuals[views, joint] = missed[:, 0]
    return residuals.nanmedian(1).values


def _check_sight(scene: Scene, cameras: Cameras, centre: Float[Tensor, " 3"]) -> None:
    towards = torch.nn.functional.normalize(centre - cameras.centres, dim=-1)
    for view, cosine in enumerate((towards * cameras.forward).sum(-1).tolist()):
        if cosine < LOOK_AT:
            what = "has it behind it" if cosine < 0 else f"looks {np.degrees(np.arccos(cosine)):.0f}° past it"
            raise DataError(
                f"{scene.folder}: view {view}: expected a camera that looks at the object, got one that {what} — "
                "store w2c (not c2w) with x right, y down, z forward."
            )


def _scores(tangents: Float[Tensor, "scene view view 2"]) -> Float[Tensor, " view"]:
    """Per view, the median over the other views of the pair's median over scenes and tangents."""
    both = torch.cat([tangents, tangents.transpose(1, 2)], -1)
    pairs = both.permute(1, 2, 0, 3).flatten(2).nanmedian(-1).values
    return pairs.nanmedian(-1).values


def _above(values: Float[Tensor, " view"], limit: float) -> tuple[int, ...]:
    return tuple(torch.nonzero(values.nan_to_num(-torch.inf) > limit)[:, 0].tolist())


def as_plain(found: Check) -> dict[str, Any]:
    """What `mouselift data check --json` prints of the gate."""
    geometry = found.geometry
    return {
        "verdict": geometry.verdict,
        "reprojection_px_p95": geometry.reprojection_px_p95,
        "measured_by": geometry.measured_by,
        "silhouette_iou": geometry.silhouette_iou,
        "views": list(geometry.views),
        "extent": geometry.extent,
        "problems": found.problems,
        "view_residual_px": _rounded(found.scores),
        "view_silhouette_iou": [round(value, 4) for value in found.iou.tolist()],
        "scenes": [_scene_as_plain(scene) for scene in found.scenes],
    }


def _scene_as_plain(scene: SceneCheck) -> dict[str, Any]:
    values: Sequence[tuple[str, Tensor]] = (("centre_world", scene.centre_world), ("centre_scene", scene.centre))
    plain: dict[str, Any] = {"name": scene.name, **{name: value.tolist() for name, value in values}}
    plain["view_residual_px"] = _rounded(scene.scores)
    if scene.chain is not None:
        plain["chain_residual_px_p95"] = round(float(rms_over_views(scene.chain).quantile(0.95)), 4)
    return plain


def _rounded(values: Float[Tensor, " view"]) -> list[float | None]:
    """None where nothing is known: JSON has no NaN."""
    return [round(value, 3) if math.isfinite(value) else None for value in values.tolist()]
