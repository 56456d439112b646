"""The yardstick: a vectorised tile renderer in plain torch, as good as eager torch lets it be.

Same projection, same semantics and the same picture as `pipeline.splatting.rasterize_cpu`. Pixels are gathered in
small tiles; each tile's Gaussians are sorted by depth and composited in chunks by a cumulative product; tiles
that are finished or full drop out. The backward pass is analytic and walks the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians
from pipeline.splatting.projection_cpu import project
from pipeline.splatting.projection_kernels import MIN_ALPHA
from pipeline.splatting.rasterize_cpu import MAX_ALPHA, MIN_LIGHT

TILE = 4  # of 4, 8 and 16 the fastest on a CPU
CHUNK = 64


class Tiles(NamedTuple):
    """members[starts[t]:ends[t]] are tile t's Gaussians, nearest first; pixels: centres of its pixels."""

    members: Tensor
    starts: Tensor
    ends: Tensor
    pixels: Tensor


class Chunk(NamedTuple):
    """Pairs [tiles, K, pixels of a tile] of the tiles still at work."""

    tiles: Tensor
    members: Tensor
    values: Tensor
    offset_x: Tensor
    offset_y: Tensor
    falloff: Tensor
    alpha: Tensor
    light: Tensor  # that reaches each pair
    weight: Tensor


