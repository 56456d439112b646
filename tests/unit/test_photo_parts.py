"""What a photo's parts do, one at a time: backgrounds, masks, one animal, framing, the door to rembg, the strip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.photo.background import cut_by_colour
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.framing import Crop, Framing, crop_for, outline_of
from pipeline.data.photo.parts import only_animal
from pipeline.data.photo.photo import photo_of, read_photo, strip
from pipeline.data.pictures import view_on_white
from pipeline.data.scenes import Dataset
from pipeline.errors import CheckpointError, DataError

FRAMING = Framing(mean=0.2, least=0.15, most=0.25, views=9)
FUR, BLUE = (150, 120, 90), (40, 80, 190)

Array = np.ndarray


def disc(height: int, width: int, y: float, x: float, radius: float) -> Array:
    """Alpha of a disc, with a soft edge."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    return (255 * (radius + 0.5 - np.hypot(rows - y, columns - x)).clip(0, 1)).round().astype(np.uint8)


def on(alpha: Array, background: tuple[int, int, int] | Array, fur: tuple[int, int, int] = FUR) -> Image.Image:
    share = alpha[..., None] / 255
    return Image.fromarray((share * np.array(fur) + (1 - share) * np.asarray(background)).round().astype(np.uint8))


def refused(*args, error: type[Exception] = DataError, **options) -> str:
    with pytest.raises(error) as caught:
        photo_of(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- backgrounds


def test_the_edge_keeps_nothing_of_a_blue_background() -> None:
    photo = photo_of(on(disc(96, 96, 48, 48, 25), BLUE), "a")
    shown = np.asarray(photo.cut_out).astype(int)
    edge = (shown[..., 3] > 0) & (shown[..., 3] < 255)
    assert edge.sum() > 50
    assert np.abs(shown[edge][:, :3] - FUR).max() <= 4


@pytest.mark.parametrize("background", [BLUE, (255, 255, 255), (238, 236, 230), (20, 20, 22), (60, 170, 80)])
def test_alpha_of_an_edge_is_the_share_of_the_animal(background: tuple[int, int, int]) -> None:
    alpha = disc(96, 96, 47.3, 48.1, 25)
    found = np.asarray(cut_by_colour(on(alpha, background)).cut_out.getchannel("A")).astype(int)
    assert np.abs(found - alpha).max() <= 20


def test_fur_as_white_as_the_background_is_animal_where_the_rest_encloses_it() -> None:
    alpha, belly = disc(96, 96, 48, 48, 30), disc(96, 96, 48, 48, 15)
    picture = np.asarray(on(alpha, (255, 255, 255))).copy()
    picture[belly > 127] = 255
    found = np.asarray(cut_by_colour(Image.fromarray(picture)).cut_out.getchannel("A"))
    assert (found[belly > 127] == 255).all()


def test_the_blue_that_a_tail_encloses_is_background() -> None:
    ring = disc(96, 96, 48, 48, 30) - disc(96, 96, 48, 48, 15)
    found = np.asarray(cut_by_colour(on(ring, BLUE)).cut_out.getchannel("A"))
    assert found[48, 48] == 0 and found[48, 25] == 255


@pytest.mark.parametrize("darker", [0.1, 0.3])
def test_a_shadow_on_blue_is_background(darker: float) -> None:
    alpha, shadow = disc(96, 96, 48, 40, 20), disc(96, 96, 60, 62, 18) / 255
    behind = np.array(BLUE) * (1 - darker * shadow[..., None])
    found = np.asarray(cut_by_colour(on(alpha, behind)).cut_out.getchannel("A"))
    assert (found[60, 66:80] == 0).all() and found[48, 40] == 255


def test_stripes_are_no_background_of_one_colour() -> None:
    behind = np.full((96, 96, 3), 230)
    behind[:, ::8] = behind[:, 1::8] = behind[:, 2::8] = (120, 90, 60)
    assert "tells the animal from its background" in refused(on(disc(96, 96, 48, 48, 25), behind), "a")


def test_a_table_below_a_wall_is_no_background_of_one_colour() -> None:
    behind = np.full((96, 96, 3), 230)
    behind[60:] = (120, 90, 60)
    message = refused(on(disc(96, 96, 48, 48, 25), behind), "a")
    assert "--mask" in message and "--segment rembg" in message and "one colour" in message


def test_a_large_photo_is_cut_at_its_own_size() -> None:
    alpha = disc(700, 1300, 350, 600, 200)
    photo = photo_of(on(alpha, BLUE), "a")
    found = photo.alpha > 127
    assert photo.picture.size == (1300, 700)
    assert (found ^ (alpha > 127)).sum() < 0.01 * found.sum()


# ---------------------------------------------------------------- alpha and masks


def test_training_views_go_through_untouched(mice: Dataset) -> None:
    scenes = [scene.image(0) for scene in mice.scenes.values()]
    framing = Framing.measured(np.asarray(image.getchannel("A")) for image in scenes)
    for image in scenes:
        photo = photo_of(image, "a", framing)
        assert photo.changes == ()
        torch.testing.assert_close(photo.image(24), view_on_white(image, 24), atol=0, rtol=0)


def mask_file(folder: Path, mask: Array, name: str = "mask.png") -> Cutting:
    Image.fromarray(mask).save(folder / name)
    return Cutting(folder / name)


TEXTURE = np.random.default_rng(0).integers(0, 255, (96, 96, 3))
ALPHA = disc(96, 96, 48, 48, 25)


@pytest.mark.parametrize(
    "mask",
    [
        ALPHA,
        np.where(ALPHA > 127, 1, 0).astype(np.uint8),
        np.dstack([np.zeros_like(ALPHA), ALPHA, np.zeros_like(ALPHA)]),
        np.dstack([TEXTURE.astype(np.uint8), ALPHA]),
        ALPHA.astype(np.uint16) * 257,
        ALPHA > 127,
    ],
    ids=["grey", "labels", "green", "alpha", "16 bits", "1 bit"],
)
def test_a_mask_of_any_mode_is_read(tmp_path: Path, mask: Array) -> None:
    photo = photo_of(on(ALPHA, TEXTURE), "a", cutting=mask_file(tmp_path, mask))
    assert ((photo.alpha > 127) ^ (ALPHA > 127)).sum() < 10
    assert photo.cut_by == f"mask {tmp_path / 'mask.png'}"


def test_masks_of_a_folder_are_found_by_the_photos_stem(tmp_path: Path) -> None:
    mask_file(tmp_path, ALPHA, "a.png")
    assert (
        photo_of(on(ALPHA, TEXTURE), "photos/a.jpg", cutting=Cutting(tmp_path)).cut_by == f"mask {tmp_path / 'a.png'}"
    )
    message = refused(on(ALPHA, TEXTURE), "photos/b.jpg", cutting=Cutting(tmp_path))
    assert message.startswith(f"{tmp_path}: expected one mask called b for photos/b.jpg, got none")
    mask_file(tmp_path, ALPHA, "a.bmp")
    assert "got a.bmp, a.png" in refused(on(ALPHA, TEXTURE), "photos/a.jpg", cutting=Cutting(tmp_path))


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    message = refused(on(ALPHA, TEXTURE), "a", cutting=mask_file(tmp_path, ALPHA[:, :80]))
    assert "expected a mask of 96×96 or of that shape, got 80×96" in message


def test_a_black_mask_is_refused(tmp_path: Path) -> None:
    message = refused(on(ALPHA, TEXTURE), "a", cutting=mask_file(tmp_path, np.zeros_like(ALPHA)))
    assert "got black alone" in message


def test_rounded_corners_of_a_picture_cut_nothing_out() -> None:
    picture = on(ALPHA, BLUE).convert("RGBA")
    corners = np.full((96, 96), 255, np.uint8)
    corners[:2, :2] = corners[-2:, -2:] = 0
    picture.putalpha(Image.fromarray(corners))
    photo = photo_of(picture, "a")
    assert photo.cut_by.startswith("background") and "its alpha was left out" in photo.changes[0]


# ---------------------------------------------------------------- one animal


def test_parts_near_the_animal_belong_to_it() -> None:
    alpha = disc(96, 96, 48, 40, 20)
    alpha[47:50, 62:75] = 255  # a tail, behind a bar
    kept, said = only_animal(alpha, "a")
    assert kept is alpha and said == ()


def test_a_smaller_thing_is_left_out_and_said() -> None:
    alpha = np.maximum(disc(96, 96, 48, 30, 20), disc(96, 96, 48, 80, 8))
    kept, said = only_animal(alpha, "a")
    assert np.array_equal(kept, disc(96, 96, 48, 30, 20))
    assert said == ("of 2 things the largest was taken (the next has 16% of its area)",)


# ---------------------------------------------------------------- framing


@pytest.mark.parametrize(("height", "width"), [(60, 200), (200, 60), (100, 100)])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_an_animal_fills_the_training_sets_share_of_the_frame(height: int, width: int, place: float) -> None:
    alpha = disc(height, width, place * height, place * width, 14)
    crop, said = crop_for(alpha, FRAMING)
    assert outline_of(alpha).area / crop.side**2 == pytest.approx(FRAMING.mean, rel=0.06)
    assert crop.x + crop.side / 2 == pytest.approx(place * width, abs=1)
    assert len(said) == 1 and said[0].startswith("framed: ")


def test_no_frame_is_so_tight_that_it_cuts_the_animal() -> None:
    alpha = np.zeros((100, 300), np.uint8)
    alpha[48:53, 20:280] = 255
    alpha[30:60, 20:60] = 255
    crop, _ = crop_for(alpha, FRAMING)
    assert crop.x < 20 and crop.x + crop.side > 280


def test_what_holds_for_a_training_set_is_measured() -> None:
    masks = [disc(100, 100, 50, 50, radius) for radius in (20, 25, 30)]
    framing = Framing.measured([*masks, np.zeros((100, 100), np.uint8)])
    areas = [outline_of(mask).area / 1e4 for mask in masks]
    assert framing == Framing(pytest.approx(sum(areas) / 3), areas[0], areas[2], 3)
    assert Framing.measured([disc(100, 100, 90, 50, 30)]).touching == 1
    with pytest.raises(DataError, match="got none"):
        Framing.measured([np.zeros((8, 8), np.uint8)])


def test_portraits_are_left_as_they_are_where_training_had_portraits() -> None:
    alpha = disc(96, 96, 80, 48, 26)
    picture = on(alpha, BLUE)
    portraits = replace(FRAMING, touching=1.0)
    assert photo_of(picture, "a", portraits).crop == Crop(0, 0, 96) != photo_of(picture, "a", FRAMING).crop


def test_a_photo_can_be_framed_as_another_was_between_pixels() -> None:
    picture = on(disc(96, 96, 48, 48, 25), BLUE)
    right = photo_of(picture, "a", crop=Crop(10.5, 8.0, 70.0)).image(35)
    left, here = (photo_of(picture, "a", crop=Crop(x, 8.0, 70.0)).image(35) for x in (10.0, 11.0))
    torch.testing.assert_close(right, (left + here) / 2, atol=0.06, rtol=0)


def test_a_strip_shows_the_photo_its_mask_and_the_framed_animal() -> None:
    photo = photo_of(on(disc(60, 200, 30, 40, 14), BLUE), "a", FRAMING)
    shown = strip(photo, 64)
    side = photo.crop.side
    assert shown.shape[0] == 64 and shown[:, -64:].std() > 10
    assert shown.shape[1] > 64 * (2 * 200 / side)


# ---------------------------------------------------------------- rembg


def test_without_weights_the_way_to_them_is_named(tmp_path: Path, monkeypatch) -> None:
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    message = refused(on(ALPHA, TEXTURE), "a", cutting=Cutting(segment="rembg"), error=CheckpointError)
    assert "mouselift weights" in message and not list(tmp_path.iterdir())


def test_a_file_that_is_read_says_its_own_name(tmp_path: Path) -> None:
    on(ALPHA, TEXTURE).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"^{tmp_path / 'a.png'}: expected"):
        read_photo(tmp_path / "a.png")
