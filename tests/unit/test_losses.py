"""Loss terms against FaceLift's and the libraries' numbers; gradients, precision, weights files."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.cameras import Cameras
from pipeline.errors import CheckpointError
from pipeline.metrics import mask_iou
from pipeline.recipe import LossConfig
from pipeline.vgg import CHANNELS, FACELIFT_PREFIX, PerceptualNetwork, load_lpips, load_perceptual

GOLDEN = Path(__file__).parents[1] / "golden" / "gslrm"
SETTINGS = ("unmasked_clamp", "unmasked_noclamp", "masked_clamp")


def synthetic_vgg() -> dict[str, Tensor]:
    """The weights under which FaceLift's own code computed losses.json."""
    tensors = {}
    for k, (inputs, outputs) in enumerate(pairwise(CHANNELS), start=1):
        n = torch.arange(outputs * inputs * 9, dtype=torch.float64)
        weight = math.sqrt(2 / (9 * inputs)) * math.sqrt(2) * torch.sin(0.37 * n + k)
        tensors[f"conv{k}.weight"] = weight.float().reshape(outputs, inputs, 3, 3)
        tensors[f"conv{k}.bias"] = 0.01 * torch.cos(torch.arange(outputs).double() + k).float()
    return tensors


@pytest.fixture(scope="module")
def network() -> PerceptualNetwork:
    return PerceptualNetwork(synthetic_vgg())


@pytest.fixture(scope="module")
def scene() -> dict[str, Tensor]:
    """Four views of 32×32 from the golden file: rendering, target, mask, means, origins, directions."""
    stored = np.load(GOLDEN / "forward.npz")
    rgba = torch.from_numpy(stored["image"])
    cameras = Cameras(torch.from_numpy(stored["c2w"]), torch.from_numpy(stored["fxfycxcy"]), 32, 32)
    origins, directions = (rays.movedim(-1, -3) for rays in cameras.rays())
    return {
        "rendered": torch.from_numpy(stored["rendering"]),
        "target": rgba[:, :, :3],
        "mask": rgba[:, :, 3:],
        "means": torch.from_numpy(stored["loss_xyz"]),
        "origins": origins,
        "directions": directions,
    }


