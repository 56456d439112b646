"""Everything that can be refused before a machine is taken: files, weights, data, the ends of the space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import checkpoint, vgg
from pipeline.data.loader import Loader
from pipeline.data.scenes import SPLITS, Dataset, open_dataset
from pipeline.gslrm.stage import check_dataset
from pipeline.recipe import Recipe, check_artefacts


@dataclass(frozen=True)
class Readiness:
    """The verdict: a recipe that can run, and what is known about the data it runs on."""

    recipe: Recipe
    tags: dict[str, str]


def preflight(recipe: Recipe, variants: Iterable[Recipe], cache: Path) -> Readiness:
    """Check a recipe and its variants (the ends and choices of a space) and decode the data once for all of them.

    Raises RecipeError, DataError or CheckpointError: the first thing that would have stopped a trial.
    """
    check_artefacts(recipe)
    dataset = open_dataset(str(recipe.data.root))
    for variant in [recipe, *variants]:
        _check_weights(variant)
        _check_data(variant, dataset, cache)
    tags = {"data.name": dataset.name, "data.digest": dataset.digest, "fingerprint": recipe.fingerprint}
    return Readiness(recipe, tags)


def _check_weights(recipe: Recipe) -> None:
    if recipe.train.init_from is not None:
        checkpoint.check_weights(recipe.model, recipe.train.init_from)
    if recipe.loss.perceptual:
        vgg.load_perceptual(Path(str(recipe.loss.perceptual_weights)))
    if recipe.loss.lpips:
        vgg.load_lpips()


def _check_data(recipe: Recipe, dataset: Dataset, cache: Path) -> None:
    for split in SPLITS:
        check_dataset(recipe.loss, Loader(dataset, split, recipe.data, cache))
