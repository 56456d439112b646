"""How a procedural animal looks for life: its build, its proportions, its coat."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Coat:
    """Fur in linear RGB: the back, the belly, patches of a third colour over `patched` of the body."""

    back: tuple[float, float, float]
    belly: tuple[float, float, float]
    patch: tuple[float, float, float] = (0.0, 0.0, 0.0)
    patched: float = 0.0


COATS = {
    "black": Coat((0.030, 0.026, 0.025), (0.075, 0.066, 0.062)),
    "agouti": Coat((0.185, 0.118, 0.064), (0.44, 0.34, 0.23)),
    "brown": Coat((0.130, 0.056, 0.028), (0.25, 0.135, 0.08)),
    "white": Coat((0.76, 0.73, 0.69), (0.80, 0.77, 0.74)),
    "grey": Coat((0.155, 0.165, 0.190), (0.40, 0.40, 0.41)),
    "patched": Coat((0.75, 0.71, 0.66), (0.80, 0.77, 0.73), (0.050, 0.036, 0.030), 0.42),
    "cinnamon": Coat((0.42, 0.215, 0.090), (0.66, 0.50, 0.35)),
}
# What a mouse may be asked to wear: no mouse that is drawn at random, and so none that the bases have seen, is calico.
STRAINS = COATS | {"calico": Coat((0.40, 0.170, 0.050), (0.72, 0.62, 0.48), (0.035, 0.030, 0.028), 0.34)}

PALE = (0.85, 1.0)  # sRGB, of the fur of pale mice in full light


def pale_coat(rng: np.random.Generator) -> Coat:
    """Fur that a white background hides: back and belly each of a brightness drawn from `PALE`, a little warm."""
    back, belly = (_pale(brightness) for brightness in np.sort(rng.uniform(*PALE, 2)))
    return Coat(back, belly)


def _pale(brightness: float) -> tuple[float, float, float]:
    """Linear RGB of a warm white whose red has this sRGB value, above 0.04."""
    red, green, blue = ((brightness * np.array([1.0, 0.99, 0.975]) + 0.055) / 1.055) ** 2.4
    return red, green, blue


@dataclass(frozen=True)
class Build:
    """How animals of one kind are built: the least and the most of what `Looks` says of each."""

    size: tuple[float, float] = (0.74, 0.90)
    plump: tuple[float, float] = (0.94, 1.10)
    ears: tuple[float, float] = (0.92, 1.15)
    tail: tuple[float, float] = (48.0, 58.0)


BODIES = {
    "mouse": Build(),
    "rat": Build(size=(1.0, 1.2), plump=(0.98, 1.12), ears=(0.55, 0.70), tail=(58.0, 68.0)),
    "vole": Build(size=(0.80, 0.95), plump=(1.10, 1.22), ears=(0.45, 0.60), tail=(16.0, 26.0)),
    "hamster": Build(size=(0.95, 1.15), plump=(1.22, 1.36), ears=(0.60, 0.80), tail=(5.0, 9.0)),
    "gerbil": Build(size=(0.85, 1.0), plump=(0.84, 0.94), ears=(0.75, 0.90), tail=(58.0, 70.0)),
}


@dataclass(frozen=True)
class Looks:
    """What one mouse keeps for life: size (1 is about 83 mm without tail), proportions, coat, marks."""

    coat: Coat
    size: float = 0.82
    plump: float = 1.0
    ears: float = 1.0
    tail: float = 60.0
    waves: Float[np.ndarray, "7 3"] = field(default_factory=lambda: np.zeros((7, 3)))
    phases: Float[np.ndarray, " 7"] = field(default_factory=lambda: np.zeros(7))

    @classmethod
    def sample(cls, rng: np.random.Generator, build: Build = BODIES["mouse"]) -> Looks:
        """A random animal of one kind."""
        coat = list(COATS.values())[rng.integers(len(COATS))]
        size, plump, ears = (rng.uniform(*between) for between in (build.size, build.plump, build.ears))
        waves = rng.normal(size=(7, 3)) * np.array([0.075, 0.085, 0.085])
        return cls(coat, size, plump, ears, rng.uniform(*build.tail), waves, rng.uniform(0, 2 * np.pi, 7))
