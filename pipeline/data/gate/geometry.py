"""Do views and cameras agree? Triangulation, epipolar tangency of silhouettes, and the visual hull.

Everything here asks one question in a different way, from pictures alone or from points that are known:
pixels have their centres at +0.5, cameras are OpenCV, residuals are pixels of the view they stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt, maximum_filter
from skimage.measure import find_contours
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.errors import DegenerateViewsError

MIN_SPREAD = 1e-3  # of the least to the greatest certainty of a triangulated point: rays at 4° and less
MIN_SHARE = 2e-3  # of the largest outline's area; what is smaller is a speck
PARALLEL = 1e-3  # of a direction and a baseline, as a sine
MAX_TANGENT_SPAN = 2.4  # radians; a wider silhouette about the epipole has no two tangents that can be trusted
NEAR_END = 0.25  # of a silhouette's span about the epipole
TOUCHED = 0.02  # alpha of a pixel that the object touches
GAUSS_NEWTON_STEPS = 4
ROBUST_STEPS = 8

Array = np.ndarray


# ---------------------------------------------------------------- points


def triangulate(
    cameras: Cameras, pixels: Float[Tensor, "view n 2"], robust: float | None = None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "view n"]]:
    """World points [n, 3] that best explain their pixels in V ≥ 2 views, and the residuals [V, n] in pixels.

    Least squares of the distances to the rays, then of the reprojection error. robust: pixels beyond which a view
    counts less and less (Cauchy), so that one wrong view does not drag the point along.
    Raises DegenerateViewsError where the rays are all but parallel.
    """
    cameras, pixels = cameras.to(torch.float64), pixels.to(torch.float64)
    weights = torch.ones(pixels.shape[:2], dtype=torch.float64)
    points = _meeting_points(cameras, pixels, weights)
    for _ in range(ROBUST_STEPS if robust is not None else GAUSS_NEWTON_STEPS):
        error, jacobian = _reprojection(cameras, points, pixels)
        if robust is not None:
            weights = 1 / (1 + (error.norm(dim=-1) / robust).square())
        normal = torch.einsum("vnij,vnik,vn->njk", jacobian, jacobian, weights)
        gradient = torch.einsum("vnij,vni,vn->nj", jacobian, error, weights)
        points = points - _solved(normal, gradient)
    return points, _reprojection(cameras, points, pixels)[0].norm(dim=-1)


def meeting_point(cameras: Cameras) -> Float[Tensor, " 3"]:
    """The point nearest to all optical axes of cameras [V], in the least-squares sense."""
    principal = cameras.fxfycxcy[:, None, 2:].to(torch.float64)
    return _meeting_points(cameras.to(torch.float64), principal, torch.ones(len(principal), 1, dtype=torch.float64))[0]


def _meeting_points(cameras: Cameras, pixels: Tensor, weights: Tensor) -> Tensor:
    """Points with the least weighted sum of squared distances to the pixels' rays."""
    directions = pixel_directions(cameras, pixels)
    across = torch.eye(3, dtype=torch.float64) - directions[..., :, None] * directions[..., None, :]
    across = across * weights[..., None, None]
    right = across @ cameras.centres[:, None, :, None]
    return _solved(across.sum(0), right.sum(0)[..., 0])


