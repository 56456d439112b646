"""GS-LRM: FaceLift's numbers and names, its symmetries, what is trained and what is not."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cameras import Cameras, facelift_six, ray_parameter_of_closest_point
from pipeline.data.batch import Batch
from pipeline.data.loader import Loader
from pipeline.data.scenes import Dataset
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.gslrm.stage import GSLRMStage, preview
from pipeline.recipe import FreezeConfig, GSLRMConfig
from pipeline.recipes import load_recipe
from pipeline.splatting.rendering import render

GOLDEN = Path(__file__).parents[1] / "golden" / "gslrm"
aten = torch.ops.aten
CONFIG = GSLRMConfig(dim=32, head_dim=16, num_layers=3, init_std=0.1)
GOLDEN_CONFIG = GSLRMConfig(dim=128, head_dim=64, num_layers=2)


def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "forward.npz").items()}


def golden_inputs() -> tuple[Tensor, Cameras]:
    arrays = golden()
    cameras = Cameras(arrays["c2w"][:, :3], arrays["fxfycxcy"][:, :3], 32, 32)
    return arrays["image"][:, :3, :3], cameras


def model(config: GSLRMConfig = CONFIG) -> GSLRM:
    torch.manual_seed(0)
    return GSLRM(config)


def views(count: int = 3, size: int = 16) -> tuple[Tensor, Cameras]:
    """One scene of random images from the first views of FaceLift's rig."""
    images = torch.rand(1, count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images, facelift_six(size)[:count][None]


def weigh(gaussians: Gaussians) -> Tensor:
    """A number that hangs on every value of every Gaussian."""
    generator = torch.Generator().manual_seed(1)
    values = [getattr(gaussians, field.name) for field in fields(gaussians)]
    return torch.stack([(v * torch.randn(v.shape, generator=generator)).sum() for v in values]).sum()


def without_gradient(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())}


# ---------------------------------------------------------------- FaceLift's numbers and names


@pytest.fixture(scope="module")
def golden_model() -> GSLRM:
    network = GSLRM(GOLDEN_CONFIG)
    weights = {name.removeprefix("sd/"): value for name, value in golden().items() if name.startswith("sd/")}
    network.load_state_dict(weights, strict=True)
    return network


def test_raw_gaussians_are_facelifts_to_1e_5(golden_model: GSLRM) -> None:
    images, cameras = golden_inputs()
    raw = golden_model.raw_gaussians(images, cameras.rays())
    torch.testing.assert_close(raw, golden()["raw14"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "key"),
    [("means", "xyz"), ("sh", "f_dc"), ("scales", "act_scale"), ("quats", "act_rot"), ("opacities", "act_opacity")],
)
def test_activated_gaussians_are_facelifts_to_1e_5(golden_model: GSLRM, name: str, key: str) -> None:
    value = getattr(golden_model(*golden_inputs())[0], name)
    expected = golden()[key].reshape(value.shape)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_the_released_size_has_exactly_facelifts_151_names_and_shapes_in_order() -> None:
    rows = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    expected = [(row[0], tuple(row[1])) for row in rows if not row[0].startswith("loss_calculator.")]
    with torch.device("meta"):
        tensors = GSLRM(load_recipe("gslrm").model).state_dict()
    assert [(name, tuple(value.shape)) for name, value in tensors.items()] == expected and len(expected) == 151


def test_the_released_size_has_303_565_824_parameters() -> None:
    with torch.device("meta"):
        network = GSLRM(load_recipe("gslrm").model)
    assert sum(p.numel() for p in network.parameters()) == 303_565_824


# ---------------------------------------------------------------- order and geometry


def test_permuting_views_permutes_their_gaussians_and_nothing_else() -> None:
    images, cameras = views(4)
    order, free = [2, 0, 3, 1], CONFIG.num_free_gaussians
    plain, permuted = model()(images, cameras), model()(images[:, order], cameras[:, order])
    for field in fields(Gaussians):
        before, after = getattr(plain, field.name), getattr(permuted, field.name)
        by_view = before[:, free:].unflatten(1, (4, -1))[:, order].flatten(1, 2)
        torch.testing.assert_close(after, torch.cat([before[:, :free], by_view], 1), rtol=1e-5, atol=1e-5)


