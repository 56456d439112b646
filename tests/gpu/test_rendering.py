"""`render` keeps its contract on CUDA: what has a gradient, that chunks change nothing, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.cameras import Cameras, orbit
from pipeline.errors import OversizedError
from pipeline.gaussians import Gaussians
from pipeline.splatting import rasterize_cpu, rendering
from pipeline.splatting.chunks import Limits, rasterize_in_chunks
from pipeline.splatting.gsplat_build import require_kernels
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


def test_chunks_are_the_whole_in_values_and_gradients(device) -> None:
    if device.type == "cuda":
        require_kernels()  # or gsplat would build them by itself, elsewhere
    rasterize = rendering._rasterize_gsplat if device.type == "cuda" else rasterize_cpu.rasterize
    gaussians, cameras = make_gaussians(400, 1, batch=(2,)), make_cameras(64, 48, views=6)
    cameras = Cameras(cameras.c2w.view(2, 3, 4, 4), cameras.fxfycxcy.view(2, 3, 4), 64, 48)
    found = []
    for limits in (Limits(), Limits(chunk_bytes=1)):
        leaves = leaves_of(gaussians.to(device), cameras.to(device), torch.float32)
        scene, views = Gaussians(*(leaves[name] for name in FIELDS)), replace(cameras, c2w=leaves["c2w"])
        views = replace(views, fxfycxcy=leaves["fxfycxcy"])
        drawn = torch.cat(rasterize_in_chunks(rasterize, scene, views, 0.2, limits), -1)
        wanted = [leaves[name] for name in (*FIELDS, "c2w")]
        found.append([drawn, *torch.autograd.grad(drawn.square().mean(), wanted)])
    assert max(relative_error(part, whole) for whole, part in zip(*found, strict=True)) < 1e-4


def test_gaussians_too_large_for_a_view_are_refused_and_the_gpu_goes_on(device) -> None:
    if device.type != "cuda":
        pytest.skip("a CPU draws them, however long it takes")
    count, one = 2_200_000, torch.ones(2_200_000, 3, device=device)
    quats = torch.zeros(count, 4, device=device)
    quats[:, 0] = 1
    wide = Gaussians(0 * one, quats, 10 * one, 0.5 * one[:, 0], one[:, None])
    cameras = orbit([0.0], 20.0, 512).to(torch.float32).to(device)
    with pytest.raises(OversizedError, match="Gaussians so large"):
        render(wide, cameras)
    assert bool(render(replace(wide, scales=1e-3 * one)[:10], cameras).images.isfinite().all())
