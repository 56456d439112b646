"""Drawing in bounded memory: what gsplat would hold is known beforehand, and chunks draw what the whole draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat_torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import GSLRM, load_recipe
from pipeline.cameras import Cameras, facelift_ring
from pipeline.errors import OversizedError
from pipeline.gaussians import Gaussians
from pipeline.gslrm import stage
from pipeline.splatting import rasterize_cpu
from pipeline.splatting.chunks import Limits, chunks, rasterize_in_chunks, view_bytes
from pipeline.splatting.rendering import draw, render
from pipeline.splatting.tile_bound import tile_intersections
from pipeline.training.loop import train
from tests.contracts.test_render import FIELDS, leaves_of, make_cameras, make_gaussians, relative_errors

WIDTH, HEIGHT = 100, 70  # whole tiles of neither


def two_scenes(count: int = 60, degree: int = 1) -> tuple[Gaussians, Cameras]:
    """Two scenes of three views, some Gaussians of which are too faint to be seen."""
    gaussians, cameras = make_gaussians(count, degree, batch=(2,)), make_cameras(WIDTH, HEIGHT, 6)
    gaussians.opacities[:, ::5] = 0.003
    return gaussians, Cameras(cameras.c2w.view(2, 3, 4, 4), cameras.fxfycxcy.view(2, 3, 4), WIDTH, HEIGHT)


# ---------------------------------------------------------------- the bound


def gsplats_count(gaussians: Gaussians, cameras: Cameras) -> torch.Tensor:
    """Tiles that one scene's Gaussians meet in each view: gsplat's projection and its lists, by its code for CPUs.

    That code's radii know nothing of opacities, so they are made here, from its conics, by the CUDA kernel's rule.
    """
    covariances, _ = gsplat_torch._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    _, centres, depths, conics, _ = gsplat_torch._fully_fused_projection(
        gaussians.means, covariances, cameras.w2c, cameras.K, cameras.width, cameras.height, near_plane=0.2
    )
    xx, xy, yy = conics.unbind(-1)
    variances = torch.stack([yy, xx], -1) / (xx * yy - xy.square())[..., None]
    radii = torch.zeros_like(centres)
    for view in range(len(centres)):
        for i, opacity in enumerate(gaussians.opacities.tolist()):
            if depths[view, i] < 0.2 or opacity < 1 / 255:
                continue
            reach = min(3.33, math.sqrt(2 * math.log(opacity * 255)))
            (x, y), (rx, ry) = centres[view, i].tolist(), [math.ceil(reach * v**0.5) for v in variances[view, i]]
            if x + rx > 0 and x - rx < cameras.width and y + ry > 0 and y - ry < cameras.height:
                radii[view, i] = torch.tensor([rx, ry])
    tiles = (math.ceil(cameras.width / 16), math.ceil(cameras.height / 16))
    return gsplat_torch._isect_tiles(centres, radii.int(), depths, 16, *tiles)[0].sum(-1)


def test_the_bound_is_gsplats_own_count():
    gaussians, cameras = make_gaussians(400), make_cameras(WIDTH, HEIGHT)
    gaussians.opacities[::5] = 0.003
    gaussians.means[1::5] *= 8  # beside the image, and behind the camera
    came = tile_intersections(gaussians[None], cameras[None], 0.2, pairs=97)
    assert came.tolist() == [gsplats_count(gaussians, cameras).tolist()] and came.min() > 400


@pytest.fixture(scope="module")
def one_in_64() -> Gaussians:
    """Of the Gaussians of GS-LRM at the released size (512 px, 6 inputs) with random weights, one in 64.

    Assumed: cameras evenly spaced on FaceLift's ring; one layer instead of 24, since the heads' layer norms make their
    numbers as large after any; pictures of 64 px, whose rays are one in 64 of those of 512 px.
    """
    torch.manual_seed(0)
    recipe = load_recipe("gslrm", overrides=["model.num_layers=1"])
    with torch.no_grad():
        gaussians = GSLRM(recipe.model)(torch.rand(1, 6, 3, 64, 64), facelift_ring(64, 8)[None, :6])
    return Gaussians(*(value[:, recipe.model.num_free_gaussians :] for value in vars(gaussians).values()))


def intersections_at_512_px(gaussians: Gaussians) -> list[float]:
    return (64 * tile_intersections(gaussians, facelift_ring(512, 8)[None], 0.2))[0].tolist()


def test_the_bound_predicts_what_random_weights_were_measured_to_need_for_two_scenes(one_in_64):
    assert 2 * sum(intersections_at_512_px(one_in_64)) == pytest.approx(2.37e9, rel=0.05)


@pytest.mark.parametrize(("pixels", "expected"), [(None, [(1, [1] * 8)] * 2), (1.5, [(2, [8])])])
def test_two_scenes_are_drawn_view_by_view_from_random_weights_and_whole_once_gaussians_are_small(
    one_in_64, pixels, expected
):
    """pixels: standard deviation of all Gaussians at the distance of the origin."""
    size = one_in_64.scales if pixels is None else torch.full_like(one_in_64.scales, pixels * 2.7 / 549)
    scene = Gaussians(**{**vars(one_in_64), "scales": size})
    costs = [view_bytes(number, 64 * scene.count, 0) for number in intersections_at_512_px(scene)]
    assert chunks([costs, costs], Limits().chunk_bytes) == expected
    assert max(costs) < Limits().chunk_bytes


@pytest.mark.parametrize("name", [*FIELDS[:4], "c2w"])
def test_the_bound_is_not_a_number_where_a_gaussian_or_a_camera_is_not(name):
    gaussians, cameras = two_scenes()
    (cameras.c2w if name == "c2w" else getattr(gaussians, name))[1].view(-1)[4] = torch.nan
    assert tile_intersections(gaussians, cameras, 0.2).isnan().any(1).tolist() == [False, True]


# ---------------------------------------------------------------- chunks


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (99, [(3, [3])]),  # all together
        (12, [(2, [3]), (1, [3])]),  # whole scenes
        (6, [(1, [3]), (1, [3]), (1, [2, 1])]),
        (5, [(1, [3]), (1, [2, 1]), (1, [1, 1, 1])]),
        (1, [(1, [1, 1, 1])] * 3),  # a view cannot be divided
    ],
)
def test_consecutive_views_stay_together_where_they_fit(budget, expected):
    assert chunks([[1, 1, 1], [2, 2, 2], [3, 3, 6]], budget) == expected


class Recorder:
    """The CPU rasterizer, which notes how many scenes, views and Gaussians it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def __call__(self, gaussians: Gaussians, cameras: Cameras, near_plane: float):
        self.calls.append((*cameras.batch_shape, gaussians.count))
        return rasterize_cpu.rasterize(gaussians, cameras, near_plane)