def test_a_scene_does_not_see_the_others_of_its_batch() -> None:
    images, cameras = views()
    both = torch.cat([images, images.flip(-1)])
    batched = model()(both, Cameras(cameras.c2w.expand(2, -1, -1, -1), cameras.fxfycxcy.expand(2, -1, -1), 16, 16))
    torch.testing.assert_close(batched.means[:1], model()(images, cameras).means)


def test_pixel_aligned_gaussians_lie_on_the_ray_of_their_pixel() -> None:
    images, cameras = views()
    means = model().means_per_pixel(model()(images, cameras), cameras).movedim(2, -1)
    origins, directions = cameras.rays()
    away = torch.linalg.cross(means - origins, directions).norm(dim=-1)
    torch.testing.assert_close(away, torch.zeros_like(away), rtol=0, atol=1e-5)


def test_gaussians_stay_within_the_depth_range_of_the_rays_nearest_point_to_the_origin() -> None:
    images, cameras = views()
    network = model(replace(CONFIG, depth_range=0.5, init_std=2.0))
    means = network.means_per_pixel(network(images, cameras), cameras).movedim(2, -1)
    rays = cameras.rays()
    depth = ((means.detach() - rays.origins) * rays.directions).sum(-1)
    assert float((depth - ray_parameter_of_closest_point(rays)).abs().max()) <= 0.5 + 1e-5


def test_there_is_one_gaussian_per_pixel_and_the_free_ones() -> None:
    assert model()(*views(3, 16)).count == 2 + 3 * 16 * 16


def test_scales_stay_below_their_limit() -> None:
    scales = model(replace(CONFIG, init_std=2.0))(*views()).scales.detach()
    assert float(scales.max()) <= np.exp(np.float32(-1.2)) + 1e-6


# ---------------------------------------------------------------- gradients, freezing, memory, precision


def test_gradient_reaches_every_trainable_weight() -> None:
    network = model(replace(CONFIG, reference_marker=True, sh_degree=1))
    weigh(network(*views())).backward()
    assert without_gradient(network) == set()


def test_frozen_parts_get_no_gradient_and_all_others_do() -> None:
    network = model()
    network.freeze(FreezeConfig(num_layers=2, patch_embedder=True))
    weigh(network(*views())).backward()
    frozen = ("patch_embedder.", "input_layer_norm.", "transformer_layers.0.", "transformer_layers.1.")
    assert without_gradient(network) == {name for name, _ in network.named_parameters() if name.startswith(frozen)}


@pytest.mark.parametrize("mode", ["none", "attention", "layers"])
def test_a_frozen_prefix_runs_without_a_graph(mode: str) -> None:
    network = model(replace(CONFIG, checkpoint=mode))
    network.freeze(FreezeConfig(num_layers=2, patch_embedder=True, free_gaussians=True))
    graphs = []
    for layer in network.transformer_layers[:2]:
        layer.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    network(*views())
    assert graphs == [False, False]


def gradients(mode: str, dtype: torch.dtype, frozen: int = 0) -> list[Tensor | None]:
    network = model(replace(CONFIG, checkpoint=mode))
    network.freeze(FreezeConfig(num_layers=frozen, patch_embedder=bool(frozen)))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        gaussians = network(*views())
    weigh(gaussians).backward()
    return [p.grad for p in network.parameters() if p.requires_grad]


