"""FaceLift's GS-LRM files: a `.pt` is a model as it is, or becomes a checkpoint folder, and that becomes a `.pt`.

What the network is like is read off the tensors: they have one name each, and shapes that only one network has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import checkpoint
from pipeline.errors import CheckpointError
from pipeline.files import whole
from pipeline.gslrm.model import GSLRM
from pipeline.licence import attached, licence_of
from pipeline.machine import contents
from pipeline.recipe import GSLRMConfig, Recipe, gslrm_parts
from pipeline.recipes import load_recipe, override

_LAYER = re.compile(r"transformer_layers\.(\d+)\.")
_EMBEDDER, _FREE, _HEAD = "patch_embedder.1.weight", "gaussian_position_embeddings", "gaussian_upsampler.linear.weight"
_MARKER = "view_type_embeddings"
_CHANNELS = {"closest_point": 9, "both": 12}  # of a pixel and its ray; Plücker coordinates are as many as the first
_BESIDE_COLOUR = 11  # numbers of a Gaussian that are not its colour
_STEP = "param_update_step"
_PRECISION = "train.precision=fp16"  # of FaceLift's inference; its training was in bfloat16


@dataclass(frozen=True)
class FaceLiftFile:
    """A file of GS-LRM's weights: what network they are, by a recipe, and the optimizer step that they say they are of.

    The tensors of a torch file or of safetensors stay on the disk until they are read.
    """

    path: Path
    recipe: Recipe
    tensors: Mapping[str, Tensor]
    step: int

    def model(self) -> GSLRM:
        """The network with these weights, as `network` gives it."""
        return network(gslrm_parts(self.recipe)[0], self.path, self.tensors)


def read_file(path: Path, overrides: Iterable[str] = (), name: str = "gslrm") -> FaceLiftFile:
    """A FaceLift `.pt`, or a `.safetensors` with its names: of the released size, or of any other.

    overrides: `key=value` of what tensors do not say, such as data.image_size, model.head_dim and model.ray_encoding,
    over the recipe `name`, which is of the released model. Raises CheckpointError for what is no GS-LRM, RecipeError.
    """
    recipe = load_recipe(name, [_PRECISION, *overrides])
    if not isinstance(recipe.model, GSLRMConfig):
        raise CheckpointError(f"{path}: expected a recipe of gslrm, which a .pt holds, got {recipe.name} — name one.")
    tensors = checkpoint.read_tensors(path)
    recipe = override(recipe, read_off(path, tensors, recipe.model))
    with torch.device("meta"):
        network = GSLRM(gslrm_parts(recipe)[0])
    checkpoint.expect_weights(network, path, tensors)
    return FaceLiftFile(path, recipe, tensors, _step_of(path))


def read_off(path: Path, tensors: Mapping[str, Tensor], released: GSLRMConfig) -> dict[str, Any]:
    """A network's sizes under their recipe paths, by the names and shapes of its tensors.

    released: what the tensors do not say. Raises CheckpointError for tensors of another network, and for a width that
    is no multiple of the released head's.
    """
    sizes = [_shape(path, tensors, name) for name in (_EMBEDDER, _FREE, _HEAD)]
    (dim, values), (free, _), (numbers, _) = sizes
    layers = {int(found[1]) for name in tensors if (found := _LAYER.match(name))}
    degree = math.isqrt(max(numbers - _BESIDE_COLOUR, 0) // 3) - 1
    patches = {rays: math.isqrt(values // channels) for rays, channels in _CHANNELS.items()}
    fitting = [rays for rays, side in patches.items() if side and side**2 * _CHANNELS[rays] == values]
    for holds, problem in (
        (fitting, f"{_EMBEDDER} of 9 or 12 values for each pixel of a square patch, got {values}"),
        (_BESIDE_COLOUR + 3 * (degree + 1) ** 2 == numbers, f"{_HEAD} of 14, 23, 38 or 59 rows, got {numbers}"),
        (layers, "tensors named transformer_layers.0.…, got none"),
    ):
        if not holds:
            raise CheckpointError(f"{path}: expected the weights of a GS-LRM, with {problem} — name another file.")
    if dim % released.head_dim:
        raise CheckpointError(
            f"{path}: expected a width that is a multiple of the {released.head_dim} of an attention head, as "
            f"released, got {dim}; tensors do not tell its heads — `mouselift model import {path} --set "
            "model.head_dim=WIDTH`."
        )
    rays = released.ray_encoding if (released.ray_encoding == "both") == (fitting[0] == "both") else fitting[0]
    return {
        "model.dim": dim,
        "model.num_layers": max(layers) + 1,
        "model.patch_size": patches[fitting[0]],
        "model.num_free_gaussians": free,
        "model.sh_degree": degree,
        "model.reference_marker": _MARKER in tensors,
        "model.ray_encoding": rays,
    }


def write_checkpoint(file: FaceLiftFile, folder: Path, licence: str | None = None) -> Path:
    """The file as a checkpoint folder; licence: the file's own, if None."""
    weights = {name: tensor.float() for name, tensor in file.tensors.items()}
    beside = attached(licence or licence_of(file.path))
    return checkpoint.write(folder, checkpoint.Content(weights, file.recipe, file.step, {}, attachments=beside))


def network(config: GSLRMConfig, path: Path, tensors: Mapping[str, Tensor]) -> GSLRM:
    """A network with these weights, float32, in evaluation mode. Those that are float32 stay where they are: on the
    disk, until they are read.

    Raises CheckpointError, which names `path`, for tensors of another network.
    """
    with torch.device("meta"):
        model = GSLRM(config)
    checkpoint.expect_weights(model, path, tensors)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval()


def export_facelift(folder: Path, path: Path) -> Path:
    """Write a checkpoint's core tensors as a `.pt` that FaceLift reads under `model`. Raises CheckpointError."""
    info = checkpoint.inspect(folder)
    info.expect_kind("gslrm")
    model = GSLRM(gslrm_parts(info.recipe)[0])
    checkpoint.load_weights(model, folder)
    with whole(path) as temporary:
        tensors = model.state_dict()
        torch.save({"model": tensors, "fwdbwd_pass_step": 0, _STEP: info.step}, temporary)
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


def _shape(path: Path, tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Of a matrix that every GS-LRM has. Raises CheckpointError."""
    if name in tensors and tensors[name].ndim == 2:
        rows, columns = tensors[name].shape
        return rows, columns
    some = ", ".join(list(tensors)[:3]) or "none"
    stage = " (these are stage 1's)" if "conv_in.weight" in tensors else ""
    raise CheckpointError(
        f"{path}: expected the weights of a GS-LRM, with a matrix {name}, got {len(tensors)} tensors without, such as "
        f"{some}{stage} — name a file such as FaceLift's ckpt_0000000000021125.pt."
    )


def _step_of(path: Path) -> int:
    """The optimizer step that a torch file names; 0 where it names none."""
    if contents.described(path) == contents.SAFETENSORS:
        return 0
    content = checkpoint.load_torch(path)
    step = content.get(_STEP, 0) if isinstance(content, dict) else 0
    return step if isinstance(step, int) and step >= 0 else 0
