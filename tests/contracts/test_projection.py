"""The CPU projection's kernels: they equal plain torch, gradients included, and survive what is no number."""

from __future__ import annotations

import pytest
import torch

from pipeline.cameras import Cameras, orbit
from pipeline.gaussians import Gaussians
from pipeline.splatting import projection_cpu, rasterize_cpu
from tests.support import projection_reference

FIELDS = ("means", "quats", "scales", "opacities", "sh")
NEAR_PLANE = 0.2


def cloud(count: int, degree: int = 0, scenes: int = 1) -> dict[str, torch.Tensor]:
    """Float64 leaves of Gaussians about and far beside two cameras' view, some behind them, and of the cameras."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(scenes, count, *shape, generator=generator, dtype=torch.float64)

    cameras = orbit([10.0 + 77.0 * i for i in range(2 * scenes)], 20.0, 24).affine(1.1, 0.95, 3.0, -2.5, (28, 20))
    leaves = {
        "means": 1.5 * normal(3),
        "quats": normal(4),
        "scales": 0.02 + 0.1 * normal(3).sigmoid(),
        "opacities": (3 * normal()).sigmoid(),
        "sh": 0.5 * normal((degree + 1) ** 2, 3),
        "c2w": cameras.c2w.double().view(scenes, 2, 4, 4),
        "fxfycxcy": cameras.fxfycxcy.double().view(scenes, 2, 4),
    }
    return {name: tensor.requires_grad_() for name, tensor in leaves.items()}


def scene_of(leaves: dict[str, torch.Tensor]) -> tuple[Gaussians, Cameras]:
    gaussians = Gaussians(*(leaves[name] for name in FIELDS))
    return gaussians, Cameras(leaves["c2w"], leaves["fxfycxcy"], 28, 20)


def in_dtype(leaves: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in leaves.items()}


def projected(module, leaves: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Columns and the gradients of a fixed random functional of all of them, also of those not seen; who is seen."""
    splats, visible = module.project(*scene_of(leaves), NEAR_PLANE)
    weights = torch.randn(splats.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((splats * weights.to(splats)).sum(), list(leaves.values()))
    return {"splats": splats.detach(), **dict(zip(leaves, gradients, strict=True))}, visible


def errors(came: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float((came[name] - expected[name]).norm() / expected[name].norm()) for name in expected}


@pytest.mark.parametrize(
    ("dtype", "degree", "tolerance"), [(torch.float64, 0, 1e-9), (torch.float64, 3, 1e-9), (torch.float32, 0, 1e-4)]
)
def test_the_projection_and_every_gradient_equal_plain_torch(dtype, degree, tolerance):
    leaves = cloud(5000, degree, scenes=2)  # more Gaussians than a thread takes at once
    expected, seen = projected(projection_reference, leaves)
    came, visible = projected(projection_cpu, in_dtype(leaves, dtype))
    assert 0 < int(seen.sum()) < seen.numel() and torch.equal(visible, seen)
    assert max(errors(came, expected).values()) < tolerance, errors(came, expected)


def test_gradients_of_the_projection_agree_with_finite_differences():
    leaves = cloud(4, 1)
    with torch.no_grad():
        leaves["means"][0, 0] += 2.0 * leaves["c2w"][0, 0, :3, 0]  # beyond the margin to the right
        leaves["means"][0, 1] = leaves["c2w"][0, 0, :3, 3] + 0.1 * leaves["c2w"][0, 0, :3, 2]  # before the near plane

    def project(*tensors: torch.Tensor) -> torch.Tensor:
        return projection_cpu.project(*scene_of(dict(zip(leaves, tensors, strict=True))), NEAR_PLANE)[0]

    assert torch.autograd.gradcheck(project, list(leaves.values()), eps=1e-7, atol=1e-4, rtol=1e-4)


def test_threads_change_no_bit_of_the_projection():
    leaves, came = in_dtype(cloud(9000), torch.float32), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        came.append(projected(projection_cpu, leaves)[0])
    assert all(torch.equal(came[0][name], came[1][name]) for name in came[0])


def test_what_cannot_be_seen_has_a_gradient_of_exactly_zero():
    leaves = in_dtype(cloud(500), torch.float32)
    visible = projection_cpu.project(*scene_of(leaves), NEAR_PLANE)[1].any(1)[0]
    drawn = rasterize_cpu.rasterize(*scene_of(leaves), NEAR_PLANE)
    gradients = torch.autograd.grad(sum(channels.square().sum() for channels in drawn), [leaves[n] for n in FIELDS])
    assert 0 < int(visible.sum()) < 500
    assert all(not gradient[0, ~visible].any() and gradient[0, visible].any() for gradient in gradients)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FIELDS)
def test_a_gaussian_that_is_not_finite_is_not_drawn_and_its_gradient_says_so(name, value):
    """As if it were not there for all others, in the picture and in the gradients."""
    leaves = in_dtype(cloud(300), torch.float32)
    without = {field: leaves[field][:, 1:].detach().requires_grad_() for field in FIELDS} | {
        camera: leaves[camera] for camera in ("c2w", "fxfycxcy")
    }
    with torch.no_grad():
        leaves["means"][0, 0], leaves["opacities"][0, 0] = 0.0, 0.9  # in the middle of the picture
        leaves[name][0, 0] = value
    spoiled, clean = (rasterize_cpu.rasterize(*scene_of(each), NEAR_PLANE) for each in (leaves, without))
    assert all(torch.equal(one, other) for one, other in zip(spoiled, clean, strict=True))
    came = torch.autograd.grad(sum(channels.sum() for channels in spoiled), [leaves[field] for field in FIELDS])
    expected = torch.autograd.grad(sum(channels.sum() for channels in clean), [without[field] for field in FIELDS])
    assert all(torch.equal(one[:, 1:], other) for one, other in zip(came, expected, strict=True))
    assert bool(came[0][0, 0].isnan().all())


@pytest.mark.parametrize("name", ["c2w", "fxfycxcy"])
def test_a_camera_that_is_not_finite_sees_nothing_and_the_gradients_say_so(name):
    leaves = in_dtype(cloud(300), torch.float32)
    with torch.no_grad():
        leaves[name][0, 0] = float("nan")
    colours, alphas, _ = rasterize_cpu.rasterize(*scene_of(leaves), NEAR_PLANE)
    assert not alphas[0, 0].any() and alphas[0, 1].any()
    assert bool(torch.autograd.grad(colours.sum(), leaves["means"])[0].isnan().all())


@pytest.mark.parametrize("size", [1e-38, 1e15, 1e30, 3e38])
@pytest.mark.parametrize("name", [*FIELDS, "c2w", "fxfycxcy"])
def test_no_size_of_number_breaks_the_picture(name, size):
    leaves = in_dtype(cloud(300), torch.float32)
    with torch.no_grad():
        leaves[name][0, :20] *= size
    drawn = rasterize_cpu.rasterize(*scene_of(leaves), NEAR_PLANE)
    assert not any(bool(channels.isnan().any()) for channels in drawn)
    torch.autograd.grad(sum(channels.sum() for channels in drawn), list(leaves.values()))