def _solved(matrix: Float[Tensor, "n 3 3"], right: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Raises DegenerateViewsError where the answer would hang on the last digits, or where there is none."""
    if bool(torch.isfinite(matrix).all() and torch.isfinite(right).all()):
        spread = torch.linalg.eigvalsh(matrix)
        if bool((spread[:, 0] > MIN_SPREAD * spread[:, 2]).all()):
            return torch.linalg.solve(matrix, right)
    raise DegenerateViewsError(
        "expected cameras whose rays meet at an angle, got parallel or opposite ones, or numbers beyond all measure — "
        "add views from other sides, or correct the cameras."
    )


def pixel_directions(cameras: Cameras, pixels: Float[Tensor, "view n 2"]) -> Float[Tensor, "view n 3"]:
    """Unit world directions of the rays through pixels of cameras [V]."""
    fxfycxcy = cameras.fxfycxcy[:, None]
    in_camera = torch.cat([(pixels - fxfycxcy[..., 2:]) / fxfycxcy[..., :2], torch.ones_like(pixels[..., :1])], -1)
    return F.normalize(in_camera @ cameras.c2w[:, :3, :3].mT, dim=-1)


def _reprojection(cameras: Cameras, points: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [V, n, 2] and their derivatives by the points [V, n, 2, 3]."""
    projected, depth = cameras.project(points)
    rotation, focal = cameras.w2c[:, :3, :3], cameras.fxfycxcy[:, None, :2]
    slope = (projected - cameras.fxfycxcy[:, None, 2:]) / focal
    rows = rotation[:, None, :2] - slope[..., None] * rotation[:, None, 2:]
    return projected - pixels, rows * (focal / depth[..., None])[..., None]


# ---------------------------------------------------------------- silhouettes


@dataclass(frozen=True)
class Silhouette:
    """One view's mask: its outline [n, 2] in pixels (finer than a pixel where alpha is antialiased), where that
    outline is the picture's own edge [n], and the centre of its mass.
    """

    outline: Float[Tensor, "n 2"]
    cut: Bool[Tensor, " n"]
    centre: Float[Tensor, " 2"]


def silhouette(alpha: Float[Array, "height width"] | UInt8[Array, "height width"]) -> Silhouette | None:
    """The level set 0.5 of an alpha in 0…1, or in bytes; None without any. Only the mask's window becomes floats."""
    full = 255 if alpha.dtype == np.uint8 else 1
    inside = alpha > full / 2
    (top, bottom), (left, right) = (_span(np.flatnonzero(inside.any(axis))) for axis in (1, 0))
    if bottom == 0:
        return None
    around = [
        (int(low == 0), int(high == side))
        for low, high, side in zip((top, left), (bottom, right), alpha.shape, strict=True)
    ]
    window = alpha[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] / np.float32(full)
    window = np.pad(window, around)  # a pixel more on every side
    contours = _without_specks(find_contours(np.pad(window, 1), 0.5))
    outline = (
        np.concatenate(contours)[:, ::-1] - 1.5 + np.array([left, top])
    )  # (row, column) of centres -> x, y of corners
    height, width = alpha.shape
    cut = ((outline < 0.5) | (outline > np.array([width, height]) - 0.5)).any(1)
    centre = centre_of_mass(window) + np.array([left - 1, top - 1])
    return Silhouette(*map(torch.from_numpy, (outline.copy(), cut, centre)))


def _without_specks(contours: list[Float[Array, "n 2"]]) -> list[Float[Array, "n 2"]]:
    """The contours that are no specks of a lossy mask: one pixel far away would be every tangent's end."""
    areas = [abs(np.sum(c[:-1, 0] * c[1:, 1] - c[1:, 0] * c[:-1, 1])) for c in contours]
    return [contour for contour, area in zip(contours, areas, strict=True) if area >= MIN_SHARE * max(areas)]


def _span(indices: Int[Array, " n"]) -> tuple[int, int]:
    return (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, 0)


def centre_of_mass(alpha: Float[Array, "height width"], cells: int = 64) -> Float[Array, " 2"]:
    """x, y in pixels of the mask's centre, each place weighted by the thickness a round body would have there:
    the largest discs that fit into the mask are taken for balls.

    Where the views of an animal's masks are triangulated, this meets its centre of mass four times closer than the
    mask's plain centroid, which a thin tail and flat feet pull along.
    """
    stride = max(1, max(alpha.shape) // cells)
    radius = distance_transform_edt(np.pad(alpha > 0.5, 1))[1:-1, 1:-1][::stride, ::stride] / stride
    radius = radius.astype(np.float32)  # the distances below are the largest arrays of a check
    rows, columns = (places.astype(np.float32) for places in np.nonzero(radius))
    ridge = np.nonzero((radius > 0) & (radius >= maximum_filter(radius, 3) - 0.6))
    left = np.tile(np.square(radius[ridge]), (len(rows), 1))  # of each ball's square, beyond each place
    for places, middles in zip((rows, columns), ridge, strict=True):
        apart = places[:, None] - middles.astype(np.float32)
        left -= np.square(apart, out=apart)
    thickness = np.sqrt(np.maximum(left.max(1), 0)) + 0.25
    middle = np.array([thickness @ columns, thickness @ rows]) / thickness.sum()
    return middle * stride + 0.5


def tangency(
    silhouettes: Sequence[Silhouette], cameras: Cameras, without: Sequence[int] = ()
) -> Float[Tensor, "view view 2"]:
    """Residuals [i, j, 2]: how far in view j the epipolar tangents of view i miss j's outline, in j's pixels.

    A plane through both camera centres that just touches the object touches both outlines, whatever its shape:
    two such planes a pair (Wong and Cipolla). NaN where the baseline runs through or close by the object, and for the
    views `without` an outline of it.
    """
    cameras = cameras.to(torch.float64)
    views = len(silhouettes)
    residuals = torch.full((views, views, 2), torch.nan, dtype=torch.float64)
    rays = [pixel_directions(cameras[[v]], s.outline[None])[0] for v, s in enumerate(silhouettes)]
    for i, j in combinations([view for view in range(views) if view not in without], 2):
        pair = _pair_tangency(cameras[[i, j]], (rays[i], rays[j]), (silhouettes[i], silhouettes[j]))
        if pair is not None:
            residuals[i, j], residuals[j, i] = pair
    return residuals


def _tangent_axes(cameras: Cameras, rays: Float[Tensor, "ray 3"]) -> tuple[Tensor, Tensor] | None:
    """Two directions [3] that span what is normal to the line through two centres [2]: the first towards the middle
    of the first view's rays. None where that view looks along the line.
    """
    baseline = F.normalize(cameras.centres[1] - cameras.centres[0], dim=-1)
    middle = F.normalize(rays.mean(0), dim=-1)
    across = middle - (middle @ baseline) * baseline
    if float(across.norm()) < PARALLEL:
        return None
    across = F.normalize(across, dim=-1)
    return across, torch.linalg.cross(baseline, across)


class Touch(NamedTuple):
    """Where planes through two centres touch one view's outline: the angle of each of its points about the line of
    the centres [n], which points have the least and the greatest [2], and the planes' normals there [2, 3].
    """

    angles: Float[Tensor, " n"]
    ends: Int[Tensor, " 2"]
    planes: Float[Tensor, "2 3"]


def touches(cameras: Cameras, rays: Sequence[Float[Tensor, "n 3"]]) -> list[Touch] | None:
    """Of two views [2] and the rays of their outlines. None where the tangents of one cannot be trusted."""
    axes = _tangent_axes(cameras, rays[0])
    if axes is None:
        return None
    across, beside = axes
    touched = []
    for ray in rays:
        angles = torch.atan2(ray @ beside, ray @ across)
        ends = torch.stack([angles.argmin(), angles.argmax()])
        if float(angles[ends[1]] - angles[ends[0]]) > MAX_TANGENT_SPAN:
            return None
        planes = angles[ends].cos()[:, None] * beside - angles[ends].sin()[:, None] * across
        touched.append(Touch(angles, ends, planes))
    return touched


def _pair_tangency(
    cameras: Cameras, rays: tuple[Tensor, Tensor], silhouettes: tuple[Silhouette, Silhouette]
) -> tuple[Tensor, Tensor] | None:
    """Residuals [2] in the second view and in the first; NaN for a tangent that the picture's edge may have moved."""
    touched = touches(cameras, rays)
    if touched is None:
        return None
    first, second = (touch.angles[touch.ends] * torch.tensor([-1.0, 1.0]) for touch in touched)
    # Where a view is cut off only what it shows counts: it can reach too far, but falling short says nothing.
    cut_first, cut_second = (_cut_ends(touch.angles, s.cut) for touch, s in zip(touched, silhouettes, strict=True))
    cut = ((second > first) & cut_first) | ((first > second) & cut_second)

    def missed(seen: int, other: int) -> Tensor:
        at = silhouettes[seen].outline[touched[seen].ends]
        return _line_distance(cameras[seen], touched[other].planes, at).masked_fill(cut, torch.nan)

    return missed(1, 0), missed(0, 1)


def _cut_ends(angles: Float[Tensor, " n"], cut: Bool[Tensor, " n"]) -> Bool[Tensor, " 2"]:
    """Whether the picture's edge cuts the outline near its least and near its greatest angle."""
    if not bool(cut.any()):
        return torch.tensor([False, False])
    low, high, at = angles.min(), angles.max(), angles[cut]
    near = NEAR_END * (high - low)
    return torch.stack([(at < low + near).any(), (at > high - near).any()])


def _line_distance(camera: Cameras, normals: Float[Tensor, "n 3"], pixels: Float[Tensor, "n 2"]) -> Tensor:
    """Distance of pixels from the image lines of world planes through the camera's centre."""
    in_camera = normals @ camera.c2w[:3, :3]
    fx, fy, cx, cy = camera.fxfycxcy.unbind(-1)
    a, b = in_camera[:, 0] / fx, in_camera[:, 1] / fy
    c = in_camera[:, 2] - a * cx - b * cy
    return (a * pixels[:, 0] + b * pixels[:, 1] + c).abs() / torch.sqrt(a * a + b * b)


# ---------------------------------------------------------------- visual hull


@dataclass(frozen=True)
class Hull:
    """What the masks of all views leave of the object.

    iou: per view, the share of its mask that the hull of all views covers when it is projected back. The hull
    never leaves a mask, so this is their intersection over union. points: [n, 3] inside it, world.
    """

    iou: Float[Tensor, " view"]
    points: Float[Tensor, "n 3"]


def visual_hull(
    alphas: Float[Tensor, "view height width"] | UInt8[Tensor, "view height width"],
    cameras: Cameras,
    centre: Float[Tensor, " 3"],
    reach: float,
    rays: int = 250,
    samples: int = 128,
) -> Hull:
    """Carve the hull along the rays of mask pixels, within `reach` (world units) of `centre`.

    alphas: 0…1, or bytes. rays: at most so many per view, evenly over its mask; samples: per ray.
    """
    cameras = cameras.to(torch.float64)
    steps = torch.linspace(-reach, reach, samples, dtype=torch.float64)
    covered, inside = [], []
    for view in range(len(alphas)):
        pixels = _mask_pixels(alphas[view], rays)
        directions = pixel_directions(cameras[[view]], pixels[None])[0]
        middle = ((centre - cameras.centres[view]) * directions).sum(-1)
        depths = (middle[:, None] + steps).clamp(min=1e-6)
        points = cameras.centres[view] + depths[..., None] * directions[:, None]
        kept = torch.ones(points.shape[:2], dtype=torch.bool)
        for other in range(len(alphas)):
            if other != view:
                kept[kept.clone()] = _inside(points[kept], alphas[other], cameras[other])
        covered.append(kept.any(1).double().mean())
        inside.append(points[kept])
    points = torch.cat(inside)
    pixels, _ = cameras.project(points[None])
    limits = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    return Hull(torch.stack(covered), points[((pixels >= 0) & (pixels <= limits)).all(-1).all(0)])


def reach_of(silhouettes: Sequence[Silhouette], cameras: Cameras, centre: Float[Tensor, " 3"]) -> float:
    """A radius about `centre` (world units) that holds the whole object, from the widest of its outlines."""
    pixels, depth = cameras.to(torch.float64).project(centre[None])
    widest = [
        float((s.outline - pixels[v]).norm(dim=-1).max() * depth[v] / cameras.fxfycxcy[v, :2].mean())
        for v, s in enumerate(silhouettes)
    ]
    return 1.15 * float(np.median(widest))


def _mask_pixels(alpha: Tensor, limit: int) -> Float[Tensor, "n 2"]:
    rows, columns = torch.nonzero(alpha > _full(alpha) / 2, as_tuple=True)
    chosen = torch.linspace(0, len(rows) - 1, min(limit, len(rows))).round().long()
    return torch.stack([columns[chosen], rows[chosen]], -1).double() + 0.5


def _full(alpha: Tensor) -> int:
    """The value of a pixel that is wholly covered."""
    return 255 if alpha.dtype == torch.uint8 else 1


def _inside(points: Float[Tensor, "n 3"], alpha: Float[Tensor, "height width"], camera: Cameras) -> Bool[Tensor, " n"]:
    """Which points a view sees at a pixel that its mask touches. Beyond the picture's edge a mask that reaches it
    may go on, so nothing there is carved away.
    """
    pixels, depth = camera.project(points)
    column, row = pixels.floor().unbind(-1)
    within = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    column, row = column.clamp(0, camera.width - 1).long(), row.clamp(0, camera.height - 1).long()
    edge = max(float(side.max()) for side in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    touched = alpha[row, column] > TOUCHED * _full(alpha)
    return torch.where(within, touched, edge > _full(alpha) / 2) & (depth > 0)