@pytest.mark.parametrize("mode", ["attention", "layers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [0, 2])
def test_activation_checkpoints_change_no_gradient(mode: str, dtype: torch.dtype, frozen: int) -> None:
    pairs = zip(gradients("none", dtype, frozen), gradients(mode, dtype, frozen), strict=True)
    assert all(torch.equal(plain, saving) for plain, saving in pairs if plain is not None and saving is not None)


def arithmetic(mode: str) -> tuple[int, int]:
    """Operations of attention's forward passes, and of matrix products, in a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        gradients(mode, torch.float32)
    counts = counter.get_flop_counts()["Global"]
    return counts[aten._scaled_dot_product_flash_attention_for_cpu], counts[aten.mm]


def test_attention_is_computed_once_and_its_layer_twice() -> None:
    attention, products = arithmetic("none")
    kept, layers = arithmetic("attention"), arithmetic("layers")
    assert kept[0] == attention and layers[0] == 2 * attention
    assert kept[1] == layers[1] > products


def test_gaussians_are_float32_under_bfloat16_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        gaussians = model()(*views())
    assert {getattr(gaussians, field.name).dtype for field in fields(gaussians)} == {torch.float32}


@pytest.mark.parametrize(("mode", "passes"), [("attention", 1), ("layers", 2)])
def test_compiled_layers_keep_and_compute_again_the_same(mode: str, passes: int) -> None:
    """By all of torch.compile but the C++ that it writes, which takes long."""
    config = replace(CONFIG, num_layers=1, checkpoint=mode)
    plain, compiled = model(config), model(config)
    compiled.transformer_layers[0].compile(fullgraph=True, backend="aot_eager")
    for network in (plain, compiled):
        weigh(network(*views())).backward()
    for first, second in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(second.grad, first.grad, rtol=1e-4, atol=1e-4)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        weigh(compiled(*views())).backward()
    counts = {event.key: event.count for event in seen.key_averages()}
    assert counts["aten::_scaled_dot_product_flash_attention_for_cpu"] == passes


@torch.no_grad()
def test_the_heads_are_computed_in_float32_under_bfloat16_autocast() -> None:
    network, (images, cameras) = model(), views()
    tokens: list[Tensor] = []
    network.transformer_layers[-1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        raw = network.raw_gaussians(images, cameras.rays())
    count, tokens_in = CONFIG.num_free_gaussians, tokens[0].float()
    pixels = network.pixel_gaussian_decoder(tokens_in[:, count:]).reshape(1, -1, raw.shape[-1])
    assert torch.equal(raw, torch.cat([network.gaussian_upsampler(tokens_in[:, :count]), pixels], 1))
    assert len(raw.unique()) > 2 * len(raw.bfloat16().unique())


def test_gaussians_lie_on_exact_rays_under_bfloat16_autocast() -> None:
    images, cameras = views()
    with torch.autocast("cpu", torch.bfloat16):
        gaussians = model()(images, cameras)
    origins, directions = cameras.rays()
    means = model().means_per_pixel(gaussians, cameras).movedim(2, -1).detach()
    assert float(torch.linalg.cross(means - origins, directions).norm(dim=-1).max()) < 1e-5


# ---------------------------------------------------------------- every option does something


@pytest.mark.parametrize(
    "option",
    [
        {"ray_encoding": "plucker"},
        {"ray_encoding": "both"},
        {"sh_degree": 1},
        {"sh_degree": 2},
        {"sh_degree": 3},
        {"pixel_aligned": False},
        {"reference_marker": True},
        {"num_free_gaussians": 0},
        {"depth_range": 0.9},
        {"depth_bias": 1.0},
        {"scale_bias": -4.0},
        {"max_log_scale": -3.0},
        {"opacity_bias": 0.0},
        {"init_std": 0.02},
    ],
    ids=lambda option: "-".join(f"{key}={value}" for key, value in option.items()),
)
def test_turning_an_option_changes_the_output(option: dict[str, object]) -> None:
    plain, turned = model()(*views()), model(replace(CONFIG, **option))(*views())  # type: ignore[arg-type]
    values = [(getattr(plain, field.name), getattr(turned, field.name)) for field in fields(Gaussians)]
    assert any(a.shape != b.shape or not torch.allclose(a, b) for a, b in values)


@pytest.mark.parametrize("degree", range(4))
def test_an_sh_degree_has_its_number_of_coefficients(degree: int) -> None:
    assert model(replace(CONFIG, sh_degree=degree))(*views()).sh.shape[-2:] == ((degree + 1) ** 2, 3)


def test_the_reference_marker_tells_the_first_view_from_the_others() -> None:
    network, (images, cameras) = model(replace(CONFIG, reference_marker=True)), views(2)
    swapped = network(images[:, [1, 0]], cameras[:, [1, 0]])
    assert not torch.allclose(network(images, cameras).means[:, 2:258], swapped.means[:, 258:])


def test_without_pixel_alignment_means_are_the_heads_own_numbers() -> None:
    network, (images, cameras) = model(replace(CONFIG, pixel_aligned=False)), views()
    raw = network.raw_gaussians(images, cameras.rays())
    assert torch.equal(network(images, cameras).means, raw[..., :3])


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def batch(mice: Dataset, frames_cache: Path, tiny_recipe) -> Batch:
    return Loader(mice, "train", tiny_recipe().data, frames_cache).training_batch(0, 1).to("cpu")


def test_one_batch_overfits(batch: Batch, tiny_recipe) -> None:
    torch.manual_seed(0)
    stage = GSLRMStage(tiny_recipe("model.init_std=0.05", "model.scale_bias=-4.0"), torch.device("cpu"))
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=0.0)
    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 100)
        loss = stage.losses(batch, step)["mse"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10


def test_every_term_the_recipe_weighs_is_computed_and_no_other(batch: Batch, tiny_recipe) -> None:
    recipe = tiny_recipe("loss.ssim=0.5", "loss.background=0.1", "loss.alpha=0.1", "loss.pointsdist=0.1")
    terms = GSLRMStage(recipe, torch.device("cpu")).losses(batch, 100)
    assert set(terms) == {"mse", "ssim", "background", "alpha", "pointsdist"}


@pytest.mark.parametrize("term", ["mse", "ssim", "background", "alpha", "pointsdist", "pixelalign"])
def test_every_term_is_finite_and_moves_the_model(batch: Batch, tiny_recipe, term: str) -> None:
    aligned = "model.pixel_aligned=false" if term == "pixelalign" else "loss.masked=true"
    recipe = tiny_recipe("loss.mse=0.0", f"loss.{term}=1.0", aligned, "model.init_std=0.1")
    stage = GSLRMStage(recipe, torch.device("cpu"))
    loss = stage.losses(batch, 100)[term]
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(stage.model.pixel_gaussian_decoder[1].weight.grad.any())


def test_a_preview_is_five_rows_of_one_picture_per_view(batch: Batch, tiny_recipe) -> None:
    gaussians = GSLRMStage(tiny_recipe(), torch.device("cpu")).model(batch.input_images, batch.input_cameras)
    picture = preview(batch, render(gaussians, batch.cameras))
    labels = np.array(picture.shape) - (5 * 128, 6 * 128, 0)  # the rest of the picture: names at the left, titles above
    assert (labels[:2] > 20).all() and (labels < 120).all() and picture.dtype == np.uint8


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("images", "cameras", "message"),
    [
        (
            torch.rand(1, 3, 4, 16, 16),
            facelift_six(16)[:3][None],
            "GSLRM: expected images [B, V, 3, H, W] and cameras [B, V], got (1, 3, 4, 16, 16) and (1, 3) — align them.",
        ),
        (
            torch.rand(1, 3, 3, 16, 16),
            facelift_six(16)[None],
            "GSLRM: expected images [B, V, 3, H, W] and cameras [B, V], got (1, 3, 3, 16, 16) and (1, 6) — align them.",
        ),
        (
            torch.rand(3, 3, 16, 16),
            facelift_six(16)[:3],
            "GSLRM: expected images [B, V, 3, H, W] and cameras [B, V], got (3, 3, 16, 16) and (3,) — align them.",
        ),
        (
            torch.rand(1, 3, 3, 16, 16),
            facelift_six(32)[:3][None],
            "GSLRM: expected images of the cameras' 32×32 in whole patches of 8, got 16×16 — resize both.",
        ),
        (
            torch.rand(1, 3, 3, 20, 20),
            facelift_six(20)[:3][None],
            "GSLRM: expected images of the cameras' 20×20 in whole patches of 8, got 20×20 — resize both.",
        ),
    ],
    ids=["channels", "views", "no batch", "size", "patches"],
)
def test_shapes_that_do_not_fit_are_refused(images: Tensor, cameras: Cameras, message: str) -> None:
    with pytest.raises(DataError) as caught:
        model()(images, cameras)
    assert str(caught.value) == message
