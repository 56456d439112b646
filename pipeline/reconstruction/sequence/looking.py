"""A sequence's pictures as photos: the animal of each frame cut out, and framed by itself or as it is told."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pipeline.data.incoming.picture import read_picture
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.framing import Crop, Framing, outline_of
from pipeline.data.photo.photo import Photo, photo_of
from pipeline.errors import DataError
from pipeline.machine import contents
from pipeline.reconstruction.sequence import track
from pipeline.reconstruction.sequence.footage import Footage
from pipeline.reconstruction.sequence.track import Found

LOOKED_AT = 12  # frames at the beginning, one of which has to show an animal


@dataclass(frozen=True)
class Looking:
    """How every frame is looked at. framing: of the model's training set, where it is known."""

    footage: Footage
    framing: Framing | None
    cutting: Cutting

    def photos(
        self, places: Sequence[int], crops: Sequence[track.Crop | None] | None = None
    ) -> Iterator[tuple[int, Photo | DataError]]:
        """Each of these places (ascending) with its photo, or why there is none. crops: of all places, where known."""
        for place, picture in zip(places, self.footage.pictures(places), strict=True):
            yield place, self._photo(picture, place, None if crops is None else crops[place])

    def require_animal(self) -> None:
        """Raise DataError unless one of the first frames shows an animal: what is wrong with all is said at once."""
        places = range(min(LOOKED_AT, len(self.footage.numbers)))
        first = None
        for _, photo in self.photos(places):
            if isinstance(photo, Photo):
                return
            first = first or photo
        if len(places) == 1:
            raise DataError(str(first))
        raise DataError(f"all of the first {len(places)} frames (--from begins later), such as {first}")

    def found(self) -> Iterator[Found | None]:
        """Where the animal of each frame is; None where it is not found. One picture is held at a time."""
        for _, photo in self.photos(range(len(self.footage.numbers))):
            outline = outline_of(photo.alpha) if isinstance(photo, Photo) else None
            if outline is None or isinstance(photo, DataError):
                yield None
                continue
            x, y, side = photo.crop
            yield Found((x, y, side), (outline.left, outline.top, outline.right, outline.bottom), outline.area)

    def _photo(self, picture: Image.Image | DataError, place: int, crop: track.Crop | None) -> Photo | DataError:
        if isinstance(picture, DataError):
            return picture
        framing = self.framing
        if framing is not None:  # none is left as it is because it fits: the scale would jump from frame to frame
            framing = replace(framing, least=framing.mean, most=framing.mean)
        try:
            where = self.footage.where(place)
            return photo_of(picture, where, framing, self.cutting, None if crop is None else Crop(*crop))
        except DataError as error:
            return error


def masks_of(cutting: Cutting, source: Path) -> tuple[Path | None, Cutting]:
    """A video of masks, and what is left to tell the animal by then.

    Raises DataError for a mask that cannot be of every frame: a video has another video, a folder a folder.
    """
    path = cutting.mask
    if path is None:
        return None, cutting
    is_video = path.is_file() and contents.described(path) == contents.VIDEO
    if is_video != source.is_file() or not (is_video or path.is_dir()):
        expected = "a video of masks, as long" if source.is_file() else "a folder with a mask of each frame's name"
        raise DataError(f"--mask {path}: expected {expected} as {source} is one, got another — name it.")
    return (path, replace(cutting, mask=None)) if is_video else (None, cutting)


@contextlib.contextmanager
def each_said_once() -> Iterator[None]:
    """What is done to picture after picture is said of the first; numbers alone make no difference."""
    said = set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        text = re.sub(r"[-\d.]+", "#", record.getMessage())
        new = text not in said
        said.add(text)
        return new

    loggers = [logging.getLogger(function.__module__) for function in (photo_of, read_picture)]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)
