"""Stage 1 as the loop sees it: noise in, FaceLift's loss out, the running mean that is validated and released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import checkpoint
from pipeline.config import did_you_mean
from pipeline.data.batch import Batch
from pipeline.data.scenes import Dataset
from pipeline.errors import RecipeError
from pipeline.gslrm.evaluate import lpips_network
from pipeline.licence import inherited
from pipeline.mvdiffusion.attention import MultiViewUNet
from pipeline.mvdiffusion.codec import reduction
from pipeline.mvdiffusion.deployed import ViewGenerator, attachments
from pipeline.mvdiffusion.evaluate import evaluate
from pipeline.mvdiffusion.prompts import (
    PromptEmbeddings,
    check_embeddings,
    encode,
    make_prompts,
    read_prompts,
    texts_of,
)
from pipeline.mvdiffusion.sampler import (
    MVDiffusionPipeline,
    laid_out,
    normalised,
    refuse_half_on_cpu,
    sampling_dtype,
    standard_normal,
)
from pipeline.mvdiffusion.scratch import pipeline_from_scratch
from pipeline.mvdiffusion.views import Rig, ViewSets, framing_of, rig_of
from pipeline.recipe import DenoisingConfig, MVDiffusionConfig, Recipe, mvdiffusion_parts
from pipeline.stages import Validation
from pipeline.training.processes import World
from pipeline.training.running_mean import running_mean
from pipeline.transfers import sent

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention: where adapters go


class MVDiffusionStage:
    """The UNet in training, with the frozen parts around it, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device, dataset: Dataset) -> None:
        self.recipe, self.device = recipe, device
        self.config, self.loss = mvdiffusion_parts(recipe)
        if recipe.train.precision == "fp16":
            refuse_half_on_cpu(device, torch.float16)
        self.rig, self._framing = rig_of(dataset, recipe.data), framing_of(dataset, recipe.data)
        self.pipe = starting_pipeline(recipe)
        self.prompts = prompts_of(self.config, self.pipe, self.rig)
        unet = self.pipe.unet
        if recipe.train.init_from is not None:
            checkpoint.load_weights(unet, recipe.train.init_from)
        self._unet: MultiViewUNet = laid_out(_trainable(unet, self.config).to(device)).train()
        for name in ("vae", "image_encoder", "image_normalizer", "text_encoder"):
            getattr(self.pipe, name).requires_grad_(False)
        for name in ("vae", "image_encoder"):
            laid_out(getattr(self.pipe, name).to(device))
        self._text = self.prompts.embeddings.to(device, torch.float32)
        self._mean = running_mean(self._trained(), self.config) if self.config.ema_decay else None
        self._lpips = lpips_network(device)

    @property
    def model(self) -> nn.Module:
        return self._unet

    def loader(self, dataset: Dataset, split: str, cache: Path) -> ViewSets:
        """Batches of a split in slot order. Raises DataError."""
        return ViewSets(dataset, split, self.recipe.data, cache, self.recipe.train.seed)

    def weights(self, step: int) -> dict[str, float]:  # noqa: ARG002 — the same at every step
        return {"denoising": 1.0}

    def losses(self, batch: Batch, step: int, chance: Sequence[torch.Generator]) -> dict[str, Tensor]:  # noqa: ARG002
        """How far the UNet is from the noise that was added, per noise level as the recipe weighs it.

        One noise level per object, noise of its own per view. An object's generator draws, in this order: CLIP noise,
        VAE sample, level, noise, dropout.
        """
        objects, views = batch.images.shape[:2]
        rows = [generator for generator in chance for _ in range(views)]
        with torch.no_grad():
            labels, reference = self._conditions(batch.images[:, 0], views, rows)
            clean = self.pipe.sampled_latents(batch.images.flatten(0, 1), rows)
            scheduler = self.pipe.scheduler
            levels = torch.cat([torch.randint(len(scheduler.alphas_cumprod), (1,), generator=g) for g in chance])
            noise = standard_normal(clean.shape, rows, self.device, torch.float32)
            draws = torch.cat([torch.rand(1, generator=generator) for generator in chance])
            dropped = sent(dropout(draws, self.loss.drop_rate), self.device)
            no_labels, no_reference = dropped.repeat_interleave(views, 1)
            labels = labels.masked_fill(no_labels[:, None], 0.0)
            reference = reference.masked_fill(no_reference[:, None, None, None], 0.0)
            level = sent(levels.repeat_interleave(views), self.device)
            noisy = scheduler.add_noise(clean, noise, level)
            wanted = self._target(clean, noise, level)
        text = self._text.repeat(objects, 1, 1)
        seen = torch.cat([noisy, reference], dim=1)
        predicted = self._unet(seen, level, encoder_hidden_states=text, class_labels=labels).sample
        error = F.mse_loss(predicted.float(), wanted.float(), reduction="none").mean((1, 2, 3))
        weights = snr_weights(scheduler.alphas_cumprod.to(self.device)[level], self.loss)
        if self._mean is not None:
            self._mean.hold()
        return {"denoising": (weights * error).mean()}

    def pools(self, batch: Batch, step: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """None: the term is a mean over objects."""
        return {}

    def updated(self) -> None:
        """The running mean follows every optimizer step."""
        if self._mean is not None:
            self._mean.update(self._trained())

    def validate(self, dataset: Dataset, cache: Path, limit: int, world: World) -> Validation:
        """Figures of the views that the deployed weights generate. No copy of the weights outlives it."""
        parts = {k: v for k, v in self.pipe.components.items() if k != "unet"}
        pipe = MVDiffusionPipeline(**parts, unet=self._deployed(sampling_dtype(self.recipe, self.device)))
        model = ViewGenerator(pipe, self.prompts, self.config.sampling, self.rig).to(self.device).eval()
        evaluation = evaluate(model, self.recipe, dataset, "val", cache, limit, self._lpips, world)
        return Validation(evaluation, evaluation.picture, {})

    def deployed_model(self) -> nn.Module:
        """The mean weights, adapters merged, under FaceLift's 690 names: float32, on the device or the CPU.

        Where nothing has to be computed these are the tensors of the training itself, which its next step changes:
        copy them before.
        """
        return self._deployed()

    def attachments(self) -> Mapping[str, Any]:
        """The frozen parts of the pipeline, the prompts, the rig, the framing, and the licence of what came before."""
        base = self.config.base
        frozen = {k: v for k, v in self.pipe.components.items() if k != "unet"} if base is None else Path(base)
        beside = attachments(self.pipe.unet, frozen, self.prompts, self.rig, self._framing)
        return {**beside, **inherited(base, self.recipe.train.init_from)}

    def state(self) -> dict[str, Any]:
        """The weights in training, and their running mean."""
        trained = {name: p.detach() for name, p in self._unet.named_parameters() if p.requires_grad}
        return {"trained": trained, "mean": None if self._mean is None else self._mean.state()}

    def resume(self, folder: Path, state: Mapping[str, Any]) -> None:  # noqa: ARG002 — the mean is not where it goes on
        own = {name: p for name, p in self._unet.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state["trained"][name])
        if self._mean is not None:
            self._mean.restore(state["mean"])

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._unet.parameters() if p.requires_grad]

    def _target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        match self.loss.prediction:
            case "epsilon":
                return noise
            case "sample":
                return clean
            case _:
                return self.pipe.scheduler.get_velocity(clean, noise, level)

    def _conditions(
        self, images: Float[Tensor, "object 3 height width"], views: int, chance: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, "row 2*clip"], Float[Tensor, "row channels height width"]]:
        """Class vectors and reference latents of the inputs, once per view."""
        encoder, reading = self.pipe.image_encoder, self.pipe.feature_extractor
        side = reading.crop_size["height"]
        small = F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
        vectors = encoder(normalised(small, reading).to(encoder.dtype)).image_embeds.float()
        labels = self.pipe.with_noise(vectors.repeat_interleave(views, 0), 0, list(chance))
        return labels, self.pipe.reference_latents(images).float().repeat_interleave(views, 0)

    def _deployed(self, dtype: torch.dtype | None = None) -> MultiViewUNet:
        """A network with the mean weights, and no adapters beside them; it shares every tensor that it can.

        dtype: of weights that are about to sample on the device; None: as they are, and where they are.
        """
        tensors = {name: tensor.detach() for name, tensor in self._unet.state_dict().items()}
        if self._mean is not None:
            names = [name for name, p in self._unet.named_parameters() if p.requires_grad]
            tensors |= dict(zip(names, self._mean.values, strict=True))
        with torch.device("meta"):
            unet = MultiViewUNet.from_config(dict(self._unet.config))
        merged = without_adapters(tensors)
        if dtype is not None:
            merged = {name: tensor.to(self.device, dtype) for name, tensor in merged.items()}
        unet.load_state_dict(merged, strict=True, assign=True)
        return unet.eval()


