"""Which files a user must fetch: what needs each, where it lies on this machine, whether it is whole. Imports no torch.

A digest is the one that a file's publisher states. Sizes are those that others have met; no publisher states them to
the byte, so they are shown, and a file is judged by its digest alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config import did_you_mean
from pipeline.errors import CheckpointError

State = Literal["absent", "damaged", "whole"]
LPIPS, VGG19, FACELIFT = "lpips", "vgg19", "facelift"
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
# Of the networks that --segment rembg may use: the md5 in rembg's source, and bytes.
_SEGMENTING = {
    "u2net": ("60024c5c889badc19c04ad937298a77b", 175_997_641),
    "isnet-general-use": ("fc16ebd8b0c10d971d3513d564d01e29", 178_648_008),
}


@dataclass(frozen=True)
class Weights:
    """One file, or FaceLift's released pair, which is fetched by hand."""

    name: str  # as `mouselift weights fetch` takes it
    needed_by: str
    licence: str
    source: str  # its address; of what is fetched by hand, where, and which files
    places: tuple[Path, ...] = ()  # where it is looked for on this machine, the one it is fetched to first
    digest: str | None = None  # of its content, such as sha256:397923af, all of it or the first digits that are stated
    size: int | None = None  # bytes
    then: str = ""  # what is to be done once the file is there

    @property
    def by_hand(self) -> bool:
        return not self.places

    @property
    def file(self) -> Path:
        """Where it lies, or is to lie. Not for what is fetched by hand."""
        return next((place for place in self.places if place.is_file()), self.places[0])

    def state(self) -> State:
        """Reads the whole file. Of what is fetched by hand nothing is known: absent."""
        if self.by_hand or not self.file.is_file():
            return "absent"
        return "whole" if self.is_whole(self.file) else "damaged"

    def is_whole(self, path: Path) -> bool:
        """Whether the file at a path has the stated digest."""
        algorithm, _, stated = str(self.digest).partition(":")
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest().startswith(stated)

    @property
    def ways_out(self) -> str:
        """What to do where it is missing, as the end of a message."""
        return f"`mouselift weights fetch {self.name}`, or copy {self.source} to {self.file}"


def known_weights(environment: Mapping[str, str]) -> tuple[Weights, ...]:
    """Every file, at its places on this machine. environment: the variables that move folders, such as TORCH_HOME."""
    hub = _torch_hub(environment) / "checkpoints"
    return (
        Weights(
            name=LPIPS,
            needed_by="val/lpips, test/lpips, loss.lpips: torchvision's VGG-16 below LPIPS",
            licence="not stated by torchvision, whose code is BSD-3-Clause; trained on ImageNet",
            source="https://download.pytorch.org/models/vgg16-397923af.pth",
            places=(hub / "vgg16-397923af.pth",),
            digest="sha256:397923af",
            size=553_433_881,
        ),
        Weights(
            name=VGG19,
            needed_by="loss.perceptual: MatConvNet's VGG-19, which a FaceLift GS-LRM checkpoint holds, too",
            licence="CC BY 4.0 (Visual Geometry Group, Oxford)",
            source="https://www.vlfeat.org/matconvnet/models/imagenet-vgg-verydeep-19.mat",
            places=tuple(
                folder / "imagenet-vgg-verydeep-19.mat" for folder in (hub, _home(environment) / ".cache/openfacelift")
            ),
            digest="md5:106118b7cf60435e6d8e04f6a6dc3657",
            then="--set loss.perceptual_weights={file}",
        ),
        *(_segmenting(name, environment) for name in _SEGMENTING),
        Weights(
            name=FACELIFT,
            needed_by="--views and --gaussians with FaceLift's released pair",
            licence="Adobe Research License (non-commercial research)",
            source="https://huggingface.co/wlyu/OpenFaceLift: mvdiffusion/pipeckpts, gslrm/ckpt_0000000000021125.pt",
        ),
    )


def weights_named(name: str, environment: Mapping[str, str]) -> Weights:
    """One of `known_weights`. Raises CheckpointError for another name."""
    known = {one.name: one for one in known_weights(environment)}
    if name not in known:
        advice = did_you_mean(name, list(known)) or " — name one of them."
        raise CheckpointError(f"{name}: expected weights that can be fetched ({', '.join(known)}), got none{advice}")
    return known[name]


def require_weights(name: str, environment: Mapping[str, str], whole: bool = True) -> Path:
    """The file of the weights of this name. whole: read all of it, and compare its digest.

    Raises CheckpointError, which names the way out, where it is missing or damaged.
    """
    wanted = weights_named(name, environment)
    if not wanted.file.is_file():
        raise CheckpointError(f"{wanted.file}: expected the weights {name}, found no file — {wanted.ways_out}.")
    if whole and not wanted.is_whole(wanted.file):
        raise CheckpointError(
            f"{wanted.file}: expected the weights {name} ({wanted.digest}), found other bytes — {wanted.ways_out}."
        )
    return wanted.file


def _segmenting(name: str, environment: Mapping[str, str]) -> Weights:
    """A network of rembg's. Its older folder is the one that every version of rembg reads."""
    md5, size = _SEGMENTING[name]
    home = environment.get("U2NET_HOME")
    data = environment.get("XDG_DATA_HOME")
    older = Path(home) if home else Path(data or _home(environment)) / ".u2net"
    newer = environment.get("REMBG_HOME") or (Path(data) / "rembg" if data else _home(environment) / ".rembg")
    return Weights(
        name=name,
        needed_by=f"--segment rembg: {name}, which tells an animal from its background",
        licence="Apache-2.0",
        source=f"{_REMBG}/{name}.onnx",
        places=(older / f"{name}.onnx", Path(home or newer) / "models" / name / f"{name}.onnx"),
        digest=f"md5:{md5}",
        size=size,
    )


def _torch_hub(environment: Mapping[str, str]) -> Path:
    """The folder that torch.hub.get_dir() names, which torch documents."""
    cache = environment.get("XDG_CACHE_HOME") or str(_home(environment) / ".cache")
    return Path(environment.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub"


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())
