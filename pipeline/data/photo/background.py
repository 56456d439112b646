"""A background of one colour, found by a photo's border and removed: white, grey, blue or green, unevenly lit or not.

Its colour is a smooth function of place, fitted robustly. What differs from it is the animal; pixels of the edge get
the share of the animal's colour that they hold, and that colour alone. Distances are ΔE of CIE 1976, in Lab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    binary_opening,
    binary_propagation,
    gaussian_filter,
    gaussian_gradient_magnitude,
    maximum_filter,
)
from skimage.color import rgb2lab
from skimage.filters import apply_hysteresis_threshold

from pipeline.data.photo.framing import Alpha
from pipeline.data.photo.masks import cut_by_mask

LOOKED_AT_PX = 1024  # the longer side, at most, at which the animal is looked for
BORDER = 0.02  # of the shorter side: how wide a border tells the background's colour
SAME = 4.0  # ΔE within which a border's pixel has that colour
MIN_SAME = 0.75  # of the border's pixels: below, the background is not of one colour
COLOURED = 20.0  # of Lab's chroma: an animal's fur has less
GREY_STEP, COLOURED_STEP = 2.5, 10.0  # ΔE from a grey or coloured background that is seen as the animal, at least
NOISES = 4.0  # and at least so many times the background's noise
CERTAIN = 2.0  # times that step: somewhere, what is seen has to differ so
FAINT_OUTLINE = 0.15  # of an outline, where the animal inside it differs less than that: from then on it is said
SHADED_OUTLINE = 0.05  # of an outline on grey, along which something like a shadow was removed: the same
MOVED = 1.5  # times the step, and the step by it: a mask that this changes much is none
ALIKE = 0.7  # intersection over union of such masks, at least, of an animal with a faint outline
GREY_SHADOW, COLOURED_SHADOW = 12.0, 40.0  # L by which a shadow may darken the background
SMOOTH = 1.0  # L per pixel, at most, of a shadow on grey
EDGE_PX = 2  # on both sides of an outline
QUIET = 0.5  # ΔE of noise: below, pixels are taken as they are
PART = 0.2  # of the largest distance nearby: less is what a lens, a lossy file or smoothing spreads round the animal
_NEARBY = 3  # pixels
_GAP = 4  # pixels by which an outline on grey may be open
CLEAN = 0.06  # of alpha: as near 0 or 1 counts as that
_FITTED = 50_000  # pixels, at most, that a colour is fitted to

Array = np.ndarray
Colours = Float[Array, "height width 3"]
Plane = Float[Array, "height width"]
Mask = Bool[Array, "height width"]


class OneColour(NamedTuple):
    """What a photo's border says: the share that has one colour, that colour, and the photo without it, if it is one.

    The cut-out is RGBA with straight alpha; its edges have no colour of the background's. faint: of the animal's
    outline, the share where it differs from the background by less than CERTAIN steps. shaded: the share along which
    something was removed that may be a shadow on grey, or pale fur. falls_apart: whether `faint` is more than
    FAINT_OUTLINE, and the animal another one where a step is a little more or less.
    """

    share: float
    colour: tuple[int, int, int]
    cut_out: Image.Image | None
    faint: float = 0.0
    shaded: float = 0.0
    falls_apart: bool = False


class _Seen(NamedTuple):
    """Where the animal is, what beside it was taken for a shadow, and the step in ΔE that is seen."""

    animal: Mask
    shadow: Mask
    step: float


@dataclass(frozen=True)
class _Field:
    """A colour as a polynomial of place; x and y run from -1 to 1 over the picture."""

    weights: Float[Array, "terms 3"]

    def at(self, places: Float[Array, "*n 2"]) -> Float[Array, "*n 3"]:
        return _terms(places, len(self.weights)) @ self.weights


def cut_by_colour(picture: Image.Image) -> OneColour:
    """An RGB picture without its background, where at least MIN_SAME of its border has one colour."""
    step = -(-max(picture.size) // LOOKED_AT_PX)
    pixels = np.asarray(picture.reduce(step) if step > 1 else picture)
    places, border = _places(pixels.shape), _border(pixels.shape)
    field = _fitted(pixels[border], places[border])
    colour = _median(pixels[border])
    lab, noise, share = _quiet(pixels, _lab(field.at(places)), border)
    if share < MIN_SAME:
        return OneColour(share, colour, None)
    seen = _seen(lab, _lab(field.at(places)), noise)
    clear = ~binary_dilation(seen.animal, iterations=EDGE_PX)
    if clear.any():  # all of the background tells its colour better than the border alone
        field, colour = _fitted(pixels[clear], places[clear]), _median(pixels[clear])
    background = _lab(field.at(places))
    seen = _seen(lab, background, noise)
    faint, shaded = _faint(lab, background, seen), 0.0 if _chroma(background) >= COLOURED else _shaded(seen)
    falls_apart = faint > FAINT_OUTLINE and _alike(lab, background, noise, seen.animal) < ALIKE
    alpha = _soft(pixels / np.float32(255), field.at(places), seen.animal)
    if step > 1:
        alpha = np.asarray(Image.fromarray(alpha).resize(picture.size, Image.Resampling.BILINEAR))
    return OneColour(share, colour, _without(np.asarray(picture), alpha, field), faint, shaded, falls_apart)


# ---------------------------------------------------------------- the background's colour


def _lab(colours: Colours) -> Colours:
    found: Colours = rgb2lab(colours.clip(0, 1))
    return found


def _places(shape: tuple[int, ...]) -> Float[Array, "height width 2"]:
    """X and y of every pixel, from -1 to 1."""
    y, x = ((np.arange(length, dtype=np.float32) + 0.5) * 2 / length - 1 for length in shape[:2])
    return np.stack(np.meshgrid(x, y), -1)


def _border(shape: tuple[int, ...]) -> Bool[Array, "height width"]:
    wide = max(1, round(BORDER * min(shape[:2])))
    border = np.ones(shape[:2], bool)
    border[wide:-wide, wide:-wide] = False
    return border


def _median(pixels: UInt8[Array, "n 3"]) -> tuple[int, int, int]:
    red, green, blue = (round(value) for value in np.median(pixels, 0).tolist())
    return red, green, blue


def _fitted(pixels: UInt8[Array, "n 3"], places: Float[Array, "n 2"]) -> _Field:
    """The smooth colour that most of these pixels have; the others do not count."""
    every = -(-len(pixels) // _FITTED)
    values, places = pixels[::every] / np.float32(255), places[::every]
    field = _Field(np.median(values, 0)[None])
    for terms in (1, 3, 6):  # constant, linear, quadratic
        residual = np.linalg.norm(values - field.at(places), axis=-1)
        close = residual <= max(2.5 * 1.4826 * float(np.median(residual)), 0.02)
        if close.sum() < 8 * terms:
            break
        field = _Field(np.linalg.lstsq(_terms(places[close], terms), values[close], rcond=None)[0])
    return field


def _quiet(pixels: UInt8[Array, "height width 3"], background: Colours, border: Mask) -> tuple[Colours, float, float]:
    """The pixels in Lab, smoothed where they are noisy; their noise in ΔE; how much of the border is background."""
    lab = _lab(pixels / np.float32(255))
    away = np.linalg.norm(lab - background, axis=-1)[border]
    if float(np.median(away)) > QUIET:
        lab = gaussian_filter(lab, (1.0, 1.0, 0.0))
        away = np.linalg.norm(lab - background, axis=-1)[border]
    return lab, 1.4826 * float(np.median(away)), float((away <= SAME).mean())


def _terms(places: Float[Array, "*n 2"], count: int) -> Float[Array, "*n terms"]:
    x, y = places[..., 0], places[..., 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y][:count], -1)


# ---------------------------------------------------------------- the animal


def _seen(lab: Colours, background: Colours, noise: float, factor: float = 1.0) -> _Seen:
    """The animal, without shadows. factor: by which the step is another."""
    grey = _chroma(background) < COLOURED
    least = max(GREY_STEP if grey else COLOURED_STEP, NOISES * noise)
    away = np.linalg.norm(lab - background, axis=-1)
    if not grey and (away > least).any():
        least = max(least, PART * float(np.median(away[away > least])))
    least *= factor
    seen: Mask = apply_hysteresis_threshold(away, least, CERTAIN * least)
    seen &= away > PART * maximum_filter(away, 2 * _NEARBY + 1)
    shadow = _like_shadow(lab, background, grey, least)
    differing = seen
    seen = seen & ~binary_propagation(~seen, mask=~seen | shadow)
    if grey:  # fur may be as grey or white as what is behind it
        around = binary_closing(np.pad(seen, _GAP), iterations=_GAP)[_GAP:-_GAP, _GAP:-_GAP]
        seen |= binary_fill_holes(around) & ~around
        seen = binary_fill_holes(seen)
    return _Seen(seen, differing & ~seen, least)


def _faint(lab: Colours, background: Colours, seen: _Seen) -> float:
    """Of the animal's outline, the share where it differs from the background hardly more than the background does.

    Looked at just inside the pixels that the outline mixes.
    """
    inside = binary_erosion(seen.animal, iterations=EDGE_PX, border_value=1)
    line = inside & ~binary_erosion(inside, border_value=1)
    away = np.linalg.norm(lab[line] - background[line], axis=-1)
    return float((away < CERTAIN * seen.step).mean()) if len(away) else 0.0


def _shaded(seen: _Seen) -> float:
    """Along how much of the animal's outline, just outside the pixels that it mixes, a shadow was taken away."""
    inner = binary_dilation(seen.animal, iterations=EDGE_PX + 1)
    line = binary_dilation(inner, iterations=2) & ~inner
    return float(seen.shadow[line].mean()) if line.any() else 0.0


