"""Stage 1's UNet at FaceLift's size (870 M weights at random) against the stock UNet of diffusers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel

from benchmarks.gpu.rows import Row, Work, measured
from benchmarks.gpu.settings import Settings
from pipeline.mvdiffusion import MultiViewUNet

VIEWS = 6
FULL = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "projection_class_embeddings_input_dim": 2048,
}
TOY = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "attention_head_dim": (1, 1, 1, 1),
    "cross_attention_dim": 32,
    "projection_class_embeddings_input_dim": 64,
}
SHARED = {"in_channels": 8, "out_channels": 4, "class_embed_type": "projection", "use_linear_projection": True}
# Milliseconds of an H200: stock, ours.
TRAINING = {False: (91.5, 104.6), True: (89.1, 101.8)}  # by whether the memory is channels_last
SAMPLING = (31.6, 38.4)
RATIO = 1.2  # ours against stock, at most


def stage1(settings: Settings) -> Iterator[Row]:
    """Forward and backward under bf16 autocast, then the forward pass of sampling with bf16 weights."""
    sizes = TOY if settings.small else FULL
    networks = {"stock": _network(settings, UNet2DConditionModel, sizes)}
    networks["ours, sparse"] = _network(settings, MultiViewUNet, sizes)
    for last in (False, True):
        for network in networks.values():
            network.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        works = {name: _training(settings, network, sizes) for name, network in networks.items()}
        yield from _compared(settings, f"training{', channels_last' if last else ''}", works, TRAINING[last])
    for network in networks.values():
        network.zero_grad(set_to_none=True)
        network.to(torch.bfloat16).eval()
    works = {name: _sampling(settings, network, sizes) for name, network in networks.items()}
    yield from _compared(settings, "sampling, bf16 weights, channels_last", works, SAMPLING)


def _compared(settings: Settings, what: str, works: dict[str, Work], reference: tuple[float, float]) -> Iterator[Row]:
    repeats = None if settings.small else 10
    found = {name: measured(settings, work, repeats, 2) for name, work in works.items()}
    for (name, one), known in zip(found.items(), reference, strict=True):
        yield one.row(f"{what}: {name}", reference=settings.full(known))
    stock, ours = found.values()
    limits = {"reference": settings.full(reference[1] / reference[0]), "at_most": settings.full(RATIO)}
    yield Row(f"{what}: ours against stock", ours.median / stock.median, "times", **limits)


def _network(settings: Settings, kind: type[UNet2DConditionModel], sizes: dict) -> UNet2DConditionModel:
    torch.manual_seed(0)
    with torch.device(settings.device):
        return kind(**SHARED, **sizes)


def _inputs(settings: Settings, sizes: dict, dtype: torch.dtype) -> tuple[tuple, dict[str, torch.Tensor]]:
    side, wide = sizes["sample_size"], sizes["projection_class_embeddings_input_dim"]
    made = {"device": settings.device, "dtype": dtype}
    seen = torch.randn(VIEWS, 8, side, side, **made).to(memory_format=torch.channels_last)
    level = torch.full((VIEWS,), 500, device=settings.device)
    text = torch.randn(VIEWS, 77, sizes["cross_attention_dim"], **made)
    return (seen, level, text), {"class_labels": torch.randn(VIEWS, wide, **made)}


def _training(settings: Settings, network: UNet2DConditionModel, sizes: dict) -> Work:
    inputs, labels = _inputs(settings, sizes, torch.float32)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(settings.device).type, torch.bfloat16):
            sample = network(*inputs, **labels).sample
        sample.float().square().mean().backward()

    return run


def _sampling(settings: Settings, network: UNet2DConditionModel, sizes: dict) -> Work:
    inputs, labels = _inputs(settings, sizes, torch.bfloat16)

    @torch.no_grad()
    def run() -> None:
        network(*inputs, **labels)

    return run
