"""The one door for pictures: a file or bytes that anyone may have made become RGB or RGBA of 8 bits, or are refused.

What a picture says of itself is followed: its bit depth, transparency, colour profile and EXIF orientation. What was
changed for that is said on the log.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline import config
from pipeline.data.incoming.colour import as_srgb
from pipeline.errors import DataError
from pipeline.machine.contents import PICTURE, described_head

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # others are not even tried
# How files of these formats are called, for folders that hold other things, too.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".avif")
MAX_PIXELS = 2**26  # 8192×8192: 256 MiB as RGBA
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = (0, 1)  # 0 is none that EXIF knows, and often written
# What Pillow raises where a file is damaged.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
)

_log = logging.getLogger(__name__)
_log_of_scenes = logging.getLogger(f"{__name__}.scenes")
# Its limits are stricter here, and what it warns of in metadata changes no pixel.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Once(logging.Filter):
    """Lets a record pass once. of: which of its arguments make two records one."""

    def __init__(self, of: slice) -> None:
        super().__init__()
        self.of, self.said = of, set[tuple[object, ...]]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this is new."""
        assert isinstance(record.args, tuple)
        key = record.args[self.of]
        new = key not in self.said
        self.said.add(key)
        return new


_log.addFilter(Once(slice(None)))  # a photo is looked at before it is used
_log_of_scenes.addFilter(Once(slice(1, None)))  # a dataset has thousands of images, all of them alike


def read_picture(path: Path, posed: bool = False) -> Image.Image:
    """Decode a file to RGB or RGBA (straight alpha) of 8 bits in sRGB, upright.

    posed: a camera belongs to it, so it cannot be turned. Raises DataError naming the file: for what is no picture,
    is damaged, or has more than MAX_PIXELS; for pixels that do not say how bright they are (floating point, 32 bits);
    for a posed one that is to be turned.
    """
    if not path.is_file():  # a pipe, too, would not end
        came = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "none"
        raise DataError(f"{path}: expected an image, got {came} — name a picture.")
    try:
        with path.open("rb") as file:
            return _decoded(str(path), file, posed, "restore the file")
    except OSError as error:
        raise DataError(f"{path}: expected an image, got {error.strerror or error} — restore the file.") from None


def orientation_of(path: Path) -> int:
    """EXIF's orientation of a picture that `read_picture` has read: 1 is upright. It was turned by it already."""
    with Image.open(path, formats=FORMATS) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(2, 9) else 1


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture turned by an EXIF orientation, 1 to 8."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    tagged = picture.copy()
    tagged.info["exif"] = exif.tobytes()
    turned = ImageOps.exif_transpose(tagged)
    turned.info.clear()
    return turned


def decoded(where: str, content: bytes, posed: bool = False) -> Image.Image:
    """As `read_picture`, of bytes; a message begins with `where`."""
    return _decoded(where, io.BytesIO(content), posed, "read the file in binary")


def _decoded(where: str, file: BinaryIO, posed: bool, advice: str) -> Image.Image:
    changes = []
    try:
        _verify(file, where)
        with Image.open(file, formats=FORMATS) as image:
            deep = _is_deep(image)
            if getattr(image, "is_animated", False):
                changes.append("the first of its frames was taken")
            orientation = image.getexif().get(_ORIENTATION, 1)
            if posed and orientation not in _UPRIGHT:
                raise DataError(
                    f"{where}: expected pixels as the camera saw them, got EXIF orientation {orientation} — turn the "
                    "pixels as the camera belongs to them, or remove the tag."
                )
            image.load()
            picture, of_colour = as_srgb(image, where, deep)
            if not posed and orientation in range(2, 9):
                changes.append(f"it was turned upright (EXIF orientation {orientation})")
                picture = _turned(image, picture, orientation)
    except UnidentifiedImageError:
        raise DataError(f"{where}: expected an image, got {_what(file, advice)}") from None
    except _DAMAGE as error:
        raise DataError(f"{where}: expected an image, got {config.one_line(error)} — {advice}.") from None
    _say(where, changes + of_colour, posed)
    picture.info.clear()  # or what was followed would be followed again
    return picture


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits per channel; asked before it is decoded."""
    if image.format == "PPM":  # its highest value is the decoder's last argument, of the files that are scaled
        return any(isinstance(tile.args, tuple) and tile.args[-1] in range(256, 2**16) for tile in image.tile)
    return image.format != "BMP" and any(";16" in str(tile.args) for tile in image.tile)  # BMP's 5-6-5 is BGR;16


def _verify(file: BinaryIO, where: str) -> None:
    """See that a picture is not too large, and that no chunk of a PNG is damaged.

    Decoding alone does not tell damage: it may give half a picture of wrong pixels.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            size = f"{image.width}×{image.height}" if image.width * image.height > MAX_PIXELS else None
            if size is None and image.format == "PNG":
                image.verify()
    except Image.DecompressionBombError:
        size = "many more"
    if size is not None:
        raise DataError(f"{where}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got {size} — make it smaller.")
    file.seek(0)


def _turned(image: Image.Image, picture: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as the file's EXIF says; a TIFF is turned when it is loaded."""
    return picture if image.format == "TIFF" else upright(picture, orientation)


def _say(where: str, changes: list[str], posed: bool) -> None:
    for change in changes:
        if posed:
            _log_of_scenes.warning("%s: %s; other images of scenes that are so are not named", where, change)
        else:
            _log.warning("%s: %s", where, change)


def _what(file: BinaryIO, advice: str) -> str:
    """What a file is that is no picture, by how it begins, and what to do."""
    file.seek(0)
    head = file.read(256)
    what = described_head(head)
    if what not in (None, PICTURE):
        return f"{what} — give the picture itself, as PNG or JPEG."
    return f"none of {', '.join(FORMATS)} — {advice}." if head else f"an empty file — {advice}."