def _alike(lab: Colours, background: Colours, noise: float, seen: Mask) -> float:
    """How much of the animal is the same, whether more or less of a step is seen: intersection over union."""
    others = [_seen(lab, background, noise, factor).animal for factor in (1 / MOVED, MOVED)]
    return min(float((seen & other).sum() / max(int((seen | other).sum()), 1)) for other in others)


def _like_shadow(lab: Colours, background: Colours, grey: bool, least: float) -> Mask:
    """Where a pixel may be the background in a shadow: darker, of its hue, and smooth where the hue says little."""
    darker = (lab[..., 0] + 16) / (background[..., 0] + 16)  # light times s is L + 16, a and b times the root of s
    of_hue = np.linalg.norm(lab[..., 1:] - darker[..., None] * background[..., 1:], axis=-1) <= least
    drop = background[..., 0] - lab[..., 0]
    if not grey:
        return of_hue & (drop > -least) & (drop <= COLOURED_SHADOW)
    smooth = gaussian_gradient_magnitude(lab[..., 0], 1.5) <= SMOOTH
    found: Mask = binary_opening(of_hue & (drop > 0) & (drop <= GREY_SHADOW) & smooth, iterations=2)
    return found


def _soft(values: Colours, background: Colours, seen: Mask) -> Alpha:
    """Alpha of what is seen: near its outline the share of the colour that the animal has nearby."""
    alpha = seen.astype(np.float32)
    inside = binary_erosion(seen, iterations=1, border_value=1)
    y, x = np.nonzero(binary_dilation(seen, iterations=EDGE_PX) & ~inside)
    if len(y):
        alpha[y, x] = _shares(values - background, seen, y, x)
    return np.rint(255 * np.where(alpha < CLEAN, 0, np.where(alpha > 1 - CLEAN, 1, alpha))).astype(np.uint8)


