"""Makes the networks of `pipeline/bases` from nothing: `python -m benchmarks.bases WORK [NAME …]`, all without a NAME.

WORK: a folder for procedural mice and checkpoints. The same command goes on where it was stopped. Figures are of mice
of another seed.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.tables import table
from pipeline import bases, checkpoint, kinds
from pipeline.data.mice.looks import BODIES
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from pipeline.licence import LICENCE_FILE, write_licence
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe, override
from pipeline.training.fit import fit, newest

SIZE = 64
RIGS = {"mouse_centred": 4000, "facelift_six": 1200}  # scenes of each, for training and validation
OTHERS = {"mouse_centred": 250, "facelift_six": 75}  # of each other body, for training alone
SEED, UNSEEN_SEED, UNSEEN = 1, 2, 60  # of the mice that are learned, and of the mice that figures are of
OTHERS_SEED = 11
LICENCE = "Apache-2.0, as mouselift itself: trained on its procedural mice alone"
LAYERS = "transformer_layers."
SHOWN = ("psnr", "psnr_fg", "ssim", "mask_iou", "hull_iou")
# What each base goes through, one after the other: a name, the rigs of its mice, and what differs from its recipe.
# GS-LRM learns from five views before it is shown any number of them; then its losses are masked, so that the
# animal's own pixels count more than white ones; in the end it gets twice the layers, and is shown other bodies, too.
# bf16 is a fifth faster there, where a CPU computes in it.
Phase = tuple[str, tuple[str, ...], tuple[str, ...]]
DEEPER = "deeper"  # the phase that begins with twice the layers and has other bodies
_SHALLOW = "model.num_layers=4"
_MASKED = ("loss.masked=true", "loss.background=1.0", "data.min_input_views=1", "train.max_steps=30000",
           "train.validate_every=3000")  # fmt: skip
_BF16 = ("train.precision=bf16", "optim.lr=5e-4", "optim.warmup_steps=200")
PHASES: Mapping[str, tuple[Phase, ...]] = {
    "gslrm_small": (
        ("five", tuple(RIGS), (*_BF16, _SHALLOW, "data.min_input_views=null", "train.max_steps=19500",
                               "train.validate_every=1500")),
        ("any", tuple(RIGS), (*_BF16, _SHALLOW, "data.min_input_views=1", "train.max_steps=60000",
                              "train.validate_every=3000")),
        ("masked", tuple(RIGS), (*_BF16, _SHALLOW, *_MASKED)),
        ("masked-again", tuple(RIGS), (*_BF16, _SHALLOW, *_MASKED, "train.seed=1")),  # other scenes and views in turn
        (DEEPER, tuple(RIGS), (*_BF16, *_MASKED, "train.seed=2", "train.max_steps=40000")),
    ),
    "mvdiffusion_small": (
        ("one", ("mouse_centred",), ("optim.lr=3e-3", "optim.warmup_steps=50", "train.max_steps=12000",
                                     "train.validate_every=2000")),
    ),
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    work, *names = sys.argv[1:]
    for name in names or PHASES:
        print(table(make(name, Path(work))))


def make(name: str, folder: Path) -> list[dict[str, object]]:
    """Train one base through its phases and put it into the package; its figures."""
    start: Path | None = None
    for phase, rigs, changes in PHASES[name]:
        if phase == DEEPER:
            assert start is not None
            start = deeper(start, folder / f"{name}-{phase}-start")
        init_from = f"train.init_from={'null' if start is None else start}"
        data = mice(folder / "mice", rigs, with_others=phase == DEEPER)
        recipe = load_recipe(name, [init_from, *changes, f"data.root={data}"])
        out = folder / f"{name}-{phase}"
        train(recipe, out)
        start = newest(out)
    assert start is not None
    release(start, bases.FOLDER / name)
    return figures(start, PHASES[name][-1][1], folder)


def deeper(start: Path, target: Path) -> Path:
    """A GS-LRM with twice the layers that computes the same: behind each layer a copy that adds nothing yet."""
    info, grown = checkpoint.inspect(start), dict[str, torch.Tensor]()
    for name, tensor in checkpoint.read_tensors(start).items():
        if not name.startswith(LAYERS):
            grown[name] = tensor
            continue
        number, _, rest = name.removeprefix(LAYERS).partition(".")
        adds = rest.startswith(("attn.fc.", "mlp.mlp.2."))
        grown[f"{LAYERS}{2 * int(number)}.{rest}"] = tensor
        grown[f"{LAYERS}{2 * int(number) + 1}.{rest}"] = torch.zeros_like(tensor) if adds else tensor.clone()
    layers = 2 * info.recipe.params["model.num_layers"]
    recipe = override(info.recipe, {"model.num_layers": layers, "train.init_from": None})
    return checkpoint.write(target, checkpoint.Content(grown, recipe, 0, {}))


def mice(folder: Path, rigs: Sequence[str], with_others: bool = False) -> Path:
    """Mice of one rig, or of several that are listed as one dataset; with other bodies among those to train on."""
    if len(rigs) == 1:
        return write_mice(folder / rigs[0], scenes=RIGS[rigs[0]], size=SIZE, rig=rigs[0], seed=SEED)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for rig in rigs:
        dataset = open_dataset(write_mice(folder / rig, scenes=RIGS[rig], size=SIZE, rig=rig, seed=SEED), verify=False)
        for split in ("train", "val", "test"):
            listed = lists["train" if split == "train" else "val"]
            listed += [str((folder / rig / name).resolve()) for name in dataset.manifest.splits[split]]
    if with_others:
        lists["train"] += _others(folder)
    listed_in = folder / "with-others" if with_others else folder
    listed_in.mkdir(exist_ok=True)
    for split, scenes in lists.items():
        (listed_in / f"mice_{split}.txt").write_text("\n".join(scenes) + "\n", encoding="utf-8")
    return listed_in


def _others(folder: Path) -> list[str]:
    """Scenes of every other body, by every rig."""
    found: list[str] = []
    for body, (rig, scenes) in itertools.product([body for body in BODIES if body != "mouse"], OTHERS.items()):
        place = folder / f"{body}-{rig}"
        root = write_mice(place, scenes=scenes, size=SIZE, rig=rig, seed=OTHERS_SEED, body=body)
        splits = open_dataset(root, verify=False).manifest.splits
        found += [str((place / name).resolve()) for split in ("train", "test") for name in splits[split]]
    return found


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


def release(trained: Path, target: Path) -> None:
    """The weights in fp16, without training state and without the paths of this machine."""
    info = checkpoint.inspect(trained)
    weights = {name: tensor.half() for name, tensor in checkpoint.read_tensors(trained).items()}
    recipe = override(info.recipe, {"data.root": None, "train.init_from": None})
    licence = {LICENCE_FILE: lambda path: write_licence(LICENCE, path)}
    checkpoint.write(target, checkpoint.Content(weights, recipe, info.step, info.metrics, attachments=licence))


def figures(trained: Path, rigs: Sequence[str], folder: Path) -> list[dict[str, object]]:
    """Means over unseen animals by rig, body and number of inputs, with their standard deviations over animals."""
    loaded, rows = kinds.load(trained), []
    most, fewest = loaded.recipe.data.num_input_views, loaded.recipe.data.min_input_views
    for inputs in range(most, (fewest or most) - 1, -1):
        recipe = override(loaded.recipe, {"train.precision": "fp32", "data.num_input_views": inputs})
        bodies = list(BODIES) if inputs == most and loaded.recipe.model.kind == "gslrm" else ["mouse"]
        for rig, body in itertools.product(rigs, bodies):
            place = folder / f"unseen-{rig}{'' if body == 'mouse' else f'-{body}'}"
            unseen = write_mice(place, scenes=UNSEEN, size=SIZE, rig=rig, seed=UNSEEN_SEED, body=body)
            dataset, kind = open_dataset(unseen), kinds.kind_of(recipe)
            # The largest split: none of these animals was trained on.
            found = kind.evaluate(loaded.model, recipe, dataset, "train", folder / "cache").scenes
            rows.append({"rig": rig, "body": body, "inputs": inputs, "n": len(found)} | _spread(found))
    return rows


def _spread(scenes: Sequence[dict[str, float | str]]) -> dict[str, str]:
    values = {name: torch.tensor([float(row[name]) for row in scenes]) for name in SHOWN if name in scenes[0]}
    return {name: f"{some.mean():.3f} ± {some.std():.3f}" for name, some in values.items()}


if __name__ == "__main__":
    main()
