"""The card's ceilings, and GS-LRM's network alone by the mode of its activation checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.gpu.rows import Row, Work, measured, or_out_of_memory
from benchmarks.gpu.settings import GIB, Settings, checkpoint_modes
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import GSLRMConfig

VIEWS = 6
ATTENTION, PRODUCTS = 417e12, 755e12  # FLOP/s of an H200, which the floor of a network's time is made of
# Milliseconds and GiB of an H200, by mode and batch.
REFERENCE = {
    ("layers", 1): (797, 4.8),
    ("layers", 2): (1569, 9.4),
    ("attention", 1): (648, 6.0),
    ("attention", 2): (1282, 11.6),
    ("none", 1): (623, 23.9),
}


def ceilings(settings: Settings) -> Iterator[Row]:
    """What the card does at best: matrix products, copies, attention at GS-LRM's 24,578 tokens."""
    side, size = (64, 2**20) if settings.small else (8192, 2 * GIB)
    a, b = (torch.randn(side, side, device=settings.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = measured(settings, lambda: a @ b, 10, 3).median
    yield Row(f"bf16 matrix product {side}³", 2 * side**3 / seconds / 1e12, "TFLOP/s", 10, reference=settings.full(755))
    source = torch.ones(size, dtype=torch.uint8, device=settings.device)
    seconds = measured(settings, partial(torch.empty_like(source).copy_, source), 10, 3).median
    yield Row(
        "copy on the device, read and written", 2 * size / seconds / 1e12, "TB/s", 10, reference=settings.full(4.25)
    )
    tokens = 66 if settings.small else 24_578
    shape = (1, 16, tokens, 64)
    q, k, v = (torch.randn(shape, device=settings.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    seconds = measured(settings, lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()).median
    rate = 3 * 4 * tokens**2 * 16 * 64 / seconds / 1e12
    what = f"attention of {tokens:,} tokens, forward and backward"
    yield Row(what, rate, "TFLOP/s", settings.repeats, reference=settings.full(417))


def network(settings: Settings) -> Iterator[Row]:
    """Forward and backward of the released size under bf16 autocast; TFLOP/s count no recomputation."""
    configs = {
        mode: settings.recipe("gslrm", override, f"data.num_input_views={VIEWS}").model
        for mode, override in checkpoint_modes().items()
    }
    size = 32 if settings.small else 512
    for batch in (1, 2):
        for mode, config in configs.items():
            assert isinstance(config, GSLRMConfig)
            what = f"{mode}, batch {batch}"
            yield or_out_of_memory(what, partial(_network_row, settings, config, what, size, batch))


def _network_row(settings: Settings, config: GSLRMConfig, what: str, size: int, batch: int) -> Row:
    found = measured(settings, _pass(settings, config, size, batch))
    attention, products = flops(config, size, batch)
    known, peak = REFERENCE.get((what.partition(",")[0], batch), (None, None))
    floor = 1e3 * (attention / ATTENTION + products / PRODUCTS)
    rate = f"{(attention + products) / found.median / 1e12:.3g} TFLOP/s"
    expected = {"floor": floor, "reference": known, "reference_peak_gib": peak}
    return found.row(what, note=rate, **({} if settings.small else expected))


def flops(config: GSLRMConfig, size: int, batch: int) -> tuple[float, float]:
    """FLOPs of attention and of the layers' matrix products, forward and backward."""
    tokens = VIEWS * (size // config.patch_size) ** 2 + config.num_free_gaussians
    attention = 4 * tokens**2 * config.dim
    products = 2 * 12 * config.dim**2 * tokens
    return 3.0 * batch * config.num_layers * attention, 3.0 * batch * config.num_layers * products


def _pass(settings: Settings, config: GSLRMConfig, size: int, batch: int) -> Work:
    with torch.device(settings.device):
        model = GSLRM(config)
    images = torch.rand(batch, VIEWS, 3, size, size, device=settings.device)
    rays = settings.ring(size, VIEWS, batch).rays()

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(settings.device).type, torch.bfloat16):
            raw = model.raw_gaussians(images, rays)
        raw.float().square().mean().backward()

    return run
