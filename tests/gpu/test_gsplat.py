"""gsplat on CUDA draws what brute force draws, values and gradients.

A pair within rounding of alpha = 1/255 may be drawn by one and not by the other, so single pixels may differ
by about that much: means and quantiles are compared, never the worst pixel.
"""

from __future__ import annotations

import gsplat
import pytest
import torch

from pipeline.cameras import Cameras
from pipeline.gaussians import Gaussians
from pipeline.splatting.gsplat_build import require_kernels
from pipeline.splatting.rendering import render
from pipeline.splatting.tile_bound import tile_intersections
from tests.contracts.test_render import FIELDS, leaves_of, make_cameras, make_gaussians
from tests.support import rasterize_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def draw(gaussians: Gaussians, cameras: Cameras, device: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Images, alphas, depths and the gradients of a fixed functional, on `device`; brute force on the CPU."""
    dtype = torch.float64 if device == "cpu" else torch.float32
    leaves = leaves_of(gaussians.to(device), cameras.to(device), dtype)
    scene = Gaussians(*(leaves[name] for name in FIELDS))
    views = Cameras(leaves["c2w"], leaves["fxfycxcy"], cameras.width, cameras.height)
    if device == "cpu":
        colours, alphas, depths = rasterize_reference.rasterize(scene, views, 0.2)
        drawn = [channels.movedim(-1, -3) for channels in (colours + 1 - alphas, alphas, depths)]
    else:
        drawn = list(render(scene, views))
    generator = torch.Generator().manual_seed(1)
    loss = sum((channels * torch.randn(channels.shape, generator=generator).to(channels)).sum() for channels in drawn)
    gradients = torch.autograd.grad(loss, [leaves[name] for name in (*FIELDS, "c2w")])
    return [value.detach().cpu().double() for value in drawn], [value.cpu().double() for value in gradients]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gsplat_equals_brute_force_but_for_pairs_at_the_threshold(degree):
    gaussians, cameras = make_gaussians(700, degree), make_cameras(64, 48)
    (expected, expected_gradients), (came, gradients) = (draw(gaussians, cameras, device) for device in ("cpu", "cuda"))
    for a, b in zip(came, expected, strict=True):
        error = (a - b).abs().flatten()
        assert error.mean() < 1e-3 and error.quantile(0.99) < 1e-3
    for name, a, b in zip((*FIELDS, "c2w"), gradients, expected_gradients, strict=True):
        error = (a - b).flatten(1 if b.ndim > 1 else 0).abs()
        assert error.quantile(0.95) < 1e-3 * b.abs().max() and error.mean() < 5e-3 * b.abs().mean(), name
    bottom_rows = [found[-1][..., 3, :] for found in (gradients, expected_gradients)]
    assert not any(bool(row.any()) for row in bottom_rows)


def test_gsplat_draws_batches_and_empty_scenes():
    cameras = make_cameras(views=6).to(torch.float32).to("cuda")
    cameras = Cameras(cameras.c2w.view(2, 3, 4, 4), cameras.fxfycxcy.view(2, 3, 4), 28, 20)
    gaussians = make_gaussians(200, batch=(2,)).to(torch.float32).to("cuda")
    together = render(gaussians, cameras)
    for b in range(2):
        torch.testing.assert_close(together.images[b], render(gaussians[b], cameras[b]).images, rtol=1e-4, atol=1e-4)
    hidden = Gaussians(**{**vars(gaussians), "opacities": gaussians.opacities * 0.003})
    nothing = render(hidden, cameras, background=(0.2, 0.4, 0.6))
    assert not nothing.alphas.any() and not nothing.depths.any()
    torch.testing.assert_close(nothing.images[0, 0, :, 0, 0].cpu(), torch.tensor([0.2, 0.4, 0.6]))


def test_the_bound_is_the_count_of_gsplats_kernels():
    require_kernels()  # or gsplat would build them by itself, elsewhere
    gaussians = make_gaussians(700).to(torch.float32).to("cuda")
    cameras = make_cameras(100, 70).to(torch.float32).to("cuda")
    _, _, found = gsplat.rasterization(
        means=gaussians.means, quats=gaussians.quats, scales=gaussians.scales, opacities=gaussians.opacities,
        colors=gaussians.sh, viewmats=cameras.w2c, Ks=cameras.K, width=100, height=70, near_plane=0.2, sh_degree=0,
        packed=False,
    )  # fmt: skip
    counted = found["tiles_per_gauss"].sum(-1).double()
    torch.testing.assert_close(tile_intersections(gaussians[None], cameras[None], 0.2)[0], counted, rtol=2e-3, atol=0)
