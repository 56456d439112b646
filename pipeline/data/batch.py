"""A batch as it leaves the host, in bytes, and as a stage sees it: on its device, composited, in floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.cameras import Cameras

Pixels = np.ndarray | Tensor  # bytes, by numpy on the CPU: torch would start threads, which are slow on a busy machine


@dataclass(frozen=True)
class Batch:
    """B scenes with V views each; the first `num_input_views` are inputs. Images on white, 0…1 sRGB."""

    images: Float[Tensor, "batch view 3 height width"]
    masks: Float[Tensor, "batch view 1 height width"] | None
    cameras: Cameras
    num_input_views: int
    scenes: tuple[str, ...]

    @property
    def input_images(self) -> Float[Tensor, "batch input 3 height width"]:
        return self.images[:, : self.num_input_views]

    @property
    def input_cameras(self) -> Cameras:
        return self.cameras[:, : self.num_input_views]


@dataclass(frozen=True)
class HostBatch:
    """A batch before it is composited, on the CPU: B scenes with V views each, and what was drawn for each scene.

    frames: premultiplied bytes, RGBA, or RGB where the dataset has no alpha; cameras: float32, mirrored already;
    mirrored: the scenes whose frames are to be mirrored too; jitter: factors of brightness and contrast, None to leave
    the colours; background: 0…1 sRGB, None for white. Jitter and background need alpha.
    """

    frames: UInt8[Tensor, "batch view channel height width"]
    cameras: Cameras
    num_input_views: int
    scenes: tuple[str, ...]
    mirrored: tuple[bool, ...]
    jitter: Float[Tensor, "batch 2"] | None = None
    background: Float[Tensor, "batch 3"] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The batch as a stage sees it: sent to the device as bytes, then mirrored, jittered and composited there.

        Other devices give the CPU's numbers, but for the rounding of a sum where there is jitter.
        """
        device = torch.device(device)
        sent = self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))
        frames = sent.frames
        if any(self.mirrored):
            shown = zip(frames, self.mirrored, strict=True)
            frames = torch.stack([scene.flip(-1) if mirrored else scene for scene, mirrored in shown])
        pixels = frames.numpy() if device.type == "cpu" else frames
        images, masks = composited(pixels, sent.jitter, sent.background)
        return Batch(images, masks, sent.cameras, self.num_input_views, self.scenes)

    def pinned(self, device: torch.device) -> HostBatch:
        """The same in memory from which this GPU fetches it while the CPU goes on."""
        with torch.cuda.device(device):  # a thread's own GPU is the first one, whatever the main thread has set
            return self._each(lambda tensor: tensor.pin_memory())

    def split(self, parts: int) -> list[HostBatch]:
        """The same scenes in so many batches, or fewer, of as equal a size as can be."""
        size = -(-len(self.scenes) // parts)
        return [self._of(slice(start, start + size)) for start in range(0, len(self.scenes), size)]

    def _of(self, some: slice) -> HostBatch:
        share = self._each(lambda tensor: tensor[some])
        return replace(share, scenes=self.scenes[some], mirrored=self.mirrored[some])

    def _each(self, change: Callable[[Tensor], Tensor]) -> HostBatch:
        """The batch with each of its tensors changed."""
        cameras = replace(self.cameras, c2w=change(self.cameras.c2w), fxfycxcy=change(self.cameras.fxfycxcy))
        jitter = None if self.jitter is None else change(self.jitter)
        background = None if self.background is None else change(self.background)
        return replace(self, frames=change(self.frames), cameras=cameras, jitter=jitter, background=background)


def composited(
    frames: Pixels,
    jitter: Float[Tensor, "batch 2"] | None = None,
    background: Float[Tensor, "batch 3"] | None = None,
) -> tuple[Float[Tensor, "batch view 3 height width"], Float[Tensor, "batch view 1 height width"] | None]:
    """Images 0…1 on the background and masks 0…1, None without alpha, of premultiplied bytes [B, V, 4 or 3, H, W].

    jitter: factors of brightness and contrast of each scene's foreground; background: one colour for each scene, or
    white. Both need alpha.
    """
    colour, alpha = frames[:, :, :3], frames[:, :, 3:]
    if frames.shape[2] == 3:
        return _unit(colour), None
    masks = _unit(alpha)
    if jitter is None:
        images = _unit(colour + (255 - alpha))  # premultiplied bytes on white: no byte can overflow
    else:
        foreground = _jittered(_unit(colour), masks, jitter)
        images = foreground + (1 - masks)
    if background is not None:
        images = images + (background[:, None, :, None, None] - 1) * (1 - masks)
    return images, masks


def _unit(pixels: Pixels) -> Tensor:
    """Bytes as float32 in 0…1."""
    if isinstance(pixels, np.ndarray):
        values = pixels.astype(np.float32)
        values /= np.float32(255)
        return torch.from_numpy(values)
    return pixels.float() / torch.full((), 255.0, device=pixels.device)  # a GPU would multiply by 1 / a Python number


def _jittered(
    colour: Float[Tensor, "batch view 3 height width"],
    alpha: Float[Tensor, "batch view 1 height width"],
    factors: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch view 3 height width"]:
    """Brightness and contrast of premultiplied colour, the same in all views of a scene; the mask stays as it is."""
    brightness, contrast = factors[:, :, None, None, None, None].unbind(1)
    weight = alpha.sum((1, 3, 4), keepdim=True).clamp(min=1e-6)
    mean = colour.sum((1, 3, 4), keepdim=True) / weight * brightness
    jittered = (colour * brightness - mean * alpha) * contrast + mean * alpha
    return torch.minimum(jittered.clamp(min=0), alpha)
