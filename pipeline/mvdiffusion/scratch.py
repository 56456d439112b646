"""A whole pipeline from nothing: FaceLift's parts, small, at random, on pixels in patches.

For machines and tests without FaceLift's weights. The CLIP encoders stay as they were drawn: random projections tell
pictures and sentences apart, and the UNet, the only part that is trained, learns what they mean.
"""

from __future__ import annotations

import json
import math
import string
import tempfile
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from pipeline.mvdiffusion.attention import MultiViewUNet
from pipeline.mvdiffusion.codec import PatchCodec, latent_channels
from pipeline.mvdiffusion.prompts import TOKENS
from pipeline.mvdiffusion.sampler import MVDiffusionPipeline, normalised
from pipeline.recipe import ScratchConfig

CLIP_SIZE, CLIP_PATCH, CLIP_WIDTH = 32, 32, 256
_PROBES = 256
_START, _END = "<|startoftext|>", "<|endoftext|>"


def pipeline_from_scratch(
    config: ScratchConfig, image_size: int, num_views: int, prediction: str
) -> MVDiffusionPipeline:
    """The pipeline of these sizes that `config.seed` draws; images of `image_size` pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = PatchCodec(config.patch_size)
        pipe = MVDiffusionPipeline(
            feature_extractor=CLIPImageProcessorPil(
                size={"shortest_edge": CLIP_SIZE}, crop_size={"height": CLIP_SIZE, "width": CLIP_SIZE}
            ),
            image_encoder=_image_encoder(),
            image_normalizer=StableUnCLIPImageNormalizer(CLIP_WIDTH),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            tokenizer=_tokenizer(),
            text_encoder=_text_encoder(config.text_dim),
            scheduler=_scheduler(config.noise_shift, prediction),
            vae=vae,
            unet=_unet(config, image_size // config.patch_size, latent_channels(vae), num_views),
        )
        _attend_to_pictures(pipe)
        _begin_deaf_to_noise(pipe.unet)
        return pipe


def _scheduler(shift: float, prediction: str) -> DDIMScheduler:
    """Stable Diffusion's levels with a signal-to-noise ratio `shift` times less in amplitude, and none at the end."""
    known = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod.double()
    snr = known / (1 - known) / shift**2
    alphas = snr / (1 + snr)
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
    return DDIMScheduler(trained_betas=betas.tolist(), clip_sample=False, steps_offset=1, prediction_type=prediction)


def _unet(config: ScratchConfig, sample_size: int, channels: int, num_views: int) -> MultiViewUNet:
    levels = len(config.channels)
    return MultiViewUNet(
        sample_size=sample_size,
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        attention_head_dim=tuple(width // config.head_dim for width in config.channels),  # heads, whatever it is called
        cross_attention_dim=config.text_dim,
        norm_num_groups=math.gcd(32, *config.channels),
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * CLIP_WIDTH,
        use_linear_projection=True,
        num_views=num_views,
    )


@torch.no_grad()
def _attend_to_pictures(pipe: MVDiffusionPipeline) -> None:
    """Start the class embedding where pictures differ: an untrained encoder says nearly the same of all of them.

    The first layer takes (vector − mean) / deviation, as measured on discs of many colours.
    """
    across = torch.linspace(-1, 1, CLIP_SIZE)
    disc = (across[:, None].square() + across.square() < 0.3).float()
    pictures = 1 - disc * torch.rand(_PROBES, 3, 1, 1)
    vectors = pipe.image_encoder(normalised(pictures, pipe.feature_extractor)).image_embeds
    mean, deviation = vectors.mean(0), (vectors - vectors.mean(0)).square().mean().sqrt()
    layer = pipe.unet.class_embedding.linear_1
    layer.weight[:, :CLIP_WIDTH] /= deviation
    layer.bias -= layer.weight[:, :CLIP_WIDTH] @ mean


@torch.no_grad()
def _begin_deaf_to_noise(unet: MultiViewUNet) -> None:
    """Start with a tenth of the noisy latents' weight: the reference, mostly white, is drowned by them else."""
    unet.conv_in.weight[:, : unet.config.out_channels] *= 0.1


def _image_encoder() -> CLIPVisionModelWithProjection:
    sizes = {"hidden_size": CLIP_WIDTH, "intermediate_size": 2 * CLIP_WIDTH, "projection_dim": CLIP_WIDTH}
    picture = {"image_size": CLIP_SIZE, "patch_size": CLIP_PATCH, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, **picture)).eval()


def _text_encoder(width: int) -> CLIPTextModel:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vocabulary = 2 + 2 * len(_characters())
    # Ten times the usual spread: what one token says then reaches the others, padding too.
    config = CLIPTextConfig(
        **sizes,
        **ids,
        num_hidden_layers=1,
        vocab_size=vocabulary,
        max_position_embeddings=TOKENS,
        initializer_factor=10.0,
    )
    return CLIPTextModel(config).eval()


def _tokenizer() -> CLIPTokenizer:
    """Every character is a word: no English is needed to tell two sentences apart."""
    words = [_START, _END, *_characters(), *(f"{character}</w>" for character in _characters())]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        (Path(folder) / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": _END}),
            encoding="utf-8",
        )
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _characters() -> list[str]:
    return [*string.ascii_lowercase, *string.digits, *"-_.,"]
