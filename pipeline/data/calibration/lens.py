"""Distortion of lenses: the models of OpenCV, and pictures with it taken out by one resampling.

A point at (x, y) = (X/Z, Y/Z) is seen at K·distorted(x, y). `opencv` (OpenCV's default; MATLAB's, COLMAP's OPENCV and
RADIAL are parts of it), with r² = x² + y²:

    x' = x·(1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶) + 2 p1 x y + p2 (r² + 2 x²)
    y' = y·(the same)                                                + p1 (r² + 2 y²) + 2 p2 x y

`fisheye` (OpenCV's cv::fisheye; COLMAP's OPENCV_FISHEYE), with θ = atan r:

    (x', y') = (x, y)·θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) / r
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pipeline.data.normalise.warp import sample
from pipeline.errors import DataError

LENGTHS = {"opencv": (0, 4, 5, 8, 12, 14), "fisheye": (4,)}
USED = {"opencv": 8, "fisheye": 4}
ORDER = {"opencv": "k1 k2 p1 p2 k3 k4 k5 k6", "fisheye": "k1 k2 k3 k4"}
OUTSIDE = -10.0  # a source pixel that no picture has
NEWTON_STEPS, DIFFERENCE = 30, 1e-6
CONVERGED = 1e-8  # in units of the focal length
RADII = 4096

Array = np.ndarray


@dataclass(frozen=True)
class Lens:
    """A lens's model and its coefficients in OpenCV's order: k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 of a fisheye."""

    model: Literal["opencv", "fisheye"] = "opencv"
    coefficients: tuple[float, ...] = (0.0,) * 8

    def __str__(self) -> str:
        """The coefficients by their names, without those that are 0."""
        named = zip(ORDER[self.model].split(), self.coefficients, strict=True)
        return " ".join([self.model, *(f"{name} {value:.4g}" for name, value in named if value)])

    @property
    def is_pinhole(self) -> bool:
        """Whether it leaves every point where a pinhole has it."""
        return self.model == "opencv" and not any(self.coefficients)

    def distorted(self, points: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
        """Where points (x, y) = (X/Z, Y/Z) appear, in units of the focal length."""
        r2 = (points**2).sum(-1)
        straight = points * self._radial(r2)[..., None]
        if self.model == "fisheye":
            return straight
        (x, y), (p1, p2) = np.moveaxis(points, -1, 0), self.coefficients[2:4]
        bent = np.stack([2 * p1 * x * y + p2 * (r2 + 2 * x**2), p1 * (r2 + 2 * y**2) + 2 * p2 * x * y], -1)
        return straight + bent

    def straightened(self, points: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
        """The inverse of `distorted`, by Newton's method; not a number where there is none."""
        found = points.copy()
        with np.errstate(all="ignore"):
            for _ in range(NEWTON_STEPS):
                found = found - _divided(self._slopes(found), self.distorted(found) - points)
            missed = np.abs(self.distorted(found) - points).max(-1) > CONVERGED
        found[missed | ~np.isfinite(found).all(-1)] = np.nan
        return found

    def reach(self, radius: float) -> float:
        """Up to which distance from the axis, at most `radius`, farther points are seen farther out.

        Beyond it a polynomial turns back and would show the picture a second time.
        """
        radii = np.linspace(0, radius, RADII)
        with np.errstate(all="ignore"):
            seen = radii * self._radial(radii**2)
        back = np.flatnonzero(~(np.diff(seen) > 0))
        return float(radii[back[0]]) if len(back) else radius

    def _radial(self, r2: Float[Array, "*n"]) -> Float[Array, "*n"]:
        if self.model == "fisheye":
            r = np.sqrt(r2)
            angle = np.arctan(r)
            seen = angle * (1 + sum(k * angle ** (2 * i) for i, k in enumerate(self.coefficients, 1)))
            return np.where(r > 1e-12, seen / np.maximum(r, 1e-12), 1.0)
        k1, k2, _, _, k3, k4, k5, k6 = self.coefficients
        return (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))

    def _slopes(self, points: Float[Array, "*n 2"]) -> Float[Array, "*n 2 2"]:
        steps = DIFFERENCE * np.eye(2)
        columns = [(self.distorted(points + step) - self.distorted(points - step)) / (2 * DIFFERENCE) for step in steps]
        return np.stack(columns, -1)


PINHOLE = Lens()


def is_distortion(key: Any, value: Any) -> bool:
    """Whether an entry of a calibration holds coefficients: D, or dist, distCoef, distortion_coefficients and so on.

    A single number or word holds none: `dist_to_board: 310.0`; nor does a distance.
    """
    word = str(key).lower()
    named = word == "d" or (word.startswith("dist") and not word.startswith("distance") and not word.endswith("model"))
    return named and value is not None and not isinstance(value, int | float | str)


