"""Between the host and the GPU: a batch arrives as the CPU would make it, a mean that is kept aside is the mean."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.running_mean import RunningMean, RunningMeanBeside
from tests.unit.test_batch import BACKGROUND, JITTER, host_batch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "drawn",
    [{}, {"jitter": JITTER}, {"background": BACKGROUND}, {"jitter": JITTER, "background": BACKGROUND}, {"channels": 3}],
    ids=["plain", "jittered", "on a colour", "both", "without alpha"],
)
def test_a_pinned_batch_is_composited_on_the_gpu_as_on_the_cpu(device, drawn) -> None:
    batch = host_batch(**drawn)
    sent = batch.pinned(device) if device.type == "cuda" else batch
    found, expected = sent.to(device), batch.to("cpu")
    assert found.images.device.type == device.type
    torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-6)
    assert (found.masks is None) == (expected.masks is None)
    if found.masks is not None and expected.masks is not None:
        torch.testing.assert_close(found.masks.cpu(), expected.masks, rtol=0, atol=1e-6)
    assert torch.equal(found.cameras.c2w.cpu(), expected.cameras.c2w)


def test_a_mean_that_follows_beside_the_gpu_is_the_mean_to_the_bit(device, views_recipe) -> None:
    config = views_recipe("model.ema_on_cpu=true").model
    generator = torch.Generator(device).manual_seed(0)
    size = 16_000_000 if device.type == "cuda" else 1000  # a copy takes longer than Python takes to go on
    weights = [torch.randn(count, device=device, generator=generator) for count in (size, 7)]
    waiting, beside, history = RunningMean(weights, config), RunningMeanBeside(weights, config), []
    for _ in range(6):
        beside.hold()  # as a step does before it changes the weights
        for weight in weights:
            weight.mul_(0.9).add_(torch.randn(weight.shape, device=device, generator=generator))
        beside.update(weights)
        history.append([weight.clone() for weight in weights])
    for weights in history:
        waiting.update(weights)
    assert all(torch.equal(a, b) for a, b in zip(waiting.values, beside.values, strict=True))
    assert not any(value.is_cuda for value in beside.values)