def dropout(draws: Float[Tensor, " object"], rate: float) -> Bool[Tensor, "2 object"]:
    """(Without CLIP, without latents) for a draw 0…1 per object: CLIP alone, both, latents alone, each at `rate`."""
    return torch.stack([draws < 2 * rate, (draws >= rate) & (draws < 3 * rate)])


def snr_weights(alphas_cumprod: Float[Tensor, " row"], loss: DenoisingConfig) -> Float[Tensor, " row"]:
    """Min-SNR weights (Hang et al. 2023) of noise levels, by their cumulative α.

    `epsilon`: min(SNR, γ) / SNR, which FaceLift takes for v too; `v`: min(SNR, γ) / (SNR + 1).
    """
    if loss.snr_gamma is None:
        return torch.ones_like(alphas_cumprod)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=loss.snr_gamma) / (snr + 1 if loss.snr_form == "v" else snr)


def without_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with LoRA's adapters added to the weights they adapt; α is the rank, so that their scale is 1."""
    merged = {}
    for name, tensor in tensors.items():
        if ".lora_" in name:
            continue
        stem = name.replace(".base_layer.", ".")
        down = name.replace(".base_layer.weight", ".lora_A.default.weight")
        if down != name and down in tensors:
            up = tensors[down.replace("lora_A", "lora_B")]
            tensor = tensor + up.to(tensor.device, tensor.dtype) @ tensors[down].to(tensor.device, tensor.dtype)
        merged[stem] = tensor
    return merged


