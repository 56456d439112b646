"""The registered pair: a picture of a mouse in, six views and Gaussians out. This file travels with both checkpoints.

Input: the bytes of one picture, a list of them, or a DataFrame whose first column has them; base64 text serves, too, as
JSON has no bytes. Output, one row per picture: `ply` bytes in the standard 3DGS layout, `num_gaussians`, `views` PNG
bytes slot by slot, none where the pair gives GS-LRM the photo alone, `c2w` (16 numbers each, row by row) and `fxfycxcy`
(4 each, in pixels): the cameras of these views, or of the photo; `left_out`, the slots that GS-LRM was not given;
`cut_by`, what told the animal from its background; `changes`, what was done to the picture, in words. Imports mlflow
and pipeline only.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from pipeline.data.incoming.picture import decoded
from pipeline.data.photo.photo import Photo, photo_of
from pipeline.data.pictures import png_bytes
from pipeline.errors import DataError
from pipeline.machine.devices import best_device
from pipeline.pruning import Pruning, pruning_of
from pipeline.reconstruction.models import load_gaussians, load_views, read_pair
from pipeline.reconstruction.reconstructor import Reconstructor

CHECKPOINT = "checkpoint"  # the artifact: a pair's folder
# Below 0: the model's own. prune: which Gaussians are kept, by the name of a rule in `pipeline.pruning`.
SETTINGS: dict[str, Any] = {"seed": -1, "steps": -1, "guidance": -1.0, "prune": "default"}
_TYPES = {int: "long", float: "double", str: "string"}
_BASE64 = re.compile(rb"(data:[\w/+.-]+;base64,)?[A-Za-z0-9+/\s]+={0,2}\s*")
_NUMBERS = Array(Array(DataType.double))
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary")]),  # of no name: with one, MLflow would take DataFrames alone
    outputs=Schema(
        [
            ColSpec("binary", "ply"),
            ColSpec("long", "num_gaussians"),
            ColSpec(Array(DataType.binary), "views"),
            ColSpec(_NUMBERS, "c2w"),
            ColSpec(_NUMBERS, "fxfycxcy"),
            ColSpec(Array(DataType.long), "left_out"),
            ColSpec("string", "cut_by"),
            ColSpec(Array(DataType.string), "changes"),
        ]
    ),
    params=ParamSchema([ParamSpec(name, _TYPES[type(value)], value) for name, value in SETTINGS.items()]),
)


class PairModel(PythonModel):
    """MVDiffusion and GS-LRM behind MLflow's `predict`; runs on CUDA where there is one."""

    def load_context(self, context: Any) -> None:
        """Load both checkpoints strictly. Raises CheckpointError."""
        folder, self.device = Path(context.artifacts[CHECKPOINT]), best_device()
        self.views, self.gaussians = load_views(folder, self.device), load_gaussians(folder, self.device)
        self.given = read_pair(folder).given

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Gaussians of every picture. params: see SETTINGS. Raises DataError naming the picture."""
        asked = SETTINGS | (params or {})
        pruning = pruning_of(asked["prune"])
        if asked["steps"] == 0:
            raise DataError("steps: expected 1 or more, or -1 for the model's own, got 0 — leave it, or write -1.")
        own: dict[str, Any] = {name: None if asked[name] < 0 else asked[name] for name in ("seed", "steps", "guidance")}
        models = Reconstructor(self.gaussians, self.views, self.device, **own, given=self.given)
        column = [] if model_input.empty else list(model_input.iloc[:, 0])
        if not column:
            raise DataError("predict: expected pictures, got none — give the bytes of one.")
        photos = [self._photo(f"picture {i}", value) for i, value in enumerate(column)]
        return pd.DataFrame([_row(models, photo, pruning) for photo in photos])

    def _photo(self, where: str, value: Any) -> Photo:
        return photo_of(decoded(where, picture_bytes(where, value)), where, self.views.framing)


def picture_bytes(where: str, value: Any) -> bytes:
    """A picture's file as bytes; base64 text, as text or as bytes, is decoded. Raises DataError for anything else."""
    if isinstance(value, str):
        value = value.encode("ascii", "replace")
    if not isinstance(value, bytes):
        came = type(value).__name__
        raise DataError(f"{where}: expected the bytes of a picture, got {came} — read the file in binary.")
    text = bytes(value)
    if not _BASE64.fullmatch(text):
        return text
    try:
        return base64.b64decode(text.partition(b",")[2] or text)
    except binascii.Error:
        return text  # which is no picture, and is said to be none


def _row(models: Reconstructor, photo: Photo, pruning: Pruning) -> dict[str, Any]:
    found = models.photo(photo, render=False)
    assert models.views is not None
    gaussians, views = pruning(found.gaussians), () if found.views is None else found.views
    cameras = models.views.generator.rig.cameras[: len(views) or 1]
    return {
        "ply": gaussians.as_ply(),
        "num_gaussians": gaussians.count,
        "views": [png_bytes(view) for view in views],
        "c2w": cameras.c2w.flatten(1).tolist(),
        "fxfycxcy": cameras.fxfycxcy.tolist(),
        "left_out": list(found.left_out),
        "cut_by": photo.cut_by,
        "changes": list(photo.changes),
    }


set_model(PairModel())
