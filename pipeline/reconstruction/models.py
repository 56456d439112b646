"""Every form in which a user has a model: checkpoint folders, FaceLift's own files as they are, and pairs of the two.

A pair is a folder: pair.json says which models it holds; views/ and gaussians/ are their checkpoint folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from pipeline import checkpoint, kinds
from pipeline.config import one_line
from pipeline.data.incoming.names import named
from pipeline.data.photo.framing import Framing
from pipeline.errors import CheckpointError
from pipeline.files import sha256_of, whole_folder, write_whole
from pipeline.gslrm.model import GSLRM
from pipeline.licence import LICENCE_FILE, PIPELINE_INDEX, joined, licence_of, write_licence
from pipeline.machine import contents
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.mvdiffusion.deployed import ViewGenerator

# What GS-LRM is given of a photo: the views that stage 1 draws of it, or the photo alone, of which none is drawn.
Given = Literal["views", "photo"]
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
    """Both stages, as one model; image_size: pixels along a side of its views. Given a photo alone, GS-LRM has of
    stage 1 its rig and its framing.
    """

    folder: Path
    views: Member
    gaussians: Member
    rig: str
    image_size: int
    licence: str | None
    framing: Framing | None
    given: Given = "views"

    @property
    def sha256(self) -> str:
        """Of the two hashes, in this order, with a space between them; and of `photo`, where that is given."""
        parts = [self.views.sha256, self.gaussians.sha256, *([self.given] if self.given != "views" else [])]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def load_views(path: Path, device: torch.device | str = "cpu", name: str | None = None) -> ViewsModel:
    """The model of a checkpoint folder of stage 1, or of FaceLift's `pipeckpts` as it is; of a pair, its own.

    name: what it is called in messages and files; the folder's own, if None. Raises CheckpointError, DataError.
    """
    from pipeline.mvdiffusion import deployed, facelift

    path = path / VIEWS if is_pair(path) else path
    called = name or path.absolute().name
    if facelift.is_pipeline(path):
        source = facelift.read_folder(path)
        generator = source.generator(device)
        return ViewsModel(generator, facelift.FRAMING, called, source.sha256, 0, licence_of(path))
    _expect_folder(path, "a folder: a checkpoint, or FaceLift's pipeckpts")
    loaded = kinds.load(path, device, kind="mvdiffusion")
    assert isinstance(loaded.model, deployed.ViewGenerator)
    framing = deployed.framing_in(loaded.info)
    return ViewsModel(loaded.model, framing, called, loaded.sha256, loaded.step, licence_of(path))


def load_gaussians(
    path: Path, device: torch.device | str = "cpu", name: str | None = None, size: int | None = None
) -> GaussiansModel:
    """The model of a checkpoint folder of GS-LRM, or of a FaceLift `.pt` or a `.safetensors` as it is; of a pair, its
    own.

    size: pixels along a side of the images that a file's network is for, which its tensors do not say; 512, as
    released, if None. Raises CheckpointError, and RecipeError for a size that is no whole number of patches.
    """
    from pipeline.gslrm import facelift

    path = path / GAUSSIANS if is_pair(path) else path
    called = name or path.absolute().name
    if path.is_file():
        file = facelift.read_file(path, [] if size is None else [f"data.image_size={size}"])
        model, sha256 = file.model().to(device), sha256_of(path)
        return GaussiansModel(model, file.recipe, called, sha256, file.step, licence_of(path))
    if (path / PIPELINE_INDEX).is_file():
        raise CheckpointError(f"{path}: expected a GS-LRM, got FaceLift's stage 1 — it makes views; name it as such.")
    _expect_folder(path, "a checkpoint folder, or FaceLift's .pt")
    loaded = kinds.load(path, device, kind="gslrm")
    assert isinstance(loaded.model, GSLRM)
    return GaussiansModel(loaded.model, loaded.recipe, called, loaded.sha256, loaded.step, licence_of(path))


def as_checkpoint(
    source: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    recipe: str | None = None,
    licence: str | None = None,
) -> Path:
    """A model in any form but a pair as the new checkpoint folder `folder`; a checkpoint is left where it is.

    overrides: `key=value` of what FaceLift's own files do not say, over `recipe`, the released model's if None.
    licence: another than the files have; of a checkpoint, written in a copy that shares its files. Returns the
    checkpoint. Raises CheckpointError, DataError, and RecipeError.
    """
    from pipeline.gslrm import facelift as gslrm

    if source.is_file():
        return gslrm.write_checkpoint(gslrm.read_file(source, overrides, recipe or "gslrm"), folder, licence)
    if (source / PIPELINE_INDEX).is_file():
        from pipeline.mvdiffusion import facelift as mvdiffusion

        read = mvdiffusion.read_folder(source, overrides, recipe or "mvdiffusion")
        return mvdiffusion.write_checkpoint(read, folder, licence)
    _expect_folder(source, "a checkpoint folder, FaceLift's pipeckpts, or a .pt")
    return source if licence is None else _with_licence(source, folder, licence)


def _with_licence(source: Path, folder: Path, licence: str) -> Path:
    """A checkpoint under another licence, in `folder`; its other files get a second name, where they can."""
    info = checkpoint.inspect(source)
    with whole_folder(folder) as temporary:
        checkpoint.strip_training(source, temporary)
        written = write_licence(licence, temporary / LICENCE_FILE)
        index = json.loads((source / checkpoint.INDEX).read_bytes())
        index["sha256"] = {**info.hashes, LICENCE_FILE: sha256_of(written)}
        write_whole(temporary / checkpoint.INDEX, json.dumps(index, indent=1))
    return folder


def _expect_folder(path: Path, wanted: str) -> None:
    """Raises CheckpointError for what is no folder, and for one that holds a model but is none."""
    if path.is_dir():
        if (path / checkpoint.INDEX).is_file():
            return
        inside = [*path.glob(f"*/{PIPELINE_INDEX}"), *path.glob("*.pt"), *path.glob(f"*/{checkpoint.INDEX}")]
        if inside:
            within = sorted(found if found.suffix == ".pt" else found.parent for found in inside)
            raise CheckpointError(
                f"{path}: expected {wanted}, got a folder that holds {named([str(one) for one in within])} — name one."
            )
        from pipeline.mvdiffusion.facelift import refuse_training_folder

        refuse_training_folder(path)
        return
    came = f"a file, {contents.described(path)}" if path.is_file() else "nothing there"
    raise CheckpointError(f"{path}: expected {wanted}, got {came} — check the path.")


def digest_of(source: Path) -> str:
    """The sha256 of a file; of a folder that of its files' names and hashes, as `sha256sum` lists them in order."""
    if source.is_file():
        return sha256_of(source)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    listed = "".join(f"{sha256_of(source / file)}  {file}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


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


def require_learned_from_one(recipe: Recipe, name: str) -> None:
    """See that a GS-LRM may be given one view. Raises CheckpointError."""
    data = recipe.data
    if (fewest := data.min_input_views or data.num_input_views) > 1:
        raise CheckpointError(
            f"{name}: expected a GS-LRM that learned from one view, to be given a photo alone, got one that learned "
            f"from {fewest} at least — train it with data.min_input_views=1, or give it the views."
        )


def write_pair(
    folder: Path,
    views: Path,
    gaussians: Path,
    names: tuple[str, str] | None = None,
    versions: tuple[int | None, int | None] = (None, None),
    given: Given = "views",
) -> Pair:
    """A pair as the folder `folder`, of two models in any form, whose files get a second name where that is possible.

    names, versions: of the registered models that they are. given: what GS-LRM is given of a photo. Raises
    CheckpointError for models of other kinds, and for a photo alone where GS-LRM has learned from more views.
    """
    from pipeline.mvdiffusion import deployed
    from pipeline.mvdiffusion.views import read_rig

    called = names or (views.absolute().name, gaussians.absolute().name)
    with whole_folder(folder) as temporary:
        infos = []
        parts = ((views, VIEWS, "mvdiffusion"), (gaussians, GAUSSIANS, "gslrm"))
        for (source, part, kind), name in zip(parts, called, strict=True):
            written = as_checkpoint(source, temporary / part)
            if written == source:
                checkpoint.strip_training(source, temporary / part)
            infos.append(checkpoint.inspect(temporary / part))
            replace(infos[-1], folder=Path(name)).expect_kind(kind)  # not by where it is for this moment
        if given == "photo":
            require_learned_from_one(infos[1].recipe, called[1])
        members = [
            Member(name, version, info.sha256, info.step, info.recipe.name)
            for name, version, info in zip(called, versions, infos, strict=True)
        ]
        rig = read_rig(infos[0].folder / deployed.RIG)
        licence = joined(licence_of(info.folder) for info in infos)
        framing = deployed.framing_in(infos[0])
        pair = Pair(folder, members[0], members[1], rig.name, rig.cameras.width, licence, framing, given)
        said = {key: value for key, value in asdict(pair).items() if key != "folder"}
        write_whole(temporary / PAIR_FILE, json.dumps(said, indent=1))
    return pair
