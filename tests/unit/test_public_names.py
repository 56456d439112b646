"""The names that scripts outside this repository rely on: functions and classes, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = {
    "pipeline": ("load_recipe", "Cameras", "Gaussians", "GSLRM", "render", "Recipe"),
    "pipeline.losses": ("mse", "ssim", "background", "perceptual", "pointsdist"),
    "pipeline.mvdiffusion": ("MVDiffusionPipeline", "MultiViewUNet"),
}
# Each statement comes first once: the others follow in their order.
BEFORE = {
    "pipeline": ("import pipeline.rendering", "import pipeline.gslrm.model", "from pipeline import render, GSLRM"),
    "pipeline.losses": ("import pipeline.gslrm.stage",),
    "pipeline.mvdiffusion": ("import pipeline.mvdiffusion.stage", "from pipeline.mvdiffusion import MultiViewUNet"),
}
ORDERS = [(door, (*some[i:], *some[:i])) for door, some in BEFORE.items() for i in range(len(some))]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(("door", "order"), ORDERS, ids=[f"{door}: {', '.join(order)}" for door, order in ORDERS])
def test_the_promised_names_are_there_after_any_imports(door: str, order: tuple[str, ...]) -> None:
    names = PROMISED[door]
    lines = [*order, f"from {door} import {', '.join(names)}", f"print(all(map(callable, ({', '.join(names)}))))"]
    assert run("\n".join(lines)) == "True"


@pytest.mark.parametrize("door", ["pipeline", "pipeline.mvdiffusion"])
def test_no_module_has_the_name_of_what_is_promised(door: str) -> None:
    folder = ROOT / door.replace(".", "/")
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & set(PROMISED[door]) == set()
