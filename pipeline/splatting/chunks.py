"""Drawing in bounded memory: scenes and views in chunks, chosen by what gsplat will hold for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.cameras import Cameras
from pipeline.errors import OversizedError
from pipeline.gaussians import Gaussians
from pipeline.splatting.projection_kernels import MIN_ALPHA
from pipeline.splatting.tile_bound import TILE, tile_intersections

INTERSECTION_BYTES = 24  # an intersection's key and index, and the place they are sorted to
_PROJECTED_BYTES = 64  # of a Gaussian in a view, drawn or not: its projection, opacity, colour and number of tiles
_HARMONIC_BYTES = 12  # above degree 0, of its direction and of each coefficient, which gsplat copies for every view

Drawn: TypeAlias = tuple[Tensor, Tensor, Tensor]  # colours [..., V, H, W, 3]; alphas and depths [..., V, H, W, 1]
Rasterize: TypeAlias = Callable[[Gaussians, Cameras, float], Drawn]


@dataclass(frozen=True)
class Limits:
    """What one call of a rasterizer may take."""

    # `view_bytes` of what is drawn at once. GS-LRM at the released size draws 1.6 million Gaussians in 16 views a step:
    # 3e9 bytes in all once they are small, so that they are drawn whole; 4e9 bytes a view from random weights.
    chunk_bytes: int = 2**32
    # Intersections in one view, which cannot be divided. gsplat's indices of them are int32; its own count differs from
    # ours by rounding, and beyond int32 the process loses the GPU.
    view_intersections: int = 2**31 - 2**24


def rasterize_in_chunks(
    rasterize: Rasterize, gaussians: Gaussians, cameras: Cameras, near_plane: float, limits: Limits
) -> Drawn:
    """What `rasterize` draws of Gaussians [..., N] and cameras [..., V], in calls that keep to the limits.

    `rasterize` is given one batch dimension, the scenes. Everything is drawn at once where it fits; else in chunks of
    whole scenes or of consecutive views of one scene, each drawn again by the backward pass. The chunks are a function
    of the values alone. Gaussians that are too faint to be seen in any scene are left out. Where a Gaussian or a camera
    is not a number, every pixel is NaN. Raises OversizedError, before anything is drawn, when a view is beyond its
    limit.
    """
    batch = cameras.batch_shape[:-1]
    gaussians, cameras = _by_scene(gaussians, cameras)
    intersections, kept = _counted(gaussians, cameras, near_plane)
    if any(math.isnan(number) for views in intersections for number in views):
        drawn = _uniform(gaussians, cameras, math.nan)
    elif not kept.count or not math.prod(cameras.batch_shape):  # gsplat divides by the number of Gaussians
        drawn = _uniform(kept, cameras, 0.0)
    else:
        _refuse_oversized(intersections, limits)
        costs = [[view_bytes(number, kept.count, kept.sh_degree) for number in views] for views in intersections]
        groups = chunks(costs, limits.chunk_bytes)
        drawn = _in_groups(rasterize, kept, cameras, near_plane, groups)
    colours, alphas, depths = (channels.reshape(*batch, *channels.shape[1:]) for channels in drawn)
    return colours, alphas, depths


def chunks(costs: Sequence[Sequence[float]], budget: float) -> list[tuple[int, list[int]]]:
    """Groups of consecutive scenes, each with the lengths of the runs of views that are drawn together.

    costs: of every view of every scene. A run costs at most the budget, unless it is a single view; scenes share a
    group when all their views fit together.
    """
    groups: list[tuple[int, list[int]]] = []
    spent = math.inf  # on the last group, if more scenes may join it
    for views in costs:
        cost = sum(views)
        if spent + cost <= budget:
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
            spent += cost
        elif cost <= budget:
            groups.append((1, [len(views)]))
            spent = cost
        else:
            groups.append((1, list(_runs(views, budget))))
            spent = math.inf
    return groups


def view_bytes(intersections: float, count: int, sh_degree: int) -> float:
    """What gsplat holds of one view of `count` Gaussians while it sorts the intersections, which is when it holds most.

    It is counted from gsplat 1.5.3's source.
    """
    harmonics = _HARMONIC_BYTES * (1 + (sh_degree + 1) ** 2) if sh_degree else 0
    return INTERSECTION_BYTES * intersections + (_PROJECTED_BYTES + harmonics) * count


def _runs(costs: Sequence[float], budget: float) -> Iterator[int]:
    """Lengths of runs that are as long as the budget allows, of one at least."""
    length, spent = 0, 0.0
    for cost in costs:
        if length and spent + cost > budget:
            yield length
            length, spent = 0, 0.0
        length, spent = length + 1, spent + cost
    yield length


def _by_scene(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """The same with one batch dimension."""
    lead = gaussians.opacities.ndim - 1
    scenes = math.prod(cameras.batch_shape[:-1])
    fields = (value.reshape(scenes, *value.shape[lead:]) for value in vars(gaussians).values())
    c2w, fxfycxcy = (value.reshape(scenes, *value.shape[lead:]) for value in (cameras.c2w, cameras.fxfycxcy))
    return Gaussians(*fields), replace(cameras, c2w=c2w, fxfycxcy=fxfycxcy)


def _counted(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> tuple[list[list[float]], Gaussians]:
    """Intersections of every view of every scene, and the Gaussians that are not too faint."""
    seen = _bright(gaussians)
    sums = tile_intersections(gaussians, cameras, near_plane)
    # This is the one wait for the device before the kernels. gsplat waits here, too: for the length of its list.
    *numbers, count = torch.cat([sums.flatten(), seen.sum()[None].to(sums)]).tolist()
    scenes, views = sums.shape
    intersections = [numbers[scene * views : (scene + 1) * views] for scene in range(scenes)]
    if count == gaussians.count:
        return intersections, gaussians
    indices = seen.to(torch.uint8).argsort(descending=True, stable=True)  # nonzero() would wait once more
    return intersections, _chosen(gaussians, indices[: int(count)])


def _bright(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Which Gaussians are opaque enough to be seen in any scene of a batch."""
    return (gaussians.opacities.detach()[None] >= MIN_ALPHA).flatten(0, -2).any(0)


