"""Pictures composited on white, shown and written; `incoming.picture` reads them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.data.batch import composited
from pipeline.data.incoming.colour import as_srgb
from pipeline.files import whole

SHOWN_PX = 128  # of a view in a sheet, at least
_MARGIN_PX = 6  # around a sheet's labels
_INK = (51, 51, 51)

Pixels = UInt8[np.ndarray, "height width 3"]


def prepare_view(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 4"]:
    """An RGB or RGBA image as premultiplied bytes: resampled after premultiplying, so that colour hidden under
    transparent pixels cannot bleed into the edge.
    """
    premultiplied = image.convert("RGBA").convert("RGBa")
    if premultiplied.size != (size, size):
        premultiplied = premultiplied.resize((size, size), Image.Resampling.LANCZOS)
    frame = np.asarray(premultiplied).copy()
    frame[..., :3] = np.minimum(frame[..., :3], frame[..., 3:])
    return frame


def view_on_white(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """An RGB or RGBA image as a network sees it: resampled as `prepare_view` does, on white, in 0…1.

    The values of a training batch, to the bit.
    """
    return composited(prepare_view(image, size).transpose(2, 0, 1)[None, None])[0][0, 0]


def on_white(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB at its own size; what is transparent is white."""
    rgba = as_srgb(image, "image")[0].convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def pixels_of(images: Float[Tensor, "*batch 3 height width"]) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Values, clamped to 0…1, as bytes, rounded."""
    return (images.detach().clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()


def shown_px(size: int, least: int = SHOWN_PX) -> int:
    """How wide a sheet shows a view of so many pixels: a whole multiple, of at least so many."""
    return size * max(1, -(-least // size))


def sheet(
    rows: Float[Tensor, "row view 3 height width"],
    least: int = SHOWN_PX,
    names: Sequence[str] = (),
    titles: Sequence[str] = (),
) -> Pixels:
    """Rows of views as one picture, each view enlarged by a whole factor to at least so many pixels.

    names: of the rows, to their left. titles: of the views, above them, a line or more each.
    """
    zoom = shown_px(rows.shape[-1], least) // rows.shape[-1]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in pixels_of(rows)])
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    height, width = (zoom * side for side in rows.shape[-2:])
    return _labelled(picture, height, width, names, titles) if names or titles else picture


def _labelled(picture: Pixels, height: int, width: int, names: Sequence[str], titles: Sequence[str]) -> Pixels:
    """height, width: of a view, in pixels of the picture."""
    font = ImageFont.load_default(max(12, width // 11))
    drawn = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = {text: drawn.multiline_textbbox((0, 0), text, font) for text in (*names, *titles)}
    left = max((math.ceil(boxes[name][2]) + 2 * _MARGIN_PX for name in names), default=0)
    top = max((math.ceil(boxes[title][3]) + 2 * _MARGIN_PX for title in titles), default=0)
    canvas = Image.new("RGB", (left + picture.shape[1], top + picture.shape[0]), "white")
    canvas.paste(Image.fromarray(picture), (left, top))
    pen = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        pen.text((left - _MARGIN_PX, top + (row + 0.5) * height), name, _INK, font, anchor="rm")
    for view, title in enumerate(titles):
        pen.multiline_text((left + (view + 0.5) * width, top / 2), title, _INK, font, anchor="mm", align="center")
    return np.asarray(canvas)


def png_bytes(image: Float[Tensor, "3 height width"]) -> bytes:
    """An image in 0…1 as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_of(image))).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(picture: Pixels, path: Path) -> None:
    """Write a picture whole."""
    with whole(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