def values_and_gradients(rasterize: Callable, gaussians: Gaussians, cameras: Cameras) -> dict[str, torch.Tensor]:
    """Pictures, and the gradients of a fixed random functional of them, by name."""
    leaves = leaves_of(gaussians, cameras, torch.float64)
    scene, views = Gaussians(*(leaves[name] for name in FIELDS)), cameras_of(leaves, cameras)
    channels = torch.cat(rasterize(scene, views, 0.2), -1)
    weights = torch.randn(channels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((channels * weights).sum(), list(leaves.values()))
    return {"channels": channels.detach(), **dict(zip(leaves, gradients, strict=True))}


def cameras_of(leaves: dict[str, torch.Tensor], cameras: Cameras) -> Cameras:
    return Cameras(leaves["c2w"], leaves["fxfycxcy"], cameras.width, cameras.height)


def in_chunks(rasterize: Callable, limits: Limits) -> Callable:
    return lambda gaussians, cameras, near_plane: rasterize_in_chunks(rasterize, gaussians, cameras, near_plane, limits)


@pytest.mark.parametrize(
    ("chunk_bytes", "calls"),
    [
        (2**32, [(2, 3, 48)]),
        (30_000, [(1, 3, 48)] * 2),
        (17_000, [(1, 2, 48), (1, 1, 48)] * 2),
        (1, [(1, 1, 48)] * 6),
    ],
)
def test_chunks_draw_what_the_whole_draws_and_the_backward_pass_draws_them_again(chunk_bytes, calls):
    gaussians, cameras = two_scenes()
    recorder = Recorder()
    came = values_and_gradients(in_chunks(recorder, Limits(chunk_bytes)), gaussians, cameras)
    errors = relative_errors(came, values_and_gradients(rasterize_cpu.rasterize, gaussians, cameras))
    assert max(errors.values()) < 1e-12, errors
    again = [] if len(calls) == 1 else calls
    assert recorder.calls[: len(calls)] == calls and sorted(recorder.calls[len(calls) :]) == sorted(again)


def test_a_scene_without_a_batch_and_one_of_two_batch_dimensions_are_drawn_in_chunks_too():
    gaussians, cameras = two_scenes()
    draw_each = in_chunks(Recorder(), Limits(chunk_bytes=1))
    deeper = Gaussians(*(value[None] for value in vars(gaussians).values()))
    for scenes, views in ((gaussians[0], cameras[0]), (deeper, cameras[None])):
        expected = rasterize_cpu.rasterize(scenes, views, 0.2)
        torch.testing.assert_close(draw_each(scenes, views, 0.2), expected, rtol=1e-12, atol=1e-12)


def undrawable(*_: object):
    raise AssertionError("nothing was to be drawn")


def test_gaussians_that_are_too_large_are_refused_before_anything_is_drawn():
    gaussians, cameras = two_scenes()
    large = Gaussians(**{**vars(gaussians), "scales": gaussians.scales * 30})
    limits = Limits(view_intersections=1000)
    says = (
        "^render: Gaussians so large that a view cannot be drawn: expected at most 1000 pairs of a Gaussian and a "
        r"tile of 16 px in one view, got 1\d\d\d — lower model.scale_bias or model.max_log_scale; if they grew"
    )
    with pytest.raises(OversizedError, match=says):
        rasterize_in_chunks(undrawable, large, cameras, 0.2, limits)
    assert rasterize_in_chunks(Recorder(), gaussians, cameras, 0.2, limits)[1].any()


def test_a_training_whose_gaussians_are_too_large_says_at_which_step(tmp_path, tiny_recipe, monkeypatch):
    limits = Limits(view_intersections=10)
    monkeypatch.setattr(stage, "draw", lambda *scene: rasterize_in_chunks(rasterize_cpu.rasterize, *scene, 0.2, limits))
    with pytest.raises(OversizedError, match=r"^step 1: render: Gaussians so large .*, lower optim.lr\.$"):
        list(train(tiny_recipe(), tmp_path))


def test_where_a_gaussian_is_not_a_number_nothing_is_drawn_and_every_pixel_and_gradient_says_so():
    gaussians, cameras = two_scenes()
    gaussians.means[1, 2, 0] = torch.nan
    came = values_and_gradients(in_chunks(undrawable, Limits()), gaussians, cameras)
    assert all(bool(value.isnan().all()) for value in came.values())


def test_where_every_gaussian_is_too_faint_nothing_is_drawn():
    gaussians, cameras = two_scenes()
    faint = Gaussians(**{**vars(gaussians), "opacities": gaussians.opacities * 0.001})
    came = values_and_gradients(in_chunks(undrawable, Limits()), faint, cameras)
    assert came["channels"].shape == (2, 3, HEIGHT, WIDTH, 5) and not any(bool(value.any()) for value in came.values())


def test_without_a_view_nothing_is_drawn():
    gaussians, cameras = two_scenes()
    came = values_and_gradients(in_chunks(undrawable, Limits()), gaussians, cameras[:, :0])
    assert came["channels"].shape == (2, 0, HEIGHT, WIDTH, 5)


# ---------------------------------------------------------------- values from within


class _Reads(TorchDispatchMode):
    """Counts what on a GPU waits for a number: a scalar that is read."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_looking_at_values_is_one_wait_and_draw_does_not_look():
    gaussians, cameras = two_scenes()
    counts = []
    for door in (draw, render):
        with _Reads() as reads:
            door(gaussians, cameras)
        counts.append(reads.count)
    assert counts[1] == counts[0] + 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*FIELDS, "c2w", "fxfycxcy"])
def test_a_value_that_is_not_finite_breaks_nothing_and_every_pixel_says_so(name, value):
    gaussians, cameras = two_scenes(degree=0)
    leaves = leaves_of(gaussians, cameras, torch.float32)
    with torch.no_grad():
        leaves[name][0].view(-1)[-1] = value
    rendering = draw(Gaussians(*(leaves[name] for name in FIELDS)), cameras_of(leaves, cameras))
    torch.autograd.grad(rendering.images.square().sum(), list(leaves.values()))
    assert all(bool(channels.isnan().all()) for channels in rendering)


def test_draw_gives_the_bits_of_render():
    gaussians, cameras = two_scenes()
    assert all(map(torch.equal, draw(gaussians, cameras), render(gaussians, cameras)))
