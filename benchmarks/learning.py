"""What `mvdiffusion_tiny` learns of mice it never met: `python -m benchmarks.learning MICE [OUT]`, and `… --orders`.

MICE: a folder by `mouselift data mice MICE --scenes 2000`. Without an option: the recipe as it is committed, against
the mean training image of each slot, and a contact sheet. With `--orders`: which view stands in which slot, three
seeds each, 300 steps each. The mice's rig is the real one, whose files are once round 0, 5, 3, 1, 2, 4.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline import checkpoint, kinds, metrics
from pipeline.data import pictures
from pipeline.data.rings import ring_order
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.mvdiffusion.deployed import ViewGenerator
from pipeline.mvdiffusion.evaluate import evaluate, generated_masks
from pipeline.mvdiffusion.views import ViewSets
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe
from pipeline.training.loop import train

FIGURES = ("psnr_fg", "mask_iou", "hull_iou")
ORDERS, SEEDS = ("fixed", "ring", "ring_random"), (0, 1, 2)
STEPS, JUDGED = 300, 60  # of training, and the mice of the test split that the orders are compared on
SHOWN = (0, 7, 14, 21)  # of the test split, chosen before any of them was looked at


def main() -> None:
    torch.set_num_threads(1)
    mice, *out = (Path(word) for word in sys.argv[1:] if not word.startswith("--"))
    with tempfile.TemporaryDirectory() as folder:
        rows = orders(mice, Path(folder)) if "--orders" in sys.argv else committed(mice, Path(folder), *out)
        for row in rows:
            print(json.dumps(row), flush=True)


def committed(mice: Path, folder: Path, out: Path | None = None) -> Iterator[dict[str, object]]:
    """The recipe's figures on val and test after those of the mean images; out: where a contact sheet goes."""
    recipe, dataset = load_recipe("mvdiffusion_tiny", [f"data.root={mice}"]), open_dataset(mice)
    model, seconds = _trained(recipe, folder)
    if out is not None:
        sheet(model, recipe, dataset, folder).save(out)
    for split in ("val", "test"):
        yield {"of": f"mean image of each slot, {split}", **mean_images(recipe, dataset, split, folder)}
        yield {"of": f"{recipe.name}, {seconds:.0f} CPU s, {split}", **_figures(model, recipe, dataset, split, folder)}


def orders(mice: Path, folder: Path) -> Iterator[dict[str, object]]:
    """A row per order of the views and seed, and then one per order: mean and standard deviation over seeds.

    `any` are the figures from each camera in turn as the reference, where an order says what its slots are then.
    """
    dataset, rows = open_dataset(mice), []
    for seed in SEEDS:
        for order in ORDERS:
            words = [f"data.root={mice}", f"data.view_sampling={order}", f"train.seed={seed}"]
            recipe = load_recipe("mvdiffusion_tiny", [*words, f"train.max_steps={STEPS}"])
            model, _ = _trained(recipe, folder)
            row = _figures(model, recipe, dataset, "test", folder, JUDGED)
            if order != "fixed":
                row |= _from_anywhere(model, recipe, dataset, folder)
            rows.append((order, row))
            yield {"order": order, "seed": seed, **row}
    for order in ORDERS:
        own = [row for name, row in rows if name == order]
        yield {"order": order} | {
            name: [statistics.mean(row[name] for row in own), statistics.stdev(row[name] for row in own)]
            for name in own[0]
        }


def mean_images(recipe: Recipe, dataset: Dataset, split: str, cache: Path) -> dict[str, float]:
    """Figures of a prediction that ignores the reference: per slot, the mean of the training images."""
    loader = ViewSets(dataset, "train", recipe.data, cache)
    seen = (loader.evaluation_batch(number).to("cpu").images[0] for number in range(len(loader.scenes)))
    mean = sum(seen, start=torch.zeros(())) / len(loader.scenes)
    scored = ViewSets(dataset, split, recipe.data, cache)
    found = [_of_mean(mean, scored, number) for number in range(len(scored.scenes))]
    return dict(zip(FIGURES, torch.stack(found).mean(0).tolist(), strict=False))


def sheet(model: ViewGenerator, recipe: Recipe, dataset: Dataset, cache: Path) -> Image.Image:
    """Mice of the test split below each other: reference | six generated | six photographed."""
    loader = ViewSets(dataset, "test", recipe.data, cache)
    rows = []
    for number in SHOWN:
        true = loader.evaluation_batch(number).to("cpu").images[0]
        gap = torch.ones_like(true[:1, :, :, : true.shape[-1] // 4])
        strip = [true[:1], gap, model(true[:1], [number])[0], gap, true]
        rows.append(torch.cat([view for part in strip for view in part], dim=-1)[None])
    return Image.fromarray(pictures.sheet(torch.stack(list(rows))))


def _of_mean(mean: Tensor, loader: ViewSets, number: int) -> Float[Tensor, " figure"]:
    batch = loader.evaluation_batch(number).to("cpu")
    assert batch.masks is not None
    true, masks = batch.images[0], batch.masks[0]
    found = metrics.psnr_fg(mean, true, masks), metrics.mask_iou(generated_masks(mean), masks)
    return torch.stack([values[1:].nanmean() for values in found])


def _trained(recipe: Recipe, cache: Path) -> tuple[ViewGenerator, float]:
    """The model of the last step, and the CPU seconds that it took."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        *_, last = train(recipe, Path(folder), cache=cache)
        assert last.checkpoint is not None
        model = kinds.load(checkpoint.strip_training(last.checkpoint, Path(folder) / "released")).model
    assert isinstance(model, ViewGenerator)
    return model, time.process_time() - started


def _figures(
    model: ViewGenerator, recipe: Recipe, dataset: Dataset, split: str, cache: Path, limit: int | None = None
) -> dict[str, float]:
    found = evaluate(model, recipe, dataset, split, cache, limit).metrics
    return {name: found[f"{split}/{name}"] for name in FIGURES}


def _from_anywhere(model: ViewGenerator, recipe: Recipe, dataset: Dataset, cache: Path) -> dict[str, float]:
    ring = ring_order(dataset.split("test")[0].cameras)
    turned = [(*ring[first:], *ring[:first]) for first in range(len(ring))]
    found = []
    for order in turned:
        seen = replace(dataset, manifest=replace(dataset.manifest, view_order=order))
        found.append(_figures(model, recipe, seen, "test", cache, JUDGED))
    return {f"any {name}": statistics.mean(each[name] for each in found) for name in FIGURES}


if __name__ == "__main__":
    main()
