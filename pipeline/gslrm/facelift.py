"""FaceLift's GS-LRM files: a `.pt` becomes a checkpoint folder, and a checkpoint becomes a `.pt`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from pipeline import checkpoint
from pipeline.errors import CheckpointError
from pipeline.files import whole
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import GSLRMConfig, Recipe, gslrm_parts
from pipeline.recipes import load_recipe


def import_facelift(path: Path, folder: Path, recipe: Recipe | None = None) -> Path:
    """Turn a FaceLift GS-LRM `.pt` into a checkpoint folder of `recipe` (default: the released size).

    Raises CheckpointError for a recipe of another kind, and for tensors that are not those of its network.
    """
    recipe = recipe or load_recipe("gslrm")
    if not isinstance(recipe.model, GSLRMConfig):
        raise CheckpointError(f"{path}: expected a recipe of gslrm, which a .pt holds, got {recipe.name} — name one.")
    model = GSLRM(recipe.model)
    checkpoint.load_weights(model, path)
    return checkpoint.save(folder, model, recipe, step=0)


def export_facelift(folder: Path, path: Path) -> Path:
    """Write a checkpoint's core tensors as a `.pt` that FaceLift reads under `model`. Raises CheckpointError."""
    info = checkpoint.inspect(folder)
    info.expect_kind("gslrm")
    model = GSLRM(gslrm_parts(info.recipe)[0])
    checkpoint.load_weights(model, folder)
    with whole(path) as temporary:
        tensors = model.state_dict()
        torch.save({"model": tensors, "fwdbwd_pass_step": 0, "param_update_step": info.step}, temporary)
    return path


@lru_cache(maxsize=16)
def check_weights(config: GSLRMConfig, source: str | Path, changed: int) -> int:  # noqa: ARG001
    """Refuse weights that do not fit the network, without building it; how many tensors it has.

    A sweep's trials share the answer. changed: when the file was, as a new one is read again. Raises CheckpointError.
    """
    with torch.device("meta"):
        model = GSLRM(config)
    checkpoint.expect_weights(model, Path(source), checkpoint.read_tensors(source))
    return len(model.state_dict())
