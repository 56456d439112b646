"""`render` keeps its contract on CUDA: what has a gradient, and that drawing in parts changes nothing."""

from __future__ import annotations

import pytest
import torch

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians
from pipeline.splatting.rendering import render
from tests.contracts.test_render import FIELDS, leaves_of, make_cameras, make_gaussians
from tests.gpu.conftest import relative_error

pytestmark = pytest.mark.gpu


def gradients(leaves: dict[str, torch.Tensor], width: int, height: int) -> dict[str, torch.Tensor]:
    """The gradients of a fixed functional of colours, opacities and depths, by the name of a leaf."""
    scene = Gaussians(*(leaves[name] for name in FIELDS))
    drawn = render(scene, Cameras(leaves["c2w"], leaves["fxfycxcy"], width, height))
    generator = torch.Generator().manual_seed(1)
    loss = sum((channels * torch.randn(channels.shape, generator=generator).to(channels)).sum() for channels in drawn)
    names = (*FIELDS, "c2w")
    return dict(zip(names, torch.autograd.grad(loss, [leaves[name] for name in names]), strict=True))


def test_the_gradient_of_c2w_is_that_of_the_cpu_in_rotation_and_translation(device) -> None:
    gaussians, cameras = make_gaussians(700, 1), make_cameras(64, 48)
    found, expected = (
        gradients(leaves_of(gaussians.to(where), cameras.to(where), torch.float32), 64, 48)["c2w"]
        for where in (device, "cpu")
    )
    assert relative_error(found[..., :3, :], expected[..., :3, :]) < 1e-3


def test_a_scene_drawn_view_by_view_is_the_scene_drawn_at_once(device) -> None:
    gaussians, cameras = make_gaussians(500).to(torch.float32).to(device), make_cameras().to(torch.float32).to(device)
    together = render(gaussians, cameras)
    for view in range(cameras.batch_shape[-1]):
        alone = render(gaussians, cameras[view : view + 1])
        for name, part in zip(together._fields, alone, strict=True):
            torch.testing.assert_close(part[0], getattr(together, name)[view], rtol=1e-4, atol=1e-4)
