"""Pictures composited on white, shown and written; `incoming.picture` reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline.data.batch import composited
from pipeline.data.incoming.colour import as_srgb
from pipeline.files import whole

SHOWN_PX = 96  # of a view in a sheet, at least

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


def sheet(rows: Float[Tensor, "row view 3 height width"], least: int = SHOWN_PX) -> Pixels:
    """Rows of views as one picture, each view enlarged by a whole factor to at least so many pixels."""
    zoom = max(1, -(-least // rows.shape[-1]))
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in pixels_of(rows)])
    return picture.repeat(zoom, 0).repeat(zoom, 1)


def png_bytes(image: Float[Tensor, "3 height width"]) -> bytes:
    """An image in 0…1 as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_of(image))).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(picture: Pixels, path: Path) -> None:
    """Write a picture whole."""
    with whole(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
