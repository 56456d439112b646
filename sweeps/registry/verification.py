"""A checkpoint earns its figures: loaded afresh it reproduces what was logged, then is scored on `test`."""

from __future__ import annotations

import io
import json
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import checkpoint, kinds
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.gate.checks import require_geometry
from pipeline.data.pictures import Pixels, sheet
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.data.variants import prepared
from pipeline.files import sha256_of
from pipeline.kinds import LoadedCheckpoint, kind_of
from pipeline.licence import licence_of
from pipeline.previews import Preview
from pipeline.progress import Tell, silent
from pipeline.pruning import PRUNINGS
from pipeline.recipe import DataConfig, Precision
from pipeline.stages import Evaluation
from pipeline.weights.known import LPIPS, require_weights
from sweeps.errors import RegistryError
from sweeps.registry.held import Held, PairInfo, inspect, score_pair
from sweeps.space.gates import NOT_AVAILABLE

# The same weights on another device or kernel differ by less than this; those of another step seldom do.
RELATIVE_TOLERANCE = 2e-3
ABSOLUTE_TOLERANCE = 2e-3
LICENCE, SCENES, SPREAD = "licence", "eval.scenes", "eval.spread"  # tags of a version
_GSLRM = "the first scene: photographs, below them the rendered views; of the first {} the photographs were given"
_MVDIFFUSION = "the first scenes: photographs, and below each row the views that were drawn"
_VIEWS = 8  # of a scene, in a picture
# What a reader looks for first, with its unit.
SHOWN = (("psnr_fg", "dB, foreground"), ("psnr", "dB"), ("ssim", ""), ("lpips", ""), ("mask_iou", ""))


@dataclass(frozen=True)
class Scene:
    """The first scene that a version was scored on, to be looked at. picture: PNG; about: what it shows."""

    picture: bytes
    about: str
    preview: Preview | None = None


@dataclass(frozen=True)
class Verification:
    """What a version is registered with: its checkpoint, or its pair of them, and its `test/*` figures."""

    checkpoint: Held  # the proof that its hashes hold, so that none is computed again
    metrics: dict[str, float]
    protocol: str | None = None  # id of the protocol the figures were taken by
    data_name: str | None = None
    data_digest: str | None = None
    parent: str | None = None  # sha256 of the weights that training started from
    facts: dict[str, str] = field(default_factory=dict)  # what its kind of model is told apart by, such as a rig
    precision: str | None = None  # of the network when the figures were taken
    scene: Scene | None = None


def verify(
    source: Path | CheckpointInfo,
    dataset_root: str | Path,
    logged: Mapping[str, float],
    cache: Path,
    device: str = "cpu",
    tell: Tell = silent,
) -> Verification:
    """Re-evaluate a checkpoint on `val`, compare, then score it on `test`.

    source: a folder, whose files are hashed once, or what `checkpoint.inspect` has said of one. logged: figures logged
    at the checkpoint's step; those named `val/…` must come out again. cache: folder for decoded frames. tell: hears of
    each scene. Raises RegistryError naming the metric, the logged and the found value; CheckpointError and DataError
    for a damaged checkpoint or dataset.
    """
    loaded, dataset = kinds.load(source, device), open_dataset(dataset_root)
    expected = {name: value for name, value in logged.items() if name.startswith("val/")}
    if any(name.endswith("/lpips") for name in expected):
        require_weights(LPIPS, os.environ)  # without it that figure could not come out again
    if expected:
        _confirm(loaded, dataset, expected, cache, tell)
    test = score(loaded, loaded.recipe.data, dataset, "test", cache, tell=tell)
    known = unverified(loaded.info)
    return replace(
        known,
        facts=known.facts | facts_of(test),
        metrics=test.metrics,
        protocol=test.protocol.id,
        precision=test.protocol.precision,
        data_name=dataset.name,
        data_digest=dataset.digest,
        scene=scene_of(test),
    )


def facts_of(found: Evaluation) -> dict[str, str]:
    """How many scenes figures are means of, and the standard deviation over them, as tags."""
    values = {name: [v for row in found.scenes if isinstance(v := row.get(name), float)] for name, _ in SHOWN}
    spread = {
        name: statistics.stdev(some) for name, some in values.items() if len(some) > 1 and all(map(math.isfinite, some))
    }
    return {SCENES: str(len(found.scenes)), SPREAD: json.dumps(spread)}


def scene_of(found: Evaluation) -> Scene | None:
    """What an evaluation shows of its first scene; None where its kind shows nothing."""
    from pipeline.gslrm.evaluate import RenderedEvaluation, titles_of  # what draws is needed here alone

    if isinstance(found, RenderedEvaluation):
        batch = found.batch
        kept = PRUNINGS["default"](found.gaussians[0]).to("cpu")
        preview = Preview(kept, batch.input_cameras[0].to("cpu"), batch.scenes[0])
        rows = torch.stack([batch.images[0], found.rendering.images[0].clamp(0, 1)])[:, :_VIEWS]
        drawn = sheet(rows.cpu(), names=("given", "rendered"), titles=titles_of(batch, found.rendering)[:_VIEWS])
        return Scene(png_of(drawn), _GSLRM.format(min(batch.num_input_views, _VIEWS)), preview)
    picture = getattr(found, "picture", None)
    return None if picture is None else Scene(png_of(picture), _MVDIFFUSION)


