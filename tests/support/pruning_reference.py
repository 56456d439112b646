"""Which Gaussians FaceLift's filters leave, written again from their description, in NumPy.

One filter after the other takes rows away, as there: the opacity, the scale, the four columns below the corners, the
box. A caller that does not use a filter has None.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

F32 = np.float32


class Caller(NamedTuple):
    """The thresholds of one program of FaceLift's; box: the lowest and the highest corner."""

    opacity: float
    scale: float | None
    corner: float | None
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None


CALLERS = {
    "facelift": Caller(0.04, 0.1, 0.6, ((-0.91, -0.91, -1.0), (0.91, 0.91, 1.0))),
    "facelift_app": Caller(0.04, 0.2, 0.75, ((-0.91, -0.91, -1.0), (0.91, 0.91, 1.0))),
    "facelift_training": Caller(0.02, None, None, ((-0.91, -0.91, -0.91), (0.91, 0.91, 0.91))),
    "facelift_validation": Caller(0.02, None, None, None),
}


def kept(caller: Caller, means: np.ndarray, scales: np.ndarray, opacities: np.ndarray) -> np.ndarray:
    """Numbers of the rows that stay, in their order; all values float32 and activated."""
    rows = np.flatnonzero(opacities > F32(caller.opacity))
    if caller.scale is not None:
        too_large = np.max(scales[rows], 1) >= F32(caller.scale)
        below = means[rows, 2] <= 0
        rows = rows[~(too_large & below)]
    if caller.corner is not None:
        for column in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            outwards = means[rows, :2] * np.array(column, F32)
            inside = np.all(outwards > F32(caller.corner), 1) & (means[rows, 2] < F32(-caller.corner))
            rows = rows[~inside]
    if caller.box is not None:
        lowest, highest = np.array(caller.box, F32)
        outside = np.any((means[rows] < lowest) | (means[rows] > highest), 1)
        rows = rows[~outside]
    return rows
