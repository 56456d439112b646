"""Every form in which a user has a model: checkpoint folders, FaceLift's own files as they are, and pairs of the two.

A pair is a folder: pair.json says which models it holds; views/ and gaussians/ are their checkpoint folders.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter, ValidationError

from pipeline import checkpoint, kinds
from pipeline.config import one_line
from pipeline.data.photo.framing import Framing
from pipeline.errors import CheckpointError
from pipeline.files import whole_folder, write_whole
from pipeline.gslrm.model import GSLRM
from pipeline.licence import joined, licence_of
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.mvdiffusion.deployed import ViewGenerator

PAIR_FILE, VIEWS, GAUSSIANS = "pair.json", "views", "gaussians"


@dataclass(frozen=True)
class ViewsModel:
    """Stage 1 at work: one picture in, the views of its rig out.

    framing: of the training set's reference views, None where the checkpoint does not say it. sha256: of the weights.
    step: 0 where the files do not say it.
    """

    generator: ViewGenerator
    framing: Framing | None
    name: str
    sha256: str
    step: int
    licence: str | None


@dataclass(frozen=True)
class GaussiansModel:
    """Stage 2 at work: posed views in, Gaussians out. sha256: of the weights, or of the file that holds them."""

    model: GSLRM
    recipe: Recipe
    name: str
    sha256: str
    step: int
    licence: str | None


@dataclass(frozen=True)
class Member:
    """One model of a pair; version: of the registered model `name`, None where it is none."""

    name: str
    version: int | None
    sha256: str
    step: int
    recipe: str


@dataclass(frozen=True)
class Pair:
    """Both stages, as one model; image_size: pixels along a side of its views."""

    folder: Path
    views: Member
    gaussians: Member
    rig: str
    image_size: int
    licence: str | None
    framing: Framing | None

    @property
    def sha256(self) -> str:
        """Of the two hashes, in this order, with a space between them."""
        return hashlib.sha256(f"{self.views.sha256} {self.gaussians.sha256}".encode()).hexdigest()


def load_views(path: Path, device: torch.device | str = "cpu", name: str | None = None) -> ViewsModel:
    """The model of a checkpoint folder of stage 1, or of FaceLift's `pipeckpts` as it is; of a pair, its own.

    name: what it is called in messages and files; the folder's own, if None. Raises CheckpointError, DataError.
    """
    path = path / VIEWS if is_pair(path) else path
    info = checkpoint.inspect(path)
    generator = kinds.load(info, device, kind="mvdiffusion").model
    return ViewsModel(generator, None, name or path.name, info.sha256, info.step, licence_of(path))  # type: ignore[arg-type]


def load_gaussians(path: Path, device: torch.device | str = "cpu", name: str | None = None) -> GaussiansModel:
    """The model of a checkpoint folder of GS-LRM, or of a FaceLift `.pt` or a `.safetensors` as it is; of a pair, its
    own.

    Raises CheckpointError.
    """
    path = path / GAUSSIANS if is_pair(path) else path
    loaded = kinds.load(path, device, kind="gslrm")
    assert isinstance(loaded.model, GSLRM)
    return GaussiansModel(loaded.model, loaded.recipe, name or path.name, loaded.sha256, loaded.step, licence_of(path))


def is_pair(folder: Path) -> bool:
    """Whether a folder holds both stages."""
    return (folder / PAIR_FILE).is_file()


def read_pair(folder: Path) -> Pair:
    """What a pair says of itself; nothing is loaded or hashed. Raises CheckpointError."""
    path = folder / PAIR_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a pair of models with {PAIR_FILE}, found none — check the path.")
    try:
        return TypeAdapter(Pair).validate_python(json.loads(path.read_bytes()) | {"folder": folder})
    except (ValidationError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected what a pair says of itself, got {one_line(error)[:160]} — write the pair again."
        ) from None


def write_pair(
    folder: Path,
    views: Path,
    gaussians: Path,
    names: tuple[str, str] | None = None,
    versions: tuple[int | None, int | None] = (None, None),
) -> Pair:
    """A pair of two checkpoint folders as the folder `folder`: links to their files, where they can be.

    names, versions: of the registered models that they are. Raises CheckpointError for checkpoints of other kinds.
    """
    from pipeline.mvdiffusion.deployed import RIG
    from pipeline.mvdiffusion.views import read_rig

    first, second = checkpoint.inspect(views), checkpoint.inspect(gaussians)
    first.expect_kind("mvdiffusion")
    second.expect_kind("gslrm")
    called = names or (views.name, gaussians.name)
    members = [
        Member(name, version, info.sha256, info.step, info.recipe.name)
        for name, version, info in zip(called, versions, (first, second), strict=True)
    ]
    rig = read_rig(views / RIG)
    licence = joined([licence_of(views), licence_of(gaussians)])
    pair = Pair(folder, members[0], members[1], rig.name, rig.cameras.width, licence, None)
    with whole_folder(folder) as temporary:
        checkpoint.strip_training(views, temporary / VIEWS)
        checkpoint.strip_training(gaussians, temporary / GAUSSIANS)
        said = {key: value for key, value in asdict(pair).items() if key != "folder"}
        write_whole(temporary / PAIR_FILE, json.dumps(said, indent=1))
    return pair
