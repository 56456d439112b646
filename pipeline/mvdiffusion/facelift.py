"""FaceLift's stage 1 as it is released: its folder `pipeckpts` is a model at work as it is, or becomes a checkpoint.

The folder holds neither prompts, nor a rig, nor how it is sampled: these are those of FaceLift's inference.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import checkpoint
from pipeline.cameras import facelift_six
from pipeline.checkpoint import Content
from pipeline.data.photo.framing import Framing
from pipeline.errors import CheckpointError, DataError
from pipeline.files import sha256_of
from pipeline.licence import FACELIFT_LICENCE, attached
from pipeline.mvdiffusion.attention import CONFIG_FILE, FACELIFT_CLASS, MultiViewUNet, read_config
from pipeline.mvdiffusion.codec import reduction
from pipeline.mvdiffusion.deployed import ViewGenerator, attachments
from pipeline.mvdiffusion.folder import (
    COMPONENTS,
    EMA_FOLDER,
    INDEX_FILE,
    check_folder,
    read_component,
    read_components,
)
from pipeline.mvdiffusion.prompts import PromptEmbeddings, make_prompts, read_prompts
from pipeline.mvdiffusion.sampler import MVDiffusionPipeline, laid_out
from pipeline.mvdiffusion.views import Rig
from pipeline.recipe import Recipe, mvdiffusion_parts
from pipeline.recipes import load_recipe, override

PROMPTS_FILE = "clr_embeds.pt"  # as FaceLift's code repository has it
# The six views of its published sample fill 0.30 to 0.38 of the frame; the mean is between the two. They are heads,
# which the lower border cuts off.
FRAMING = Framing(mean=0.34, least=0.30, most=0.38, views=6, centre="box", touching=1.0)
_SAMPLING = ("steps=50", "guidance=3.0", "eta=1.0", "seed=4")  # of its inference
_RIG, _VIEWS, _STYLE = "facelift_six", 6, "facelift"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceLiftFolder:
    """A pipeline folder, of which nothing is loaded: the folder of its UNet, and the recipe that it is a model of."""

    path: Path
    unet: Path
    recipe: Recipe

    @property
    def rig(self) -> Rig:
        """FaceLift's inference rig, in slot order."""
        return Rig(_RIG, facelift_six(self.recipe.data.image_size), 0.0)

    @property
    def weights(self) -> Path:
        """The file of the UNet's weights. Raises CheckpointError."""
        path = self.unet / _WEIGHTS
        if not path.is_file():
            raise CheckpointError(f"{self.unet}: expected {_WEIGHTS}, found none — copy it there.")
        return path

    @property
    def sha256(self) -> str:
        """Of the UNet's weights."""
        return sha256_of(self.weights)

    def prompts(self) -> PromptEmbeddings:
        """FaceLift's file, where one lies in the folder or beside it and fits; else made by the folder's own encoder.

        Raises CheckpointError, DataError.
        """
        width = int(read_config(self.unet)["cross_attention_dim"])
        beside = Path(os.path.abspath(self.path)).parent  # of `..`, too
        for file in (self.path / PROMPTS_FILE, beside / PROMPTS_FILE):
            if file.is_file():
                try:
                    return read_prompts(file, _VIEWS, width)
                except DataError as error:
                    _log.warning("%s It is left out: the pipeline's own text encoder makes them.", error)
        return make_prompts(self.path, _STYLE, where=f"{self.path / 'text_encoder'}")

    def generator(self, device: torch.device | str = "cpu") -> ViewGenerator:
        """The model in evaluation mode, sampled as FaceLift's inference does. Raises CheckpointError, DataError."""
        prompts = self.prompts()
        pipe = MVDiffusionPipeline(**read_components(self.path, torch.float32))
        config, precision = mvdiffusion_parts(self.recipe)[0], self.recipe.train.precision
        return laid_out(ViewGenerator(pipe, prompts, config.sampling, self.rig, precision).to(device).eval())


def is_pipeline(folder: Path) -> bool:
    """Whether a folder has the index of a diffusers pipeline, whichever."""
    return (folder / INDEX_FILE).is_file()


def read_folder(path: Path, overrides: Iterable[str] = (), name: str = "mvdiffusion") -> FaceLiftFolder:
    """A `pipeckpts` folder, its parts in half precision or not, the mean weights of its UNet before the last ones.

    overrides: `key=value` over the recipe `name` and FaceLift's sampling. Raises CheckpointError, RecipeError.
    """
    check_folder(path)
    unet = path / (EMA_FOLDER if (path / EMA_FOLDER).is_dir() else "unet")
    config = read_config(unet)
    views = config.get("num_views", _VIEWS)
    if views != _VIEWS:
        raise CheckpointError(f"{unet}: expected {_VIEWS} views, as FaceLift's rig has, got {views} — name another.")
    if not isinstance(config.get("sample_size"), int):
        raise CheckpointError(f"{unet / CONFIG_FILE}: expected sample_size, got none — restore the file.")
    size = config["sample_size"] * reduction(read_component("vae", path / "vae", torch.float32))
    recipe = load_recipe(name, [*(f"model.sampling.{setting}" for setting in _SAMPLING), *overrides])
    read_off: dict[str, Any] = {
        "model.base": str(path.absolute()),
        "model.attention": _attention(config),
        "model.num_views": views,
        "data.image_size": size,
        "loss.prediction": read_component("scheduler", path / "scheduler", torch.float32).config.prediction_type,
    }
    return FaceLiftFolder(path, unet, override(recipe, read_off))


def write_checkpoint(source: FaceLiftFolder, folder: Path, licence: str | None = None) -> Path:
    """The folder as a checkpoint folder: its files get a second name, where the file system can. Nothing but the text
    encoder computes; every component is read once, to see that it is whole. licence: FaceLift's, if None.

    Raises CheckpointError, DataError.
    """
    with torch.device("meta"):
        unet = MultiViewUNet.from_config(read_config(source.unet))
    checkpoint.expect_weights(unet, source.weights, checkpoint.read_tensors(source.weights))
    for name in COMPONENTS:
        if name != "unet":
            read_component(name, source.path / name, torch.float32)
    beside = attachments(unet, source.path, source.prompts(), source.rig, FRAMING)
    beside |= attached(licence or FACELIFT_LICENCE)
    return checkpoint.write(folder, Content(source.weights, source.recipe, 0, {}, attachments=beside))


def refuse_training_folder(path: Path) -> None:
    """Tell in one line how a UNet, or a checkpoint of FaceLift's own training, is used. Raises CheckpointError."""
    own = (path / CONFIG_FILE).is_file() and read_config(path).get("_class_name") == FACELIFT_CLASS
    found = next((path / name for name in (EMA_FOLDER, "unet") if (path / name / CONFIG_FILE).is_file()), None)
    unet = path if own else found
    if unet is not None:
        raise CheckpointError(
            f"{path}: expected a pipeline folder with {INDEX_FILE}, got a UNet alone, as FaceLift's training saves it "
            f"— copy the pipeckpts that it was trained from, put {unet} in it as {EMA_FOLDER}/, and name the copy."
        )


def _attention(config: dict[str, Any]) -> str:
    if not config.get("multiview_attention", True):
        return "off"
    return "sparse" if config.get("sparse_mv_attention", True) else "dense"
