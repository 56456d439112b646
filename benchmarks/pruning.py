"""`python -m benchmarks.pruning CHECKPOINT DATASET`: what rules that leave Gaussians out do to held-out views.

Every scene of `val` and `test`; differences are against all Gaussians of the same scene, mean ± spread over scenes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.tables import table
from pipeline import kinds, metrics
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader
from pipeline.data.scenes import open_dataset
from pipeline.gaussians import Gaussians
from pipeline.pruning import PRUNINGS, Pruning
from pipeline.splatting.rendering import render

RULES = {
    "all": PRUNINGS["none"],
    "opacity > 1/255": Pruning(1 / 255),
    "opacity > 0.01": Pruning(0.01),
    "opacity > 0.02": Pruning(0.02),
    "opacity > 0.04": Pruning(0.04),
    "opacity > 0.1": Pruning(0.1),
    "scale < 0.1 up to z = 0": Pruning(None, max_scale=0.1, max_scale_up_to_z=0.0),
    "no floaters at 0.6": Pruning(None, floater=0.6),
    "box 0.91, 0.91, 1": Pruning(None, box=(0.91, 0.91, 1.0)),
    "facelift": PRUNINGS["facelift"],
}
FIGURES = ("psnr", "psnr_fg", "mask_iou")


def rows(folder: Path, dataset: Path) -> list[dict[str, Any]]:
    """One row per rule."""
    loaded, opened = kinds.load(folder, kind="gslrm"), open_dataset(dataset, verify=False)
    found: dict[str, list[list[float]]] = {name: [] for name in RULES}
    with tempfile.TemporaryDirectory() as cache, torch.no_grad():
        for split in ("val", "test"):
            loader = Loader(opened, split, loaded.recipe.data, Path(cache))
            for index in range(len(loader.scenes)):
                batch = loader.evaluation_batch(index).to("cpu")
                gaussians = loaded.model(batch.input_images, batch.input_cameras)[0]
                for name, rule in RULES.items():
                    kept = rule(gaussians)
                    found[name].append([kept.count / gaussians.count, *_figures(kept, batch)])
    return [_row(name, found[name], found["all"]) for name in RULES]


def _figures(gaussians: Gaussians, batch: Batch) -> list[float]:
    """PSNR, that of the foreground, and the IoU of the silhouette in held-out views."""
    out = slice(batch.num_input_views, None)
    drawn = render(Gaussians(*(value[None] for value in vars(gaussians).values())), batch.cameras)
    images, targets, masks = drawn.images[0, out], batch.images[0, out], batch.masks[0, out]  # type: ignore[index]
    values = metrics.psnr(images, targets), metrics.psnr_fg(images, targets, masks)
    return [float(value.nanmean()) for value in (*values, metrics.mask_iou(drawn.alphas[0, out], masks))]


def _row(name: str, scenes: list[list[float]], whole: list[list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"rule": name, "scenes": len(scenes), "kept": f"{mean(scene[0] for scene in scenes):.1%}"}
    for place, figure in enumerate(FIGURES, start=1):
        off = [one[place] - every[place] for one, every in zip(scenes, whole, strict=True)]
        digits = 3 if figure == "mask_iou" else 2
        row[figure] = f"{mean(off):+.{digits}f} ± {stdev(off):.{digits}f}"
    return row


if __name__ == "__main__":
    print(table(rows(Path(sys.argv[1]), Path(sys.argv[2]))))
