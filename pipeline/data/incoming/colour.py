"""A decoded picture of any mode as sRGB of 8 bits, with alpha where it has some, and what was changed for that."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from pipeline.errors import DataError

GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
GREY_8 = ("1", "L", "LA", "La")
EIGHT_BITS = (*GREY_8, "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
DARK = 16  # of 255: a picture of 16 bits whose colours go no further holds 12 bits or less
SRGB_LEVELS = 2  # of 255: a profile that moves no colour further is sRGB
SRGB_GAMMA = 0.45455  # of a PNG's gAMA
_GAMMA_TOLERANCE = 0.01
_UPPER_8 = np.rint(np.arange(2**16) / 257).astype(np.uint8)  # of each value of 16 bits
_MIN_IS_WHITE, _PHOTOMETRIC, _EXTRA_SAMPLES = 0, 262, 338  # TIFF's tags, and a value
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of pixels, by a profile's colour space


class Profile(NamedTuple):
    """How colours of a mode become sRGB; no transform where they are sRGB already."""

    name: str
    mode: str
    transform: ImageCms.ImageCmsTransform | None


def as_srgb(image: Image.Image, where: str, deep: bool = False) -> tuple[Image.Image, list[str]]:
    """The picture as RGB or RGBA (straight alpha), and what was changed, in words.

    deep: its file has 16 bits per channel, of which Pillow has kept the upper 8. Raises DataError for pixels that do
    not say how bright they are, and for a colour profile that cannot be read.
    """
    changes: list[str] = []
    plain = _eight_bits(image, where)
    if deep or plain is not image:
        changes.append("its 16 bits per channel became 8")
        _check_depth(plain, where)
    if image.format == "TIFF" and 0 in image.tag_v2.get(_EXTRA_SAMPLES, ()):  # type: ignore[attr-defined]
        changes.append("a channel that is not called alpha was left out")
    icc, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if icc:
        profile = _profile(icc, where)
        _check_kind(plain, profile, where)
        if profile.transform is not None:
            changes.append(f"its colours became sRGB (from {profile.name})")
            return _by_profile(plain, profile.mode, profile.transform), changes
    elif plain.mode == "CMYK":
        changes.append("CMYK became RGB, without a profile that says how")
    elif gamma is not None and "srgb" not in image.info and abs(gamma - SRGB_GAMMA) > _GAMMA_TOLERANCE:
        changes.append(f"its colours became sRGB (from gamma {gamma:g})")
        return _by_gamma(_plain(plain), gamma, where), changes
    return _plain(plain), changes


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """The picture itself, or grey of 16 bits scaled to 8. Raises DataError for what has no stated range."""
    grey = image.mode in GREY_16
    if grey and image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # type: ignore[attr-defined]
        raise DataError(f"{where}: expected grey with 0 as black, got 16 bits with 0 as white — save it as PNG.")
    if grey or (image.mode == "I" and image.format == "PPM"):  # whose greys are scaled to 16 bits as they are read
        scaled = Image.fromarray(_UPPER_8[np.asarray(image)])
        scaled.info = image.info
        return scaled
    if image.mode not in EIGHT_BITS:
        raise DataError(
            f"{where}: expected grey or RGB of 8 or 16 bits, got pixels of mode {image.mode}, which do not say how "
            "bright they are — save it as PNG."
        )
    return image


def _check_depth(image: Image.Image, where: str) -> None:
    if "transparency" in image.info:  # in 16 bits, which no longer is a colour of the 8 that were kept
        raise DataError(
            f"{where}: expected transparency as alpha, got 16 bits with one colour called transparent — save it as "
            "RGBA."
        )
    brightest = max(high for _, high in _plain(image).getextrema()[:3])  # type: ignore[misc]  # alpha has its own range
    if 0 < brightest <= DARK:
        raise DataError(
            f"{where}: expected a picture that uses its 16 bits, got none of its upper 4 in use — scale the 12 bits "
            "or less of the camera up to 16."
        )


def _plain(image: Image.Image) -> Image.Image:
    """RGBA or RGB of 8 bits; what is premultiplied becomes straight."""
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _profile(icc: bytes, where: str) -> Profile:
    try:
        return _read_profile(icc)
    except (ImageCms.PyCMSError, OSError, LookupError, ValueError, TypeError):
        raise DataError(
            f"{where}: expected a colour profile that can be read, got a damaged or unknown one — convert the picture "
            "to sRGB."
        ) from None


def _check_kind(image: Image.Image, profile: Profile, where: str) -> None:
    """See that a profile is not one of grey for colour, nor of RGB for CMYK, nor the other way round."""
    fits = image.mode in GREY_8 if profile.mode == "L" else (image.mode == "CMYK") == (profile.mode == "CMYK")
    if not fits:
        raise DataError(
            f"{where}: expected a colour profile of its own kind of pixels, got one of {profile.mode} for {image.mode} "
            "— convert the picture to sRGB."
        )


@lru_cache(maxsize=8)
def _read_profile(icc: bytes) -> Profile:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space = profile.profile.xcolor_space.strip()
    mode = _MODES[space]
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    name = " ".join(ImageCms.getProfileDescription(profile).split()) or f"a profile of {space}"
    return Profile(name, mode, None if mode != "CMYK" and _changes_nothing(transform, mode) else transform)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile is sRGB, whatever it is called: colours all over its space stay within SRGB_LEVELS."""
    steps = np.linspace(0, 255, 256 if mode == "L" else 9).round().astype(np.uint8)
    lattice = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    before = Image.fromarray(lattice)
    moved = np.asarray(transform.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return bool(np.abs(moved).max() <= SRGB_LEVELS)


def _by_profile(image: Image.Image, mode: str, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    plain = image if image.mode == "CMYK" else _plain(image)
    colours = transform.apply(plain.convert(mode))
    if plain.mode == "RGBA":
        colours.putalpha(plain.getchannel("A"))
    return colours


def _by_gamma(image: Image.Image, gamma: float, where: str) -> Image.Image:
    """The picture's light is its value to the power of 1 / gamma; sRGB's, near enough, to that of 2.2."""
    if not 0.1 <= gamma <= 10:
        raise DataError(f"{where}: expected a gamma between 0.1 and 10, got {gamma:g} — save it as sRGB.")
    curve = [round(255 * (value / 255) ** (SRGB_GAMMA / gamma)) for value in range(256)]
    return image.point(curve * 3 + list(range(256)) * (len(image.getbands()) - 3))
