"""A checkpoint earns its figures: loaded afresh it reproduces what was logged, then is scored on `test`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import checkpoint, kinds
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.gate.checks import require_geometry
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.data.variants import prepared
from pipeline.files import sha256_of
from pipeline.kinds import LoadedCheckpoint, kind_of
from pipeline.recipe import DataConfig
from pipeline.stages import Evaluation
from sweeps.errors import RegistryError
from sweeps.space.gates import NOT_AVAILABLE

# The same weights on another device or kernel differ by less than this; those of another step seldom do.
RELATIVE_TOLERANCE = 2e-3
ABSOLUTE_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Verification:
    """What a version is registered with: its checkpoint and its `test/*` figures."""

    checkpoint: CheckpointInfo  # the proof that its hashes hold, so that none is computed again
    metrics: dict[str, float]
    protocol: str | None = None  # id of the protocol the figures were taken by
    data_name: str | None = None
    data_digest: str | None = None
    parent: str | None = None  # sha256 of the weights that training started from
    facts: dict[str, str] = field(default_factory=dict)  # what its kind of model is told apart by, such as a rig


def verify(
    source: Path | CheckpointInfo,
    dataset_root: str | Path,
    logged: Mapping[str, float],
    cache: Path,
    device: str = "cpu",
) -> Verification:
    """Re-evaluate a checkpoint on `val`, compare, then score it on `test`.

    source: a folder, whose files are hashed once, or what `checkpoint.inspect` has said of one. logged: figures logged
    at the checkpoint's step; those named `val/…` must come out again. cache: folder for decoded frames. Raises
    RegistryError naming the metric, the logged and the found value; CheckpointError and DataError for a damaged
    checkpoint or dataset.
    """
    loaded, dataset = kinds.load(source, device), open_dataset(dataset_root)
    expected = {name: value for name, value in logged.items() if name.startswith("val/")}
    if expected:
        limit = loaded.recipe.train.max_val_scenes
        found = score(loaded, loaded.recipe.data, dataset, "val", cache, limit).metrics
        _compare(loaded.info.folder, expected, found)
    test = score(loaded, loaded.recipe.data, dataset, "test", cache)
    return replace(
        unverified(loaded.info),
        metrics=test.metrics,
        protocol=test.protocol.id,
        data_name=dataset.name,
        data_digest=dataset.digest,
    )


def unverified(source: Path | CheckpointInfo) -> Verification:
    """A checkpoint without figures, for imports without a dataset; `source` as in `verify`. Raises CheckpointError."""
    info = source if isinstance(source, CheckpointInfo) else checkpoint.inspect(source)
    parent = _parent_hash(info.recipe.train.init_from)
    return Verification(info, {}, parent=parent, facts=kind_of(info.recipe).facts(info))


def score(
    loaded: LoadedCheckpoint, data: DataConfig, dataset: Dataset, split: str, cache: Path, limit: int | None = None
) -> Evaluation:
    """Evaluate a loaded model on views chosen by `data`, which need not be its own recipe's."""
    recipe = replace(loaded.recipe, data=data)
    return kind_of(recipe).evaluate(loaded.model, recipe, dataset, split, cache, limit)


def score_at(loaded: LoadedCheckpoint, root: str | Path, split: str, cache: Path) -> Evaluation:
    """`score` on the dataset at `root`, prepared as the model's recipe has it.

    Raises DataError as `prepared` and `require_geometry`.
    """
    data = replace(loaded.recipe.data, root=str(root))
    dataset = prepared(data, cache)
    require_geometry(dataset, cache, loaded.recipe.allows_inconsistent_geometry)
    return score(loaded, data, dataset, split, cache)


def _compare(folder: Path, logged: Mapping[str, float], found: Mapping[str, float]) -> None:
    for name, value in logged.items():
        again = found.get(name)
        same = again is not None and math.isclose(value, again, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        if not same:
            came = NOT_AVAILABLE if again is None else f"{again:.6g}"
            raise RegistryError(
                f"{folder}: expected {name} {value:.6g} as logged, found {came} when evaluated again — "
                "it is not the checkpoint or the data of that step; train again."
            )


def _parent_hash(source: str | None) -> str | None:
    """Hash of the weights at `source`, or None when there are none here any more."""
    if source is None:
        return None
    file = Path(source) / checkpoint.WEIGHTS if Path(source).is_dir() else Path(source)
    return sha256_of(file) if file.is_file() else None