def _chosen(gaussians: Gaussians, indices: Int[Tensor, " m"]) -> Gaussians:
    """The same choice of Gaussians in every scene of a batch."""
    scenes = gaussians.opacities.ndim - 1
    return Gaussians(*(value.index_select(scenes, indices) for value in vars(gaussians).values()))


def _refuse_oversized(intersections: Sequence[Sequence[float]], limits: Limits) -> None:
    most = max(max(views) for views in intersections)
    if most > limits.view_intersections:
        raise OversizedError(
            f"render: Gaussians so large that a view cannot be drawn: expected at most {limits.view_intersections:.4g} "
            f"pairs of a Gaussian and a tile of {TILE} px in one view, got {most:.4g} — lower model.scale_bias or "
            "model.max_log_scale; if they grew in training, lower optim.lr."
        )


def _in_groups(
    rasterize: Rasterize, gaussians: Gaussians, cameras: Cameras, near_plane: float, groups: list[tuple[int, list[int]]]
) -> Drawn:
    tensors = (*vars(gaussians).values(), cameras.c2w, cameras.fxfycxcy)

    def draw(*parts: Tensor) -> Drawn:
        return rasterize(Gaussians(*parts[:-2]), replace(cameras, c2w=parts[-2], fxfycxcy=parts[-1]), near_plane)

    if [len(views) for _, views in groups] == [1]:
        return draw(*tensors)
    by_group = zip(*(tensor.split([scenes for scenes, _ in groups]) for tensor in tensors), strict=True)
    drawn = []
    for (_, views), (*scenes, c2w, fxfycxcy) in zip(groups, by_group, strict=True):
        runs = zip(c2w.split(views, 1), fxfycxcy.split(views, 1), strict=True)
        # Nothing is drawn by chance, so there is no state of a generator to keep.
        parts = [checkpoint(draw, *scenes, *run, use_reentrant=False, preserve_rng_state=False) for run in runs]
        drawn.append(_joined(parts, 1))
    return _joined(drawn, 0)


def _joined(parts: Sequence[Drawn], dim: int) -> Drawn:
    colours, alphas, depths = (torch.cat(channels, dim) for channels in zip(*parts, strict=True))
    return colours, alphas, depths


def _uniform(gaussians: Gaussians, cameras: Cameras, value: float) -> Drawn:
    """Pictures of one value; a NaN reaches every gradient, too."""
    sums = [tensor.sum() for tensor in (*vars(gaussians).values(), cameras.c2w, cameras.fxfycxcy)]
    size = (*cameras.batch_shape, cameras.height, cameras.width)
    pixel = torch.stack(sums).sum() * value
    return pixel.expand(*size, 3), pixel.expand(*size, 1), pixel.expand(*size, 1)
