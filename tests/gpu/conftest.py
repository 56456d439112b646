"""What the tests of the GPU share: the device, which `MOUSELIFT_GPU_TESTS=cpu` makes the CPU to try the tests there.

With that word the comparisons are of the CPU with itself, and what only a GPU can show is left out; what remains is
that the tests run.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

VARIABLE = "MOUSELIFT_GPU_TESTS"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run."""
    if os.environ.get(VARIABLE) == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip(f"needs CUDA; {VARIABLE}=cpu tries the tests on the CPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _convolutions_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no TF32, in which cuDNN convolves by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def gpus(device: torch.device) -> float:
    """The share of a GPU that each of two trials takes."""
    return 0.5 if device.type == "cuda" else 0.0


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The length of the difference, of the length of what was expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())
