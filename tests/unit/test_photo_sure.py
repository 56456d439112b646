"""How sure a cut-out of one colour is: what is said of a doubtful one, and when it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.data.photo.photo import Photo, photo_of
from pipeline.errors import DataError
from tests.support.wild_photos import backgrounds, two_mice

SIZE = 192
MICE = two_mice(SIZE)


def mottled(contrast: float) -> Image.Image:
    """The patched mouse on grey of its own lightness, which changes softly from place to place."""
    (mouse, _), rng = MICE, np.random.default_rng(0)
    opaque = np.asarray(mouse)[np.asarray(mouse)[..., 3] == 255][:, :3]
    spots = gaussian_filter(rng.normal(size=(SIZE, SIZE, 3)), (2, 2, 0))
    behind = np.median(opaque) + contrast * spots / spots.std()
    rgba = Image.fromarray(behind.round().clip(0, 255).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(rgba, mouse).convert("RGB")


def overlap(photo: Photo, mouse: Image.Image) -> float:
    found, truth = photo.alpha > 127, np.asarray(mouse.getchannel("A")) > 127
    return float((found & truth).sum() / (found | truth).sum())


def test_a_mouse_that_falls_apart_on_mottled_grey_is_refused() -> None:
    with pytest.raises(DataError, match=r"one that falls apart, as \d+% of its outline hardly") as caught:
        photo_of(mottled(2.0), "photo")
    assert "\n" not in str(caught.value) and "--mask" in str(caught.value)


@pytest.mark.parametrize("name", backgrounds(MICE[1]))
def test_a_white_mouse_is_cut_out_well_or_doubt_is_said(name: str) -> None:
    photo = photo_of(backgrounds(MICE[1])[name], name)
    doubtful = any("of the animal's outline" in change for change in photo.changes)
    assert doubtful == (overlap(photo, MICE[1]) < 0.9), photo.changes


def test_a_shadow_on_paper_is_said_and_one_on_blue_is_not() -> None:
    pictures = backgrounds(MICE[0])
    (said,) = photo_of(pictures["paper white, a soft shadow"], "photo").changes
    assert "what may be a shadow was removed" in said
    assert photo_of(pictures["blue, a shadow"], "photo").changes == ()
