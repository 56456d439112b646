"""MVDiffusion against diffusers' stock network of the same size, per image, taking turns on the same machine."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

from pipeline.mvdiffusion import MultiViewUNet

VIEWS, REPEATS = 6, 5
SIZES = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4, 4),
    "cross_attention_dim": 256,
    "norm_num_groups": 32,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 256,
    "use_linear_projection": True,
}


def rows() -> list[dict[str, object]]:
    """Medians per image of a sampling step (no gradients) and of a training step (forward and backward)."""
    stock, ours = UNet2DConditionModel(**SIZES), MultiViewUNet(**SIZES)
    ours.load_state_dict(stock.state_dict())
    found = []
    for what, step in (("sampling step", _sample), ("training step", _train)):
        networks: dict[str, UNet2DConditionModel] = {"stock": stock}
        networks |= dict.fromkeys(("sparse", "dense", "off"), ours)
        times = _taking_turns(networks, step)
        found += [
            {
                "what": f"{what}, {name}",
                "median": times[name],
                "unit": "s/image",
                "of stock": times[name] / times["stock"],
            }
            for name in networks
        ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [*found, {"what": "peak memory of the process", "median": peak, "unit": "GB"}]


def _taking_turns(
    networks: dict[str, UNet2DConditionModel], step: Callable[[UNet2DConditionModel], None]
) -> dict[str, float]:
    """Seconds per image of each network, its runs spread over the whole time: other load meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(REPEATS):
        for name, network in networks.items():
            if isinstance(network, MultiViewUNet):
                network.set_mode(name)  # type: ignore[arg-type]
            started = time.perf_counter()
            step(network)
            times[name].append((time.perf_counter() - started) / VIEWS)
    return {name: statistics.median(values) for name, values in times.items()}


def _inputs() -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    side = SIZES["sample_size"]
    rows = (torch.randn(VIEWS, 8, side, side), torch.full((VIEWS,), 500), torch.randn(VIEWS, 77, 256))  # type: ignore[call-overload]
    return rows, {"class_labels": torch.randn(VIEWS, 256)}


@torch.no_grad()
def _sample(network: UNet2DConditionModel) -> None:
    rows, labels = _inputs()
    network(*rows, **labels)


def _train(network: UNet2DConditionModel) -> None:
    rows, labels = _inputs()
    network.zero_grad(set_to_none=True)
    network(*rows, **labels).sample.square().mean().backward()
