"""Checkpoints: folders written whole, with a hash of each file; weights loaded strictly. Knows no model.

step-000300/  model.safetensors   weights under FaceLift's names
recipe.yaml         the resolved recipe
training.pt         optimizer, scaler and counters, `weights_only`-loadable (left out by `strip_training`)
checkpoint.json     step, fingerprint, metrics, sha256 of each other file
licence.txt         of weights that have one, see pipeline/licence.py
preview.ply         of GS-LRM: Gaussians of the first validation scene
preview.json        of GS-LRM: the input cameras of that scene; see `previews`
pipeline/ …         of MVDiffusion: everything but the UNet's weights, see pipeline/mvdiffusion/deployed.py
"""

from __future__ import annotations

import contextlib
import errno
import json
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import config
from pipeline.errors import CheckpointError, DiskFullError, RecipeError
from pipeline.files import link_or_copy, sha256_of, whole_folder
from pipeline.machine import contents
from pipeline.recipe import Recipe
from pipeline.recipes import renamed

WEIGHTS, TRAINING, RECIPE, INDEX = "model.safetensors", "training.pt", "recipe.yaml", "checkpoint.json"
PREVIEW, PREVIEW_CAMERAS = "preview.ply", "preview.json"
_FACELIFT_LOSSES = "loss_calculator."
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # names that DistributedDataParallel and torch.compile put in front
_NAMES_SHOWN = 4
_CAUSE_SHOWN = 120  # characters
# What torch raises for a file with a bit turned over: its reader trusts the pickle and the sizes in it.
_UNREADABLE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, MemoryError,
    OverflowError, ImportError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
_FOREIGN = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|Unsupported class) ([\w.]+)")
# What safetensors and torch say of a full disk; their errors carry no errno.
_FULL = ("No space left", "Disk quota", "write failed", "unexpected pos")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint folder says of itself, and the proof that every hash was compared with its file: code that is
    given one need not hash the files again.
    """

    folder: Path
    recipe: Recipe
    step: int
    metrics: dict[str, float]
    hashes: dict[str, str]  # sha256 of each file but the index, by its path below the folder

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.hashes[WEIGHTS]

    def expect_kind(self, kind: str) -> None:
        """Raises CheckpointError for a checkpoint of another kind of model."""
        came = self.recipe.model.kind
        if came != kind:
            raise CheckpointError(f"{self.folder}: expected a checkpoint of {kind}, got one of {came} — name another.")


@dataclass(frozen=True)
class Content:
    """What a checkpoint is to hold. Nothing of it may change while it is written.

    weights: tensors by name, or the safetensors file that holds them, which gets a second name where that is possible.
    training: the optimizer's state and counters; None: for release only. attachments: further files or folders by
    name, and what writes each.
    """

    weights: Mapping[str, Tensor] | Path
    recipe: Recipe
    step: int
    metrics: Mapping[str, float]
    training: Mapping[str, Any] | None = None
    attachments: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Index:
    """The file INDEX."""

    recipe: str
    step: int
    fingerprint: str
    metrics: dict[str, float]
    sha256: dict[str, str]


def save(
    folder: Path,
    model: nn.Module,
    recipe: Recipe,
    step: int,
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, Any] | None = None,
    attachments: Mapping[str, Callable[[Path], object]] | None = None,
) -> Path:
    """`write` the checkpoint of a model as it is."""
    return write(folder, Content(model.state_dict(), recipe, step, metrics or {}, training, attachments or {}))


def write(folder: Path, content: Content) -> Path:
    """Write a checkpoint whole to `folder`; an older one there is replaced. Raises DiskFullError."""
    recipe = content.recipe
    with _refusing_a_full_disk(folder), whole_folder(folder) as temporary:
        if isinstance(content.weights, Path):
            link_or_copy(content.weights, temporary / WEIGHTS)
        else:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in content.weights.items()}
            save_file(weights, temporary / WEIGHTS)
        values = {key: value for key, value in config.as_plain(recipe).items() if key != "name"}
        (temporary / RECIPE).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        if content.training is not None:
            torch.save(dict(content.training), temporary / TRAINING)
        for name, attach in content.attachments.items():
            attach(temporary / name)
        about = {"recipe": recipe.name, "step": content.step, "fingerprint": recipe.fingerprint}
        files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        hashes = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
        index = about | {"metrics": dict(content.metrics), "sha256": hashes}
        (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return folder


@contextlib.contextmanager
def _refusing_a_full_disk(folder: Path) -> Iterator[None]:
    """Turn what each writer says of a full disk into DiskFullError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code not in (errno.ENOSPC, errno.EDQUOT) and not any(words in str(error) for words in _FULL):
            raise
        raise DiskFullError(f"{folder.parent}: expected room for a checkpoint, got a full disk — free some.") from None


