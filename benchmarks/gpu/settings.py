"""What the parts of `benchmarks.gpu` share: where they run, at which sizes, and the recipes and batches they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the process that starts the parts needs none of it, and so lives where a package is missing
    from pipeline.cameras import Cameras
    from pipeline.data.batch import Batch
    from pipeline.recipe import Recipe

GIB = 2**30
# VGG19's weights are not at hand; toy sizes are for trying the code on a CPU.
_ALWAYS = ("loss.perceptual=0.0",)
_TOY = ("model.dim=32", "model.head_dim=16", "model.num_layers=2", "data.image_size=32")


@dataclass(frozen=True)
class Settings:
    """Where a part runs and at which sizes; data: where mice are, or are written."""

    device: str
    small: bool
    data: Path = field(default_factory=Path)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def repeats(self) -> int:
        """How often each thing is timed."""
        return 1 if self.small else 3

    def settle(self) -> None:
        """Wait for the device."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def full(self, value: float) -> float | None:
        """A figure that is known of the released sizes; None at a toy's."""
        return None if self.small else value

    def recipe(self, name: str, *overrides: str) -> Recipe:
        """A committed recipe of GS-LRM at its own sizes, or at a toy's; without perceptual loss."""
        from pipeline.recipes import load_recipe

        return load_recipe(name, [*_ALWAYS, *(_TOY if self.small else ()), *overrides])

    def ring(self, size: int, views: int, scenes: int = 1) -> Cameras:
        """Cameras [scenes, views] once round the origin, in FaceLift's distance, as float32 on the device."""
        from pipeline.cameras import Cameras, orbit

        cameras = orbit([360.0 * view / views for view in range(views)], 20.0, size)
        c2w, fxfycxcy = (part.float().expand(scenes, *part.shape).clone() for part in (cameras.c2w, cameras.fxfycxcy))
        return Cameras(c2w, fxfycxcy, size, size).to(self.device)

    def batch(self, recipe: Recipe, scenes: int) -> Batch:
        """Scenes that no dataset holds: noise inside a disc on white, seen once round; on the device."""
        import torch

        from pipeline.data.batch import Batch

        data, size = recipe.data, recipe.data.image_size
        across = torch.linspace(-1, 1, size)
        disc = (across[:, None].square() + across.square() < 0.3).float()
        masks = disc.expand(scenes, data.num_views, 1, size, size).to(self.device)
        noise = torch.rand(scenes, data.num_views, 3, size, size, generator=torch.Generator().manual_seed(0))
        images = 1 - masks * noise.to(self.device)
        names = tuple(f"scene {number}" for number in range(scenes))
        return Batch(images, masks, self.ring(size, data.num_views, scenes), data.num_input_views, names)


def checkpoint_modes() -> dict[str, str]:
    """The override of each mode of activation checkpointing, by its name."""
    return {mode: f"model.checkpoint={mode}" for mode in ("none", "attention", "layers")}
