"""One animal in a mask: specks and what else there is are removed, two animals are refused."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt, label

from pipeline.data.photo.framing import FAINT, SOLID, Alpha
from pipeline.errors import DataError

SPECK = 0.02  # of the largest thing's area: less is dirt
RIVAL = 0.5  # of the largest thing's area: as much might as well be the animal
NEAR = 0.04  # of the largest thing's extent: what is nearer belongs to it, as a tail behind a bar does
NEAR_PX = 3  # and what is no farther in pixels, as thin parts break in small pictures
LEAST = 2e-4  # of the picture: less shows no animal
_LOOKED_AT_PX = 1024


def only_animal(alpha: Alpha, where: str) -> tuple[Alpha, tuple[str, ...]]:
    """The mask without what is no part of its largest thing, and what was removed, in words.

    Raises DataError where it shows nothing, and where a second thing is about as large.
    """
    if float((alpha > SOLID).mean()) < LEAST:
        raise DataError(f"{where}: expected a picture of a mouse, got nothing but background — choose another.")
    labels, count = label(alpha > FAINT, structure=np.ones((3, 3)))
    if count == 1:
        return alpha, ()
    areas = np.bincount(labels.ravel(), weights=(alpha > SOLID).ravel(), minlength=count + 1)
    areas[0] = 0
    largest = int(areas.argmax())
    apart = _distances(labels, count, largest) > max(NEAR_PX, NEAR * _extent(labels == largest))
    apart[[0, largest]] = False
    shares = np.where(apart, areas / areas[largest], 0)
    if shares.max() >= RIVAL:
        raise DataError(
            f"{where}: expected one animal, got {1 + int((shares >= RIVAL).sum())} things of about one size (the "
            f"second has {shares.max():.0%} of the first's area) — crop the picture, or give a mask of one."
        )
    if not apart.any():
        return alpha, ()
    kept = np.where(apart[labels], np.uint8(0), alpha)
    return kept, tuple(_in_words(shares[apart]))


def _in_words(shares: Float[np.ndarray, " n"]) -> list[str]:
    things, specks = shares[shares >= SPECK], int(((shares > 0) & (shares < SPECK)).sum())
    said = []
    if len(things):
        said.append(f"of {1 + len(things)} things the largest was taken (the next has {things.max():.0%} of its area)")
    if specks:
        said.append(f"{'1 speck' if specks == 1 else f'{specks} specks'} beside the animal removed")
    return said


def _distances(labels: Int[np.ndarray, "height width"], count: int, largest: int) -> Float[np.ndarray, " labels"]:
    """In pixels, of every thing from the largest; measured on a grid that is coarser where the picture is large."""
    step = -(-max(labels.shape) // _LOOKED_AT_PX)
    beyond = distance_transform_edt(labels[::step, ::step] != largest) * step
    y, x = np.nonzero(labels)
    nearest = np.full(count + 1, np.inf)
    np.minimum.at(nearest, labels[y, x], beyond[y // step, x // step])
    return nearest


def _extent(mask: Bool[np.ndarray, "height width"]) -> int:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
