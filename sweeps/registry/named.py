"""A model, however it is named: a folder, a file of weights, or a version of a registered model.

Every command that takes a model asks here. MLflow is imported when a registered model is asked for.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pipeline.errors import CheckpointError
from sweeps.errors import RegistryError
from sweeps.home import Home

if TYPE_CHECKING:
    from pipeline.reconstruction.models import GaussiansModel, Given, ViewsModel
    from sweeps.registry.versions import Version

PAIR, VIEWS, GAUSSIANS = "mouse-facelift", "mouse-mvdiffusion", "mouse-gslrm"  # registered models
_VERSION = re.compile(r"[^/@.][^/@]*(@[^/@]+|/[0-9]+)")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


@dataclass(frozen=True)
class Named:
    """Where a model's files are for as long as a command works, what it is called, and the version that it is."""

    path: Path
    name: str
    version: Version | None = None

    def expect(self, role: str, sha256: str) -> None:
        """See that the weights that were loaded for VIEWS or GAUSSIANS are those that were registered.

        Raises RegistryError.
        """
        from pipeline.reconstruction.models import is_pair, read_pair

        if self.version is None:
            return
        wanted, came = self.version.sha256, sha256
        if is_pair(self.path):
            pair = read_pair(self.path)
            wanted, came = (pair.views if role == VIEWS else pair.gaussians).sha256, sha256
            if came == wanted:
                wanted, came = self.version.sha256, pair.sha256
        if came != wanted:
            raise RegistryError(
                f"{self.version.ref}: expected weights {wanted[:12]}, got {came[:12]} — register it again."
            )


@dataclass(frozen=True)
class Models:
    """What a photo, or posed views, are made into Gaussians with. notes: which were taken without having been named."""

    views: Named | None
    gaussians: Named
    notes: tuple[str, ...] = ()

    @property
    def given(self) -> Given:
        """What GS-LRM is given of a photo: as the pair has it that both are of, else the views."""
        from pipeline.reconstruction.models import is_pair, read_pair

        if self.views is None or not is_pair(self.gaussians.path):
            return "views"
        of_one_version = self.views.version is not None and self.views.version == self.gaussians.version
        of_one_pair = (
            of_one_version or self.views.path.resolve() == self.gaussians.path.resolve()
        )  # it may be downloaded twice
        return read_pair(self.gaussians.path).given if of_one_pair else "views"

    def load_views(self, device: str) -> ViewsModel | None:
        """Raises CheckpointError, DataError, RegistryError."""
        from pipeline.reconstruction.models import load_views

        if self.views is None:
            return None
        loaded = load_views(self.views.path, device, self.views.name)
        self.views.expect(VIEWS, loaded.sha256)
        return loaded

    def load_gaussians(self, device: str, size: int | None = None) -> GaussiansModel:
        """size: pixels along a side of the images of a model that does not say it, such as FaceLift's `.pt`.

        Raises CheckpointError, RegistryError.
        """
        from pipeline.reconstruction.models import load_gaussians

        loaded = load_gaussians(self.gaussians.path, device, self.gaussians.name, size)
        self.gaussians.expect(GAUSSIANS, loaded.sha256)
        return loaded

    def facts(self, views: ViewsModel | None, gaussians: GaussiansModel) -> dict[str, Any]:
        """What results say of the models that made them."""
        loaded = {"views": (self.views, views), "gaussians": (self.gaussians, gaussians)}
        return {role: _facts(*both) for role, both in loaded.items()}