def lens_of(where: str, coefficients: Any, fisheye: bool = False) -> Lens:
    """A lens of coefficients in OpenCV's order, as a list, a row or a column.

    Raises DataError: no finite numbers, another count than OpenCV's, a thin prism or a tilted sensor (OpenCV's numbers
    beyond the eighth) that is not 0.
    """
    model: Literal["opencv", "fisheye"] = "fisheye" if fisheye else "opencv"
    try:
        given = np.asarray([] if coefficients is None else coefficients, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        given = np.array([np.nan])
    used = given[: USED[model]]
    if not np.isfinite(given).all() or len(given) not in LENGTHS[model] or given[USED[model] :].any():
        raise DataError(
            f"{where}: expected distortion {ORDER[model]} of OpenCV's {model} model, got {_shown(coefficients)} — "
            "undistort the videos by your own means, and write zeros."
        )
    return Lens(model, (*used.tolist(), *(0.0,) * (USED[model] - len(used))))


@dataclass(frozen=True)
class Undistortion:
    """Takes one camera's distortion out of its pictures and points; K, size and the pinhole's rays are kept.

    fxfycxcy: pixels, image corner at (0, 0). size: width, height.
    """

    lens: Lens
    fxfycxcy: tuple[float, float, float, float]
    size: tuple[int, int]

    @property
    def reach(self) -> float:
        """How far from the axis the picture shows something, in focal lengths; `farthest` where all of it does."""
        return self.lens.reach(self.farthest)

    @property
    def farthest(self) -> float:
        """The distance of the picture's farthest corner from the axis, in focal lengths."""
        corners = np.array([[x, y] for x in (0, self.size[0]) for y in (0, self.size[1])])
        return float(np.linalg.norm((corners - self._centre) / self._focal, axis=-1).max())

    def places(self) -> Float[Array, "height width 2"]:
        """The source pixel of every target pixel's centre; OUTSIDE where the lens shows nothing."""
        width, height = self.size
        v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
        points = (np.stack([u, v], -1) - self._centre) / self._focal
        seen = self.lens.distorted(points) * self._focal + self._centre
        seen[(np.linalg.norm(points, axis=-1) > self.reach) | ~np.isfinite(seen).all(-1)] = OUTSIDE
        return np.clip(seen, OUTSIDE, max(self.size) - OUTSIDE).astype(np.float32)

    def pixels(self, pixels: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
        """Pixels of the distorted picture moved to the undistorted one; not a number where there is none."""
        return self.lens.straightened((pixels - self._centre) / self._focal) * self._focal + self._centre

    @property
    def _focal(self) -> Array:
        return np.array(self.fxfycxcy[:2])

    @property
    def _centre(self) -> Array:
        return np.array(self.fxfycxcy[2:])


def undistorted(
    image: UInt8[Array, "height width 4"], places: Float[Array, "height width 2"]
) -> UInt8[Array, "height width 4"]:
    """Straight RGBA resampled once, bilinearly, at the source pixels `places`; only the mask's window is computed."""
    target = np.zeros_like(image)
    rows, columns = (np.flatnonzero(image[..., 3].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return target
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 2
    top, bottom = max(int(rows[0]) - 1, 0), int(rows[-1]) + 2
    low, high = (np.array(corner, np.float32) for corner in ((left - 1, top - 1), (right + 1, bottom + 1)))
    across, down = np.moveaxis((places > low) & (places < high), -1, 0)
    reached = across & down
    rows, columns = (np.flatnonzero(np.any(reached, axis=axis)) for axis in (1, 0))
    if len(rows):
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        at = torch.from_numpy(places[window]) - torch.tensor([left, top])
        target[window] = sample(image[top:bottom, left:right], at, 1)
    return target


def leaves(image: UInt8[Array, "height width 4"], straight: UInt8[Array, "height width 4"]) -> bool:
    """Whether undistortion moved the mask onto the picture's border, so that a part of it may be lost."""
    return _touches_border(straight) and not _touches_border(image)


def _touches_border(image: UInt8[Array, "height width 4"]) -> bool:
    alpha = image[..., 3]
    return any(bool(edge.any()) for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


def _divided(slopes: Float[Array, "*n 2 2"], rest: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    (a, b), (c, d) = np.moveaxis(slopes, (-2, -1), (0, 1))
    x, y = np.moveaxis(rest, -1, 0)
    return np.stack([d * x - b * y, a * y - c * x], -1) / (a * d - b * c)[..., None]


def _shown(coefficients: Any) -> str:
    text = " ".join(str(coefficients).split())
    return text if len(text) < 80 else f"{text[:77]}…"
