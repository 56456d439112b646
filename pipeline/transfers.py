"""Numbers that reach a GPU while the host goes on; an ordinary copy waits for all that the GPU has to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def constant(numbers: Sequence[float], like: Tensor) -> Float[Tensor, " n"]:
    """Numbers as a tensor of the same type and on the same device as another one, made there."""
    return torch.stack([like.new_full((), number) for number in numbers])


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The same tensor on a device; from the host to a GPU by way of pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