def png_of(picture: Pixels) -> bytes:
    """A picture as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def unverified(source: Path | CheckpointInfo) -> Verification:
    """A checkpoint without figures, for imports without a dataset; `source` as in `verify`. Raises CheckpointError."""
    info = source if isinstance(source, CheckpointInfo) else checkpoint.inspect(source)
    parent = _parent_hash(info.recipe.train.init_from)
    licence = licence_of(info.folder)
    said = {} if licence is None else {LICENCE: licence}
    return Verification(info, {}, parent=parent, facts=kind_of(info.recipe).facts(info) | said)


def score(
    loaded: LoadedCheckpoint,
    data: DataConfig,
    dataset: Dataset,
    split: str,
    cache: Path,
    limit: int | None = None,
    precision: Precision | None = None,
    tell: Tell = silent,
    refine_steps: int = 0,
) -> Evaluation:
    """Evaluate a loaded model on views chosen by `data`, and in a precision, which need not be its own recipe's.

    For another precision it is loaded again: the weights themselves may have been rounded to the one it was loaded for.
    refine_steps: as `Kind.evaluate` has them.
    """
    train = replace(loaded.recipe.train, precision=precision or loaded.recipe.train.precision)
    recipe = replace(loaded.recipe, data=data, train=train)
    kind, model = kind_of(recipe), loaded.model
    if train.precision != loaded.recipe.train.precision:
        model = kind.load(recipe, loaded.info.folder, next(model.parameters()).device)
    return kind.evaluate(model, recipe, dataset, split, cache, limit, tell, refine_steps)


def score_like(
    held: Held, ours: Held, dataset: Dataset, cache: Path, device: str, precision: Precision, tell: Tell = silent
) -> Evaluation:
    """What a version holds, scored on `test` as another of its kind was: on its views and in its precision."""
    if isinstance(held, PairInfo):
        assert isinstance(ours, PairInfo)
        return score_pair(held, ours.scored, dataset, "test", cache, device, precision, tell)
    assert isinstance(ours, CheckpointInfo)
    loaded = kinds.load(held, device)
    return score(loaded, ours.recipe.data, dataset, "test", cache, precision=precision, tell=tell)


def score_at(
    loaded: LoadedCheckpoint,
    root: str | Path,
    split: str,
    cache: Path,
    tell: Tell = silent,
    refine_steps: int = 0,
) -> Evaluation:
    """`score` on the dataset at `root`, prepared as the model's recipe has it.

    Raises DataError as `prepared` and `require_geometry`.
    """
    data = replace(loaded.recipe.data, root=str(root))
    dataset = prepared(data, cache)
    require_geometry(dataset, cache, loaded.recipe.allows_inconsistent_geometry)
    return score(loaded, data, dataset, split, cache, tell=tell, refine_steps=refine_steps)


def evaluate_at(
    folder: Path,
    root: str | Path,
    split: str,
    cache: Path,
    device: str,
    registered: str | None = None,
    tell: Tell = silent,
    refine_steps: int = 0,
) -> Evaluation:
    """`score_at` of what a folder holds, a checkpoint or a pair. Raises CheckpointError, too.

    registered: the sha256 of the version that it is to be; RegistryError for another, and for a model that makes no
    Gaussians where they are to be refined.
    """
    held = inspect(folder)
    if registered not in (None, held.sha256):
        raise RegistryError(
            f"{folder}: expected weights {str(registered)[:12]}, got {held.sha256[:12]} — register them again."
        )
    if refine_steps and not kind_of(held.recipe).draws:
        raise RegistryError(
            f"--refine {refine_steps}: expected a model of Gaussians, got {folder}, which makes none — leave it out."
        )
    if isinstance(held, CheckpointInfo):
        return score_at(kinds.load(held, device), root, split, cache, tell, refine_steps)
    data = replace(held.scored, root=str(root))
    dataset = prepared(data, cache)
    require_geometry(dataset, cache, held.gaussians.recipe.allows_inconsistent_geometry)
    return score_pair(held, data, dataset, split, cache, device, tell=tell, refine_steps=refine_steps)


def _confirm(loaded: LoadedCheckpoint, dataset: Dataset, logged: Mapping[str, float], cache: Path, tell: Tell) -> None:
    """See that the figures of `val` come out again: in the recipe's precision, or in float32, in which they were taken
    before evaluation followed the recipe.
    """
    data, limit = loaded.recipe.data, loaded.recipe.train.max_val_scenes
    found = score(loaded, data, dataset, "val", cache, limit, tell=tell)
    name = _apart(logged, found.metrics)
    if name is None:
        return
    if found.protocol.precision != "fp32":
        before = score(loaded, data, dataset, "val", cache, limit, "fp32", tell)
        if _apart(logged, before.metrics) is None:
            return
    again = found.metrics.get(name)
    came = NOT_AVAILABLE if again is None else f"{again:.6g}"
    raise RegistryError(
        f"{loaded.info.folder}: expected {name} {logged[name]:.6g} as logged, found {came} when evaluated again — "
        "it is not the checkpoint or the data of that step; train again."
    )


def _apart(logged: Mapping[str, float], found: Mapping[str, float]) -> str | None:
    """The first figure that did not come out again."""
    return next((name for name, value in logged.items() if not _same(value, found.get(name))), None)


def _same(value: float, again: float | None) -> bool:
    return again is not None and math.isclose(value, again, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def _parent_hash(source: str | None) -> str | None:
    """Hash of the weights at `source`, or None when there are none here any more."""
    if source is None:
        return None
    file = Path(source) / checkpoint.WEIGHTS if Path(source).is_dir() else Path(source)
    return sha256_of(file) if file.is_file() else None
