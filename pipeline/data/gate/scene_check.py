"""One scene's masks against its cameras: tangents, hull, the way back to its source, keypoints.

All pixels are quoted as of an image 512 px wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.cameras import Cameras
from pipeline.data.foreground import border_share, read_masks
from pipeline.data.gate.geometry import Silhouette, reach_of, silhouette, tangency, triangulate, visual_hull
from pipeline.data.normalise.warp import Warp
from pipeline.data.scenes import Scene
from pipeline.errors import DataError, DegenerateViewsError

QUOTED_WIDTH = 512
CHAIN_POINTS = 300  # of a scene's hull
MIN_VIEWS = 2
LOOK_AT = 0.9  # least cosine between an optical axis and the way to the object
MIN_CONFIDENCE = 0.25  # of a keypoint (MAMMAL)
FULL_BORDER, FULL_FRAME = 0.75, 0.8  # shares of the frame's border and of the frame: a mask of more shows no outline


@dataclass(frozen=True)
class Crop:
    """A mask [H, W] as the part of it that is not 0, its top left corner, and H, W."""

    part: UInt8[np.ndarray, "height width"]
    corner: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: UInt8[np.ndarray, "height width"]) -> Crop:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
        return cls(part, (int(rows[0]), int(columns[0])), (mask.shape[0], mask.shape[1]))

    def equals(self, other: Crop) -> bool:
        """Whether both are of the same mask."""
        return self.corner == other.corner and self.shape == other.shape and np.array_equal(self.part, other.part)

    def whole(self) -> UInt8[np.ndarray, "height width"]:
        mask = np.zeros(self.shape, np.uint8)
        (top, left), (height, width) = self.corner, self.part.shape
        mask[top : top + height, left : left + width] = self.part
        return mask


@dataclass(frozen=True)
class SceneCheck:
    """What one scene shows.

    centre: [3] of the object in the scene's own world; centre_world: in the world of the recording, where the chain
    leads back to it. tangents: [V, V, 2] px, NaN where a pair cannot tell; iou: [V]; chain: [V, n] px or None;
    keypoints: [V] px or None; extent: largest |coordinate| of the hull. crops: of each view's mask. filled: the views
    whose mask fills the frame, so that neither tangents nor hull can tell anything of them: NaN in both.
    """

    scene: Scene
    centre: Float[Tensor, " 3"]
    centre_world: Float[Tensor, " 3"]
    tangents: Float[Tensor, "view view 2"]
    iou: Float[Tensor, " view"]
    chain: Float[Tensor, "view n"] | None
    keypoints: Float[Tensor, " view"] | None
    extent: float
    crops: tuple[Crop, ...]
    outlines: tuple[Silhouette, ...]
    filled: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.scene.name

    @property
    def alphas(self) -> Float[Tensor, "view height width"]:
        """The masks in 0…1, made anew each time: sixty scenes of whole pictures would fill the memory."""
        return torch.from_numpy(np.stack([crop.whole() for crop in self.crops])).float() / 255

    @property
    def scores(self) -> Float[Tensor, " view"]:
        """Per view, the median over the others of how far their tangents miss it."""
        return median_residuals(self.tangents[None])


def check_scene(scene: Scene) -> SceneCheck:
    """One scene's masks against its cameras. Raises DataError."""
    if len(scene.files) < MIN_VIEWS:
        raise DataError(
            f"{scene.folder}: expected {MIN_VIEWS} or more views to compare, got {len(scene.files)} — add some."
        )
    return check_views(scene, read_masks(scene))


def check_views(scene: Scene, masks: UInt8[np.ndarray, "view height width"]) -> SceneCheck:
    """The same with the masks at hand, before they are files. Raises DataError."""
    try:
        return _checked_views(scene, masks)
    except DegenerateViewsError as error:
        raise DataError(f"{scene.folder}: {error}") from None


