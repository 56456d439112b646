"""The renderer's contract: the CPU rasterizer equals brute force, and every odd scene its right picture."""

from __future__ import annotations

import inspect

import gsplat
import numpy as np
import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat_torch

from pipeline.cameras import Cameras, orbit
from pipeline.errors import NonFiniteError, PipelineError
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.splatting import projection_cpu, rasterize_cpu
from pipeline.splatting.rendering import Rendering, _rasterize_gsplat, render
from tests.support import rasterize_reference

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def make_gaussians(count: int, degree: int = 0, seed: int = 0, batch: tuple[int, ...] = ()) -> Gaussians:
    """A float64 cloud about the origin, from faint to opaque, from sub-pixel to wide."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, count, *shape, generator=generator, dtype=torch.float64)

    return Gaussians(
        means=normal(3) * torch.tensor([0.6, 0.3, 0.3], dtype=torch.float64),
        quats=normal(4),
        scales=0.02 + 0.1 * normal(3).sigmoid(),
        opacities=(2 * normal() + 0.5).sigmoid(),
        sh=0.5 * normal((degree + 1) ** 2, 3),
    )


def make_cameras(width: int = 28, height: int = 20, views: int = 3) -> Cameras:
    """A non-square image, anisotropic pixels, a principal point off the centre."""
    cameras = orbit([10.0 + 77.0 * i for i in range(views)], 20.0, 24).to(torch.float64)
    return cameras.affine(1.1, 0.95, 3.0, -2.5, (width, height))


def leaves_of(gaussians: Gaussians, cameras: Cameras, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {name: getattr(gaussians, name) for name in FIELDS}
    tensors |= {"c2w": cameras.c2w, "fxfycxcy": cameras.fxfycxcy}
    return {name: tensor.to(dtype).detach().requires_grad_() for name, tensor in tensors.items()}


def values_and_gradients(module, gaussians: Gaussians, cameras: Cameras, dtype: torch.dtype):
    """Channels r g b alpha depth over a grey background, and the gradients of a fixed random functional."""
    leaves = leaves_of(gaussians, cameras, dtype)
    drawn = module.rasterize(
        Gaussians(*(leaves[name] for name in FIELDS)),
        Cameras(leaves["c2w"], leaves["fxfycxcy"], cameras.width, cameras.height),
        0.2,
    )
    channels = torch.cat([drawn[0] + (1 - drawn[1]) * 0.7, drawn[1], drawn[2]], -1)
    weights = torch.randn(channels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((channels * weights.to(dtype)).sum(), list(leaves.values()))
    return {"channels": channels.detach(), **dict(zip(leaves, gradients, strict=True))}


def relative_errors(came: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float((came[name] - expected[name]).norm() / expected[name].norm()) for name in expected}


@pytest.mark.parametrize(
    ("degree", "dtype", "tolerance"),
    [(0, torch.float64, 1e-10), (3, torch.float64, 1e-10), (0, torch.float32, 1e-4)]
    + [(degree, torch.float32, 1e-4) for degree in (1, 2, 3)],
)
def test_values_and_every_gradient_equal_brute_force(degree, dtype, tolerance):
    gaussians, cameras = make_gaussians(700, degree), make_cameras()
    expected = values_and_gradients(rasterize_reference, gaussians, cameras, torch.float64)
    errors = relative_errors(values_and_gradients(rasterize_cpu, gaussians, cameras, dtype), expected)
    assert max(errors.values()) < tolerance, errors


def test_gaussians_that_only_close_pixels_are_seen_by_the_backward_pass_too():
    gaussians = make_gaussians(2500, seed=3)
    wall = Gaussians(**{**vars(gaussians), "opacities": gaussians.opacities.clamp(min=0.9)})
    expected = values_and_gradients(rasterize_reference, wall, make_cameras(views=2), torch.float64)
    errors = relative_errors(values_and_gradients(rasterize_cpu, wall, make_cameras(views=2), torch.float64), expected)
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize("module", [rasterize_cpu, rasterize_reference])
def test_gradients_agree_with_finite_differences(module):
    leaves = leaves_of(make_gaussians(6, 1, seed=5), make_cameras(9, 7, 1), torch.float64)

    def draw(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.cat(module.rasterize(Gaussians(*tensors[:5]), Cameras(*tensors[5:], 9, 7), 0.2), -1)

    assert torch.autograd.gradcheck(draw, list(leaves.values()), eps=1e-7, atol=1e-4, rtol=1e-4)


def test_projection_equals_gsplats_own_torch_projection():
    gaussians, cameras = make_gaussians(300), make_cameras()
    splats, visible = projection_cpu.project(gaussians, cameras, 0.2)
    covariances, _ = gsplat_torch._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    radii, centres, depths, conics, _ = gsplat_torch._fully_fused_projection(
        gaussians.means, covariances, cameras.w2c, cameras.K, cameras.width, cameras.height, near_plane=0.2
    )
    assert bool(((radii > 0).all(-1) | ~visible).all())
    expected = torch.cat([centres, conics, depths[..., None]], -1)[visible]
    torch.testing.assert_close(splats[visible][:, [0, 1, 2, 3, 4, -1]], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_spherical_harmonics_equal_gsplats(degree):
    directions = torch.nn.functional.normalize(make_gaussians(50).means, dim=-1)
    coefficients = make_gaussians(50, degree).sh
    expected = gsplat_torch._spherical_harmonics(degree, directions, coefficients)
    basis = torch.stack(projection_cpu.sh_basis(directions.mT, degree), -1)
    came = SH_C0 * coefficients[:, 0] + torch.einsum("nk,nkc->nc", basis, coefficients[:, 1:])
    torch.testing.assert_close(came, expected)


def test_one_opaque_gaussian_on_the_axis_gives_its_colour_depth_and_alpha():
    cameras = orbit([0.0], 0.0, 33).to(torch.float64)
    red = (torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64) - 0.5) / SH_C0
    one = Gaussians(
        torch.zeros(1, 3).double(),
        torch.eye(4)[:1].double(),
        torch.full((1, 3), 0.2).double(),
        torch.ones(1).double(),
        red,
    )
    rendering = render(one, cameras)
    came = torch.cat([channels[0, :, 16, 16] for channels in rendering])
    torch.testing.assert_close(
        came, torch.tensor([1.0, 0.001, 0.001, 0.999, 2.7], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_order_is_by_depth_and_ties_keep_the_order_given():
    nearest = rasterize_cpu.nearest_first(
        torch.tensor([3.0, 1.0, 2.0, 1.0, 0.5]).numpy(), torch.tensor([1, 1, 1, 1, 0]).bool().numpy()
    )
    assert nearest.tolist() == [1, 3, 2, 0]


def test_the_fast_sort_of_depths_is_the_stable_one():
    generator = np.random.default_rng(0)
    depths = generator.uniform(0.01, 300, 4000).round(1)  # many ties
    visible = generator.random(4000) < 0.8
    expected = np.flatnonzero(visible)[np.argsort(depths[visible].astype(np.float32), kind="stable")]
    assert rasterize_cpu.nearest_first(depths, visible).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_do_not_depend_on_whether_pairs_were_kept(monkeypatch, dtype):
    """Where there was no room for them, the backward pass walks again to make the same list."""
    gaussians, cameras = make_gaussians(300), make_cameras(views=2)
    kept = values_and_gradients(rasterize_cpu, gaussians, cameras, dtype)
    for room in (0, 500):  # of all views: none, and fewer pairs than a view has
        monkeypatch.setattr(rasterize_cpu, "PAIRS_KEPT", room)
        again = values_and_gradients(rasterize_cpu, gaussians, cameras, dtype)
        assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_falloff_is_exp_within_2_ulp():
    sigmas = np.concatenate(
        [np.random.default_rng(0).uniform(0, rasterize_cpu.MAX_SIGMA, 20_000), np.linspace(0, 6, 769)]
    )
    came = np.array([rasterize_cpu.falloff_at(2 * sigma, 0.0, 0.0, 1.0, 0.0, 16.0) for sigma in sigmas])
    expected = np.exp(-sigmas)
    assert np.abs(came - expected).max() > 0 and (np.abs(came - expected) <= 2 * np.spacing(expected)).all()


@pytest.mark.parametrize("scene", ["no Gaussians", "all transparent", "all behind the camera", "all beside the image"])
def test_a_scene_with_nothing_to_see_is_exactly_the_background(scene):
    gaussians, cameras = make_gaussians(20), make_cameras(views=1)
    if scene == "no Gaussians":
        gaussians = gaussians[:0]
    elif scene == "all transparent":
        gaussians = Gaussians(**{**vars(gaussians), "opacities": gaussians.opacities * 0.003})
    else:
        shift = cameras.forward * -20 if scene == "all behind the camera" else cameras.c2w[:, :3, 0] * 50
        gaussians = Gaussians(**{**vars(gaussians), "means": gaussians.means + shift})
    means = gaussians.means.clone().requires_grad_()
    rendering = render(Gaussians(**{**vars(gaussians), "means": means}), cameras, background=(0.2, 0.4, 0.6))
    rendering.images.sum().backward()
    colour = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)[:, None, None].expand(3, 20, 28)
    assert torch.equal(rendering.images[0], colour) and not rendering.alphas.any() and not rendering.depths.any()
    assert not means.grad.any()


def test_extreme_gaussians_leave_every_value_and_gradient_finite():
    gaussians, cameras = make_gaussians(60), make_cameras()
    spoiled = gaussians.to(torch.float32).detach()
    spoiled.means[:10] = cameras.centres[0].float()  # in the camera
    spoiled.means[10:20] *= 1e4  # far away
    spoiled.scales[20:30] *= 1e4  # huge
    spoiled.scales[30:40, 0] *= 1e5  # needles
    spoiled.scales[40:50] = 0.0  # points
    spoiled.opacities[50:] = 1.0
    leaves = leaves_of(spoiled, cameras, torch.float32)
    rendering = render(
        Gaussians(*(leaves[name] for name in FIELDS)), Cameras(leaves["c2w"], leaves["fxfycxcy"], 28, 20)
    )
    gradients = torch.autograd.grad(sum(channels.sum() for channels in rendering), list(leaves.values()))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (*rendering, *gradients))


def test_gaussians_nearer_than_the_near_plane_are_left_out():
    cameras = orbit([0.0], 0.0, 16)
    near = Gaussians(**{**vars(make_gaussians(1).to(torch.float32)), "means": torch.tensor([[2.55, 0.0, 0.0]])})
    assert not render(near, cameras).alphas.any() and render(near, cameras, near_plane=0.1).alphas.any()


def test_a_batch_equals_a_loop_over_its_scenes():
    gaussians = make_gaussians(200, 1, batch=(2,))
    cameras = make_cameras(views=6)
    cameras = Cameras(cameras.c2w.view(2, 3, 4, 4), cameras.fxfycxcy.view(2, 3, 4), 28, 20)
    together = render(gaussians, cameras)
    loop = [render(gaussians[b], cameras[b]) for b in range(2)]
    for came, *alone in zip(together, *loop, strict=True):
        torch.testing.assert_close(came, torch.stack(alone), rtol=1e-12, atol=1e-12)


def test_shapes_are_those_of_the_contract_with_two_batch_dimensions():
    gaussians = make_gaussians(10, batch=(2, 1))
    cameras = make_cameras(views=6)
    cameras = Cameras(cameras.c2w.view(2, 1, 3, 4, 4), cameras.fxfycxcy.view(2, 1, 3, 4), 28, 20)
    shapes = [tuple(channels.shape) for channels in render(gaussians, cameras)]
    assert shapes == [(2, 1, 3, 3, 20, 28), (2, 1, 3, 1, 20, 28), (2, 1, 3, 1, 20, 28)]


def draw_with_threads(threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    leaves = leaves_of(make_gaussians(400, 2), make_cameras(views=5), torch.float32)
    cameras = Cameras(leaves["c2w"], leaves["fxfycxcy"], 28, 20)
    rendering = render(Gaussians(*(leaves[name] for name in FIELDS)), cameras)
    return [*rendering, *torch.autograd.grad(rendering.images.square().sum(), list(leaves.values()))]


def test_threads_and_repeats_change_no_bit():
    first, again, threaded = draw_with_threads(1), draw_with_threads(1), draw_with_threads(3)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, threaded, strict=True))


def test_autocast_does_not_lower_the_precision_of_the_picture():
    gaussians, cameras = make_gaussians(50).to(torch.float32), make_cameras().to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = render(gaussians, cameras)
    assert all(torch.equal(a, b) for a, b in zip(inside, render(gaussians, cameras), strict=True))


@pytest.mark.parametrize("degree", [0, 2])
def test_the_call_to_gsplat_speaks_its_names_and_shapes(monkeypatch, degree):
    gaussians, cameras = make_gaussians(30, degree, batch=(2,)), make_cameras(views=6)
    cameras = Cameras(cameras.c2w.view(2, 3, 4, 4).requires_grad_(), cameras.fxfycxcy.view(2, 3, 4), 28, 20)
    parameters = inspect.signature(gsplat.rasterization)

    def stand_in(**arguments):
        parameters.bind(**arguments)
        colours = arguments["colors"]  # at degree 0 what is seen, at others coefficients
        sh = colours if degree else (colours[..., None, :] - 0.5) / SH_C0
        scene = Gaussians(*(arguments[name] for name in ("means", "quats", "scales", "opacities")), sh)
        K = arguments["Ks"]
        fxfycxcy = torch.stack([K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2]], -1)
        views = Cameras(torch.linalg.inv(arguments["viewmats"]), fxfycxcy, arguments["width"], arguments["height"])
        colours, alphas, depths = rasterize_reference.rasterize(scene, views, arguments["near_plane"])
        said = (arguments["sh_degree"], arguments["render_mode"], arguments["packed"])
        assert said == (degree or None, "RGB+ED", False)
        return torch.cat([colours, depths], -1), alphas, {}

    monkeypatch.setattr(gsplat, "rasterization", stand_in)
    came, expected = (
        _rasterize_gsplat(gaussians, cameras, 0.2),
        rasterize_cpu.rasterize(gaussians, cameras, 0.2),
    )
    torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-5)  # c2w is orthonormal in float32 only
    gradients = [torch.autograd.grad(drawn[0].square().sum(), cameras.c2w)[0] for drawn in (came, expected)]
    assert gradients[0][..., :3, :].any() and not any(bool(gradient[..., 3, :].any()) for gradient in gradients)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g, c: (g, c[0]), r"expected cameras \('V',\) for Gaussians \('N',\), got cameras \(\)"),
        (lambda g, c: (g, Cameras(c.c2w[None], c.fxfycxcy[None], 28, 20)), r"got cameras \(1, 3\)"),
        (lambda g, c: (make_gaussians(5, batch=(3,)), c), r"expected cameras \(3, 'V'\)"),
        (lambda g, c: (g.to(torch.float32), c), "got torch.float32 on cpu, torch.float64 on cpu"),
        (lambda g, c: (g.to(torch.bfloat16), c.to(torch.bfloat16)), "got torch.bfloat16 on cpu"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_what_to_do(change, says):
    with pytest.raises(PipelineError, match=says):
        render(*change(make_gaussians(5), make_cameras()))


def test_a_background_that_is_no_colour_is_refused():
    with pytest.raises(PipelineError, match="expected an RGB background"):
        render(make_gaussians(5), make_cameras(), background=(1.0,))


def test_a_nan_is_named_not_drawn():
    gaussians = make_gaussians(5)
    gaussians.scales[2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="expected finite scales"):
        render(gaussians, make_cameras())


def test_a_rendering_unpacks_into_images_alphas_depths():
    assert Rendering._fields == ("images", "alphas", "depths")
