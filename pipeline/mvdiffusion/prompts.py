"""Texts that tell the views apart, as embeddings: made once, kept with what they say, and never replaced by zeros."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.cameras import Cameras
from pipeline.checkpoint import load_torch
from pipeline.config import as_plain, did_you_mean, one_line
from pipeline.data.rings import slot_angles
from pipeline.errors import DataError
from pipeline.files import whole
from pipeline.mvdiffusion.folder import check_folder, read_component

TOKENS = 77  # the UNet attends to all of them, padding too
TENSOR = "prompt_embeds"
_VIEWS = ("front", "front-right", "right", "back", "left", "front-left")
_UNDERSCORED = tuple(view.replace("-", "_") for view in _VIEWS)
_TOP = ("top-front", "top-front-right", "top-right", "top-back", "top-left", "top-front-left")
# Style -> its sentence, and its words for slots 0…5.
_SENTENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "facelift": ("a rendering image of 3D models, {view} view, color map.", _UNDERSCORED),
    "mouse_elevated": ("a rendering image of a 3D model, {view} view, from above at an angle, color map.", _TOP),
    "realistic": ("a photograph of a mouse, {view} view, from above at an angle.", _VIEWS),
    "hybrid": ("a multi-view image of a mouse, {view} view, elevated camera.", _VIEWS),
    "simple": ("a mouse, {view} view, top-down angle.", _VIEWS),
    "from_camera": (
        "a rendering image of a 3D model, {view} view, elevation {elevation:.0f} degrees, azimuth {azimuth:.0f} "
        "degrees, color map.",
        _VIEWS,
    ),
}
STYLES = tuple(_SENTENCES)
# Of FaceLift's own six, about the input, in degrees.
_FACELIFT_ANGLES = ((0.0, -45.0, -90.0, 180.0, 90.0, 45.0), (0.0,) * 6)


@dataclass(frozen=True)
class PromptEmbeddings:
    """One embedding a slot [V, 77, width], and where it comes from.

    azimuths (about slot 0) and elevations in degrees; encoder: sha256 of the text encoder's and tokenizer's files;
    a bare tensor, as FaceLift keeps it, has none of these.
    """

    embeddings: Float[Tensor, "view 77 width"]
    style: str | None = None
    texts: tuple[str, ...] = ()
    azimuths: tuple[float, ...] = ()
    elevations: tuple[float, ...] = ()
    encoder: str | None = None

    @property
    def sha256(self) -> str:
        """Of the numbers, in half precision: the same in whatever file they lie."""
        return hashlib.sha256(self.embeddings.to(torch.float16).contiguous().numpy().tobytes()).hexdigest()

    def as_plain(self) -> dict[str, Any]:
        """Everything but the numbers."""
        values = as_plain(self)
        del values["embeddings"]
        return values | {"shape": list(self.embeddings.shape), "sha256": self.sha256}


def texts_of(style: str, cameras: Cameras | None = None) -> tuple[str, ...]:
    """A style's six sentences; cameras: of the rig in slot order, for `from_camera`. Raises DataError."""
    if style not in _SENTENCES:
        raise DataError(
            f"--style {style}: expected one of {', '.join(STYLES)}, got {style}"
            f"{did_you_mean(style, STYLES) or ' — name one.'}"
        )
    sentence, words = _SENTENCES[style]
    if style == "from_camera" and cameras is None:
        raise DataError("--style from_camera: expected the cameras of a rig, got none — add --scene SCENE.")
    azimuths, elevations = _FACELIFT_ANGLES if cameras is None else slot_angles(cameras)
    if len(azimuths) != len(words):
        raise DataError(f"--scene: expected {len(words)} cameras, got {len(azimuths)} — name a scene of six views.")
    angles = zip(words, azimuths, elevations, strict=True)
    return tuple(sentence.format(view=w, azimuth=a + 0.0, elevation=e + 0.0) for w, a, e in angles)


def make_prompts(
    folder: Path, style: str, cameras: Cameras | None = None, where: str | None = None
) -> PromptEmbeddings:
    """Embed a style's texts with a pipeline folder's own tokenizer and text encoder, which are never mixed.

    cameras: of the rig in slot order. where: what is named by refusals; the option that asks for a style, if None.
    Raises CheckpointError for a folder that is none, DataError for a style that is
    none and for texts that this encoder cannot tell apart.
    """
    check_folder(folder)
    texts = texts_of(style, cameras)
    tokenizer = read_component("tokenizer", folder / "tokenizer", torch.float32)
    encoder = read_component("text_encoder", folder / "text_encoder", torch.float32)
    azimuths, elevations = _FACELIFT_ANGLES if cameras is None else slot_angles(cameras)
    embeddings = encode(tokenizer, encoder, texts).to(torch.float16)
    check_embeddings(where or f"--style {style}", embeddings, len(texts), int(encoder.config.hidden_size))
    return PromptEmbeddings(embeddings, style, texts, azimuths, elevations, _encoder_hash(folder))


