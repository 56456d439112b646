"""FaceLift's pipeline folder, `pipeckpts`: its components read one by one, and written again.

Its `model_index.json` gives a class name that stock diffusers has too, for another pipeline, and a module that only
FaceLift has, so diffusers' own loader cannot read it. Nothing here is ever fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from pipeline.config import one_line
from pipeline.errors import CheckpointError
from pipeline.files import whole_folder
from pipeline.mvdiffusion.attention import FACELIFT_CLASS, MultiViewUNet, read_config
from pipeline.mvdiffusion.codec import PatchCodec
from pipeline.text.json_file import read_json

INDEX_FILE = "model_index.json"
OUR_CLASS, THEIR_CLASS = "MVDiffusionPipeline", "StableUnCLIPImg2ImgPipeline"
EMA_FOLDER = "unet_ema"
# Component -> what reads it. CLIPImageProcessor picks another resampling where torchvision is installed.
_READERS: dict[str, Any] = {
    "feature_extractor": CLIPImageProcessorPil,
    "image_encoder": CLIPVisionModelWithProjection,
    "image_normalizer": StableUnCLIPImageNormalizer,
    "image_noising_scheduler": DDPMScheduler,
    "tokenizer": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
    "scheduler": DDIMScheduler,
    "vae": AutoencoderKL,
    "unet": MultiViewUNet,
}
COMPONENTS = tuple(_READERS)
_WITH_WEIGHTS = ("image_encoder", "image_normalizer", "text_encoder", "vae", "unet")
# As FaceLift names them, so that its code reads the folder too: by library and class, but for three.
_NAMED = {name: [reader.__module__.partition(".")[0], reader.__name__] for name, reader in _READERS.items()} | {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
    "unet": ["mvdiffusion.models.unet_mv2d_condition", FACELIFT_CLASS],
}


def read_components(
    folder: Path, dtype: torch.dtype, ema: bool = True, leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Every component of a pipeline folder, in evaluation mode.

    ema: the mean weights where a folder holds them beside the last ones. Raises CheckpointError naming what is missing.
    """
    check_folder(folder, leave_out)
    read = {}
    for name in COMPONENTS:
        if name not in leave_out:
            place = EMA_FOLDER if name == "unet" and ema and (folder / EMA_FOLDER).is_dir() else name
            read[name] = read_component(name, folder / place, dtype)
    return read


def read_component(name: str, path: Path, dtype: torch.dtype) -> Any:
    """One component from its own folder. Raises CheckpointError."""
    settings: dict[str, Any] = {} if name == "unet" else {"local_files_only": True}
    if name in _WITH_WEIGHTS:
        settings |= {"torch_dtype": dtype}
    transformers.logging.disable_progress_bar()
    reader = _READERS[name]
    if name == "vae" and read_config(path)["_class_name"] == PatchCodec.__name__:
        reader = PatchCodec
    try:
        component = reader.from_pretrained(str(path), **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: expected a {reader.__name__}, got {one_line(error)[:160]} — restore it."
        ) from None
    return component.eval() if isinstance(component, torch.nn.Module) else component


def check_folder(folder: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Refuse, before anything is loaded, a folder that is none, of another pipeline, or not whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a pipeline folder, found none — check the path.")
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder}: expected a pipeline folder with {INDEX_FILE}, found none — check the path.")
    index = read_json(folder / INDEX_FILE, CheckpointError)
    try:
        class_name, unet = index["_class_name"], index["unet"][1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{folder / INDEX_FILE}: expected the index of a pipeline, got a fault at {error} — restore the file."
        ) from None
    if class_name not in (OUR_CLASS, THEIR_CLASS) or unet not in (FACELIFT_CLASS, MultiViewUNet.__name__):
        raise CheckpointError(
            f"{folder / INDEX_FILE}: expected a multi-view pipeline ({OUR_CLASS}, or FaceLift's {THEIR_CLASS} with "
            f"{FACELIFT_CLASS}), got {class_name} with {unet} — name another folder."
        )
    missing = [name for name in COMPONENTS if name not in leave_out and not (folder / name).is_dir()]
    if missing:
        raise CheckpointError(
            f"{folder}: expected the folders {', '.join(COMPONENTS)}, found no {', '.join(missing)} — copy them there."
        )


def write_components(folder: Path, components: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> Path:
    """Write a pipeline folder whole; one that stands there is replaced. Raises CheckpointError for other files."""
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder}: expected a pipeline folder or none, got other files — choose another.")
    transformers.logging.disable_progress_bar()
    with whole_folder(folder) as temporary:
        for name, component in components.items():
            if name not in leave_out:
                component.save_pretrained(str(temporary / name))
        if "tokenizer" in components and "tokenizer" not in leave_out:
            _write_vocabulary(components["tokenizer"], temporary / "tokenizer")
        named = dict(_NAMED)
        if isinstance(components["vae"], PatchCodec):
            named["vae"] = [PatchCodec.__module__, PatchCodec.__name__]
        (temporary / INDEX_FILE).write_text(json.dumps({"_class_name": OUR_CLASS, **named}, indent=2), encoding="utf-8")
    return folder


def _write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The files that the transformers of FaceLift's day reads; today's writes them as one of its own."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
