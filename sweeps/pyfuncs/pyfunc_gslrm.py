"""The registered model: posed views in, Gaussians out. This file travels with the checkpoint.

Input, one row per view: `scene` text, `image` PNG bytes (RGB or RGBA), `c2w` 16 numbers row by row (OpenCV
axes, world Z-up), `fxfycxcy` 4 numbers in pixels of that PNG. Output, one row per scene: `scene`, `ply` bytes
in the standard 3DGS layout, `num_gaussians`. Imports mlflow and pipeline only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array
from torch import Tensor

from pipeline import kinds
from pipeline.cameras import Cameras
from pipeline.data.incoming.picture import decoded
from pipeline.data.pictures import view_on_white
from pipeline.errors import DataError
from pipeline.machine.devices import best_device
from pipeline.precision import autocast, evaluated_in
from pipeline.pruning import Pruning, pruning_of

CHECKPOINT = "checkpoint"  # the artifact: a checkpoint folder
_NUMBERS = Array(DataType.double)
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec("string", "scene"),
            ColSpec("binary", "image"),
            ColSpec(_NUMBERS, "c2w"),
            ColSpec(_NUMBERS, "fxfycxcy"),
        ]
    ),
    outputs=Schema([ColSpec("string", "scene"), ColSpec("binary", "ply"), ColSpec("long", "num_gaussians")]),
    params=ParamSchema(
        [
            ParamSpec("prune", DataType.string, "default"),
            *(ParamSpec(rule, DataType.double, None) for rule in ("min_opacity", "max_scale", "floater")),
            ParamSpec("box", DataType.double, [], (-1,)),
        ]
    ),
)


class GSLRMModel(PythonModel):
    """GS-LRM behind MLflow's `predict`; runs on CUDA where there is one."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint strictly. Raises CheckpointError."""
        device = best_device()
        self.loaded = kinds.load(context.artifacts[CHECKPOINT], device, kind="gslrm")
        self.device = device

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Gaussians of every scene; the first row of a scene is its first view.

        params: prune, the name of a pruning (`pipeline.pruning.PRUNINGS`), and single rules over it, in world units:
        min_opacity, max_scale, floater, box (three numbers). Raises DataError naming scene and view.
        """
        if model_input.empty:
            raise DataError("predict: expected one row per view, got none — add the views.")
        pruning = pruning_of(**_given(params or {}))
        groups = model_input.groupby("scene", sort=False, dropna=False)
        return pd.DataFrame([self._scene(str(name), rows, pruning) for name, rows in groups])

    def _scene(self, name: str, rows: pd.DataFrame, pruning: Pruning) -> dict[str, Any]:
        size = self.loaded.recipe.data.image_size
        columns = zip(rows["image"], rows["c2w"], rows["fxfycxcy"], strict=True)
        views = [read_view(f"scene {name}, view {i}", *row, size) for i, row in enumerate(columns)]
        images = torch.stack([image for image, _ in views])[None].to(self.device)
        c2w = torch.stack([camera.c2w for _, camera in views])[None]
        fxfycxcy = torch.stack([camera.fxfycxcy for _, camera in views])[None]
        cameras = Cameras(c2w, fxfycxcy, size, size).to(torch.float32).to(self.device)
        precision = evaluated_in(self.loaded.recipe.train.precision, self.device)
        with torch.inference_mode(), autocast(self.device, precision):
            gaussians = pruning(self.loaded.model(images, cameras)[0])
        return {"scene": name, "ply": gaussians.as_ply(), "num_gaussians": gaussians.count}


def _given(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that were set: MLflow hands on the others as None, and an absent list as an empty one."""
    return {name: value for name, value in params.items() if value is not None and np.size(value)}


def read_view(
    where: str, image: bytes, c2w: Sequence[float], fxfycxcy: Sequence[float], size: int
) -> tuple[Tensor, Cameras]:
    """One row as an image [3, size, size] on white in 0…1 and its camera in float64 at that size."""
    picture = decoded(where, image, posed=True)
    camera = Cameras(_numbers(where, "c2w", c2w, (4, 4)), _numbers(where, "fxfycxcy", fxfycxcy, (4,)), *picture.size)
    camera.check(where)
    return view_on_white(picture, size), camera.resize(size, size)


def _numbers(where: str, name: str, values: Sequence[float], shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name}: expected {count} numbers, got {values!r} — write them row by row.") from None
    if array.size != count:
        raise DataError(f"{where}: {name}: expected {count} numbers, got {array.size} — write them row by row.")
    return torch.from_numpy(array.reshape(shape).copy())


set_model(GSLRMModel())