def starting_pipeline(recipe: Recipe) -> MVDiffusionPipeline:
    """The base pipeline at the recipe's image size, or one from nothing. Raises CheckpointError, RecipeError."""
    (config, loss), size = mvdiffusion_parts(recipe), recipe.data.image_size
    if config.base is None:
        pipe = pipeline_from_scratch(config.scratch, size, config.num_views, loss.prediction)
    else:
        pipe = MVDiffusionPipeline.from_pretrained(config.base)
    levels, views = len(pipe.unet.config.block_out_channels), pipe.unet.config.num_views
    multiple = reduction(pipe.vae) * 2 ** (levels - 1)
    learnt = pipe.scheduler.config.prediction_type
    for holds, path, problem in (
        (views == config.num_views, "model.num_views", f"{views} as {config.base} has, got {config.num_views}"),
        (size % multiple == 0, "data.image_size", f"a multiple of {multiple}, got {size}"),
        (learnt == loss.prediction, "loss.prediction", f"{learnt} as {config.base} was trained, got {loss.prediction}"),
    ):
        if not holds:
            raise RecipeError(f"{recipe.name}: {path}: expected {problem} — change it.")
    pipe.unet.register_to_config(sample_size=size // reduction(pipe.vae))
    pipe.unet.set_mode(config.attention)
    return pipe


def prompts_of(config: MVDiffusionConfig, pipe: MVDiffusionPipeline, rig: Rig) -> PromptEmbeddings:
    """The recipe's embeddings file, or its style's texts by the pipeline's own text encoder. Raises DataError."""
    width = int(pipe.unet.config.cross_attention_dim)
    if config.prompts is not None:
        return read_prompts(config.prompts, config.num_views, width)
    cameras = rig.cameras if config.prompt_style == "from_camera" else None
    if config.base is not None:
        made = make_prompts(Path(config.base), config.prompt_style, cameras)
    else:
        texts = texts_of(config.prompt_style, cameras)
        made = PromptEmbeddings(encode(pipe.tokenizer, pipe.text_encoder, texts).half(), config.prompt_style, texts)
    check_embeddings("model.prompt_style", made.embeddings, config.num_views, width)
    return made


def _trainable(unet: MultiViewUNet, config: MVDiffusionConfig) -> MultiViewUNet:
    """The UNet with what the recipe trains, and only that, asking for gradients. Raises RecipeError."""
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.requires_grad_(not (config.trainable or config.lora_rank))
    if config.lora_rank:
        rank = config.lora_rank
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS)))
    for name in chosen_modules(modules_with_weights(unet), config.trainable):
        unet.get_submodule(name).requires_grad_(True)
    return unet


def modules_with_weights(network: nn.Module) -> tuple[str, ...]:
    """Dotted names of the modules in which there is something to train."""
    return tuple(name for name, module in network.named_modules() if any(True for _ in module.parameters()))


def chosen_modules(modules: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The modules that the recipe's names mean: those whose dotted name is one of them, or ends in one.

    Raises RecipeError for a name that means none.
    """
    found: list[str] = []
    for ending in wanted:
        meant = [name for name in modules if ending and f".{name}".endswith(f".{ending}")]
        if not meant:
            near = did_you_mean(ending, {name.rpartition(".")[2] for name in modules})
            raise RecipeError(
                "model.trainable: expected the names of the network's modules, or their ends, such as attn1, got "
                f"{ending!r}, which none ends in{near or ' — correct the name.'}"
            )
        found += meant
    return found