@torch.no_grad()
def encode(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: Sequence[str]) -> Float[Tensor, "text 77 width"]:
    """Every token's last hidden state. The padding is the tokenizer's own, and is attended to."""
    tokens = tokenizer(list(texts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(encoder.device))[0]


def write_prompts(prompts: PromptEmbeddings, path: Path) -> Path:
    """Write the embeddings whole, as safetensors that say in their header what they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {key: json.dumps(value) for key, value in prompts.as_plain().items()}
    with whole(path) as temporary:
        save_file({TENSOR: prompts.embeddings.to(torch.float16).contiguous()}, temporary, metadata=about)
    return path


def read_prompts(path: str | Path, num_views: int, width: int) -> PromptEmbeddings:
    """Embeddings for a UNet of so many views and text channels, from our file or FaceLift's bare `.pt`.

    Raises DataError when the file is missing, damaged or of another shape, holds zeros, or the same text twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected prompt embeddings, found no file — make them with `mouselift prompts`.")
    prompts = _read_tensor_file(path) if path.suffix in (".pt", ".pth") else read_own(path)
    check_embeddings(str(path), prompts.embeddings, num_views, width)
    return prompts


def check_embeddings(where: str, embeddings: Tensor, num_views: int, width: int) -> None:
    """Raises DataError unless this is one usable embedding for each view of a UNet of that text width."""
    shape, wanted = tuple(embeddings.shape), (num_views, TOKENS, width)
    if shape != wanted:
        raise DataError(f"{where}: expected prompt embeddings {wanted}, got {shape} — {_mend(shape, wanted)}")
    if not bool(torch.isfinite(embeddings).all()):
        raise DataError(f"{where}: expected finite prompt embeddings, got numbers that are not — make them again.")
    rows = embeddings.float().flatten(1)
    if not bool(rows.any(1).all()):
        raise DataError(f"{where}: expected embeddings of texts, got zeros — make them with `mouselift prompts`.")
    same = [(i, j) for i in range(num_views) for j in range(i) if torch.equal(rows[i], rows[j])]
    if same:
        later, earlier = same[0]
        raise DataError(
            f"{where}: expected another text for each view, got the same for slots {earlier} and {later} — make them "
            "again, with an encoder that knows the words."
        )


def _mend(shape: Sequence[int], wanted: Sequence[int]) -> str:
    if len(shape) == 3 and shape[0] != wanted[0]:
        return f"the model has {wanted[0]} views; make one for each."
    if len(shape) == 3 and shape[2] != wanted[2]:
        return "they are of another text encoder; make them with the pipeline's own."
    return "make them with `mouselift prompts`."


def read_own(path: Path) -> PromptEmbeddings:
    """Our own file, whatever model it is for. Raises DataError for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            embeddings, about = file.get_tensor(TENSOR), file.metadata() or {}
        values = {key: json.loads(value) for key, value in about.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: expected prompt embeddings, got {one_line(error)} — make them again.") from None
    prompts = _prompts(embeddings, values)
    if values and values.get("sha256") != prompts.sha256:
        raise DataError(f"{path}: expected the numbers that its sha256 names, got others — make them again.")
    return prompts


def _prompts(embeddings: Tensor, values: Mapping[str, Any]) -> PromptEmbeddings:
    if not values:
        return PromptEmbeddings(embeddings)
    texts, azimuths, elevations = (tuple(values[key]) for key in ("texts", "azimuths", "elevations"))
    return PromptEmbeddings(embeddings, values["style"], texts, azimuths, elevations, values["encoder"])


def _read_tensor_file(path: Path) -> PromptEmbeddings:
    content = load_torch(path)
    if not isinstance(content, Tensor):
        raise DataError(f"{path}: expected a bare tensor, got {type(content).__name__} — make them again.")
    return PromptEmbeddings(content)


def _encoder_hash(folder: Path) -> str:
    """Of the files that decide what a text becomes."""
    files = [path for name in ("text_encoder", "tokenizer") for path in sorted((folder / name).iterdir())]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