def rasterize(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> tuple[Tensor, Tensor, Tensor]:
    """The contract of `rasterize_cpu.rasterize`."""
    splats, visible = project(gaussians, cameras, near_plane)
    rows = splats.flatten(0, -2)
    grid = (-(-cameras.height // TILE), -(-cameras.width // TILE))
    tiles = _tiles(rows.detach(), visible.flatten(0, -2), grid)
    image = _Composite.apply(rows, tiles).unflatten(0, (-1, *grid)).unflatten(3, (TILE, TILE))
    image = image.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : cameras.height, : cameras.width]
    image = image.reshape(*cameras.batch_shape, *image.shape[1:])
    return image[..., :3], image[..., 4:], image[..., 3:4] / image[..., 4:].clamp(min=1e-10)


def count_pairs(gaussians: Gaussians, cameras: Cameras, near_plane: float) -> int:
    """Pixel-Gaussian pairs that contribute to the picture."""
    splats, visible = project(gaussians, cameras, near_plane)
    rows = splats.flatten(0, -2)
    tiles = _tiles(rows, visible.flatten(0, -2), (-(-cameras.height // TILE), -(-cameras.width // TILE)))
    return sum(int((chunk.weight > 0).sum()) for chunk in _chunks(rows, tiles))


def _tiles(rows: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tiles:
    """Lists of the tiles that the box of each visible Gaussian touches."""
    x, y, a, b, c, opacity = rows[:, :6].unbind(-1)
    reach = 2 * (opacity * 255).clamp(min=1).log() / (a * c - b * b)
    limit = torch.tensor(grid[::-1])
    half = torch.stack([(reach * c).sqrt(), (reach * a).sqrt()], -1)
    centre = torch.stack([x, y], -1)
    first = ((centre - half) / TILE).floor().long().clamp(min=0)
    span = (torch.minimum(((centre + half) / TILE).floor().long() + 1, limit) - first).clamp(min=0)
    nearest = torch.argsort(rows[:, -1], stable=True)
    nearest = nearest[visible.flatten()[nearest]]
    counts = span[nearest].prod(-1)
    members = torch.repeat_interleave(nearest, counts)
    rank = torch.arange(len(members)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    column = first[members, 0] + rank % span[members, 0]
    row = first[members, 1] + rank // span[members, 0]
    tile, order = torch.sort((members // visible.shape[-1] * grid[0] + row) * grid[1] + column, stable=True)
    edges = torch.searchsorted(tile, torch.arange(len(visible) * grid[0] * grid[1] + 1))
    return Tiles(members[order], edges[:-1], edges[1:], _pixel_centres(len(visible), grid).to(rows))


def _pixel_centres(images: int, grid: tuple[int, int]) -> Tensor:
    """[tiles, pixels of a tile, 2]."""
    corner = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).flip(-1) * TILE
    inside = torch.cartesian_prod(torch.arange(TILE), torch.arange(TILE)).flip(-1)
    return (corner[:, None] + inside + 0.5).repeat(images, 1, 1)


def _chunks(rows: Tensor, tiles: Tiles) -> Iterator[Chunk]:
    """Walk every tile's list front to back, CHUNK Gaussians at a time."""
    at_work = torch.nonzero(tiles.ends > tiles.starts)[:, 0]
    light = rows.new_ones(len(at_work), TILE * TILE)
    position = tiles.starts[at_work]
    while len(at_work):
        index = position[:, None] + torch.arange(CHUNK)
        listed = index < tiles.ends[at_work, None]
        members = tiles.members[index.clamp(max=len(tiles.members) - 1)]
        values = rows[members]
        x, y, a, b, c, opacity = values[..., :6, None].unbind(-2)
        pixel_x, pixel_y = tiles.pixels[at_work, None].unbind(-1)
        dx, dy = pixel_x - x, pixel_y - y
        sigma = (0.5 * a * dx + b * dy) * dx + 0.5 * c * dy * dy
        falloff = torch.exp(-sigma)
        alpha = (opacity * falloff).clamp(max=MAX_ALPHA)
        alpha = alpha * ((alpha >= MIN_ALPHA) & (sigma >= 0) & listed[..., None])
        after = torch.cumprod(1 - alpha, 1) * light[:, None]
        before = torch.cat([light[:, None], after[:, :-1]], 1)
        weight = before * alpha * (after > MIN_LIGHT)
        yield Chunk(at_work, members, values, dx, dy, falloff, alpha, before, weight)
        light, position = after[:, -1], position + CHUNK
        more = (position < tiles.ends[at_work]) & (light > MIN_LIGHT).any(-1)
        at_work, light, position = at_work[more], light[more], position[more]


def _channels(values: Tensor) -> Tensor:
    return torch.cat([values[..., 6:], torch.ones_like(values[..., :1])], -1)


class _Composite(torch.autograd.Function):
    """rows [images·N, 10] -> [tiles, pixels of a tile, 5]."""

    @staticmethod
    def forward(ctx, rows: Tensor, tiles: Tiles) -> Tensor:  # type: ignore[no-untyped-def]
        image = rows.new_zeros(len(tiles.starts), TILE * TILE, 5)
        for chunk in _chunks(rows, tiles):
            image[chunk.tiles] += chunk.weight.mT @ _channels(chunk.values)
        ctx.save_for_backward(rows, image)
        ctx.tiles = tiles
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        rows, image = ctx.saved_tensors
        gradient = torch.zeros_like(rows)
        behind = (cotangent * image).sum(-1)
        for chunk in _chunks(rows, ctx.tiles):
            seen = cotangent[chunk.tiles]
            value = _channels(chunk.values) @ seen.mT
            rest = behind[chunk.tiles, None] - torch.cumsum(chunk.weight * value, 1)
            behind[chunk.tiles] = rest[:, -1]
            d_alpha = (chunk.light * value - rest / (1 - chunk.alpha)) * (chunk.weight > 0)
            d_alpha = d_alpha * (chunk.alpha < MAX_ALPHA)
            terms = torch.cat([_geometry(chunk, d_alpha), (chunk.weight @ seen)[..., :4]], -1)
            gradient.index_add_(0, chunk.members.flatten(), terms.flatten(0, 1))
        return gradient, None


def _geometry(chunk: Chunk, d_alpha: Tensor) -> Tensor:
    """dL/d(x, y, conic, opacity) of every listed Gaussian in every tile: [tiles, K, 6]."""
    a, b, c = chunk.values[..., 2:5].unbind(-1)
    d_sigma = -d_alpha * chunk.alpha
    along_x, along_y = d_sigma * chunk.offset_x, d_sigma * chunk.offset_y
    sum_x, sum_y = along_x.sum(-1), along_y.sum(-1)
    sum_xx, sum_xy = (along_x * chunk.offset_x).sum(-1), (along_x * chunk.offset_y).sum(-1)
    sum_yy = (along_y * chunk.offset_y).sum(-1)
    d_opacity = (d_alpha * chunk.falloff).sum(-1)
    return torch.stack(
        [-(a * sum_x + b * sum_y), -(b * sum_x + c * sum_y), 0.5 * sum_xx, sum_xy, 0.5 * sum_yy, d_opacity],
        -1,
    )
