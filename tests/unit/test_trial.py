"""What a trial says of the machine that it runs on."""

from __future__ import annotations

import pytest
import torch

from sweeps.run.trial import gpu_utilization


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_driver_that_does_not_say_how_busy_its_gpu_is_ends_no_trial() -> None:
    assert gpu_utilization() == {}
