"""A photo that a user has, understood: the animal cut out of it, and framed as a model's training set was.

What was done to it is said on the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from pipeline.data.incoming.picture import Once, orientation_of, read_picture
from pipeline.data.photo.cutout import Cutting, cut
from pipeline.data.photo.framing import Crop, Framing, crop_for

if TYPE_CHECKING:
    from torch import Tensor

ENLARGED = 1.5  # times: from then on it is said
_CROP_COLOUR, _BEYOND = (230, 60, 40), (128, 128, 128)
_SQUARES = 150, 190  # greys of the checkerboard
_NO_CUTTING = Cutting()
_log = logging.getLogger(__name__)
_log.addFilter(Once(slice(None)))  # a photo is looked at before it is used


@dataclass(frozen=True)
class Photo:
    """A photo of one animal.

    where: its name in messages. picture: upright RGB at its own size, the background still there, and white where it
    was transparent. cut_out: RGBA (straight alpha) of that size. crop: the framed square. cut_by: what told the animal
    from its background. changes: what was done, in words.
    """

    where: str
    picture: Image.Image
    cut_out: Image.Image
    crop: Crop
    cut_by: str
    changes: tuple[str, ...]

    @property
    def alpha(self) -> UInt8[np.ndarray, "height width"]:
        """The animal in the picture."""
        return np.asarray(self.cut_out.getchannel("A"))

    @cached_property
    def framed(self) -> Image.Image:
        """The crop as RGBA (straight alpha), transparent beyond the picture; of the crop's side, in whole pixels."""
        return self._cropped(max(round(self.crop.side), 1))

    def image(self, size: int) -> Float[Tensor, "3 size size"]:
        """The framed animal on white in 0…1, as a network sees it; resampled once."""
        from pipeline.data.pictures import view_on_white  # torch is not needed before

        if size > ENLARGED * self.crop.side:
            _log.warning("%s: enlarged %.1f×, as the animal is small in it", self.where, size / self.crop.side)
        whole = all(float(value).is_integer() for value in self.crop)
        return view_on_white(self.framed if whole else self._cropped(size), size)

    def _cropped(self, size: int) -> Image.Image:
        x, y, side = self.crop
        left, top = int(np.floor(x)), int(np.floor(y))
        part = self.cut_out.crop((left, top, int(np.ceil(x + side)), int(np.ceil(y + side))))
        if part.size == (size, size) and (left, top) == (x, y):
            return part
        box = (x - left, y - top, x - left + side, y - top + side)
        return part.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS, box=box).convert("RGBA")


def read_photo(path: Path, framing: Framing | None = None, cutting: Cutting = _NO_CUTTING) -> Photo:
    """A photo from a file, as `photo_of` gives it. Raises DataError as `picture.read_picture`, too."""
    picture = read_picture(path)
    return _understood(picture, str(path), framing, cutting, None, orientation_of(path))


def photo_of(
    picture: Image.Image,
    where: str,
    framing: Framing | None = None,
    cutting: Cutting = _NO_CUTTING,
    crop: Crop | None = None,
) -> Photo:
    """An upright RGB or RGBA picture with its animal cut out (`cutout.cut`) and framed (`framing.crop_for`).

    crop: the framed square, where it is known, as in a video. Raises DataError in one line where nothing tells the
    animal from its background, where there is none, and where there are several.
    """
    return _understood(picture, where, framing, cutting, crop, 1)


def _understood(
    picture: Image.Image, where: str, framing: Framing | None, cutting: Cutting, crop: Crop | None, orientation: int
) -> Photo:
    found = cut(picture, where, cutting, orientation)
    of_frame: tuple[str, ...] = ()
    if crop is None:
        crop, of_frame = crop_for(np.asarray(found.cut_out.getchannel("A")), framing)
    changes = (*found.changes, *of_frame)
    for change in changes:
        _log.warning("%s: %s", where, change)
    return Photo(where, _shown(picture), found.cut_out, crop, found.by, changes)


def _shown(picture: Image.Image) -> Image.Image:
    """RGB; what is transparent is white, as viewers show it."""
    if picture.mode == "RGB":
        return picture
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def strip(photo: Photo, size: int) -> UInt8[np.ndarray, "height width 3"]:
    """What was understood of a photo, side by side, `size` high: the photo with its crop, the mask, the framed input.

    The framed animal stands on a checkerboard, so that a white one is seen.
    """
    canvas, corner = _with_surroundings(photo)
    zoom = size / canvas.height
    shape = max(round(canvas.width * zoom), 1), size
    whole = canvas.resize(shape, Image.Resampling.LANCZOS)
    mask = Image.new("L", canvas.size)
    mask.paste(photo.cut_out.getchannel("A"), corner)
    silhouette = mask.resize(shape, Image.Resampling.LANCZOS).convert("RGB")
    x, y, side = photo.crop
    left, top = (x + corner[0]) * zoom, (y + corner[1]) * zoom
    for panel in (whole, silhouette):
        square = left, top, left + side * zoom - 1, top + side * zoom - 1
        ImageDraw.Draw(panel).rectangle(square, outline=_CROP_COLOUR, width=max(1, size // 100))
    framed = photo.framed.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
    shown = Image.alpha_composite(_checkerboard(size), framed).convert("RGB")
    gap = np.full((size, max(2, size // 32), 3), 255, np.uint8)
    return np.concatenate([np.asarray(whole), gap, np.asarray(silhouette), gap, np.asarray(shown)], axis=1)


def _with_surroundings(photo: Photo) -> tuple[Image.Image, tuple[int, int]]:
    """The photo on grey, so large that its crop is seen whole, and where its corner is."""
    x, y, side = photo.crop
    left, top = max(0, int(np.ceil(-x))), max(0, int(np.ceil(-y)))
    width = left + max(photo.picture.width, int(np.ceil(x + side)))
    height = top + max(photo.picture.height, int(np.ceil(y + side)))
    canvas = Image.new("RGB", (width, height), _BEYOND)
    canvas.paste(photo.picture, (left, top))
    return canvas, (left, top)


def _checkerboard(size: int) -> Image.Image:
    rows, columns = np.indices((size, size)) // max(4, size // 16)
    grey = np.where((rows + columns) % 2, np.uint8(_SQUARES[0]), np.uint8(_SQUARES[1]))
    return Image.fromarray(grey).convert("RGBA")
