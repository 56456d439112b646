"""How much of the frame an animal fills: measured on a training set, kept with a model, asked of a photo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Framing:
    """Shares of the frame's area that the animal fills in a training set's reference views, and how many they are.

    A photo is framed so that its animal fills `mean`; one between `least` and `most` is left as it is.
    """

    mean: float
    least: float
    most: float
    views: int
