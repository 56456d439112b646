"""The estimate of a step's memory against peaks measured on one NVIDIA H200, torch 2.11.0+cu130, 2026-11-26."""

from __future__ import annotations

import pytest

from pipeline.recipes import load_recipe
from sweeps.preflight.footprint import Memory, memory_of

GIB = 2**30
WITHIN = 0.15


def estimate(recipe: str, *overrides: str) -> Memory:
    return memory_of(load_recipe(recipe, overrides))


@pytest.mark.parametrize(
    ("mode", "batch", "gib"),
    [("layers", 1, 4.8), ("attention", 1, 6.0), ("none", 1, 23.9), ("layers", 2, 9.4), ("attention", 2, 11.6)],
)
def test_the_network_alone_keeps_what_was_measured(mode: str, batch: int, gib: float) -> None:
    """GS-LRM at the released size, forward and backward, six views of 512 px, bf16.

    The measured peaks grow with the batch by their own size, so that they do not contain the resting weights.
    """
    found = estimate("gslrm", f"model.checkpoint={mode}", f"train.batch_size={batch}")
    assert found.activations / GIB == pytest.approx(gib, rel=WITHIN)


def test_a_step_of_gslrm_mouse_peaks_where_it_was_measured() -> None:
    """Two scenes of five inputs and six views at 512 px, bf16, every layer computed again: 12.6 GiB."""
    found = estimate("gslrm_mouse", "model.checkpoint=layers", "train.accumulate=1")
    assert found.peak / GIB == pytest.approx(12.6, rel=WITHIN)


def test_mvdiffusion_at_full_size_keeps_what_was_measured() -> None:
    """Forward and backward of the UNet alone, six views of 64² latents, bf16: 12.7 GiB with its 870,184,644 weights."""
    found = estimate("mvdiffusion_mouse", "model.base=pipeckpts", "model.gradient_checkpointing=false")
    assert (4 * 870_184_644 + found.activations) / GIB == pytest.approx(12.7, rel=WITHIN)


def test_the_parts_that_only_count_weights_are_exact() -> None:
    """303,565,824 weights of GS-LRM, all trained: four bytes each, as many of gradients, and twice that of moments."""
    found = estimate("gslrm")
    assert found.weights == pytest.approx(4 * 303_565_824, rel=1e-3)
    assert found.gradients == found.weights and found.optimizer == 2 * found.weights
