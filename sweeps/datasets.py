"""Datasets by name and by content: what `--data NAME` means in this installation, and the tags of a run's data."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline import config
from pipeline.data.gate.checks import require_geometry
from pipeline.data.gate.evidence import rests
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.data.variants import prepared
from pipeline.files import write_whole
from pipeline.machine.outputs import require_folder
from pipeline.recipe import DataConfig, Recipe, strict
from pipeline.text.yaml_file import read_yaml
from sweeps.errors import RegistryError
from sweeps.home import Home, check_name


@strict
@dataclass(frozen=True, kw_only=True)
class Registered:
    """A named dataset: where it lies on this machine, and the digest of its content."""

    name: str
    path: str
    digest: str
    geometry: str | None = None  # the verdict when it was registered


def register(home: Home, name: str, path: Path) -> Registered:
    """Give a dataset folder a name; a name goes to another content only after `forget`.

    Raises DataError for a folder that is no dataset, RegistryError for a name that another content has.
    """
    require_folder(home.root, "MOUSELIFT_HOME")
    check_name(name)
    dataset = open_dataset(path)
    known = registered(home)
    if name in known and known[name].digest != dataset.digest:
        raise RegistryError(
            f"{name}: expected a new name or the data of digest {known[name].digest[:12]}, got "
            f"{dataset.digest[:12]} at {path} — choose another name, or forget the old one first."
        )
    geometry = dataset.manifest.geometry
    verdict = None if geometry is None else geometry.verdict
    entry = Registered(name=name, path=str(path.resolve()), digest=dataset.digest, geometry=verdict)
    _write(home, known | {name: entry})
    return entry


def forget(home: Home, name: str) -> None:
    """Take a name away; the data stays. Raises RegistryError."""
    known = registered(home)
    if name not in known:
        raise _unknown(name, known)
    _write(home, {other: entry for other, entry in known.items() if other != name})


def resolve(home: Home, name_or_path: str | Path) -> Path:
    """The folder of `--data`: a folder as it stands, or a registered name whose content is what it was.

    Raises RegistryError for a name that is not registered, and for data that changed since it was.
    """
    path, known = Path(name_or_path), registered(home)
    if path.exists() or str(name_or_path) not in known:
        if not path.exists() and known and os.sep not in str(name_or_path):
            raise _unknown(str(name_or_path), known)
        return path
    entry = known[str(name_or_path)]
    dataset: Dataset = open_dataset(entry.path)
    if dataset.digest != entry.digest:
        raise RegistryError(
            f"{entry.name}: expected the data of digest {entry.digest[:12]} at {entry.path}, got "
            f"{dataset.digest[:12]} — restore it, or register the new data under another name."
        )
    return Path(entry.path)


def registered(home: Home) -> dict[str, Registered]:
    """Every named dataset. Raises RegistryError for a file that was broken by hand."""
    path = _file(home)
    if not path.is_file():
        return {}
    values = read_yaml(path, RegistryError).values
    try:
        entries = TypeAdapter(list[Registered]).validate_json(json.dumps(values or []), strict=True)
    except ValidationError as error:
        raise RegistryError(
            f"{path}: expected a list of datasets, got {config.one_line(error)} — correct it, or register anew."
        ) from None
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise RegistryError(f"{path}: expected each name once, got {twice[0]} twice — keep one of the two.")
    return {entry.name: entry for entry in entries}


def data_tags(recipe: Recipe, cache: Path) -> dict[str, str]:
    """What a run says of the dataset it trains on: the normalised variant, where the recipe asks for one.

    Each kind of data is looked at once, until `forget_tags`. Raises DataError.
    """
    return dict(_tags_once(kind_of_data(recipe), cache))


def forget_tags() -> None:
    """Have `data_tags` look at the files again, which may have changed."""
    _tags_once.cache_clear()


def kind_of_data(recipe: Recipe) -> DataConfig:
    """With only that left in it which decides what data it is: trials that differ in views share an answer."""
    data = recipe.data
    return DataConfig(
        root=data.root,
        normalise=data.normalise,
        zoom=data.zoom,
        allow_inconsistent_geometry=recipe.allows_inconsistent_geometry,
        image_size=data.image_size,
        num_views=1,
        num_input_views=1,
    )


def named(dataset: Dataset) -> dict[str, str]:
    """Name and digest, as tags of a run."""
    return {"data.name": dataset.name, "data.digest": dataset.digest}


@lru_cache(maxsize=64)
def _tags_once(data: DataConfig, cache: Path) -> tuple[tuple[str, str], ...]:
    dataset = prepared(data, cache)
    geometry = require_geometry(dataset, cache, data.allow_inconsistent_geometry)
    told = {"data.geometry": geometry.verdict, "data.geometry.rests_on": rests(geometry)}
    return tuple((named(dataset) | told).items())


def _write(home: Home, entries: dict[str, Registered]) -> None:
    path = _file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump([config.as_plain(entry) for entry in entries.values()], sort_keys=False))


def _file(home: Home) -> Path:
    return home.root / "datasets.yaml"


def _unknown(name: str, known: dict[str, Registered]) -> RegistryError:
    mend = config.did_you_mean(name, known) or f" — registered are {', '.join(known) or 'none'}."
    return RegistryError(f"{name}: expected a folder or a registered dataset, got neither{mend}")
