"""Masks that lie beside photos: found by the photo's name, read in any mode, turned and scaled to fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, maximum_filter

from pipeline.data.foreground import border_share
from pipeline.data.incoming.picture import SUFFIXES, read_picture, upright
from pipeline.data.photo.framing import FAINT, SOLID, Alpha
from pipeline.errors import DataError

DARK, BRIGHT = 16, 239  # of 255: greys that lossy files make of 0 and 255 count as such
FULL_BORDER = 0.9  # of a mask's border: white there is the background, no animal
MOST_OF_PICTURE = 0.5  # no animal covers so much of a photo that was not cropped round it
SAME_SHAPE = 0.01  # by which the aspects of a picture and its mask may differ
PURE = 230  # of 255: alpha above it is of the animal's own colour

Array = np.ndarray


def mask_for(mask: Path, where: str) -> Path:
    """The file of a photo's mask: `mask`, or the picture of the photo's stem in that folder. Raises DataError."""
    if not mask.is_dir():
        return mask
    stem = Path(where).stem
    found = sorted(path for path in mask.iterdir() if path.stem == stem and path.suffix.lower() in SUFFIXES)
    if len(found) != 1:
        came = ", ".join(path.name for path in found) if found else "none"
        raise DataError(f"{mask}: expected one mask called {stem} for {where}, got {came} — name it as the photo.")
    return found[0]


def read_mask(path: Path, size: tuple[int, int], orientation: int) -> tuple[Alpha, tuple[str, ...]]:
    """A mask as alpha of a picture of `size` (width, height), and what was changed, in words.

    Its alpha, where that cuts something out, else its brightest channel: white is the animal. orientation: how EXIF
    had the picture turned; a mask of the picture before that is turned too. Raises DataError for another shape, and
    for a mask that is the wrong way round.
    """
    picture, changes = read_picture(path), list[str]()
    if orientation != 1 and not _same_shape(picture.size, size):
        turned = upright(picture, orientation)
        if _same_shape(turned.size, size):
            picture = turned
            changes.append(f"the mask was turned as the photo was (EXIF orientation {orientation})")
    if not _same_shape(picture.size, size):
        width, height = picture.size
        raise DataError(
            f"{path}: expected a mask of {size[0]}×{size[1]} or of that shape, got {width}×{height} — make it of the "
            "photo as it is."
        )
    grey, labels = _grey(picture)
    if labels:
        changes.append("the mask's two values became 0 and 255")
    if picture.size != size:
        changes.append(f"the mask was resampled from {picture.width}×{picture.height}")
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    _check_way_round(grey, path)
    return grey, tuple(changes)


def cut_by_mask(pixels: Array, alpha: Alpha, inside: int = 0) -> Image.Image:
    """RGBA of a photo and its mask. Pixels of the edge, mixed with the background, get the nearest colour inside.

    inside: how many pixels further inside that begins, where the animal is thick enough.
    """
    colours = pixels.copy()
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if len(rows):
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        pure = alpha[part] >= PURE
        if inside and pure.any():  # of what is thin, the middle
            depth = distance_transform_edt(np.pad(pure, 1))[1:-1, 1:-1]
            pure &= depth >= np.minimum(inside + 1, maximum_filter(depth, 2 * inside + 3))
        if pure.any():
            y, x = distance_transform_edt(~pure, return_distances=False, return_indices=True)
            colours[part] = colours[part][y, x]
    return Image.fromarray(np.dstack([colours, alpha]))


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other scaled, up to a rounded pixel."""
    scale = one[0] / other[0]
    return abs(one[1] - other[1] * scale) <= max(1.0, scale, SAME_SHAPE * one[1])


def _grey(picture: Image.Image) -> tuple[Alpha, bool]:
    """White is the animal; and whether it was one of two values of which both are dark, as labels are."""
    if picture.mode == "RGBA":
        alpha = np.asarray(picture.getchannel("A"))
        if alpha.min() <= SOLID < alpha.max():
            return alpha, False
    grey = np.asarray(picture.convert("RGB")).max(-1)
    values = np.unique(grey)
    if len(values) == 2 and values[1] <= SOLID:
        return np.where(grey == values[1], np.uint8(255), np.uint8(0)), True
    ramp = np.clip((grey.astype(np.float32) - DARK) * (255 / (BRIGHT - DARK)), 0, 255)
    return np.rint(ramp).astype(np.uint8), False


def _check_way_round(alpha: Alpha, path: Path) -> None:
    border, picture = border_share(np.asarray(alpha > SOLID)), float((alpha > SOLID).mean())
    if alpha.max() <= FAINT:
        raise DataError(f"{path}: expected a mask with the animal white on black, got black alone — draw it again.")
    if border > FULL_BORDER or (picture > MOST_OF_PICTURE and border > 1 - MOST_OF_PICTURE):
        raise DataError(
            f"{path}: expected a mask with the animal white on black, got white on {picture:.0%} of the picture and "
            f"{border:.0%} of its border — turn it over."
        )
