"""Makes the networks of `pipeline/bases` from nothing: `python -m benchmarks.bases WORK [KEY=VALUE …]`.

WORK: a folder for procedural mice and checkpoints. The same command goes on where it was stopped. KEY=VALUE: of the
recipe, to try something else; that network stays in WORK. Figures are of mice of another seed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.tables import table
from pipeline import bases, checkpoint, kinds
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from pipeline.licence import LICENCE_FILE, write_licence
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe, override
from pipeline.training.fit import fit, newest

NAME = "gslrm_small"
SIZE = 64
RIGS = {"mouse_centred": 4000, "facelift_six": 1200}  # scenes of each, for training and validation
SEED, UNSEEN_SEED, UNSEEN = 1, 2, 60  # of the mice that are learned, and of the mice that figures are of
LICENCE = "Apache-2.0, as mouselift itself: trained on its procedural mice alone"
FROM_NOTHING = ("train.init_from=null", "train.precision=bf16")  # bf16 is a fifth faster where a CPU computes in it
SHOWN = ("psnr", "psnr_fg", "ssim", "mask_iou")


def main() -> None:
    torch.set_num_threads(1)
    work, *changes = sys.argv[1:]
    folder = Path(work)
    recipe = load_recipe(NAME, [*FROM_NOTHING, *changes, f"data.root={mice(folder / 'mice')}"])
    out = folder / ("-".join([NAME, *(change.replace("/", "_") for change in changes)]))
    train(recipe, out)
    target = out / "base" if changes else bases.FOLDER / NAME
    release(newest(out), target)
    print(table(figures(target, folder)))


def mice(folder: Path) -> Path:
    """Mice of both rigs, listed as one dataset."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for rig, scenes in RIGS.items():
        dataset = open_dataset(write_mice(folder / rig, scenes=scenes, size=SIZE, rig=rig, seed=SEED), verify=False)
        for split in ("train", "val", "test"):
            listed = lists["train" if split == "train" else "val"]
            listed += [str((folder / rig / name).resolve()) for name in dataset.manifest.splits[split]]
    for split, scenes in lists.items():
        (folder / f"mice_{split}.txt").write_text("\n".join(scenes) + "\n", encoding="utf-8")
    return folder


def train(recipe: Recipe, out: Path) -> None:
    """Train to the recipe's last step, from the newest checkpoint; a line for each validation."""
    last = newest(out)
    if last is not None and checkpoint.inspect(last).step >= recipe.train.max_steps:
        return
    began = time.perf_counter()
    for report in fit(recipe, out, "cpu", {}):
        found = {name: value for name, value in report.metrics.items() if name in {f"val/{one}" for one in SHOWN}}
        if found:
            said = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"step {report.step}, {time.perf_counter() - began:.0f} s: {said}", flush=True)


def release(trained: Path | None, target: Path) -> None:
    """The weights in fp16, without training state and without the paths of this machine."""
    assert trained is not None
    info = checkpoint.inspect(trained)
    weights = {name: tensor.half() for name, tensor in checkpoint.read_tensors(trained).items()}
    recipe = override(info.recipe, {"data.root": None})
    licence = {LICENCE_FILE: lambda path: write_licence(LICENCE, path)}
    checkpoint.write(target, checkpoint.Content(weights, recipe, info.step, info.metrics, attachments=licence))


def figures(base: Path, folder: Path) -> list[dict[str, object]]:
    """Means over unseen mice of each rig, with their standard deviations over mice."""
    loaded, rows = kinds.load(base), []
    recipe = override(loaded.recipe, {"train.precision": "fp32"})
    for rig in RIGS:
        unseen = write_mice(folder / f"unseen-{rig}", scenes=UNSEEN, size=SIZE, rig=rig, seed=UNSEEN_SEED)
        # The largest split: none of these mice was trained on.
        found = kinds.kind_of(recipe).evaluate(loaded.model, recipe, open_dataset(unseen), "train", folder / "cache")
        rows.append({"rig": rig, "mice": len(found.scenes)} | _spread(found.scenes))
    return rows


def _spread(scenes: Sequence[dict[str, float | str]]) -> dict[str, str]:
    values = {name: torch.tensor([float(row[name]) for row in scenes]) for name in SHOWN}
    return {name: f"{some.mean():.3f} ± {some.std():.3f}" for name, some in values.items()}


if __name__ == "__main__":
    main()
