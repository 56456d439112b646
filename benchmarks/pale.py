"""`python -m benchmarks.pale FOLDER`: mice as white as their background, by the old mask and by the soft one.

First the masks alone: forty pale mice and forty of every coat, six views each, photographed on white, and again with a
little noise. Then from a photo to Gaussians: six generated views go to GS-LRM with what is whiter than 0.9 cut away,
as it was, and as they are. FOLDER keeps the mice and two checkpoints, `views` and `gaussians`; one that is missing is
trained on other pale mice. Figures are medians with quartiles, over views of the masks and over mice of the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from benchmarks.tables import table
from pipeline import checkpoint, kinds, metrics
from pipeline.cameras import Cameras
from pipeline.data.loader import Loader, held_out_views
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.losses import FOREGROUND
from pipeline.mvdiffusion.evaluate import generated_masks
from pipeline.mvdiffusion.views import ViewSets
from pipeline.recipes import load_recipe
from pipeline.splatting.rendering import render
from pipeline.training.loop import train

RIG, SIZE, JUDGED, TRAINED_ON = "mouse_centred", 64, 40, 240
STEPS = {"views": ("mvdiffusion_tiny", 300), "gaussians": ("gslrm_tiny", 500)}
NOISE = 2 / 255  # standard deviation: about what a decoder of latents leaves of white
THRESHOLD = 0.1  # from white: the old rule
Masks = Callable[[Tensor], Tensor]


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for rows in (masks_alone(folder), end_to_end(folder)):
        print(table(list(rows)), flush=True)


def old_masks(images: Float[Tensor, "view 3 height width"]) -> Float[Tensor, "view 1 height width"]:
    """What generated views were masked by: a channel below 0.9, holes filled."""
    shown = (images.amin(1) < 1 - THRESHOLD).numpy()
    return torch.from_numpy(np.stack([binary_fill_holes(mask) for mask in shown]))[:, None].float()


RULES: dict[str, Masks] = {"a channel below 0.9": old_masks, "soft": generated_masks}


def masks_alone(folder: Path) -> Iterator[dict[str, object]]:
    """Per set of pictures and rule: the share of the animal that is kept, and the IoU with its true mask."""
    generator = torch.Generator().manual_seed(0)
    for coats, dataset in (("pale", _mice(folder, pale=True)), ("every", _mice(folder, pale=False))):
        for noise in (0.0, NOISE):
            found: dict[str, list[Tensor]] = {name: [] for name in RULES}
            for images, truth in _photographed(dataset, folder):
                noisy = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
                for name, rule in RULES.items():
                    found[name].append(_kept_and_iou(rule(noisy), truth))
            for name, figures in found.items():
                kept, iou = torch.cat(figures, 1)
                shown = {"coat": coats, "noise": f"{255 * noise:g}/255", "mask": name, "kept": _spread(kept)}
                yield shown | {"least": float(kept.min()), "IoU": _spread(iou)}


def end_to_end(folder: Path) -> Iterator[dict[str, object]]:
    """GS-LRM's renders of all six views against the photographs: of generated views, and of the photographs as from a
    stage 1 without fault, each with what is whiter than 0.9 cut away, and as they are.
    """
    views, gaussians = (_model(folder, name) for name in STEPS)
    mice = ViewSets(_mice(folder, pale=True), "test", views.recipe.data, folder)
    _, inputs = held_out_views(len(views.model.rig.cameras.c2w), gaussians.recipe.data)
    rig = views.model.rig.cameras.to(torch.float32)
    found: dict[tuple[str, str], list[Tensor]] = {}
    with torch.inference_mode():
        for number in range(len(mice.scenes)):
            batch = mice.evaluation_batch(number).to("cpu")
            assert batch.masks is not None
            made = views.model(batch.images[:, 0], [number])[0].clamp(0, 1)
            for source, pictures, cameras in (
                ("generated", made, rig),
                ("photographed", batch.images[0], batch.cameras[0]),
            ):
                mask = old_masks(pictures)
                for how, given in (("cut away", pictures * mask + (1 - mask)), ("as they are", pictures)):
                    scored = _scored(gaussians.model, given, cameras, list(inputs), batch.images[0], batch.masks[0])
                    found.setdefault((source, how), []).append(scored)
    for (source, how), figures in found.items():
        kept, iou, psnr = torch.stack(figures, 1)
        shown: dict[str, object] = {"views": source, "given": how, "drawn": _spread(kept), "IoU": _spread(iou)}
        if how == "as they are":
            before = torch.stack(found[source, "cut away"], 1)[1]
            shown["mice of better IoU"] = int((iou > before).sum())
        yield shown | {"psnr_fg, dB": _spread(psnr, 2)}


def _scored(
    model: Any, pictures: Tensor, cameras: Cameras, inputs: list[int], true: Tensor, masks: Tensor
) -> Float[Tensor, " 3"]:
    """Share of the animal that is drawn, IoU and psnr_fg, means over the six views."""
    drawn = render(model(pictures[None, inputs], cameras[inputs][None]), cameras[None])
    kept, iou = _kept_and_iou(drawn.alphas[0], masks).mean(1)
    return torch.stack([kept, iou, metrics.psnr_fg(drawn.images[0], true, masks).mean()])


def _kept_and_iou(found: Tensor, truth: Tensor) -> Float[Tensor, "2 view"]:
    have, wanted = found > FOREGROUND, truth > FOREGROUND
    kept = (have & wanted).sum((1, 2, 3)) / wanted.sum((1, 2, 3))
    return torch.stack([kept, metrics.mask_iou(found, truth)])


def _spread(values: Tensor, digits: int = 3) -> str:
    low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# ---------------------------------------------------------------- mice and models


def _mice(folder: Path, *, pale: bool) -> Dataset:
    """The mice that are judged, all in one split."""
    name = "pale" if pale else "every"
    mice = open_dataset(write_mice(folder / name, scenes=JUDGED, size=SIZE, rig=RIG, pale=pale))
    return replace(mice, manifest=replace(mice.manifest, splits={"test": tuple(sorted(mice.scenes))}))


def _photographed(dataset: Dataset, cache: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """The views of each mouse on white, and its true masks."""
    loader = Loader(dataset, "test", load_recipe("gslrm_tiny", [f"data.root={dataset.root}"]).data, cache)
    for number in range(len(loader.scenes)):
        batch = loader.evaluation_batch(number).to("cpu")
        assert batch.masks is not None
        yield batch.images[0], batch.masks[0]


def _model(folder: Path, name: str) -> Any:
    """The checkpoint of this name, trained where it is missing."""
    if not (folder / name).is_dir():
        recipe, steps = STEPS[name]
        mice = write_mice(folder / "training", scenes=TRAINED_ON, size=SIZE, rig=RIG, pale=True, seed=1)
        trained = load_recipe(recipe, [f"data.root={mice}", f"train.max_steps={steps}"])
        *_, last = train(trained, folder / f"{name}-training", cache=folder)
        assert last.checkpoint is not None
        checkpoint.strip_training(last.checkpoint, folder / name)
    return kinds.load(folder / name)


if __name__ == "__main__":
    main()
