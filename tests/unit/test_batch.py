"""Batches: what leaves the host, and the pixels that a device makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.cameras import Cameras
from pipeline.data.batch import Batch, HostBatch, composited

SCENES, VIEWS, SIZE = 3, 2, 12
POSES = ("c2w", "fxfycxcy")
JITTER = torch.tensor([[0.8, 1.2], [1.3, 0.9], [1.0, 1.0]])
BACKGROUND = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.1, 0.6, 0.9]])


def host_batch(channels: int = 4, **drawn: object) -> HostBatch:
    """Noise under a noisy mask, premultiplied."""
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (SCENES, VIEWS, 1, SIZE, SIZE))
    colour = rng.integers(0, alpha + 1, (SCENES, VIEWS, 3, SIZE, SIZE))
    frames = np.concatenate([colour, alpha], 2)[:, :, :channels].astype(np.uint8)
    c2w = torch.eye(4) + torch.arange(SCENES * VIEWS).reshape(SCENES, VIEWS, 1, 1)
    cameras = Cameras(c2w, torch.ones(SCENES, VIEWS, 4), SIZE, SIZE)
    values = {"num_input_views": 1, "scenes": ("a", "b", "c"), "mirrored": (False, True, False), **drawn}
    return HostBatch(torch.from_numpy(frames), cameras, **values)  # type: ignore[arg-type]


def by_the_formula(batch: HostBatch) -> np.ndarray:
    """Images in float64, scene by scene."""
    images = []
    for i, frames in enumerate(batch.frames.numpy() / 255.0):
        colour, alpha = frames[:, :3], frames[:, 3:]
        if batch.jitter is not None:
            brightness, contrast = (float(factor) for factor in batch.jitter[i])
            mean = colour.sum((0, 2, 3), keepdims=True) / alpha.sum() * brightness
            colour = (colour * brightness - mean * alpha) * contrast + mean * alpha
            colour = np.minimum(np.maximum(colour, 0), alpha)
        behind = np.ones(3) if batch.background is None else batch.background[i].numpy().astype(np.float64)
        image = colour + behind[:, None, None] * (1 - alpha)
        images.append(image[..., ::-1] if batch.mirrored[i] else image)
    return np.stack(images)


def same(first: Batch, second: Batch) -> bool:
    masks = first.masks is second.masks is None or torch.equal(first.masks, second.masks)  # type: ignore[arg-type]
    return masks and torch.equal(first.images, second.images) and torch.equal(first.cameras.c2w, second.cameras.c2w)


def test_every_premultiplied_byte_lies_on_white_without_running_over() -> None:
    colour, alpha = np.tril_indices(256)[::-1]  # all pairs of a colour and an alpha that is at least as much
    frames = np.broadcast_to(np.stack([colour, colour, colour, alpha])[None, None, :, None], (1, 1, 4, 1, len(alpha)))
    images, masks = composited(frames.astype(np.uint8))
    white = ((colour + 255 - alpha) / np.float32(255)).astype(np.float32)
    assert np.array_equal(images[0, 0, 0, 0], white)
    assert masks is not None and np.array_equal(masks[0, 0, 0, 0], alpha.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("jitter", [None, JITTER], ids=["plain", "jittered"])
@pytest.mark.parametrize("background", [None, BACKGROUND], ids=["white", "coloured"])
def test_a_batch_on_the_cpu_is_the_formula(jitter, background) -> None:
    batch = host_batch(jitter=jitter, background=background)
    np.testing.assert_allclose(batch.to("cpu").images.numpy(), by_the_formula(batch), rtol=0, atol=3e-7)


@pytest.mark.parametrize("jitter", [None, JITTER], ids=["plain", "jittered"])
@pytest.mark.parametrize("background", [None, BACKGROUND], ids=["white", "coloured"])
def test_what_a_device_computes_has_the_bits_of_the_cpu(jitter, background) -> None:
    frames = host_batch().frames
    on_device, on_cpu = (composited(pixels, jitter, background) for pixels in (frames, frames.numpy()))
    assert all(torch.equal(a, b) for a, b in zip(on_device, on_cpu, strict=True))  # type: ignore[arg-type]


def test_a_batch_without_alpha_has_the_colours_of_its_files_and_no_masks() -> None:
    batch = host_batch(channels=3, mirrored=(False,) * 3)
    found = batch.to("cpu")
    assert found.masks is None and torch.equal((found.images * 255).round().byte(), batch.frames)


def test_parts_of_a_batch_are_composited_as_the_whole_is() -> None:
    batch = host_batch(jitter=JITTER, background=BACKGROUND)
    apart = [part.to("cpu") for part in batch.split(2)]
    assert [part.scenes for part in apart] == [("a", "b"), ("c",)]
    together = Batch(
        images=torch.cat([part.images for part in apart]),
        masks=torch.cat([part.masks for part in apart if part.masks is not None]),
        cameras=Cameras(*(torch.cat([getattr(part.cameras, n) for part in apart]) for n in POSES), SIZE, SIZE),
        num_input_views=1,
        scenes=("a", "b", "c"),
    )
    assert same(together, batch.to("cpu"))


def test_a_mirrored_batch_can_be_sent_again() -> None:
    batch = host_batch(jitter=JITTER)
    assert same(batch.to("cpu"), batch.to("cpu"))


def test_no_number_of_a_batch_is_waited_for_where_it_is_composited() -> None:
    sent = host_batch(jitter=JITTER, background=BACKGROUND).to("meta")  # no numbers there
    assert sent.images.is_meta and sent.images.shape == (SCENES, VIEWS, 3, SIZE, SIZE)
    assert sent.masks is not None and sent.masks.shape == (SCENES, VIEWS, 1, SIZE, SIZE)
