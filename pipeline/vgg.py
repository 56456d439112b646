"""The two frozen VGG networks that compare images; both read weights from disk and never download any.

`mouselift weights fetch` alone does. `PerceptualNetwork` is FaceLift's: MatConvNet's VGG-19 with average pooling, which
is neither LPIPS nor torchvision's VGG-19. LPIPS is the library's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from pipeline.checkpoint import load_torch, read_tensors
from pipeline.errors import CheckpointError
from pipeline.weights.known import LPIPS, VGG19, require_weights, weights_named

CHANNELS = (3, 64, 64, 128, 128, *[256] * 4, *[512] * 8)
LEVELS = (2, 4, 6, 10, 14)  # the convolutions whose activations are compared: conv1_2, 2_2, 3_2, 4_2, 5_2
POOLED = (2, 4, 8, 12)
MEAN_RGB = (123.68, 116.779, 103.939)
FACELIFT_PREFIX = "loss_calculator.perceptual_loss_module.net."
VGG19_SOURCE = (
    f"a FaceLift GS-LRM checkpoint, or MatConvNet's imagenet-vgg-verydeep-19.mat (`mouselift weights fetch {VGG19}`)"
)


class PerceptualNetwork(nn.Module):
    """MatConvNet's VGG-19 up to conv5_2, frozen; `tensors` are `conv{1..16}.{weight,bias}`, OIHW.

    The last two convolutions are held because FaceLift's checkpoints hold them; no loss reaches them.
    """

    mean: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for index, (inputs, outputs) in enumerate(pairwise(CHANNELS), start=1):
            self.add_module(f"conv{index}", skip_init(nn.Conv2d, inputs, outputs, 3, padding=1))
        self.load_state_dict(tensors, strict=True)
        self.register_buffer("mean", torch.tensor(MEAN_RGB)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> list[Float[Tensor, "n channels h w"]]:
        """RGB in 0..1 -> the pixels (0..255 less the mean), then the five activations, fine to coarse."""
        x = 255 * images - self.mean
        levels = [x]
        for index in range(1, LEVELS[-1] + 1):
            x = F.relu(self.get_submodule(f"conv{index}")(x))
            if index in LEVELS:
                levels.append(x)
            if index in POOLED:
                x = F.avg_pool2d(x, 2)
        return levels


def load_perceptual(path: Path) -> PerceptualNetwork:
    """Reads the network from MatConvNet's `.mat`, a `.safetensors` of its tensors, or a FaceLift checkpoint.

    Raises CheckpointError when the file is missing or does not hold exactly the 32 tensors.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected the VGG-19 weights of the perceptual loss, found no file — "
            f"give {VGG19_SOURCE}, or set the perceptual weight to 0"
        )
    try:
        return PerceptualNetwork(_tensors(path))
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).rsplit(' — ', 1)[0]} — give {VGG19_SOURCE}") from None
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected weight and bias of VGG-19's conv1 to conv16, found something else — give {VGG19_SOURCE}"
        ) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    match path.suffix:
        case ".mat":
            return _from_matconvnet(path)
        case ".safetensors":
            return read_tensors(path)
        case _:
            return _from_facelift(path)


def _from_matconvnet(path: Path) -> dict[str, Tensor]:
    """The first 16 convolutions of a SimpleNN file; its filters are height, width, in, out."""
    from scipy.io import loadmat

    layers = loadmat(path, variable_names=["layers"], simplify_cells=True)["layers"]
    convolutions = [layer["weights"] for layer in layers if layer["type"] == "conv"][: len(CHANNELS) - 1]
    tensors = {}
    for index, (filters, biases) in enumerate(convolutions, start=1):
        tensors[f"conv{index}.weight"] = torch.from_numpy(filters).permute(3, 2, 0, 1)
        tensors[f"conv{index}.bias"] = torch.from_numpy(biases)
    return tensors


def _from_facelift(path: Path) -> dict[str, Tensor]:
    """The perceptual network inside a GS-LRM checkpoint; mapped, so the other gigabytes stay on disk."""
    model = load_torch(path)["model"]
    names = (name for name in model if name.startswith(FACELIFT_PREFIX))
    return {name.removeprefix(FACELIFT_PREFIX): model[name] for name in names}


def lpips_weights_file() -> Path:
    """Where LPIPS looks for its backbone: in torch hub's folder, which `TORCH_HOME` moves."""
    return weights_named(LPIPS, os.environ).file


def load_lpips() -> nn.Module:
    """LPIPS 0.1 on VGG-16, frozen; CheckpointError when the backbone is not on disk, or not whole."""
    require_weights(LPIPS, os.environ)
    import lpips

    with warnings.catch_warnings():  # lpips asks torchvision for its weights in a way deprecated since
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net="vgg", verbose=False)
    return network.requires_grad_(False).eval()
