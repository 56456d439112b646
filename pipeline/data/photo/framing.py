"""How much of the frame an animal fills: measured on a training set, kept with a model, asked of a photo."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
from jaxtyping import UInt8

from pipeline.errors import DataError

SOLID = 127  # of 255: alpha above it is the animal
FAINT = 8  # of 255: alpha above it shows something
WIDEST = 0.96  # of a crop's side, what an animal may reach
ROOM = 1.1  # a crop's side without a framing, in units of the animal's longer side, at least

Alpha = UInt8[np.ndarray, "height width"]


class Crop(NamedTuple):
    """A square in pixels of a picture: its upper left corner and its side. It may reach beyond the border."""

    x: float
    y: float
    side: float


class Outline(NamedTuple):
    """What there is to know of an animal's mask: area and centre of mass in pixels, box, and the borders it reaches."""

    area: float
    mass: tuple[float, float]
    left: int
    top: int
    right: int
    bottom: int
    touched: tuple[str, ...]

    @property
    def longer(self) -> int:
        return max(self.right - self.left, self.bottom - self.top)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Framing:
    """Shares of the frame's area that the animal fills in a training set's reference views, and how many they are.

    A photo is framed so that its animal fills `mean`; one between `least` and `most` is left as it is.
    centre: what of the animal is nearest to the middle of those views, its centre of mass or that of its box.
    touching: how many of them, 0 to 1, cut the animal off by their border, as portraits do.
    """

    mean: float
    least: float
    most: float
    views: int
    centre: Literal["mass", "box"] = "mass"
    touching: float = 0.0

    @classmethod
    def measured(cls, masks: Iterable[Alpha]) -> Self:
        """The framing of a training set by the alpha of its reference views; those that show nothing do not count.

        Raises DataError where none shows anything.
        """
        shares, of_mass, of_box, touching = [], [], [], 0
        for mask in masks:
            outline = outline_of(mask)
            if outline is None:
                continue
            height, width = mask.shape
            shares.append(outline.area / mask.size)
            of_mass.append(np.hypot(outline.mass[0] - width / 2, outline.mass[1] - height / 2) / width)
            of_box.append(np.hypot(outline.middle[0] - width / 2, outline.middle[1] - height / 2) / width)
            touching += bool(outline.touched)
        if not shares:
            raise DataError("framing: expected reference views that show an animal, got none — check the masks.")
        centre: Literal["mass", "box"] = "mass" if np.mean(of_mass) <= np.mean(of_box) else "box"
        few = float(np.mean(shares)), min(shares), max(shares), len(shares)
        return cls(*few, centre=centre, touching=touching / len(shares))


def outline_of(alpha: Alpha) -> Outline | None:
    """Of a mask; None where it shows nothing."""
    solid = alpha > SOLID
    rows, columns = (np.flatnonzero((alpha > FAINT).any(axis)) for axis in (1, 0))
    if not solid.any():
        return None
    height, width = alpha.shape
    by_row, by_column = alpha.sum(1, dtype=np.float64), alpha.sum(0, dtype=np.float64)
    total = by_row.sum()
    mass = (
        float(by_column @ (np.arange(width) + 0.5) / total),
        float(by_row @ (np.arange(height) + 0.5) / total),
    )
    borders = {"left": solid[:, 0], "right": solid[:, -1], "upper": solid[0], "lower": solid[-1]}
    touched = tuple(name for name, line in borders.items() if line.any())
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return Outline(float(total / 255), mass, *box, touched)


def crop_for(alpha: Alpha, framing: Framing | None) -> tuple[Crop, tuple[str, ...]]:
    """The square round the animal of a mask that shows one, in whole pixels, and what was changed, in words.

    All of a square picture, where the framing is as asked. Otherwise the animal fills `framing.mean` of it, with its
    centre in the middle, unless it would be cut: then the square is moved, and made larger where it must be. Without
    a framing, the largest square of the picture, or a larger one that holds the animal.
    """
    height, width = alpha.shape
    outline = outline_of(alpha)
    assert outline is not None
    share = outline.area / alpha.size
    said = tuple(f"the animal is cut off by the {name} border" for name in outline.touched)
    fits = framing is None or (
        framing.least <= share <= framing.most and (not outline.touched or framing.touching >= 0.5)
    )
    if width == height and fits:
        return Crop(0, 0, width), said
    if framing is None:
        side = max(min(width, height), outline.longer * ROOM)
        centre = outline.mass
    else:
        side = max((outline.area / framing.mean) ** 0.5, outline.longer / WIDEST)
        centre = outline.mass if framing.centre == "mass" else outline.middle
    side = max(math.ceil(side), 1)
    x = _start(centre[0], side, (outline.left, outline.right), width, framing is None)
    y = _start(centre[1], side, (outline.top, outline.bottom), height, framing is None)
    return Crop(x, y, side), (*said, _in_words(Crop(x, y, side), outline.area, width, height))


def _start(centre: float, side: int, animal: tuple[int, int], length: int, inside: bool) -> int:
    """Where a span of `side` begins, round its centre, but with all of the animal in it; inside: and of the picture."""
    margin = side * (1 - WIDEST) / 2
    start = min(max(centre - side / 2, animal[1] + margin - side), animal[0] - margin)
    if inside:
        start = min(max(start, 0), length - side) if side <= length else (length - side) / 2
    return round(start)


def _in_words(crop: Crop, area: float, width: int, height: int) -> str:
    x, y, side = (round(value) for value in crop)
    within = x >= 0 and y >= 0 and x + side <= width and y + side <= height
    around = x <= 0 and y <= 0 and x + side >= width and y + side >= height
    done = "cropped" if within else "padded" if around else "cropped and padded"
    return (
        f"framed: {done} to {side}×{side} at ({x}, {y}); the animal fills {area / side**2:.1%} of that, and filled "
        f"{area / (width * height):.1%}"
    )