def _shares(differing: Colours, seen: Mask, y: Int[Array, " n"], x: Int[Array, " n"]) -> Float[Array, " n"]:
    """Of pixels, how much of the animal they show: their difference from the background along that of the pixel of the
    animal nearby that differs most.
    """
    reach = EDGE_PX
    padded = np.pad(np.where(seen[..., None], differing, 0), ((reach, reach), (reach, reach), (0, 0)))
    strongest, best = np.zeros((len(y), 3), np.float32), np.zeros(len(y), np.float32)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            near = padded[y + down, x + right]
            strength = (near * near).sum(-1)
            better = strength > best
            strongest[better], best[better] = near[better], strength[better]
    shares = (differing[y, x] * strongest).sum(-1) / np.maximum(best, 1e-12)
    return shares.clip(0, 1)


def _without(pixels: UInt8[Array, "height width 3"], alpha: Alpha, field: _Field) -> Image.Image:
    """RGBA in which pixels of the edge have the animal's colour alone.

    On grey that is the pixel's own without the background's share. A coloured background shines on fur, and lossy files
    spread its colour, so there it is the nearest colour well inside.
    """
    height, width = alpha.shape
    if _chroma(_lab(field.at(np.zeros((1, 1, 2), np.float32)))) >= COLOURED:
        return cut_by_mask(pixels, alpha, inside=round(max(height, width) / LOOKED_AT_PX) + 1)
    colours = pixels.copy()
    y, x = np.nonzero((alpha > 0) & (alpha < 255))
    if len(y):
        share = alpha[y, x, None] / np.float32(255)
        places = np.stack([(x + 0.5) * 2 / width - 1, (y + 0.5) * 2 / height - 1], -1)
        own = (pixels[y, x] / 255 - (1 - share) * field.at(places)) / share
        colours[y, x] = np.rint(255 * own.clip(0, 1))
    return Image.fromarray(np.dstack([colours, alpha]))


def _chroma(lab: Colours) -> float:
    return float(np.median(np.linalg.norm(lab[..., 1:], axis=-1)))