def _checked_views(scene: Scene, masks: UInt8[np.ndarray, "view height width"]) -> SceneCheck:
    # The masks stay bytes: as floats, those of sixty scenes would fragment the memory.
    cameras, alphas = scene.cameras.to(torch.float64), torch.from_numpy(masks)
    outlines = outlines_of(scene, masks)
    filled = [view for view, mask in enumerate(masks) if fills_frame(mask)]
    if filled:
        alphas = alphas.clone()
        alphas[filled] = 255  # nothing is carved by a mask that is none, nor by one that is inverted
    centre = centre_of(outlines, cameras, filled)
    _check_sight(scene, cameras, centre)
    hull = visual_hull(alphas, cameras, centre, reach_of(outlines, cameras, centre))
    px = QUOTED_WIDTH / cameras.width
    warp = Warp.of(scene)
    return SceneCheck(
        scene=scene,
        centre=centre,
        centre_world=centre if warp is None else centre_of(outlines, warp.cameras, filled),
        tangents=tangency(outlines, cameras, filled) * px,
        iou=hull.iou.index_fill(0, torch.tensor(filled, dtype=torch.long), torch.nan),
        chain=None if warp is None else chain_residuals(warp, alphas, outlines, cameras) * px,
        keypoints=None if scene.notes.keypoints is None else keypoint_residuals(scene.notes.keypoints, cameras) * px,
        extent=float(hull.points.abs().max()) if len(hull.points) else float(centre.abs().max()),
        crops=tuple(Crop.of(mask) for mask in masks),
        outlines=outlines,
        filled=tuple(filled),
    )


def fills_frame(mask: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether a mask covers the frame or its border nearly all round, as opaque and inverted ones do."""
    inside = mask > 127
    return border_share(inside) > FULL_BORDER or float(inside.mean()) > FULL_FRAME


def chain_residuals(
    warp: Warp, alphas: UInt8[Tensor, "view height width"], outlines: Sequence[Silhouette], stored: Cameras
) -> Float[Tensor, "view n"]:
    """Reprojection error in pixels, under the stored cameras, of points spread through the object."""
    centre = centre_of(outlines, warp.cameras)
    hull = visual_hull(alphas, warp.cameras, centre, reach_of(outlines, warp.cameras, centre))
    points = hull.points[:: max(1, len(hull.points) // CHAIN_POINTS)] if len(hull.points) else centre[None]
    return warp.residuals(points, stored)


def rms_over_views(residuals: Float[Tensor, "view n"]) -> Float[Tensor, " n"]:
    """The root mean square over views: a point's reprojection error."""
    return residuals.square().mean(0).sqrt()


def outlines_of(scene: Scene, masks: UInt8[np.ndarray, "view height width"]) -> tuple[Silhouette, ...]:
    """The silhouette of every view. Raises DataError for an empty mask."""
    outlines = []
    for view, mask in enumerate(masks):
        outline = silhouette(mask)
        if outline is None:
            path = scene.folder / scene.files[view]
            raise DataError(f"{path}: expected a mask of the object, got an empty one — drop the scene.")
        outlines.append(outline)
    return tuple(outlines)


def centre_of(outlines: Sequence[Silhouette], cameras: Cameras, filled: Sequence[int] = ()) -> Float[Tensor, " 3"]:
    """The object's centre of mass, triangulated from its masks' so that one wrong view hardly moves it.

    filled: views whose masks are left out where two others are there.
    """
    views = [view for view in range(len(outlines)) if view not in filled]
    views = views if len(views) >= MIN_VIEWS else list(range(len(outlines)))
    centres = torch.stack([outlines[view].centre for view in views])[:, None]
    return triangulate(cameras[views], centres, robust=max(3.0, cameras.width / 100))[0][0]


def keypoint_residuals(keypoints: Float[np.ndarray, "view joint 3"], cameras: Cameras) -> Float[Tensor, " view"]:
    """Per view, the median distance (pixels) of confident joints from where the other views put them."""
    joints = torch.from_numpy(keypoints)
    seen = joints[..., 2] >= MIN_CONFIDENCE
    residuals = torch.full(joints.shape[:2], torch.nan, dtype=torch.float64)
    for joint in range(joints.shape[1]):
        views = torch.nonzero(seen[:, joint])[:, 0]
        if len(views) >= 3:
            _, missed = triangulate(cameras[views], joints[views, joint, None, :2], robust=5.0)
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


def median_residuals(tangents: Float[Tensor, "scene view view 2"]) -> Float[Tensor, " view"]:
    """Per view, the median over the other views of `pair_residuals`."""
    return pair_residuals(tangents).nanmedian(-1).values


def pair_residuals(tangents: Float[Tensor, "scene view view 2"]) -> Float[Tensor, "view view"]:
    """Per pair, the median over scenes and both ways of looking; NaN where no tangent could tell."""
    both = torch.cat([tangents, tangents.transpose(1, 2)], -1)
    return both.permute(1, 2, 0, 3).flatten(2).nanmedian(-1).values
