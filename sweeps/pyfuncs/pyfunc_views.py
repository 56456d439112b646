"""The registered multi-view model: an image in, six views out. This file travels with the checkpoint.

Input, one row per object: `name` text, `image` PNG bytes (as `photo.photo_of` takes them). Output, one row per view:
`name`, `slot` (0 is the input again), `image` PNG bytes, `c2w` 16 numbers row by row and `fxfycxcy` 4 numbers: the
camera of that slot in the rig the model was trained on. Imports mlflow and pipeline only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from pipeline.data.incoming.picture import decoded
from pipeline.data.photo.photo import photo_of
from pipeline.data.pictures import png_bytes
from pipeline.errors import DataError
from pipeline.machine.devices import best_device
from pipeline.reconstruction.models import load_views

CHECKPOINT = "checkpoint"  # the artifact: a checkpoint folder
# steps and guidance below 0: the model's own. number: another one is another draw of the same image.
SAMPLING: dict[str, Any] = {"steps": -1, "guidance": -1.0, "number": 0}
_NUMBERS = Array(DataType.double)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "name"), ColSpec("binary", "image")]),
    outputs=Schema(
        [
            ColSpec("string", "name"),
            ColSpec("long", "slot"),
            ColSpec("binary", "image"),
            ColSpec(_NUMBERS, "c2w"),
            ColSpec(_NUMBERS, "fxfycxcy"),
        ]
    ),
    params=ParamSchema(
        [ParamSpec("steps", "long", -1), ParamSpec("guidance", "double", -1.0), ParamSpec("number", "long", 0)]
    ),
)


class MVDiffusionModel(PythonModel):
    """MVDiffusion behind MLflow's `predict`; runs on CUDA where there is one."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint strictly. Raises CheckpointError."""
        self.device = best_device()
        loaded = load_views(Path(context.artifacts[CHECKPOINT]), self.device)
        self.model, self.framing = loaded.generator, loaded.framing

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The views of every object, slot by slot. params: see SAMPLING. Raises DataError naming the object."""
        if model_input.empty:
            raise DataError("predict: expected one row per object, got none — add an image.")
        chosen = SAMPLING | (params or {})
        if chosen["steps"] == 0:
            raise DataError("steps: expected 1 or more, or -1 for the model's own, got 0 — leave it, or write -1.")
        rows = zip(model_input["name"], model_input["image"], strict=True)
        return pd.DataFrame([view for name, image in rows for view in self._views(str(name), image, chosen)])

    def _views(self, name: str, content: bytes, chosen: dict[str, Any]) -> list[dict[str, Any]]:
        where = f"object {name}"
        image = photo_of(decoded(where, content), where, self.framing).image(self.model.image_size)
        guidance = None if chosen["guidance"] < 0 else chosen["guidance"]
        steps = None if chosen["steps"] < 0 else chosen["steps"]
        with torch.inference_mode():
            views = self.model(image[None].to(self.device), [chosen["number"]], guidance, steps)[0]
        cameras = self.model.rig.cameras
        return [
            {
                "name": name,
                "slot": slot,
                "image": png_bytes(view),
                "c2w": cameras.c2w[slot].flatten().tolist(),
                "fxfycxcy": cameras.fxfycxcy[slot].tolist(),
            }
            for slot, view in enumerate(views)
        ]


set_model(MVDiffusionModel())
