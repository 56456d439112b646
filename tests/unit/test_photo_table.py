"""Twenty-four photos as users have them: what is understood of each, or the one line that refuses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.photo.framing import outline_of
from pipeline.data.photo.photo import Photo, read_photo
from pipeline.errors import DataError
from tests.support.wild_photos import FRAMING, WildPhoto, oriented, two_mice, wild_photos

SIZE = 192
# What tells the animal from its background, how much of the animal is found (intersection over union of the masks, of
# opaque pixels), and a part of each line that is said.
UNDERSTOOD = {
    "RGBA, cut out": ("alpha", 1.0, []),
    "opaque alpha, white behind": ("background (255, 255, 255)", 0.97, []),
    "white behind": ("background (255, 255, 255)", 0.97, []),
    "blue studio, lit unevenly": ("background (", 0.97, []),
    "green, a shadow, JPEG": ("background (", 0.9, []),
    "grey, noise": ("background (", 0.95, []),
    "a white mouse on white": ("background (255, 255, 255)", 0.9, []),
    "textured, a mask beside": ("mask ", 0.99, []),
    "a mask of half the size": ("mask ", 0.95, ["the mask was resampled from 96×96"]),
    "portrait": ("background (40, 80, 190)", 0.96, ["framed: "]),
    "landscape": ("background (40, 80, 190)", 0.96, ["framed: "]),
    "EXIF orientation 6": ("background (40, 80, 190)", 0.96, ["framed: "]),
    "EXIF 8, a mask of the pixels": ("mask ", 0.98, ["the mask was turned as the photo was", "framed: "]),
    "16-bit grey": ("background (255, 255, 255)", 0.97, []),
    "palette, one colour clear": ("alpha", 0.99, []),
    "CMYK": ("background (", 0.95, []),
    "a profile": ("background (255, 255, 255)", 0.97, []),
    "at the edge": ("background (40, 80, 190)", 0.96, ["is cut off by the left border", "framed: "]),
    "far away, specks": ("background (40, 80, 190)", 0.95, ["2 specks beside the animal removed", "framed: cropped"]),
}
REFUSED = {
    "textured background": "expected something that tells the animal from its background, got an opaque picture with",
    "a mask turned over": "expected a mask with the animal white on black, got white on",
    "two mice": "expected one animal, got 2 things of about one size",
    "nothing on white": "expected a picture of a mouse, got nothing but background",
    "alpha almost empty": "expected a picture of a mouse, got nothing but background",
}


@pytest.fixture(scope="module")
def mice_pictures() -> tuple[Image.Image, Image.Image]:
    return two_mice(SIZE)


@pytest.fixture(scope="module")
def table(mice_pictures, tmp_path_factory: pytest.TempPathFactory) -> dict[str, WildPhoto]:
    return {one.name: one for one in wild_photos(tmp_path_factory.mktemp("photos"), *mice_pictures)}


def understood(one: WildPhoto) -> Photo:
    return read_photo(one.path, FRAMING, one.cutting)


@pytest.fixture(scope="module")
def photos(table: dict[str, WildPhoto]) -> dict[str, Photo]:
    return {name: understood(table[name]) for name in UNDERSTOOD}


def test_the_table_has_every_photo(table: dict[str, WildPhoto]) -> None:
    assert set(table) == {*UNDERSTOOD, *REFUSED} and len(table) == 24


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_photo_is_understood(table: dict[str, WildPhoto], photos: dict[str, Photo], name: str) -> None:
    by, overlap, said = UNDERSTOOD[name]
    photo = photos[name]
    found, truth = photo.alpha > 127, table[name].truth > 127
    assert (found & truth).sum() / (found | truth).sum() >= overlap
    assert photo.cut_by.startswith(by)
    assert len(photo.changes) == len(said) and all(map(str.__contains__, photo.changes, said)), photo.changes


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_photo_is_framed_as_the_training_set_was(photos: dict[str, Photo], name: str) -> None:
    photo = photos[name]
    outline = outline_of(np.asarray(photo.framed.getchannel("A")))
    assert photo.framed.width == photo.framed.height
    assert FRAMING.least <= outline.area / photo.framed.width**2 <= FRAMING.most
    assert not outline.touched and outline.area == pytest.approx(outline_of(photo.alpha).area, rel=1e-3)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_network_sees_the_mouse_on_white(photos: dict[str, Photo], name: str) -> None:
    image = photos[name].image(32)
    assert image.shape == (3, 32, 32) and float(image[:, 0].min()) == float(image[:, -1].min()) == 1
    assert 0 <= float(image.min()) < 0.7


@pytest.mark.parametrize("name", REFUSED)
def test_a_photo_is_refused_in_one_line(table: dict[str, WildPhoto], name: str) -> None:
    with pytest.raises(DataError) as caught:
        understood(table[name])
    assert REFUSED[name] in str(caught.value) and "\n" not in str(caught.value)
    assert str(table[name].path.name) in str(caught.value)


def test_a_photo_is_the_same_in_all_eight_orientations(mice_pictures, tmp_path: Path) -> None:
    first, *others = (read_photo(path, FRAMING) for path in oriented(tmp_path, mice_pictures[0]))
    for other in others:
        assert np.array_equal(first.framed, other.framed) and first.crop == other.crop
