"""One image to six views: FaceLift's sampler, its arithmetic and its order of random numbers.

image ─ CLIP ─ noise of level 0 ─┐ class vector [2·clip]
└ VAE (mode) ──────────────┤ reference latents, beside the noisy ones
prompt embeddings, one a view ───┤
noise, one draw a view ──────────┴─ UNet, DDIM × steps ─ VAE ─ views in slot order; slot 0 is the input again
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from pipeline.data.pictures import on_white
from pipeline.errors import DataError, RecipeError
from pipeline.mvdiffusion.attention import MultiViewUNet
from pipeline.mvdiffusion.codec import Autoencoder, PatchCodec, latent_channels, reduction
from pipeline.mvdiffusion.folder import read_components, write_components
from pipeline.mvdiffusion.prompts import check_embeddings
from pipeline.precision import autocast
from pipeline.progress import Tell, silent, told
from pipeline.recipe import Precision, Recipe
from pipeline.transfers import constant, sent

Network = TypeVar("Network", bound=nn.Module)
Generators = torch.Generator | list[torch.Generator] | None
Picture = Image.Image | Sequence[Image.Image] | Tensor


class MVDiffusionPipeline(DiffusionPipeline):
    """FaceLift's pipeline on diffusers' own parts."""

    model_cpu_offload_seq = "image_encoder->unet->vae"

    def __init__(
        self,
        feature_extractor: CLIPImageProcessorPil,
        image_encoder: CLIPVisionModelWithProjection,
        image_normalizer: StableUnCLIPImageNormalizer,
        image_noising_scheduler: DDPMScheduler,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        scheduler: DDIMScheduler,
        vae: Autoencoder,
        unet: MultiViewUNet,
    ) -> None:
        super().__init__()
        self.register_modules(
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            image_normalizer=image_normalizer,
            image_noising_scheduler=image_noising_scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=scheduler,
            vae=vae,
            unet=unet,
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=reduction(vae))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, torch_dtype: torch.dtype = torch.float32, ema: bool = True
    ) -> MVDiffusionPipeline:
        """Read a pipeline folder, FaceLift's or ours. Raises CheckpointError; nothing is fetched or guessed.

        ema: the mean weights, where a folder holds them (`unet_ema/`) beside those of the last step.
        """
        return cls(**read_components(Path(folder), torch_dtype, ema))

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write a folder that this class and FaceLift's code read."""
        write_components(Path(folder), self.components)

    @property
    def num_views(self) -> int:
        return int(self.unet.config.num_views)

    @property
    def image_size(self) -> int:
        """Pixels along a side of every image."""
        return int(self.unet.config.sample_size) * reduction(self.vae)

    @torch.no_grad()
    def __call__(
        self,
        image: Picture,
        prompt_embeds: Float[Tensor, "view 77 width"],
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        eta: float = 1.0,
        generator: Generators = None,
        output_type: Literal["pt", "pil", "np", "latent"] = "pt",
        noise_level: int = 0,
        precision: Precision = "fp32",
        tell: Tell = silent,
    ) -> ImagePipelineOutput:
        """The views of each object, in slot order: `.images`, B·V of them.

        image: one picture, or B·V of them (each object's own, V times over): PIL, or tensors in 0…1; alpha is
        composited on white. prompt_embeds: V rows for every object, or B·V. guidance_scale: 1 is none. generator:
        one, or one per row, which makes a row independent of its batch. precision: in which a UNet with float32
        weights computes; one with weights of half precision computes in these, and latents and steps stay float32.
        tell: hears of each step.
        Raises DataError for pictures or embeddings of another shape, RecipeError for half precision on a CPU.
        """
        device, dtype = self.unet.device, self.vae.dtype
        for part in (self.unet, self.vae):
            refuse_half_on_cpu(device, part.dtype)
        pictures, repeats = self._pictures(image)
        rows = len(pictures) * repeats
        text = self._text(prompt_embeds, rows).to(device, dtype)
        vectors = self._clip_vectors(pictures).repeat_interleave(repeats, 0)
        labels = self.with_noise(vectors, noise_level, generator).to(dtype)
        reference = self.reference_latents(_as_tensor(pictures).to(device)).repeat_interleave(repeats, 0).to(dtype)
        latents = self._denoise(
            text, labels, reference, num_inference_steps, guidance_scale, eta, generator, precision, tell
        )
        if output_type == "latent":
            return ImagePipelineOutput(images=latents)
        return ImagePipelineOutput(images=self.image_processor.postprocess(self.decode(latents), output_type))

    def with_noise(
        self, vectors: Float[Tensor, "rows clip"], level: int, generator: Generators = None
    ) -> Float[Tensor, "rows 2*clip"]:
        """CLIP vectors with noise of a level, and the level beside them. Level 0 is not quite without noise."""
        noise = standard_normal(vectors.shape, generator, vectors.device, vectors.dtype)
        levels = torch.full((len(vectors),), level, device=vectors.device)
        self.image_normalizer.to(vectors.device)
        normal = self.image_noising_scheduler.add_noise(self.image_normalizer.scale(vectors), noise, levels)
        embedded = get_timestep_embedding(levels, vectors.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([self.image_normalizer.unscale(normal), embedded.to(vectors.dtype)], dim=1)

    def reference_latents(self, images: Float[Tensor, "rows 3 height width"]) -> Tensor:
        """Latents of images 0…1 without a random draw, as the UNet sees them."""
        encoded = self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist.mode()
        return encoded * self.vae.config.scaling_factor

    def sampled_latents(self, images: Float[Tensor, "rows 3 height width"], generator: Generators) -> Tensor:
        """A draw of the latents of images 0…1, as training sees them; float32."""
        found = self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist
        latents = found.mode()
        if not isinstance(self.vae, PatchCodec):  # whose latents are known
            noise = standard_normal(latents.shape, generator, images.device, latents.dtype)
            latents = latents + found.std * noise
        return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Float[Tensor, "rows 3 height width"]:
        """Images −1…1 of latents, an object's views at a time."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return torch.cat([self.vae.decode(part).sample for part in scaled.split(self.num_views)])

    def _denoise(
        self,
        text: Tensor,
        labels: Tensor,
        reference: Tensor,
        steps: int,
        guidance: float,
        eta: float,
        generator: Generators,
        precision: Precision,
        tell: Tell,
    ) -> Tensor:
        guided = guidance != 1.0
        if guided:  # without and with the picture: the text is kept, what comes from the picture is 0
            text = torch.cat([text, text])
            labels, reference = (torch.cat([torch.zeros_like(each), each]) for each in (labels, reference))
        text, labels = text.to(self.unet.dtype), labels.to(self.unet.dtype)
        rows = len(text) // (2 if guided else 1)
        side = int(self.unet.config.sample_size)
        shape = (rows, latent_channels(self.vae), side, side)
        latents = standard_normal(shape, generator, text.device, reference.dtype)
        latents = latents * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(steps, device=text.device)
        times = self.scheduler.timesteps
        for t in told(times, "views", len(times), tell):  # not diffusers' bar, whose lock may outlive a kill
            doubled = torch.cat([latents] * (2 if guided else 1))
            seen = self.scheduler.scale_model_input(torch.cat([doubled, reference], dim=1), t)
            seen = seen.to(self.unet.dtype)
            with autocast(text.device, precision if self.unet.dtype == torch.float32 else "fp32"):
                predicted = self.unet(seen, t, encoder_hidden_states=text, class_labels=labels).sample
            predicted = predicted.to(latents.dtype)
            if guided:
                without, with_image = predicted.chunk(2)
                predicted = without + guidance * (with_image - without)
            latents = self.scheduler.step(predicted, t, latents, eta=eta, generator=generator).prev_sample
        return latents

    def _pictures(self, image: Picture) -> tuple[list[Image.Image], int]:
        """RGB pictures, and how many rows each of them stands for."""
        if isinstance(image, Tensor):
            image = [_from_tensor(each) for each in (image[None] if image.ndim == 3 else image)]
        pictures = [on_white(each) for each in ([image] if isinstance(image, Image.Image) else image)]
        size = (self.image_size, self.image_size)
        for picture in pictures:
            if picture.size != size:
                raise DataError(
                    f"image: expected {size[0]}×{size[1]} pixels, which the model was trained on, got "
                    f"{picture.width}×{picture.height} — crop and resize it."
                )
        if len(pictures) == 1:
            return pictures, self.num_views
        if not pictures or len(pictures) % self.num_views:
            raise DataError(
                f"image: expected one picture, or {self.num_views} for every object, got {len(pictures)} — repeat each."
            )
        return pictures, 1

    def _text(self, embeddings: Tensor, rows: int) -> Tensor:
        width = int(self.unet.config.cross_attention_dim)
        if embeddings.ndim == 3 and len(embeddings) == rows:
            for part in embeddings.split(self.num_views):
                check_embeddings("prompt_embeds", part, self.num_views, width)
            return embeddings
        check_embeddings("prompt_embeds", embeddings, self.num_views, width)
        return embeddings.repeat(rows // self.num_views, 1, 1)

    def _clip_vectors(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "n clip"]:
        pixels = self.feature_extractor(images=list(pictures), return_tensors="pt").pixel_values
        return self.image_encoder(pixels.to(self.unet.device, self.image_encoder.dtype)).image_embeds


def normalised(images: Float[Tensor, "n 3 height width"], reading: CLIPImageProcessorPil) -> Tensor:
    """Images 0…1 as the CLIP encoder was trained to see them."""
    mean, deviation = (constant(n, images)[:, None, None] for n in (reading.image_mean, reading.image_std))
    return (images - mean) / deviation


def standard_normal(shape: Sequence[int], generator: Generators, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, drawn as diffusers draws them; from generators of the CPU the same on every device."""
    first = generator[0] if isinstance(generator, list) else generator
    drawn_on = device if first is None else first.device
    return sent(randn_tensor(tuple(shape), generator=generator, device=drawn_on, dtype=dtype), device)


def sampling_dtype(recipe: Recipe, device: torch.device | str) -> torch.dtype:
    """Of the UNet's weights when it samples: bfloat16 on a GPU if it was trained so, which gains nothing on a CPU."""
    halved = torch.device(device).type == "cuda" and recipe.train.precision == "bf16"
    return torch.bfloat16 if halved else torch.float32


def laid_out(network: Network) -> Network:
    """The network with its convolutions' channels last in memory if it is on a GPU, which is faster there.

    The values are the same; gradients and the optimizer's state take up the layout.
    """
    on_gpu = any(p.is_cuda for p in network.parameters())
    return network.to(memory_format=torch.channels_last) if on_gpu else network


def refuse_half_on_cpu(device: torch.device | str, dtype: torch.dtype) -> None:
    """Raises RecipeError: torch computes float16 on a CPU hundreds of times slower, where it does at all."""
    if torch.device(device).type == "cpu" and dtype == torch.float16:
        raise RecipeError("device cpu: expected float32 or bfloat16, got float16 — load them as float32.")


def _from_tensor(image: Float[Tensor, "channels height width"]) -> Image.Image:
    """A picture of values 0…1, cut to eight bits as FaceLift does, without rounding."""
    return Image.fromarray((image.detach().float().cpu() * 255).byte().permute(1, 2, 0).numpy())


def _as_tensor(pictures: Sequence[Image.Image]) -> Float[Tensor, "n 3 height width"]:
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
