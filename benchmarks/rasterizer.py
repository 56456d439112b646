"""`python -m benchmarks.rasterizer`: our CPU rasterizer against the best plain torch can do, in one run.

Scene: an ellipsoidal shell seen by six cameras, Gaussians one to two pixels wide, opacities as if trained.
Times are medians of interleaved repeats of the whole render (projection, colours, compositing, depth).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks import torch_tiles
from benchmarks.memory import peak_mib
from pipeline.cameras import FACELIFT_DISTANCE, Cameras, orbit
from pipeline.gaussians import Gaussians
from pipeline.splatting import rasterize_cpu

SIZES = ((4_096, 64), (24_576, 64), (98_304, 128))  # Gaussians, pixels per side
VIEWS = 6
NEAR_PLANE = 0.2
RENDERERS = {"numba ellipses": rasterize_cpu, "torch tiles": torch_tiles}


def shell(count: int, size: int) -> tuple[Gaussians, Cameras]:
    """Gaussians on an ellipsoid (1 : 0.45 : 0.40), its long axis 60 % of the frame, and a ring of cameras."""
    generator = torch.Generator().manual_seed(0)
    cameras = orbit([360 / VIEWS * i for i in range(VIEWS)], 0.0, size)
    pixel = FACELIFT_DISTANCE / float(cameras.fxfycxcy[0, 0])
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    gaussians = Gaussians(
        means=directions * torch.tensor([1.0, 0.45, 0.40]) * 0.3 * size * pixel,
        quats=torch.randn(count, 4, generator=generator),
        scales=(1 + torch.rand(count, 3, generator=generator)) * pixel,
        opacities=(1.5 + 1.5 * torch.randn(count, generator=generator)).sigmoid(),
        sh=0.5 * torch.randn(count, 1, 3, generator=generator),
    )
    return gaussians, cameras


def rows(sizes: tuple[tuple[int, int], ...] = SIZES, repeats: int = 3) -> list[dict[str, Any]]:
    """One row per renderer and size: seconds, MiB above what was there before, and pairs that contribute."""
    table: list[dict[str, Any]] = []
    for count, size in sizes:
        scene = shell(count, size)
        pairs = torch_tiles.count_pairs(*scene, NEAR_PLANE)
        times = _medians(scene, repeats)
        for name, (forward, total) in times.items():
            row: dict[str, Any] = {
                "renderer": name,
                "gaussians": count,
                "size": size,
                "views": VIEWS,
                "pairs": pairs,
            }
            row |= {"forward_s": forward, "forward_backward_s": total, "ns_per_pair": 1e9 * total / pairs}
            table.append(
                row | {"peak_mib": peak_mib(_ready, name, count, size), "speedup": times["torch tiles"][1] / total}
            )
    return table


def _medians(scene: tuple[Gaussians, Cameras], repeats: int) -> dict[str, tuple[float, float]]:
    """Forward and forward + backward seconds; in turns, so that a busy neighbour slows all alike."""
    for name in RENDERERS:
        _draw(name, *scene)
    turns = {name: [] for name in RENDERERS}  # type: dict[str, list[tuple[float, float]]]
    for _ in range(repeats):
        for name in RENDERERS:
            turns[name].append(_draw(name, *scene))
    return {name: (median(t[0] for t in times), median(t[1] for t in times)) for name, times in turns.items()}


def _draw(name: str, gaussians: Gaussians, cameras: Cameras) -> tuple[float, float]:
    """Seconds until the picture is there, and until the gradients are."""
    leaves = [tensor.detach().requires_grad_() for tensor in vars(gaussians).values()]
    start = time.perf_counter()
    drawn = RENDERERS[name].rasterize(Gaussians(*leaves), cameras, NEAR_PLANE)
    forward = time.perf_counter() - start
    torch.autograd.grad(sum(channels.square().sum() for channels in drawn), leaves)
    return forward, time.perf_counter() - start


def _ready(name: str, count: int, size: int) -> Callable[[], object]:
    """A forward and backward pass of a warm renderer."""
    scene = shell(count, size)
    _draw(name, *shell(64, 16))
    return partial(_draw, name, *scene)


def main() -> None:
    figures = rows()
    table = Table(*figures[0], title=f"medians, {torch.get_num_threads()} threads")
    for row in figures:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