def inspect(folder: str | Path) -> CheckpointInfo:
    """Read a checkpoint's index and recipe and compare every hash. Raises CheckpointError naming the file."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: expected a checkpoint folder with {INDEX}, found none — check the path.")
    try:
        index = TypeAdapter(_Index).validate_json((folder / INDEX).read_bytes())
    except ValidationError as error:
        raise CheckpointError(
            f"{folder / INDEX}: expected the index of a checkpoint, got {_fault(folder / INDEX, error)} — copy the "
            "checkpoint again."
        ) from None
    recorded = index.sha256
    for file in (WEIGHTS, RECIPE):
        if file not in recorded:
            raise CheckpointError(
                f"{folder / INDEX}: expected a hash of {file}, found none — save the checkpoint again."
            )
    for file, expected in recorded.items():
        if file == TRAINING and not (folder / file).exists():
            continue
        if not (folder / file).is_file() or sha256_of(folder / file) != expected:
            raise CheckpointError(f"{folder / file}: expected sha256 {expected[:12]}, got {_instead(folder / file)}")
    return CheckpointInfo(folder, _read_recipe(folder, index.recipe), index.step, index.metrics, recorded)


def _fault(path: Path, error: ValidationError) -> str:
    """What stands in the place of an index: another kind of file, or a document with a value that is none."""
    found = contents.described(path)
    if found != "a JSON document":
        return found.partition(";")[0]
    first = error.errors()[0]
    return f"a fault at {'.'.join(map(str, first['loc'])) or 'its JSON'} ({first['msg']})"


def _instead(path: Path) -> str:
    """What stands in the place of a checkpoint's file."""
    found = contents.described(path) if path.is_file() else "no file"
    known = found.partition(";")[0] if found.startswith(("a pointer", "a web page", "an empty", "zeros")) else ""
    return (
        f"{known} — copy the checkpoint again, whole." if known else "another or no file — it is damaged; restore it."
    )


def strip_training(folder: Path, target: Path) -> Path:
    """A checkpoint without its training state, as registries hold it, in `target`: links, where they can be."""
    with whole_folder(target) as temporary:
        left_out = shutil.ignore_patterns(TRAINING)
        shutil.copytree(folder, temporary, copy_function=link_or_copy, ignore=left_out, dirs_exist_ok=True)
    return target


def load_training(source: Path | CheckpointInfo) -> dict[str, Any]:
    """The optimizer state and counters of a checkpoint that can be resumed. Raises CheckpointError.

    source: a folder, whose files are hashed, or what `inspect` has said of one, which is taken as proof.
    """
    folder = (source if isinstance(source, CheckpointInfo) else inspect(source)).folder
    if not (folder / TRAINING).is_file():
        raise CheckpointError(
            f"{folder}: expected {TRAINING} to resume from, found none — it was saved for release only."
        )
    return load_torch(folder / TRAINING)