def all_terms(scene: Mapping[str, Tensor], network: PerceptualNetwork, setting: str) -> dict[str, float]:
    """Every term of losses.json under FaceLift's names; its IoU takes the silhouette from colour."""
    rendered, target, mask = scene["rendered"], scene["target"], scene["mask"]
    if not setting.endswith("noclamp"):
        rendered = rendered.clamp(0, 1)
    chosen = mask if setting.startswith("masked") else None
    coloured = ((rendered - 1).abs().mean(-3, keepdim=True) > 0.1).float()
    l2 = losses.mse(rendered, target, chosen)
    terms = {
        "l2_loss": l2,
        "psnr": -10 * torch.log10(l2),
        "ssim_loss": losses.ssim(rendered, target, chosen),
        "perceptual_loss": losses.perceptual(rendered, target, network),
        "pixelalign_loss": losses.pixelalign(scene["means"], scene["origins"], scene["directions"], chosen),
        "pointsdist_loss": losses.pointsdist(scene["means"], scene["origins"]),
        "background_loss": losses.background(rendered, mask),
        "mask_iou": mask_iou(coloured.reshape(1, -1, 32), mask.reshape(1, -1, 32)),  # views pooled
    }
    return {name: value.item() for name, value in terms.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_term_equals_facelifts_own(setting, scene, network):
    golden = json.loads((GOLDEN / "losses.json").read_text())[setting]
    ours = all_terms(scene, network, setting)
    assert ours == pytest.approx({name: golden[name] for name in ours}, abs=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_weighted_sum_equals_facelifts_total(setting, scene, network):
    golden = json.loads((GOLDEN / "losses.json").read_text())[setting]
    ours = all_terms(scene, network, setting)
    weights = {
        "l2": 1,
        "perceptual": 0.5,
        "ssim": 0.5,
        "pixelalign": 0.1,
        "pointsdist": 0.1,
        "background": 0.3,
    }
    total = sum(weight * ours[f"{name}_loss"] for name, weight in weights.items())
    assert total == pytest.approx(golden["loss"], abs=1e-5)


@pytest.mark.parametrize("size", [(11, 11), (20, 33), (64, 64)])
def test_ssim_equals_torchmetrics_without_its_padded_border(size):
    from torchmetrics.functional.image import structural_similarity_index_measure

    first = torch.rand(3, 3, *size, dtype=torch.float64)
    second = (first + 0.2 * torch.randn_like(first)).clamp(0, 1)
    padded = structural_similarity_index_measure(first, second, data_range=1.0, return_full_image=True)[1]
    inner = padded[..., 5 : size[0] - 5, 5 : size[1] - 5]
    torch.testing.assert_close(1 - losses.ssim(first, second), inner.mean(), atol=1e-12, rtol=0)


def test_ssim_of_an_image_with_itself_is_no_loss():
    image = torch.rand(1, 2, 3, 16, 16)
    assert losses.ssim(image, image).item() == pytest.approx(0, abs=1e-6)


def test_masked_ssim_ignores_what_lies_outside_the_mask():
    first, second, noise = torch.rand(3, 1, 2, 3, 24, 24).unbind(0)
    mask = torch.zeros(1, 2, 1, 24, 24)
    mask[..., 6:18, 6:18] = 1
    changed = torch.where(mask > 0, first, noise)
    torch.testing.assert_close(losses.ssim(changed, second, mask), losses.ssim(first, second, mask))


def test_masked_mse_of_a_mask_with_no_foreground_is_zero():
    images = torch.rand(2, 1, 2, 3, 8, 8)
    assert losses.mse(images[0], images[1], torch.zeros(1, 2, 1, 8, 8)) == 0


def test_masked_mse_pools_pixels_not_views():
    rendered, target = torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4)
    rendered[0, 0] = 1
    mask = torch.zeros(1, 2, 1, 4, 4)
    mask[0, 0, 0, 0, 0] = 1  # one pixel, wrong by 1
    mask[0, 1, 0, :3, 0] = 1  # three pixels, right
    assert losses.mse(rendered, target, mask).item() == pytest.approx(1 / 4)


def test_background_counts_the_outside_only():
    rendered, mask = torch.ones(1, 1, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    mask[..., :2] = 1
    rendered[..., :2] = 0.3
    assert losses.background(rendered, mask) == 0
    assert losses.background(rendered, mask, colour=(0.0, 0.0, 1.0)).item() == pytest.approx(2 / 3)


def test_alpha_asks_for_the_soft_mask_and_has_a_gradient_where_nothing_is_drawn():
    mask = torch.full((1, 1, 1, 4, 4), 0.7)
    assert losses.alpha(mask, mask) == 0
    empty = torch.zeros_like(mask, requires_grad=True)
    losses.alpha(empty, mask).backward()
    assert (empty.grad < 0).all()


@pytest.mark.parametrize(
    "term",
    [
        lambda image, target, mask: losses.mse(image, target, mask),
        lambda image, target, mask: losses.ssim(image, target, mask),
        lambda image, target, mask: losses.ssim(image, target),
        lambda image, target, mask: losses.background(image, mask),
        lambda image, target, mask: losses.alpha(image[:, :, :1], mask),
    ],
    ids=["masked mse", "masked ssim", "ssim", "background", "alpha"],
)
def test_gradients_equal_finite_differences(term):
    torch.manual_seed(0)
    image, target = torch.rand(2, 1, 1, 3, 12, 12, dtype=torch.float64).unbind(0)
    mask = torch.rand(1, 1, 1, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: term(x, target, mask), image.requires_grad_(), fast_mode=True)


def test_perceptual_gradient_equals_a_finite_difference(network):
    torch.manual_seed(0)
    image, target, way = torch.rand(3, 1, 1, 3, 16, 16, dtype=torch.float64).unbind(0)
    double = PerceptualNetwork(synthetic_vgg()).double()
    image.requires_grad_()
    (slope,) = torch.autograd.grad(losses.perceptual(image, target, double), image)
    ahead, behind = (losses.perceptual(image.detach() + h * way, target, double) for h in (1e-6, -1e-6))
    assert (slope * way).sum().item() == pytest.approx(((ahead - behind) / 2e-6).item(), rel=1e-4)


def test_perceptual_trains_the_image_and_never_the_network(network):
    image = torch.rand(1, 2, 3, 16, 16, requires_grad=True)
    losses.perceptual(image, torch.rand(1, 2, 3, 16, 16), network).backward()
    assert image.grad.abs().sum() > 0
    assert all(weight.grad is None and not weight.requires_grad for weight in network.parameters())


def test_pixelalign_is_zero_on_the_ray_and_its_gradient_crosses_it(scene):
    on_ray = scene["origins"] + 2.0 * scene["directions"]
    assert losses.pixelalign(on_ray, scene["origins"], scene["directions"]).item() == pytest.approx(0, abs=1e-6)
    means = scene["means"].clone().requires_grad_()
    losses.pixelalign(means, scene["origins"], scene["directions"]).backward()
    along = (means.grad * scene["directions"]).sum(-3)
    assert along.abs().max() < 1e-3 * means.grad.norm(dim=-3).max()


def test_pointsdist_is_zero_at_the_wanted_spread(scene):
    origins, directions = scene["origins"], scene["directions"]
    steps = torch.randn(1, 4, 1, 32, 32)
    steps = (steps - steps.mean((-2, -1), keepdim=True)) / steps.std((-2, -1), keepdim=True)
    wanted = origins.norm(dim=-3, keepdim=True) + 0.5 * steps
    assert losses.pointsdist(origins + wanted * directions, origins).item() == pytest.approx(0, abs=1e-9)


def test_pointsdist_pulls_each_point_along_its_ray_towards_a_fixed_distance(scene):
    means, origins = scene["means"].clone().requires_grad_(), scene["origins"]
    loss = losses.pointsdist(means, origins)
    loss.backward()
    across = torch.linalg.cross(means.grad, means.detach() - origins, dim=-3)
    assert across.abs().max() < 1e-6
    pixels = means[:, :, 0].numel()  # of mean(e²) with the aim held fixed, the gradient is 2e / pixels
    assert (means.grad.square().sum() * pixels / 4).item() == pytest.approx(loss.item(), rel=1e-5)


def test_terms_are_the_same_number_under_bfloat16_autocast(scene, network):
    plain = all_terms(scene, network, "masked_clamp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all_terms(scene, network, "masked_clamp") == plain


def test_half_precision_images_give_a_float32_loss(network):
    first, second = torch.rand(2, 1, 1, 3, 16, 16).bfloat16().unbind(0)
    terms = (losses.mse(first, second), losses.ssim(first, second), losses.perceptual(first, second, network))
    assert {term.dtype for term in terms} == {torch.float32}


def test_weights_follow_the_warm_ups_and_leave_zero_terms_out():
    loss = LossConfig(perceptual=0.5, lpips=0.1, ssim=0.2, warmup_steps=10, pointsdist_warmup_steps=3)
    assert losses.weights_at(loss, 3) == {"ssim": 0.2, "pointsdist": 0.1}
    assert losses.weights_at(loss, 4) == losses.weights_at(loss, 10) == {"mse": 1.0, "ssim": 0.2}
    assert losses.weights_at(loss, 11) == {"mse": 1.0, "ssim": 0.2, "perceptual": 0.5, "lpips": 0.1}


def test_the_warm_up_of_pointsdist_leaves_out_mse_and_perceptual_alone():
    """FaceLift sets these two to 0 and leaves every other term as it is."""
    loss = LossConfig(perceptual=0.5, lpips=0.1, ssim=0.2, alpha=0.3, pointsdist=0.7, pointsdist_warmup_steps=1)
    assert losses.weights_at(loss, 1) == {"lpips": 0.1, "ssim": 0.2, "alpha": 0.3, "pointsdist": 0.1}
    assert losses.weights_at(loss, 2)["pointsdist"] == 0.7


def test_a_warm_up_lasts_as_many_steps_as_it_says():
    loss = LossConfig(perceptual=0.5, warmup_steps=500)
    assert sum("perceptual" not in losses.weights_at(loss, step) for step in range(1, 1001)) == 500


def save_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)


def save_facelift(path: Path, tensors: dict[str, Tensor]) -> None:
    model = {FACELIFT_PREFIX + name: tensor for name, tensor in tensors.items()}
    torch.save({"model": model | {"input_layer_norm.weight": torch.ones(4)}, "fwdbwd_pass_step": 1}, path)


def save_matconvnet(path: Path, tensors: dict[str, Tensor]) -> None:
    from scipy.io import savemat

    layers: list[dict[str, object]] = []
    for k in range(1, len(CHANNELS)):
        parts = np.empty(2, dtype=object)
        parts[0] = tensors[f"conv{k}.weight"].permute(2, 3, 1, 0).numpy()
        parts[1] = tensors[f"conv{k}.bias"].numpy()[None]
        layers += [
            {"name": f"conv{k}", "type": "conv", "weights": parts},
            {"name": f"relu{k}", "type": "relu"},
        ]
    fully_connected = np.array([np.zeros((7, 7, 2, 2), "float32"), np.zeros((1, 2), "float32")], dtype=object)
    layers.append({"name": "fc6", "type": "conv", "weights": fully_connected})
    cell = np.empty(len(layers), dtype=object)
    cell[:] = layers
    savemat(path, {"layers": cell})


@pytest.mark.parametrize(
    ("name", "save"),
    [("vgg.safetensors", save_safetensors), ("ckpt.pt", save_facelift), ("vgg.mat", save_matconvnet)],
)
def test_the_perceptual_network_is_read_from_each_kind_of_file(name, save, tmp_path):
    tensors = synthetic_vgg()
    save(tmp_path / name, tensors)
    loaded = load_perceptual(tmp_path / name).state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_the_32_tensors_are_those_of_a_facelift_checkpoint(network):
    rows = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    listed = {row[0]: tuple(row[1]) for row in rows if row[0].startswith(FACELIFT_PREFIX)}
    ours = {FACELIFT_PREFIX + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == listed


def test_a_missing_weights_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        load_perceptual(tmp_path / "vgg.mat")
    assert str(refusal.value) == (
        f"{tmp_path}/vgg.mat: expected the VGG-19 weights of the perceptual loss, found no file — give a "
        "FaceLift GS-LRM checkpoint, or MatConvNet's imagenet-vgg-verydeep-19.mat (`mouselift weights "
        "fetch vgg19`), or set the perceptual weight to 0"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vgg.safetensors", "got other bytes — give a FaceLift GS-LRM checkpoint"),
        ("vgg.pt", "got other bytes — give a FaceLift GS-LRM checkpoint"),
        ("vgg.mat", "expected weight and bias of VGG-19's conv1 to conv16"),
    ],
)
def test_a_file_of_something_else_is_refused(name, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"not weights, but long enough to be looked at by every reader" * 8)
    with pytest.raises(CheckpointError, match=said):
        load_perceptual(path)


def test_a_checkpoint_trained_without_the_perceptual_loss_is_refused(tmp_path):
    torch.save({"model": {"input_layer_norm.weight": torch.ones(4)}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="found something else"):
        load_perceptual(tmp_path / "ckpt.pt")


def test_lpips_without_its_backbone_names_the_file_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"hub/checkpoints/vgg16-397923af.pth: expected"):
        load_lpips()
    assert list(tmp_path.iterdir()) == []


def test_lpips_is_the_librarys_distance_of_images_in_minus_one_to_one():
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        backbone = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    first, second = torch.rand(2, 1, 2, 3, 48, 48).unbind(0)
    expected = backbone(2 * first[0] - 1, 2 * second[0] - 1).mean()
    torch.testing.assert_close(losses.lpips(first, second, backbone), expected)
