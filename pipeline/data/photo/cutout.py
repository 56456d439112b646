"""An animal told from its background: by alpha, by a mask, by the background's one colour, or by a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from PIL import Image

from pipeline.data.foreground import MIN_WHITE_BORDER, border_share, rgba_of
from pipeline.data.photo.background import FAINT_OUTLINE, MIN_SAME, SHADED_OUTLINE, OneColour, cut_by_colour
from pipeline.data.photo.framing import FAINT, SOLID, Alpha
from pipeline.data.photo.masks import cut_by_mask, mask_for, read_mask
from pipeline.data.photo.parts import only_animal
from pipeline.data.photo.segment import segmented
from pipeline.errors import DataError

MIN_CLEAR_BORDER = 0.5  # of the border of a picture with alpha: below, its alpha does not cut out an animal
MIN_CLEAR = 0.05  # of its pixels: below, its alpha says nothing


@dataclass(frozen=True)
class Cutting:
    """What else tells an animal from its background. mask: a picture, or a folder of pictures of the photos' stems.

    segment: the network that may look for it, where nothing else tells.
    """

    mask: Path | None = None
    segment: Literal["rembg"] | None = None

    @classmethod
    def asked(cls, mask: Path | None, segment: str | None) -> Self:
        """As the options --mask and --segment say. Raises DataError for a mask that is not there, and other words."""
        if segment not in (None, "rembg"):
            raise DataError(f"--segment: expected rembg, got {segment} — write rembg.")
        if mask is not None and not mask.exists():
            raise DataError(f"--mask {mask}: expected a mask, or a folder of them, got none — check the path.")
        return cls(mask, None if segment is None else "rembg")


class Cut(NamedTuple):
    """RGBA (straight alpha) of the picture's size, what told the animal from its background, and what was changed."""

    cut_out: Image.Image
    by: str
    changes: tuple[str, ...]


def cut(picture: Image.Image, where: str, cutting: Cutting, orientation: int = 1) -> Cut:
    """An upright RGB or RGBA picture with its animal cut out, and whatever else is in it removed.

    orientation: how EXIF had the picture turned, which its mask may not have been. Raises DataError.
    """
    found = _told_apart(picture, where, cutting, orientation)
    alpha = np.asarray(found.cut_out.getchannel("A"))
    kept, changes = only_animal(alpha, where)
    if kept is not alpha:
        found.cut_out.putalpha(Image.fromarray(kept))
    return found._replace(changes=(*found.changes, *changes))


def _told_apart(picture: Image.Image, where: str, cutting: Cutting, orientation: int) -> Cut:
    changes: tuple[str, ...] = ()
    if picture.mode == "RGBA":
        alpha = np.asarray(picture.getchannel("A"))
        if cuts_out(alpha, where):
            also = () if cutting.mask is None else ("its own alpha was taken, not the mask",)
            return Cut(picture.copy(), "alpha", also)
        changes = ("its alpha was left out, as it is opaque",) if alpha.min() < 255 else ()
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if cutting.mask is not None:
        path = mask_for(cutting.mask, where)
        mask, of_mask = read_mask(path, picture.size, orientation)
        return Cut(cut_by_mask(pixels, mask), f"mask {path}", (*changes, *of_mask))
    if border_share(np.asarray((pixels == 255).all(-1))) >= MIN_WHITE_BORDER:  # removed by a tool, and its shadows too:
        return Cut(Image.fromarray(rgba_of(picture, where)), "background (255, 255, 255)", changes)  # shade is fur's
    found = cut_by_colour(picture)
    if found.cut_out is not None and not found.falls_apart:
        return Cut(found.cut_out, f"background {found.colour}", (*changes, *_how_sure(found)))
    if cutting.segment is not None:
        alpha, network = segmented(picture)
        return Cut(cut_by_mask(pixels, alpha), f"{cutting.segment} ({network})", changes)
    if found.falls_apart:
        raise DataError(
            f"{where}: expected an animal that differs from its background, got one that falls apart, as "
            f"{found.faint:.0%} of its outline hardly differs from {found.colour} — cut it out (alpha or --mask), "
            "photograph it on another colour, or let a network look for it (--segment rembg)."
        )
    raise DataError(
        f"{where}: expected something that tells the animal from its background, got an opaque picture with "
        f"{found.share:.0%} of its border of one colour ({MIN_SAME:.0%} would do) — cut it out (alpha or --mask), "
        "photograph it on one colour, or let a network look for it (--segment rembg)."
    )


def _how_sure(found: OneColour) -> Iterator[str]:
    if found.faint > FAINT_OUTLINE:
        yield (
            f"{found.faint:.0%} of the animal's outline hardly differs from the background, so that parts of it may be "
            "lost: look at input.png; a mask (--mask) tells better"
        )
    if found.shaded > SHADED_OUTLINE:
        yield (
            f"along {found.shaded:.0%} of the animal's outline what may be a shadow was removed, and pale fur looks "
            "the same: look at input.png; a mask (--mask) tells better"
        )


def cuts_out(alpha: Alpha, where: str) -> bool:
    """Whether alpha tells an animal from its background. Raises DataError where it is the wrong way round."""
    clear = border_share(np.asarray(alpha <= FAINT))
    if clear >= MIN_CLEAR_BORDER:
        return True
    if (share := float((alpha <= SOLID).mean())) < MIN_CLEAR:
        return False
    raise DataError(
        f"{where}: expected alpha that cuts an animal out, got {clear:.0%} of the border transparent and "
        f"{share:.0%} of the picture — turn the alpha over if it is the wrong way round, else cut the animal out."
    )
