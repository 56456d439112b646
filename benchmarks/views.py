"""`python -m benchmarks.views`: MVDiffusion against diffusers' own, of the same sizes, taking turns on one machine.

Its UNet against the stock UNet; the whole sampler against the whole StableUnCLIPImg2ImgPipeline, which draws as many
rows from one picture: CLIP, VAE, guidance, ten steps, decoding. Weights are random, and the same wherever both have
them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache, partial

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from PIL import Image

from benchmarks.memory import peak_mib
from pipeline.mvdiffusion import MultiViewUNet, MVDiffusionPipeline
from pipeline.mvdiffusion.scratch import CLIP_WIDTH, pipeline_from_scratch
from pipeline.recipe import ScratchConfig

VIEWS, REPEATS, STEPS, GUIDANCE = 6, 9, 10, 3.0
LATENTS, TEXT = 16, 256  # latents along a side; text channels
SIZES = {
    "sample_size": LATENTS,
    "out_channels": 4,
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4, 4),
    "cross_attention_dim": TEXT,
    "norm_num_groups": 32,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2 * CLIP_WIDTH,
    "use_linear_projection": True,
}
NAMES = ("stock", "sparse", "dense", "off")
Work = Callable[[], object]


def rows() -> list[dict[str, object]]:
    """Medians per image of a sampling step (no gradients), a training step (forward and backward), a whole sampling.

    CPU seconds of one thread, which a busy machine disturbs least.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    for what, make in _COMPARED.items():
        times = _taking_turns({name: make(name) for name in NAMES})
        for name in NAMES:
            row = {"what": f"{what}, {name}", "median": times[name], "unit": "CPU s/image"}
            found.append(row | {"of stock": times[name] / times["stock"], "peak MiB": peak_mib(make, name)})
    torch.set_num_threads(threads)
    return found


def _taking_turns(works: dict[str, Work]) -> dict[str, float]:
    """CPU seconds per image of each, its runs spread over the whole time: other load meets all alike.

    Each runs once before its time is taken.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(REPEATS + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if turn:
                times[name].append((time.process_time() - started) / VIEWS)
    return {name: statistics.median(values) for name, values in times.items()}


# ---------------------------------------------------------------- the UNet


@cache
def _unets() -> tuple[UNet2DConditionModel, MultiViewUNet]:
    """Both with eight input channels, so that the networks are the same but for their attention."""
    torch.manual_seed(0)
    stock, ours = UNet2DConditionModel(in_channels=8, **SIZES), MultiViewUNet(in_channels=8, **SIZES)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def _forward(name: str) -> tuple[UNet2DConditionModel, Callable[[], torch.Tensor]]:
    stock, ours = _unets()
    network = stock if name == "stock" else ours
    seen, levels = torch.randn(VIEWS, 8, LATENTS, LATENTS), torch.full((VIEWS,), 500)
    text, labels = torch.randn(VIEWS, 77, TEXT), torch.randn(VIEWS, 2 * CLIP_WIDTH)

    def run() -> torch.Tensor:
        if isinstance(network, MultiViewUNet):
            network.set_mode(name)  # type: ignore[arg-type]
        return network(seen, levels, text, class_labels=labels).sample

    return network, run


def _sampling_step(name: str) -> Work:
    _, forward = _forward(name)
    return torch.no_grad()(forward)


def _training_step(name: str) -> Work:
    network, forward = _forward(name)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        forward().square().mean().backward()

    return run


# ---------------------------------------------------------------- the whole pipeline


def _sampling(name: str) -> Work:
    """Six pictures from one: ours as the stage samples them, stock as its users do."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=8 * LATENTS,
    ).eval()
    small = pipeline_from_scratch(ScratchConfig(text_dim=TEXT), 8 * LATENTS, VIEWS, "v_prediction")
    shared = {part: small.components[part] for part in ("image_encoder", "feature_extractor", "tokenizer")}
    shared |= {"text_encoder": small.text_encoder, "vae": vae, "scheduler": DDIMScheduler(clip_sample=False)}
    shared |= {"image_normalizer": StableUnCLIPImageNormalizer(CLIP_WIDTH)}
    shared |= {"image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}
    picture = Image.new("RGB", (8 * LATENTS, 8 * LATENTS), (120, 90, 60))
    text = torch.randn(VIEWS, 77, TEXT)
    asked = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "eta": 1.0, "output_type": "pt"}
    if name == "stock":
        unet = UNet2DConditionModel(in_channels=4, **SIZES).eval()
        pipe = StableUnCLIPImg2ImgPipeline(**shared, unet=unet)
        asked |= {"negative_prompt_embeds": torch.zeros_like(text)}
    else:
        pipe = MVDiffusionPipeline(**shared, unet=MultiViewUNet(in_channels=8, **SIZES).eval())
        pipe.unet.set_mode(name)
    pipe.set_progress_bar_config(disable=True)
    return partial(pipe, picture, prompt_embeds=text, **asked)


_COMPARED: dict[str, Callable[[str], Work]] = {
    "sampling step": _sampling_step,
    "training step": _training_step,
    f"{STEPS} steps, whole pipeline": _sampling,
}


def main() -> None:
    from benchmarks.tables import table

    print(table(rows()))


if __name__ == "__main__":
    main()
