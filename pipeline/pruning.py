"""Which Gaussians of a scene are kept: one place for every PLY, picture and video that this project writes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from pipeline.errors import DataError
from pipeline.gaussians import Gaussians


@dataclass(frozen=True)
class Pruning:
    """The rules, in FaceLift's order; each that is None keeps everything.

    min_opacity: more opaque than this. max_scale: largest standard deviation below this (world units), of Gaussians
    at most as high as max_scale_up_to_z. floater: not with |x| and |y| above this and z below its negative.
    box: |x|, |y|, |z| at most these.
    """

    min_opacity: float | None = 0.04
    max_scale: float | None = None
    max_scale_up_to_z: float | None = None
    floater: float | None = None
    box: tuple[float, float, float] | None = None

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
        return keep

    def __call__(self, gaussians: Gaussians) -> Gaussians:
        """The Gaussians of one scene that are kept, in their order. Raises DataError for a batch."""
        return gaussians[self.keep(gaussians)]


PRUNINGS = {
    "default": Pruning(),
    "facelift": Pruning(0.04, 0.1, 0.0, 0.6, (0.91, 0.91, 1.0)),  # its inference
    "facelift_app": Pruning(0.04, 0.2, 0.0, 0.75, (0.91, 0.91, 1.0)),  # its demo
    "none": Pruning(min_opacity=None),
}
