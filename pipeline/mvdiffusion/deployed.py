"""A trained model as it is kept and used: the pipeline, its prompts, how it is sampled, and the rig of its slots.

model.safetensors      of the checkpoint: the UNet's 690 tensors
pipeline/              FaceLift's folder without them
prompts.safetensors    the embedded text of each view
rig.json               the cameras that generated views are labelled with
framing.json           how much of the frame the animal filled in training; not in older ones, nor without masks
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.photo.framing import Framing
from pipeline.errors import CheckpointError
from pipeline.files import link_or_copy
from pipeline.mvdiffusion.attention import CONFIG_FILE, MultiViewUNet, read_config
from pipeline.mvdiffusion.folder import COMPONENTS, INDEX_FILE, read_components, write_components
from pipeline.mvdiffusion.prompts import PromptEmbeddings, read_own, read_prompts, write_prompts
from pipeline.mvdiffusion.sampler import MVDiffusionPipeline, laid_out
from pipeline.mvdiffusion.views import Rig, read_framing, read_rig, write_framing, write_rig
from pipeline.precision import evaluated_in
from pipeline.progress import Tell, silent
from pipeline.recipe import Precision, SamplingConfig

PIPELINE, PROMPTS, RIG, FRAMING = "pipeline", "prompts.safetensors", "rig.json", "framing.json"


class ViewGenerator(nn.Module):
    """Images in, six views each out, as the recipe says they are sampled."""

    def __init__(
        self,
        pipe: MVDiffusionPipeline,
        prompts: PromptEmbeddings,
        sampling: SamplingConfig,
        rig: Rig,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.pipe, self.prompts, self.sampling, self.rig = pipe, prompts, sampling, rig
        self.precision: Precision = precision
        needed = ("unet", "vae", "image_encoder", "image_normalizer")  # the texts are embedded already
        self.parts = nn.ModuleDict({name: pipe.components[name] for name in needed})

    @property
    def num_views(self) -> int:
        return self.pipe.num_views

    @property
    def image_size(self) -> int:
        return self.pipe.image_size

    def forward(
        self,
        images: Float[Tensor, "object 3 height width"],
        numbers: Sequence[int],
        guidance: float | None = None,
        steps: int | None = None,
        precision: Precision | None = None,
        seed: int | None = None,
        tell: Tell = silent,
    ) -> Float[Tensor, "object view 3 height width"]:
        """Views in slot order, 0…1.

        numbers: one per object; with the seed it decides the object's noise, whatever its batch. guidance, steps,
        precision, seed: the model's own unless given. tell: hears of each denoising step.
        """
        seed = self.sampling.seed if seed is None else seed
        generators = [generator for number in numbers for generator in self._chances(seed, number)]
        views = self.pipe(
            images.repeat_interleave(self.num_views, 0),
            self.prompts.embeddings.float(),
            num_inference_steps=steps or self.sampling.steps,
            guidance_scale=self.sampling.guidance if guidance is None else guidance,
            eta=self.sampling.eta,
            generator=generators,
            precision=evaluated_in(precision or self.precision, self.pipe.unet.device),
            tell=tell,
        )
        return views.images.float().unflatten(0, (-1, self.num_views))

    def provenance(self) -> dict[str, Any]:
        """What decides the views beside the weights and the picture, as plain values."""
        sampling = {name: getattr(self.sampling, name) for name in ("steps", "guidance", "eta", "seed")}
        return {"prompts_sha256": self.prompts.sha256, "rig_spread_px": self.rig.spread_px, **sampling}

    def _chances(self, seed: int, number: int) -> list[torch.Generator]:
        seeds = np.random.SeedSequence((seed, number)).generate_state(self.num_views, np.uint64)
        return [torch.Generator().manual_seed(int(seed >> 1)) for seed in seeds]


def attachments(
    unet: MultiViewUNet,
    frozen: Mapping[str, Any] | Path,
    prompts: PromptEmbeddings,
    rig: Rig,
    framing: Framing | None,
) -> dict[str, Callable[[Path], object]]:
    """What a checkpoint holds beside the UNet's weights. frozen: the other components, or the folder they lie in.

    Of the UNet, which may be in training when this is written, only the configuration is kept.
    """
    configuration = unet.to_json_string()

    def write_pipeline(folder: Path) -> None:
        if isinstance(frozen, Path):  # as they are, byte by byte, and without a copy where the file system can
            shutil.copytree(frozen, folder, copy_function=link_or_copy, ignore=_without_unet(frozen))
        else:
            write_components(folder, frozen)
        (folder / "unet").mkdir()
        (folder / "unet" / CONFIG_FILE).write_text(configuration, encoding="utf-8")

    framed = {} if framing is None else {FRAMING: lambda path: write_framing(framing, path)}
    return {
        PIPELINE: write_pipeline,
        PROMPTS: lambda path: write_prompts(prompts, path),
        RIG: lambda path: write_rig(rig, path),
        **framed,
    }


def _without_unet(source: Path) -> Callable[[str, list[str]], list[str]]:
    """What `copytree` leaves out of a pipeline folder: its UNet, and all that is no component."""
    kept = {INDEX_FILE, *COMPONENTS} - {"unet"}
    return lambda folder, names: [name for name in names if Path(folder) == source and name not in kept]


def read_deployed(
    folder: Path,
    sampling: SamplingConfig,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float32,
) -> ViewGenerator:
    """The model of a checkpoint folder, in evaluation mode. Raises CheckpointError, DataError.

    precision: in which a UNet with float32 weights computes; dtype: of the UNet's weights, the other parts are float32.
    """
    parts: dict[str, Any] = read_components(folder / PIPELINE, torch.float32, leave_out=("unet",))
    unet = MultiViewUNet.from_config(read_config(folder / PIPELINE / "unet"))
    checkpoint.load_weights(unet, folder)
    nn.Module.to(unet, dtype)  # diffusers' own `to` warns of a dtype, whatever it is
    pipe = MVDiffusionPipeline(**{name: parts.get(name, unet) for name in COMPONENTS})
    prompts = read_prompts(folder / PROMPTS, pipe.num_views, int(unet.config.cross_attention_dim))
    return laid_out(ViewGenerator(pipe, prompts, sampling, read_rig(folder / RIG), precision).to(device).eval())


def framing_in(info: CheckpointInfo) -> Framing | None:
    """How a checkpoint's training set was framed; None for one that was made before that was kept."""
    return read_framing(info.folder / FRAMING) if FRAMING in info.hashes else None


def facts_of(info: CheckpointInfo) -> dict[str, str]:
    """The rig whose cameras generated views are labelled with, the prompts, and the framing. Raises CheckpointError."""
    for name in (RIG, PROMPTS):
        if name not in info.hashes:
            path = info.folder / name
            raise CheckpointError(f"{path}: expected it in the checkpoint's index, got none — save it again.")
    rig, prompts = read_rig(info.folder / RIG), read_own(info.folder / PROMPTS)
    return {
        "rig.name": rig.name,
        "rig.spread_px": f"{rig.spread_px:.3g}",
        "rig.sha256": info.hashes[RIG],
        "prompts.style": prompts.style or "",
        "prompts.sha256": prompts.sha256,
    } | _framing_facts(framing_in(info))


def _framing_facts(framing: Framing | None) -> dict[str, str]:
    if framing is None:
        return {}
    shares = {name: getattr(framing, name) for name in ("mean", "least", "most")}
    return {f"framing.{name}": f"{share:.3g}" for name, share in shares.items()}