def load_weights(model: nn.Module, source: str | Path) -> None:
    """Load weights strictly into `model` from a checkpoint folder, its safetensors file or a FaceLift `.pt`.

    Nothing is hashed. Raises CheckpointError listing missing, unexpected and misshapen names.
    """
    tensors = read_tensors(source)
    expect_weights(model, weights_file(source), tensors)
    model.load_state_dict(tensors, strict=True)


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, its safetensors file or a FaceLift `.pt`. Raises CheckpointError."""
    path = weights_file(source)
    ours = Path(source).is_dir()  # of another file the name may say something else than the content
    if ours or contents.described(path) == contents.SAFETENSORS:
        return _read_safetensors(path)
    return read_facelift(path)


def read_facelift(path: Path) -> dict[str, Tensor]:
    """The core tensors of a FaceLift `.pt`: `model`, less the networks of its losses. Raises CheckpointError."""
    content = load_torch(path)
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items()
    ):
        raise CheckpointError(
            f"{path}: expected a FaceLift checkpoint with `model`, got something else — check the file."
        )
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (plain := _WRAPPERS.sub("", name)) in named:
            raise CheckpointError(
                f"{path}: expected each tensor once, got {plain} with and without a prefix such as "
                "module. — keep one of the two."
            )
        named[plain] = tensor
    return {name: tensor for name, tensor in named.items() if not name.startswith(_FACELIFT_LOSSES)}


def load_torch(path: Path) -> Any:
    """What a torch file holds, of tensors and plain values alone; of a zip, mapped from the disk.

    Files of before torch 1.6 are read, too. Raises CheckpointError, which says what else the file is, OSError for one
    that may not be read.
    """
    found = contents.described(path)
    if found not in (contents.TORCH, contents.OLD_TORCH):
        raise CheckpointError(
            f"{path}: expected weights (safetensors, or a torch file), got {found} — name a file of weights."
        )
    try:
        if path.suffix == ".safetensors":  # torch believes the name
            return torch.load(BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=found == contents.TORCH)
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        if foreign is None:
            raise CheckpointError(_damaged(path, error)) from None
        raise CheckpointError(
            f"{path}: expected a torch file of tensors, got one that names {foreign[1]}, which could run code — save "
            "its tensors alone, where it was made: torch.save({'model': model.state_dict()}, …)."
        ) from None
    except _UNREADABLE as error:
        raise CheckpointError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    came = config.one_line(error)[:_CAUSE_SHOWN] or type(error).__name__
    return f"{path}: expected a whole torch file, got a damaged one ({came}) — copy it again."


def _read_recipe(folder: Path, name: str) -> Recipe:
    """The resolved recipe under its own name, which is not the file's."""
    try:
        layers = config.load_layers(folder / RECIPE, folder.parent)
        values = renamed.stored_recipe(layers.values) | {"name": name}
        return config.decode(replace(layers, values=values), Recipe)
    except RecipeError as error:
        raise CheckpointError(str(error)) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: expected safetensors, got {config.one_line(error)} — the file is damaged; restore it."
        ) from None


def weights_file(source: str | Path) -> Path:
    """The file of weights that a checkpoint folder, or its name itself, stands for. Raises CheckpointError."""
    path = Path(source)
    if path.is_dir() and not (path / WEIGHTS).exists():
        raise CheckpointError(f"{path}: expected a checkpoint folder, got one without {WEIGHTS} — check the path.")
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: expected weights, found no file — check the path.")
    return path


def expect_weights(model: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless the tensors are exactly those of the model, and finite."""
    problem = _mismatch(model.state_dict(), tensors)
    if problem:
        raise CheckpointError(
            f"{path}: expected the {len(model.state_dict())} tensors of the model; {problem} — name weights of this "
            "network, or set the recipe's model as theirs."
        )


def _mismatch(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    shapes = [
        f"{name} {tuple(got[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and got[name].shape != tensor.shape
    ]
    infinite = [name for name, tensor in got.items() if name in expected and not bool(tensor.isfinite().all())]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "not finite": infinite}
    return "; ".join(f"{len(names)} {word}: {_some(names)}" for word, names in groups.items() if names)


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
