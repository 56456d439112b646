"""Whether a fine-tune beats the base, and the base a start from nothing: `python -m benchmarks.fine_tunes WORK`.

On the demo's strain of mice, which the base has not seen, with a quarter more steps than a trial there: figures of the
24 mice that no training met, the same for all. Three seeds each, of the batches and of weights from nothing. WORK: a
folder for mice and checkpoints; the same command goes on where it was stopped.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.bases import train
from benchmarks.tables import table
from pipeline import bases, kinds
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe, override
from pipeline.training.fit import newest

NAME, SEEDS = "gslrm_small", (0, 1, 2)
BUDGET = ("data.min_input_views=null", "train.max_steps=400", "train.validate_every=400", "train.max_val_scenes=1")
MASKED = ("loss.masked=true", "loss.background=0.5")  # as the demo's sweep has it
STARTS = {
    "nothing, trained": ("train.init_from=null", "optim.lr=5e-4", *MASKED),
    "base, trained": ("optim.lr=1.5e-4", *MASKED),
    "base, trained, losses of the whole frame": ("optim.lr=1.5e-4",),
}
SHOWN = ("psnr", "psnr_fg", "mask_iou")


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    mice = open_dataset(
        write_mice(folder / "calico", scenes=240, size=64, rig="mouse_centred", coat="calico"), verify=False
    )
    rows = [_row("base, as it is", 0, [_score(bases.FOLDER / NAME, mice, folder)])]
    for start, changes in STARTS.items():
        found = []
        for seed in SEEDS:
            recipe = load_recipe(NAME, [*BUDGET, *changes, f"train.seed={seed}", f"data.root={mice.root}"])
            found.append(_score(_trained(recipe, folder / f"{recipe.fingerprint}-{seed}"), mice, folder))
        rows.append(_row(start, recipe.train.max_steps, found))
    print(table(rows))


def _trained(recipe: Recipe, out: Path) -> Path:
    train(recipe, out)
    last = newest(out)
    assert last is not None
    return last


def _score(folder: Path, mice: Dataset, work: Path) -> dict[str, float]:
    """Means over the test mice, each with five inputs and one view held out, in fp32."""
    loaded = kinds.load(folder)
    recipe = override(loaded.recipe, {"train.precision": "fp32"})
    metrics = kinds.kind_of(recipe).evaluate(loaded.model, recipe, mice, "test", work / "cache").metrics
    return {name: metrics[f"test/{name}"] for name in SHOWN}


def _row(start: str, steps: int, found: Sequence[dict[str, float]]) -> dict[str, object]:
    """Means over seeds, with the least and the most."""
    row: dict[str, object] = {"start": start, "steps": steps, "seeds": len(found)}
    for name in SHOWN:
        values = [one[name] for one in found]
        spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        row[name] = f"{statistics.mean(values):.3f}{spread}"
    return row


if __name__ == "__main__":
    main()
