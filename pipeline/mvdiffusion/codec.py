"""A latent space without weights, for pipelines small enough to be trained on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Images = Float[Tensor, "rows 3 height width"]  # −1…1
Latents = Float[Tensor, "rows channels height/p width/p"]


class PatchCodec(ModelMixin, ConfigMixin):
    """Latents that are the pixels of a patch, side by side: nothing is lost, and nothing is learned.

    Stands where AutoencoderKL stands, with its words. A network on these latents is a diffusion model of pixels at a
    resolution of `patch_size` less, which is what a small UNet on a CPU can afford. scaling_factor: of images −1…1.
    """

    @register_to_config
    def __init__(self, patch_size: int = 4, scaling_factor: float = 1.0) -> None:
        super().__init__()
        self.patch_size, self.scaling_factor = patch_size, scaling_factor
        self.register_parameter("scale", nn.Parameter(torch.ones(()), requires_grad=False))  # a module has a dtype

    def encode(self, images: Images) -> AutoencoderKLOutput:
        """Latents that are known: the mode of their distribution, and every sample of it."""
        return AutoencoderKLOutput(IdentityDistribution(F.pixel_unshuffle(images, self.patch_size) * self.scale))

    def decode(self, latents: Latents) -> DecoderOutput:
        return DecoderOutput(F.pixel_shuffle(latents / self.scale, self.patch_size))


Autoencoder = Any  # AutoencoderKL or PatchCodec; diffusers has no types


def reduction(vae: Autoencoder) -> int:
    """Pixels per latent along a side."""
    return vae.patch_size if isinstance(vae, PatchCodec) else 2 ** (len(vae.config.block_out_channels) - 1)


def latent_channels(vae: Autoencoder) -> int:
    """Channels of a latent."""
    return 3 * vae.patch_size**2 if isinstance(vae, PatchCodec) else int(vae.config.latent_channels)
