"""What a verdict rests on: which views' masks can tell anything, and how many tangents were measured on each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.data.gate.geometry import Silhouette
from pipeline.data.gate.scene_check import SceneCheck
from pipeline.data.scenes import Geometry, Unmeasured
from pipeline.errors import counted

MIN_SIDE = 6.0  # px, the longer side of a silhouette: of a smaller one a mirrored or cropped view fits as well
MIN_TANGENTS = 2  # of a view, over all scenes
MIN_MEASURED_VIEWS = 3  # of two views, either may be moved along the epipolar lines and nothing shows it


def tangents_of_views(scenes: Sequence[SceneCheck]) -> Int[Tensor, " view"]:
    """Per view, on how many tangents it was measured: planes that touch a large enough silhouette in two views."""
    return torch.stack([_told(scene) for scene in scenes]).sum((0, 2, 3))


def tangents(scenes: Sequence[SceneCheck]) -> int:
    """Tangents of all pairs and scenes: at most two a pair and scene."""
    return int(tangents_of_views(scenes).sum()) // 2


def unmeasured(scenes: Sequence[SceneCheck]) -> tuple[Unmeasured, ...]:
    """The views of which nothing was measured, or whose masks are none in some scene, and why."""
    counts = tangents_of_views(scenes).tolist()
    found = [_why(scenes, view, count) for view, count in enumerate(counts)]
    return tuple(one for one in found if one is not None)


def rests(geometry: Geometry) -> str:
    """On what a verdict rests, in words."""
    views, scenes = counted(geometry.measured_views, "view"), counted(geometry.scenes, "scene")
    elsewhere = any(one.scenes < geometry.scenes for one in geometry.unmeasured)  # some scenes do show those views
    if geometry.tangents and not geometry.measured_views and elsewhere:
        return f"{counted(geometry.tangents, 'tangent')}, but of no view in all {scenes}"
    return f"{counted(geometry.tangents, 'tangent')} of {views} in {scenes}"


def why_unknown(geometry: Geometry) -> str:
    """Why a set says nothing, in words: which views were not measured, why, and where."""
    reasons = dict.fromkeys(one.why for one in geometry.unmeasured)
    named = [_of_views([one for one in geometry.unmeasured if one.why == why]) for why in reasons]
    if named:
        return f"nothing of {', '.join(named)}"
    return "two views, of which either may be moved along the epipolar lines unseen"


def advice(geometry: Geometry) -> str:
    """What to do about it."""
    reasons = {one.why for one in geometry.unmeasured}
    if "mask fills the frame" in reasons:
        return "these masks are opaque everywhere or inverted: write 255 on the animal and 0 beside it"
    if "mask is another view's" in reasons:
        return "these masks are one shape, not the animal's: write 255 on the animal and 0 beside it in each view"
    if "mask is too small" in reasons:
        return f"take or cut out pictures in which the animal is {MIN_SIDE:g} px long and more"
    if reasons:
        return "look for cameras inside the object or in one line with all others, and for masks that are cut off"
    return "add views from other sides"


def _told(scene: SceneCheck) -> Bool[Tensor, "view view 2"]:
    """Which tangents of a scene are evidence."""
    large = torch.tensor([_side(outline) >= MIN_SIDE for outline in scene.outlines])
    return ~scene.tangents.isnan() & (large[:, None] & large[None])[..., None]


def _side(outline: Silhouette) -> float:
    return float((outline.outline.amax(0) - outline.outline.amin(0)).max())


def _why(scenes: Sequence[SceneCheck], view: int, count: int) -> Unmeasured | None:
    filled = [scene.name for scene in scenes if view in scene.filled]
    if filled:
        return Unmeasured(view=view, why="mask fills the frame", scenes=len(filled), first=filled[0])
    repeating = [scene.name for scene in scenes if _repeats(scene, view)]
    if repeating:
        return Unmeasured(view=view, why="mask is another view's", scenes=len(repeating), first=repeating[0])
    if count >= MIN_TANGENTS:
        return None
    small = [scene.name for scene in scenes if _side(scene.outlines[view]) < MIN_SIDE]
    if small:
        return Unmeasured(view=view, why="mask is too small", scenes=len(small), first=small[0])
    return Unmeasured(view=view, why="no tangent", scenes=len(scenes), first=scenes[0].name)


def _repeats(scene: SceneCheck, view: int) -> bool:
    """Whether a mask is to the last bit that of another camera, as a fixed shape is and an animal's never."""
    mask, c2w = scene.crops[view], scene.scene.cameras.c2w
    same = [other for other, crop in enumerate(scene.crops) if other != view and crop.equals(mask)]
    return any(not torch.equal(c2w[other], c2w[view]) for other in same)


def _of_views(some: Sequence[Unmeasured]) -> str:
    """Views that share a reason: `views 0, 1 (mask fills the frame in 3 scenes, first scene_000000)`."""
    views = ", ".join(str(one.view) for one in some)
    most = max(some, key=lambda one: one.scenes)
    where = f"{most.why} in {counted(most.scenes, 'scene')}, first {most.first}"
    return f"view{'s' if len(some) > 1 else ''} {views} ({where})"
