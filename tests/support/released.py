"""Both of FaceLift's models in the layout of their release, of tiny size and random weights: 64 px, six views."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from pipeline.gslrm.model import GSLRM
from pipeline.recipe import GSLRMConfig

PIPECKPTS = Path(__file__).parents[1] / "golden" / "mvdiffusion" / "pipeckpts"
GSLRM_CONFIG = GSLRMConfig(dim=64, head_dim=64, num_layers=2)
PROMPTS_FILE = "clr_embeds.pt"
SIZE, WIDTH = 64, 32  # pixels of an image; channels of a text


def released_views(folder: Path) -> Path:
    """`folder`/pipeckpts, with FaceLift's prompt file beside it: the tiny text encoder cannot tell its texts apart."""
    path = shutil.copytree(PIPECKPTS, folder / "pipeckpts")
    text = torch.randn(6, 77, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.save(text.half(), folder / PROMPTS_FILE)
    return path


def released_gaussians(folder: Path, config: GSLRMConfig = GSLRM_CONFIG, **others: Tensor) -> Path:
    """`folder`/ckpt_0000000000021125.pt, with a network of the losses as FaceLift's file has."""
    torch.manual_seed(0)
    model = GSLRM(config)
    vgg = {"loss_calculator.perceptual_loss_module.net.conv1.bias": torch.zeros(64)}
    path = folder / "ckpt_0000000000021125.pt"
    torch.save({"model": {**model.state_dict(), **vgg, **others}, "param_update_step": 21125}, path)
    return path
