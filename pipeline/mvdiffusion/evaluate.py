"""Generated views against photographed ones: per slot, per role, and whether the six agree on one shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import binary_dilation
from torch import Tensor, nn

from pipeline import metrics
from pipeline.cameras import Cameras
from pipeline.data.foreground import RULE, soft_mask
from pipeline.data.gate.geometry import reach_of, silhouette, triangulate, visual_hull
from pipeline.data.pictures import pixels_of, sheet
from pipeline.data.scenes import Dataset
from pipeline.gslrm.evaluate import means_over_scenes
from pipeline.losses import FOREGROUND
from pipeline.metrics import Protocol
from pipeline.mvdiffusion.deployed import ViewGenerator
from pipeline.mvdiffusion.views import ViewSets
from pipeline.precision import evaluated_in
from pipeline.progress import Tell, silent
from pipeline.recipe import Recipe
from pipeline.stages import Evaluation
from pipeline.training.processes import ALONE, World

MAX_FRAMED = 0.5  # of the picture's edge: a foreground that covers more of it is no silhouette
MIN_AGREEMENT = 0.01  # of silhouettes, below which foreground PSNR loses no more than 20 dB
_TOUCHED = 0.1  # opacity beside a generated outline, where a photographed one is antialiased
_OBJECTS = 4  # generated at a time
_SHOWN = 4

PerScene = dict[str, float | str]


@dataclass(frozen=True)
class GeneratedEvaluation(Evaluation):
    """The same with the first scenes: photographed above generated views."""

    picture: UInt8[np.ndarray, "height width 3"]


def evaluate(
    model: ViewGenerator,
    recipe: Recipe,
    dataset: Dataset,
    split: str,
    cache: Path,
    limit: int | None = None,
    lpips: nn.Module | None = None,
    world: World = ALONE,
    tell: Tell = silent,
) -> GeneratedEvaluation:
    """Score slots 1… (held out) and slot 0 (the input again) of a split, on white, by the model's guidance. The UNet
    computes as the recipe's precision has it on this device, everything else in float32.

    The further guidances of `sampling.compared` stand under `guidance_<g>/`. `hull_iou` needs no photograph: the share
    of each generated silhouette that the visual hull of all six covers, under the scene's own cameras;
    `consistent_psnr_fg` is psnr_fg + 10·log10(hull_iou) dB, so that neither is had at the other's cost.
    world: the processes that share the scenes. tell: hears of each scene. Raises DataError for scenes without a view
    for each slot.
    """
    loader = ViewSets(dataset, split, recipe.data, cache)
    count = min(len(loader.scenes), limit or len(loader.scenes))
    device = next(model.parameters()).device
    precision = evaluated_in(recipe.train.precision, device)
    guidances = dict.fromkeys((model.sampling.guidance, *model.sampling.compared))
    rows: list[PerScene] = []
    shown: list[Tensor] = []
    mine = world.dealt(range(count))
    tell(f"{split} scenes", 0, len(mine))
    for start in range(0, len(mine), _OBJECTS):
        numbers = mine[start : start + _OBJECTS]
        batches = [loader.evaluation_batch(number).to(device) for number in numbers]
        targets = torch.cat([batch.images for batch in batches])
        generated = {g: model(targets[:, 0], numbers, g, precision=precision) for g in guidances}
        for i, batch in enumerate(batches):
            masks = None if batch.masks is None else batch.masks[0]
            found = {
                g: _figures(views[i], targets[i], masks, batch.cameras[0], lpips) for g, views in generated.items()
            }
            own, *others = found.values()
            row: PerScene = {"scene": batch.scenes[0], **own}
            for guidance, figures in zip(list(found)[1:], others, strict=True):
                row |= {f"guidance_{guidance:g}/{name}": value for name, value in figures.items() if "slot" not in name}
            rows.append(row)
        shown += [torch.stack([t, g]) for t, g in zip(targets, generated[model.sampling.guidance], strict=True)]
        tell(f"{split} scenes", start + len(numbers), len(mine))
    rows = world.collected(rows, count)
    protocol = Protocol(
        resolution=recipe.data.image_size,
        input_views=loader.inputs,
        target_views=loader.held_out,
        split_digest=f"{split}:{count}:{dataset.split_digest(split)[:16]}",
        precision=precision,
        mask_rule=f"alpha > {FOREGROUND}; generated: {RULE}",
    )
    pairs = torch.cat(shown[:_SHOWN])
    titles = ["input 0", *(f"view {view}" for view in range(1, pairs.shape[1]))]
    picture = sheet(pairs, names=["true", "generated"] * (len(pairs) // 2), titles=titles)
    return GeneratedEvaluation(means_over_scenes(rows, split), protocol, rows, picture)


def generated_masks(images: Float[Tensor, "view 3 height width"]) -> Float[Tensor, "view 1 height width"]:
    """Alpha of pictures on white, by `foreground.RULE`."""
    masks = np.stack([soft_mask(picture) for picture in pixels_of(images)])
    return torch.from_numpy(masks)[:, None].to(images.device).float() / 255


def hull_iou(alphas: Float[Tensor, "view 1 height width"], cameras: Cameras) -> float:
    """How far the masks of six views agree on one shape, 0…1: the mean over views of the share of each that the visual
    hull of all covers. 0 where a view shows nothing, or nothing but foreground.
    """
    masks = alphas[:, 0].cpu().numpy() > FOREGROUND
    framed = np.stack([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], -1)
    if framed.mean((1, 2)).max() > MAX_FRAMED:
        return 0.0
    outlines = [silhouette(mask.astype(np.float64)) for mask in masks]
    known = [outline for outline in outlines if outline is not None]
    if len(known) < len(outlines):
        return 0.0
    cameras = cameras.to("cpu").to(torch.float64)
    centres = torch.stack([outline.centre for outline in known])[:, None]
    centre = triangulate(cameras, centres, robust=masks.shape[-1] / 50)[0][0]
    touched = np.stack([np.where(mask, 1.0, _TOUCHED * binary_dilation(mask)) for mask in masks])
    hull = visual_hull(torch.from_numpy(touched), cameras, centre, reach_of(known, cameras, centre))
    return float(hull.iou.mean())


def _figures(
    generated: Tensor, target: Tensor, masks: Tensor | None, cameras: Cameras, lpips: nn.Module | None
) -> dict[str, float]:
    per_view, alphas = metrics.of_pictures(generated, target, lpips), generated_masks(generated)
    if masks is not None:
        per_view["psnr_fg"] = metrics.psnr_fg(generated, target, masks)
        per_view["mask_iou"] = metrics.mask_iou(alphas, masks)
    figures = {name: float(values[1:].nanmean()) for name, values in per_view.items()}
    figures |= {f"input/{name}": float(values[0]) for name, values in per_view.items()}
    for slot in range(1, len(target)):
        figures |= {f"slot_{slot}/{name}": float(v[slot]) for name, v in per_view.items() if name != "white_psnr"}
    agreement = hull_iou(alphas, cameras)
    figures["hull_iou"] = agreement
    if "psnr_fg" in figures:
        figures["consistent_psnr_fg"] = figures["psnr_fg"] + 10 * math.log10(max(agreement, MIN_AGREEMENT))
    return figures