@contextlib.contextmanager
def models_of(
    home: Home, model: str | None, views: str | None, gaussians: str | None, photos: bool
) -> Iterator[Models]:
    """The models for photos, or for posed views alone, however they are named.

    model: a pair, or one of the two. Where one is not named it is the home's champion: of PAIR, or else of its own
    stage. Raises as `located`, and RegistryError where there is no champion.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Named] = {}
        general: Named | None = None
        for name, roles in ((model, None), (views, (VIEWS,)), (gaussians, (GAUSSIANS,))):
            if name is not None:
                named = stack.enter_context(located(name, home))
                found |= dict.fromkeys(roles or _roles(named.path), named)
                if roles is None:
                    general = named
        if model is not None and general not in found.values():
            raise RegistryError(
                f"--model {model}: expected a model that is needed beside --views and --gaussians, got one in whose "
                "place they name another — leave one of them."
            )
        needed = [role for role in ((VIEWS, GAUSSIANS) if photos else (GAUSSIANS,)) if role not in found]
        notes = []
        pair = champion(PAIR, home) if needed else None  # once: it may change meanwhile
        for role in needed:
            version = pair or champion(role, home)
            if version is None:
                raise RegistryError(
                    f"{home.root}: expected a champion of {PAIR} or {role}, as no other model was named, got none — "
                    "name a folder, a file or NAME@ALIAS with --model; `mouselift model import` registers FaceLift's."
                )
            found[role] = stack.enter_context(located(version.ref, home))
            what = "Gaussians" if role == GAUSSIANS else "framing and rig" if version.given == "photo" else "views"
            notes.append(f"{what} by the champion {version.ref}")
        yield Models(found.get(VIEWS) if photos else None, found[GAUSSIANS], tuple(notes))


@contextlib.contextmanager
def located(name: str, home: Home) -> Iterator[Named]:
    """The model that is named by a path, or by NAME@ALIAS, NAME/VERSION, or NAME for its champion.

    A version whose files are on this machine is read where they are, another one is downloaded until the block ends.
    What loads them compares their hashes; `Named.expect` then compares the weights with the version's. Raises
    CheckpointError for a path that is not there, RegistryError for a version that is not, or whose files are gone.
    """
    if not is_registered(name):
        path = Path(name).expanduser()
        yield Named(path, path.absolute().name)
        return
    from sweeps.registry.registry import Registry

    registry = Registry(home)
    version = registry.resolve(name)
    folder = folder_here(version)
    if folder is not None:
        yield Named(folder, version.ref, version)
        return
    with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
        yield Named(registry.pull(version.ref, Path(temporary) / "model"), version.ref, version)


@contextlib.contextmanager
def checkpoint_of(name: str, home: Home) -> Iterator[Named]:
    """As `located`, with a checkpoint folder or a pair in the place of FaceLift's own files."""
    from pipeline.reconstruction.models import as_checkpoint, is_pair

    with located(name, home) as named, tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
        folder = named.path if is_pair(named.path) else as_checkpoint(named.path, Path(temporary) / "checkpoint")
        yield replace(named, path=folder)


def is_registered(name: str) -> bool:
    """Whether a text names a registered model, not a path. Raises CheckpointError for a path that is not there."""
    path = Path(name).expanduser()
    if path.exists():
        return False
    is_path = path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.suffix.lower() in _WEIGHTS
    if is_path:
        raise CheckpointError(
            f"{name}: expected a model's folder or file, or a registered one (NAME@ALIAS), found none — check the path."
        )
    return True


def names_version(text: str) -> bool:
    """Whether a text is NAME@ALIAS or NAME/VERSION, and no path that is there: for what may be another kind of path."""
    return _VERSION.fullmatch(text) is not None and not Path(text).exists()


def champion(name: str, home: Home) -> Version | None:
    """The champion of a registered model, or None where there is no such model, or no champion."""
    from sweeps.registry.registry import Registry

    with contextlib.suppress(RegistryError):
        return Registry(home).resolve(name)
    return None


def folder_here(version: Version) -> Path | None:
    """The folder of a version's checkpoint on this machine, if it is there whole enough to be read."""
    from pipeline import checkpoint
    from pipeline.reconstruction.models import PAIR_FILE
    from sweeps.registry.release import CHECKPOINT

    address = urlsplit(version.source)
    if address.scheme not in ("", "file") or address.netloc not in ("", "localhost"):
        return None
    folder = Path(unquote(address.path) if address.scheme else version.source) / "artifacts" / CHECKPOINT
    return folder if any((folder / name).is_file() for name in (checkpoint.INDEX, PAIR_FILE)) else None


def _roles(path: Path) -> tuple[str, ...]:
    """What a folder or file is a model for, by what lies in it; what loads it will see."""
    from pipeline.reconstruction.models import is_pair

    if is_pair(path):
        return VIEWS, GAUSSIANS
    is_of_views = any((path / name).exists() for name in ("rig.json", "model_index.json", "unet"))
    return (VIEWS,) if is_of_views else (GAUSSIANS,)


def _facts(named: Named | None, loaded: ViewsModel | GaussiansModel | None) -> dict[str, Any] | None:
    from pipeline.reconstruction.models import GaussiansModel

    if named is None or loaded is None:
        return None
    version = None if named.version is None else named.version.ref
    facts: dict[str, Any] = {"name": loaded.name, "version": version, "sha256": loaded.sha256}
    facts |= {"step": loaded.step, "licence": loaded.licence}
    framing = None if isinstance(loaded, GaussiansModel) else loaded.framing
    return facts if framing is None else facts | {"framing": asdict(framing)}
