"""The pictures of a sequence's two videos: panels side by side, each with its name, and what a failed frame shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

CAPTION_PX = 24
_TEXT_PX = 14
_MARK = (200, 30, 30)
_CROP_COLOUR = (230, 60, 40)
_INK, _PAPER, _GREY = (40, 40, 40), (255, 255, 255), (190, 190, 190)

Pixels = UInt8[np.ndarray, "height width 3"]


def labelled(panels: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Square panels of one size side by side under their names, a line between each two."""
    size = len(panels[0][1])
    picture = Image.new("RGB", (size * len(panels), size + CAPTION_PX), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT_PX)
    for place, (name, panel) in enumerate(panels):
        picture.paste(Image.fromarray(panel), (place * size, CAPTION_PX))
        draw.text((place * size + 6, CAPTION_PX / 2), name, _INK, font, anchor="lm")
        if place:
            draw.line((place * size, 0, place * size, picture.height), _GREY)
    return np.asarray(picture)


def with_crop(picture: Image.Image, crop: tuple[float, float, float], size: int) -> Pixels:
    """A picture made to fit a square of `size`, on grey, with the framed square drawn in."""
    zoom = size / max(picture.size)
    shape = max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))
    canvas = Image.new("RGB", (size, size), _GREY)
    left, top = (size - shape[0]) // 2, (size - shape[1]) // 2
    canvas.paste(picture.convert("RGB").resize(shape, Image.Resampling.LANCZOS), (left, top))
    x, y, side = (value * zoom for value in crop)
    box = [min(max(value, 0), size - 1) for value in (left + x, top + y, left + x + side - 1, top + y + side - 1)]
    ImageDraw.Draw(canvas).rectangle(box, outline=_CROP_COLOUR, width=max(1, size // 128))
    return np.asarray(canvas)


def failed(last: Pixels, number: int) -> Pixels:
    """The last good picture in a red frame that names the frame which is missing here."""
    picture = Image.fromarray(last)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT_PX)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_MARK, width=5)
    text = f"frame {number} failed"
    left, top, right, bottom = draw.textbbox((picture.width - 12, picture.height - 12), text, font, anchor="rd")
    draw.rectangle((left - 5, top - 5, right + 5, bottom + 5), fill=_MARK)
    draw.text((picture.width - 12, picture.height - 12), text, _PAPER, font, anchor="rd")
    return np.asarray(picture)


def unknown(like: Pixels) -> Pixels:
    """A grey picture of the same size, for where there is no last good one."""
    return np.full_like(like, _GREY[0])
