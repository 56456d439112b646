"""Which Gaussians of a scene are kept: one place for every PLY, picture and video that this project writes.

The rules are FaceLift's but for `component`, and so are its thresholds, by the names of those that call them there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.errors import DataError
from pipeline.gaussians import Gaussians

_VOXEL = 0.05  # world units: a thirtieth of the frame's edge, and two pixels of one of 64
_TOUCHING = 1.8  # voxels between centres: by a side, an edge or a corner


@dataclass(frozen=True)
class Pruning:
    """The rules; a Gaussian is kept that passes all of them, and one that is None is passed by all. World units.

    min_opacity: opacity above this. max_scale: largest standard deviation below this, or z above max_scale_up_to_z
    where that is a number. floater: not all of |x| > floater, |y| > floater, z < -floater. box: |x|, |y|, |z| at most
    these. component: of what the other rules keep, the Gaussian's connected component, of voxels that touch, has at
    least this share of all opacity.
    """

    min_opacity: float | None = 0.02
    max_scale: float | None = None
    max_scale_up_to_z: float | None = None
    floater: float | None = None
    box: tuple[float, float, float] | None = None
    component: float | None = None

    def keep(self, gaussians: Gaussians) -> Bool[Tensor, " n"]:
        """Which Gaussians of one scene are kept. Raises DataError for a batch."""
        if gaussians.opacities.ndim != 1:
            shape = tuple(gaussians.opacities.shape)
            raise DataError(f"pruning: expected one scene, got a batch {shape} — index it first.")
        x, y, z = gaussians.means.unbind(-1)
        keep = gaussians.opacities > (-1.0 if self.min_opacity is None else self.min_opacity)
        if self.max_scale is not None:
            small = gaussians.scales.amax(-1) < self.max_scale
            keep = keep & (small if self.max_scale_up_to_z is None else small | (z > self.max_scale_up_to_z))
        if self.floater is not None:
            keep = keep & ~((x.abs() > self.floater) & (y.abs() > self.floater) & (z < -self.floater))
        if self.box is not None:
            keep = keep & (gaussians.means.abs() <= gaussians.means.new_tensor(self.box)).all(-1)
        if self.component is not None and bool(keep.any()):
            keep = keep.clone()
            keep[keep.clone()] = _share_of_component(gaussians[keep]) >= self.component
        return keep

    def as_plain(self) -> dict[str, object]:
        """The rules as plain values; as they were written before there was `component`, where there is none."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("component", None)}

    def __call__(self, gaussians: Gaussians) -> Gaussians:
        """The Gaussians of one scene that are kept, in their order. Raises DataError for a batch."""
        return gaussians[self.keep(gaussians)]


PRUNINGS = {
    "default": Pruning(),
    "connected": Pruning(component=0.02),  # without specks that float beside the animal
    "facelift": Pruning(0.04, 0.1, 0.0, 0.6, (0.91, 0.91, 1.0)),  # its inference
    "facelift_app": Pruning(0.04, 0.2, 0.0, 0.75, (0.91, 0.91, 1.0)),  # its demo
    "facelift_training": Pruning(0.02, box=(0.91, 0.91, 0.91)),  # the pictures of its training
    "facelift_validation": Pruning(0.02),  # its figures; with clip_xyz they have the box of its training
    "none": Pruning(min_opacity=None),
}


def _share_of_component(gaussians: Gaussians) -> Float[Tensor, " n"]:
    """What share of all opacity the connected component of each Gaussian has."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    cells = np.floor(gaussians.means.detach().cpu().double().numpy() / _VOXEL)
    voxels, member = np.unique(cells, axis=0, return_inverse=True)
    pairs = cKDTree(voxels).query_pairs(_TOUCHING, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(voxels), len(voxels)))
    component = connected_components(graph, directed=False)[1][member.reshape(-1)]
    opacity = np.bincount(component, weights=gaussians.opacities.detach().cpu().double().numpy())
    return torch.from_numpy((opacity / opacity.sum())[component]).to(gaussians.means.device)


def pruning_of(
    prune: str = "default",
    min_opacity: float | None = None,
    max_scale: float | None = None,
    floater: float | None = None,
    box: Sequence[float] | None = None,
) -> Pruning:
    """A pruning by its name, with single rules of its own over it; None leaves a rule as the name has it.

    Raises DataError for a name that there is not, and for a rule that is no number of its kind.
    """
    if prune not in PRUNINGS:
        raise DataError(f"prune: expected one of {', '.join(PRUNINGS)}, got {prune!r} — name one of them.")
    named = PRUNINGS[prune]
    return replace(
        named,
        min_opacity=named.min_opacity if min_opacity is None else _number("min_opacity", min_opacity),
        max_scale=named.max_scale if max_scale is None else _number("max_scale", max_scale),
        floater=named.floater if floater is None else _number("floater", floater),
        box=named.box if box is None else _box(box),
    )


def _number(rule: str, value: float) -> float:
    most, said = (1.0, "from 0 to 1") if rule == "min_opacity" else (math.inf, "of at least 0")
    if not 0 <= value <= most or math.isinf(value):
        raise DataError(f"{rule}: expected a number {said}, got {value:g} — give one, or leave it out.")
    return float(value)


def _box(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3 or not all(0 <= value < math.inf for value in values):
        came = ", ".join(f"{value:g}" for value in values)
        raise DataError(
            f"box: expected three numbers of at least 0 for |x|, |y|, |z|, got {came} — give three, or leave it out."
        )
    x, y, z = map(float, values)
    return x, y, z
