"""GS-LRM on CUDA is GS-LRM on the CPU: its Gaussians, each loss term, their gradients, with checkpoints or without."""

from __future__ import annotations

import copy
import itertools
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.settings import checkpoint_modes
from pipeline import losses
from pipeline.data.batch import Batch, HostBatch
from pipeline.data.loader import Loader
from pipeline.data.scenes import Dataset
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.gslrm.stage import GSLRMStage
from pipeline.recipe import LOSS_TERMS
from pipeline.vgg import CHANNELS, PerceptualNetwork
from tests.gpu.conftest import relative_error

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
LARGER = ("model.init_std=0.1", "model.scale_bias=-4.0")  # heads that differ from pixel to pixel
OF_NETWORKS = ("perceptual", "lpips")
AFTER_WARM_UP = 1000


@pytest.fixture(scope="module")
def on_host(mice: Dataset, frames_cache: Path, tiny_recipe) -> HostBatch:
    return Loader(mice, "train", tiny_recipe().data, frames_cache).training_batch(0, 2)


@pytest.fixture(scope="module")
def batch(on_host: HostBatch) -> Batch:
    return on_host.to("cpu")


def test_the_gaussians_are_those_of_the_cpu(device, on_host, batch, tiny_recipe) -> None:
    torch.manual_seed(0)
    model = GSLRM(tiny_recipe(*LARGER, "model.sh_degree=1").model)
    expected = model(batch.input_images, batch.input_cameras)
    there = on_host.to(device)
    found = copy.deepcopy(model).to(device)(there.input_images, there.input_cameras)
    errors = {
        one.name: relative_error(getattr(found, one.name), getattr(expected, one.name)) for one in fields(Gaussians)
    }
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("term", [term for term in LOSS_TERMS if term not in OF_NETWORKS])
def test_each_term_and_its_gradient_are_those_of_the_cpu(device, on_host, batch, tiny_recipe, term) -> None:
    aligned = "model.pixel_aligned=false" if term == "pixelalign" else "loss.masked=true"
    recipe = tiny_recipe(*LARGER, "loss.mse=0.0", f"loss.{term}=1.0", aligned)
    expected, gradient = term_of(GSLRMStage(recipe, CPU), batch, term)
    found, other = term_of(GSLRMStage(recipe, device), on_host.to(device), term)
    assert relative_error(found, expected) < 1e-4
    assert relative_error(other, gradient) < 1e-3


def term_of(stage: GSLRMStage, batch: Batch, term: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The term and its gradient in all weights, for the weights of seed 0."""
    torch.manual_seed(0)
    stage.model.load_state_dict(GSLRM(stage.model.config).state_dict())
    value = stage.losses(batch, AFTER_WARM_UP)[term]
    found = torch.autograd.grad(value, list(stage.model.parameters()), allow_unused=True)
    return value, torch.cat([gradient.flatten().cpu() for gradient in found if gradient is not None])


@pytest.mark.parametrize("term", OF_NETWORKS)
def test_each_term_of_a_network_is_that_of_the_cpu(device, batch, term) -> None:
    torch.manual_seed(0)
    network = perceptual() if term == "perceptual" else random_lpips()
    rendered = (0.9 * batch.images + 0.1 * torch.rand_like(batch.images)).requires_grad_()
    expected = getattr(losses, term)(rendered, batch.images, network)
    there = rendered.detach().to(device).requires_grad_()
    network_there = copy.deepcopy(network).to(device)  # the gradient on the CPU needs its own
    found = getattr(losses, term)(there, batch.images.to(device), network_there)
    assert relative_error(found, expected) < 1e-4
    gradients = [torch.autograd.grad(value, leaf)[0] for value, leaf in ((found, there), (expected, rendered))]
    # Rounding may turn what ReLU or pooling decides: one such pixel has moved it by 2.6e-3, on a CPU as on a GPU.
    assert relative_error(*gradients) < 1e-2


def random_lpips() -> torch.nn.Module:
    """LPIPS with weights as they are made."""
    from lpips import LPIPS  # the other terms need no package of that name

    return LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)


def perceptual() -> PerceptualNetwork:
    """FaceLift's network with weights as random as keep activations alive."""
    layers = list(itertools.pairwise(CHANNELS))
    tensors = {f"conv{i}.weight": torch.randn(b, a, 3, 3) * (2 / (9 * a)) ** 0.5 for i, (a, b) in enumerate(layers, 1)}
    tensors |= {f"conv{i}.bias": torch.zeros(b) for i, (_, b) in enumerate(layers, 1)}
    return PerceptualNetwork(tensors)


@pytest.mark.parametrize("mode", [mode for mode in checkpoint_modes() if mode != "none"])
def test_activation_checkpoints_leave_the_gradients_as_they_are(device, on_host, tiny_recipe, mode) -> None:
    (_, plain), (_, found) = (
        term_of(GSLRMStage(tiny_recipe(*LARGER, checkpoint_modes()[one]), device), on_host.to(device), "mse")
        for one in ("none", mode)
    )
    assert relative_error(found, plain) < 1e-5  # gsplat's sums are not in order; without it they are equal to the bit
