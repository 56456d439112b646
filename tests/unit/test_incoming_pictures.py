"""The door for pictures: what a file says of itself is followed, what it does not say is refused with its name."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from pipeline.data.incoming.picture import decoded, read_picture
from pipeline.errors import DataError
from tests.support.mutations import mutations

GREY = np.arange(64, dtype=np.float64).reshape(8, 8) / 63  # 0…1
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 4), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A space whose red and green are each other's: their places in the profile's table of tags are exchanged.
SWAPPED = SRGB.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    """As in a new process."""
    for name in ("pipeline.data.incoming.picture", "pipeline.data.incoming.picture.scenes"):
        for once in logging.getLogger(name).filters:
            once.said.clear()


def grey_profile() -> bytes:
    """Of grey whose values are light itself: the three tags that ICC asks for."""
    white = struct.pack(">iii", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(81)
    parts = {b"desc": name, b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": b"curv" + struct.pack(">4xIH2x", 1, 256)}
    table, body = struct.pack(">I", len(parts)), b""
    for tag, part in parts.items():
        table += struct.pack(">4sII", tag, 128 + 4 + 12 * len(parts) + len(body), len(part))
        body += part
    size, kind = len(body) + len(table) + 128, struct.pack(">I", 0x02400000) + b"mntrGRAYXYZ " + bytes(12)
    return struct.pack(">I", size) + bytes(4) + kind + b"acsp" + bytes(28) + white + bytes(48) + table + body


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png16(values: np.ndarray, colour_type: int, *more: bytes) -> bytes:
    """A PNG of 16 bits from values in 0…1 [H, W, channel]."""
    rows = np.rint(values * 65535).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(image: Image.Image, tag: int, value: int) -> bytes:
    """A TIFF in which a tag that is there says something else."""
    content = saved(image, "TIFF")
    found = content.index(struct.pack("<HH", tag, 3))
    return content[: found + 8] + struct.pack("<H", value) + content[found + 10 :]


def with_gamma(image: Image.Image, gamma: float) -> bytes:
    content = saved(image)
    return content[:33] + chunk(b"gAMA", struct.pack(">I", round(gamma * 1e5))) + content[33:]


def pixels(content: bytes, **options: bool) -> np.ndarray:
    return np.asarray(decoded("a", content, **options)).astype(int)


def refusal(content: bytes, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        decoded("photo", content, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pictures_of_others_come_through_one_door() -> None:
    root = Path(__file__).parents[2]
    files = [path for package in ("pipeline", "sweeps", "dashboards") for path in (root / package).rglob("*.py")]
    opening = {path.relative_to(root).as_posix() for path in files if "Image.open(" in path.read_text()}
    # These shrink or cut what was drawn here.
    our_own = {"sweeps/tracking/mlflow_layout.py", "dashboards/thumbnails.py", "dashboards/app/scenes.py"}
    assert opening - our_own == {"pipeline/data/incoming/picture.py"}


# ---------------------------------------------------------------- depth


def test_grey_of_16_bits_is_scaled_by_its_own_depth() -> None:
    content = saved(Image.fromarray(np.rint(GREY * 65535).astype(np.uint16)))
    np.testing.assert_array_equal(pixels(content)[..., 0], np.rint(GREY * 255))


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (3, 2), (4, 6)])
def test_colour_of_16_bits_is_right_within_a_level(channels: int, colour_type: int) -> None:
    values = np.stack([GREY ** (1 + i) for i in range(channels)], -1)
    got = pixels(png16(values, colour_type))
    expected = values[..., [0, 0, 0, 1]] if channels == 2 else values
    np.testing.assert_allclose(got, expected * 255, atol=1)


def test_a_greymap_of_12_bits_says_so_and_is_scaled_by_them() -> None:
    content = b"P5\n8 8\n4095\n" + np.rint(GREY * 4095).astype(">u2").tobytes()
    np.testing.assert_allclose(pixels(content)[..., 0], GREY * 255, atol=0.6)


@pytest.mark.parametrize(("shape", "colour_type"), [((8, 8), 0), ((8, 8, 3), 2)])
def test_twelve_bits_in_sixteen_are_refused(shape: tuple[int, ...], colour_type: int) -> None:
    values = np.broadcast_to(GREY[..., None] if len(shape) == 3 else GREY, shape) * 4095 / 65535
    assert "expected a picture that uses its 16 bits" in refusal(png16(values, colour_type))


def test_twelve_bits_in_sixteen_are_refused_whatever_their_alpha() -> None:
    values = np.dstack([GREY * 4095 / 65535] * 3 + [np.ones((8, 8))])
    assert "expected a picture that uses its 16 bits" in refusal(png16(values, 6))


def pixmap(values: np.ndarray, most: int) -> bytes:
    return f"P6\n8 8\n{most}\n".encode() + np.rint(np.stack([values] * 3, -1)).astype(">u2").tobytes()


def test_a_pixmap_of_more_than_8_bits_is_scaled_by_its_own_depth_and_that_is_said(caplog) -> None:
    np.testing.assert_allclose(pixels(pixmap(GREY * 4095, 4095))[..., 0], GREY * 255, atol=0.6)
    assert "its 16 bits per channel became 8" in caplog.text
    assert "expected a picture that uses its 16 bits" in refusal(pixmap(GREY * 4095, 65535))


def test_a_bmp_of_5_6_5_bits_is_not_called_deep(caplog) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    content = b"BM" + struct.pack("<IHHI", 14 + len(header) + 32, 0, 0, 14 + len(header)) + header
    assert pixels(content + struct.pack("<H", 0x0841) * 16).max() <= 10 and not caplog.records


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_dark_animal_or_an_empty_view_of_sixteen_bits_is_read(alpha: float) -> None:
    values = np.dstack([np.zeros((8, 8, 3)), np.full((8, 8), alpha)])
    np.testing.assert_array_equal(pixels(png16(values, 6)), np.rint(values * 255))


def test_sixteen_bits_with_a_transparent_colour_are_refused() -> None:
    content = png16(np.stack([GREY] * 3, -1), 2, chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0, 0)))
    assert "expected transparency as alpha, got 16 bits" in refusal(content)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_stated_range_are_refused(mode: str) -> None:
    assert f"got pixels of mode {mode}" in refusal(saved(Image.new(mode, (4, 4), 1), "TIFF"))


def test_grey_of_16_bits_with_0_as_white_is_refused() -> None:
    grey = Image.fromarray(np.rint(GREY * 65535).astype(np.uint16))
    assert "expected grey with 0 as black" in refusal(tiff(grey, 262, 0))


# ---------------------------------------------------------------- transparency and colour


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_ordinary_picture_is_as_pillow_reads_it_and_nothing_is_said(mode: str, caplog) -> None:
    content = saved(Image.fromarray(PIXELS).convert(mode))
    np.testing.assert_array_equal(pixels(content), np.asarray(Image.open(io.BytesIO(content))))
    assert not caplog.records


@pytest.mark.parametrize(("mode", "expected"), [("1", "RGB"), ("L", "RGB"), ("P", "RGB"), ("LA", "RGBA")])
def test_transparency_is_kept_where_there_is_some(mode: str, expected: str) -> None:
    assert decoded("a", saved(Image.new(mode, (4, 4)))).mode == expected


def test_a_transparent_colour_of_a_palette_is_transparent() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert pixels(saved(image, transparency=0)).tolist() == [[[255, 0, 0, 0], [0, 255, 0, 255]]]


def test_premultiplied_colour_becomes_straight() -> None:
    premultiplied = Image.fromarray(np.full((4, 4, 4), (50, 25, 0, 128), np.uint8))
    got = pixels(tiff(premultiplied, 338, 1))[0, 0]
    np.testing.assert_allclose(got, (100, 50, 0, 128), atol=1)


def test_a_channel_that_may_be_alpha_is_not_dropped_in_silence(caplog) -> None:
    assert decoded("a", tiff(Image.fromarray(PIXELS), 338, 0)).mode == "RGB"
    assert "a: a channel that is not called alpha was left out" in caplog.text


def test_cmyk_becomes_rgb_and_is_said(caplog) -> None:
    assert pixels(saved(Image.new("CMYK", (4, 4), (0, 255, 0, 0)), "TIFF"))[0, 0].tolist() == [255, 0, 255]
    assert "a: CMYK became RGB" in caplog.text


@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")])
def test_colours_of_another_space_become_srgb(mode: str, form: str, caplog) -> None:
    image = Image.new("RGBA", (8, 8), (200, 80, 40, 255)).convert(mode)
    got = pixels(saved(image, form, icc_profile=SWAPPED))[0, 0, :3]
    np.testing.assert_allclose(got, (80, 200, 40), atol=2)
    assert "a: its colours became sRGB (from sRGB built-in)" in caplog.text


def test_transparency_outlives_a_change_of_colours() -> None:
    got = pixels(saved(Image.fromarray(PIXELS), icc_profile=SWAPPED))
    np.testing.assert_array_equal(got[..., 3], PIXELS[..., 3])


def test_a_profile_that_says_srgb_changes_nothing(caplog) -> None:
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(PIXELS), icc_profile=SRGB)), PIXELS)
    assert not caplog.records


@pytest.mark.parametrize("profile", [b"junk", SRGB[:200]])
def test_a_profile_that_cannot_be_read_is_refused(profile: bytes) -> None:
    assert "expected a colour profile that can be read" in refusal(saved(Image.new("RGB", (4, 4)), icc_profile=profile))


def test_grey_has_a_profile_of_its_own() -> None:
    linear = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    got = pixels(saved(Image.new("LA", (2, 2), (55, 99)), icc_profile=grey_profile()))[0, 0]
    np.testing.assert_allclose(got, (linear, linear, linear, 99), atol=1)


@pytest.mark.parametrize(("mode", "profile"), [("CMYK", SRGB), ("RGB", grey_profile())])
def test_a_profile_of_another_kind_of_pixels_is_refused(mode: str, profile: bytes) -> None:
    content = saved(Image.new(mode, (4, 4)), "TIFF", icc_profile=profile)
    assert "expected a colour profile of its own kind of pixels" in refusal(content)


def test_linear_light_becomes_srgb() -> None:
    got = pixels(with_gamma(Image.new("RGBA", (2, 2), (255, 55, 0, 55)), 1.0))[0, 0]
    np.testing.assert_allclose(got, (255, 255 * (55 / 255) ** 0.45455, 0, 55), atol=1)


def test_the_gamma_of_srgb_changes_nothing() -> None:
    np.testing.assert_array_equal(pixels(with_gamma(Image.fromarray(PIXELS), 0.45455)), PIXELS)


# ---------------------------------------------------------------- frames and orientation


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
def test_the_first_frame_is_taken_and_that_is_said(form: str, caplog) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    got = pixels(saved(first, form, save_all=True, append_images=[second]))
    np.testing.assert_allclose(got[0, 0, :3], (255, 0, 0), atol=2)
    assert "a: the first of its frames was taken" in caplog.text


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_is_turned_upright(form: str, orientation: int, caplog) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(PIXELS[..., :3]), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(pixels(content), np.asarray(expected))
    assert f"a: it was turned upright (EXIF orientation {orientation})" in caplog.text


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_an_image_that_a_camera_belongs_to_is_not_turned_but_refused(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(PIXELS[..., :3]), form, exif=exif)
    assert "photo: expected pixels as the camera saw them, got EXIF orientation 6" in refusal(content, posed=True)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(PIXELS), exif=exif)), PIXELS)


def test_what_is_changed_in_a_photo_is_said_once(caplog) -> None:
    content = saved(Image.new("CMYK", (4, 4)), "TIFF")
    for name in ("first", "first", "second"):
        decoded(name, content)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["first", "second"]


def test_what_is_changed_in_thousands_of_scenes_is_said_once(caplog) -> None:
    content = saved(Image.new("CMYK", (4, 4)), "TIFF")
    for name in ("first", "second"):
        decoded(name, content, posed=True)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["first"]


# ---------------------------------------------------------------- what is no picture


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"text", "none of PNG, JPEG"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a pointer of Git LFS in its place; `git lfs pull` fetches the file",
        ),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x18ftypheic" + bytes(16), "a HEIC picture"),
        (b"\0\0\0\x18ftypisom" + bytes(16), "a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(16), "a video — give the picture itself"),
        (b"RIFF\n\0\0\0AVI LIST", "a video"),
        (b"PK\x03\x04" + bytes(16), "a zip archive; unpack it"),
        (b"\x89PNG\r\n\x1a\n", "none of PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "PostScript"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(content: bytes, what: str) -> None:
    assert refusal(content).startswith(f"photo: expected an image, got {what}")


@pytest.mark.parametrize(("size", "came"), [("9000 9000", "9000×9000"), ("30000 30000", "many more")])
def test_more_pixels_than_the_limit_are_refused_before_they_are_read(size: str, came: str) -> None:
    expected = f"photo: expected at most 67 megapixels, got {came} — make it smaller."
    assert refusal(f"P6 {size} 255\n".encode()) == expected


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, came in (("folder", "a folder"), ("link", "a link to nothing"), ("pipe", "none"), ("missing", "none")):
        with pytest.raises(DataError, match=rf"{name}: expected an image, got {came} — name a picture\."):
            read_picture(tmp_path / name)


def test_a_flipped_bit_in_the_pixels_of_a_png_is_refused() -> None:
    content = bytearray(saved(Image.fromarray(PIXELS)))
    content[-40] ^= 1
    assert refusal(bytes(content)).startswith("photo: expected an image, got broken PNG file")


# ---------------------------------------------------------------- damage

ANIMAL = np.dstack([np.rint(GREY * 255)] * 3).astype(np.uint8).repeat(8, 0).repeat(8, 1)
WHOLE = {
    "RGB": saved(Image.fromarray(ANIMAL)),
    "RGBA": saved(Image.fromarray(PIXELS), icc_profile=SWAPPED),
    "16 bits": png16(np.stack([GREY] * 3, -1), 2),
    "palette": saved(Image.fromarray(ANIMAL).quantize(16), transparency=0),
}
TURNED = Image.Exif()
TURNED[0x0112] = 6
JPEG = saved(Image.fromarray(ANIMAL), "JPEG", exif=TURNED)


@given(kind=st.sampled_from(sorted(WHOLE)), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_damaged_png_is_read_as_it_was_or_refused(kind: str, seed: int) -> None:
    whole = pixels(WHOLE[kind])
    for content in mutations(WHOLE[kind], seed, 5):
        try:
            got = pixels(content)
        except DataError:
            continue
        np.testing.assert_array_equal(got, whole)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_damaged_jpeg_is_read_as_libjpeg_reads_it_or_refused(seed: int) -> None:
    """Its pixels carry no check sums."""
    for content in mutations(JPEG, seed, 5):
        try:
            got = decoded("a", content)
        except DataError:
            continue
        plain = Image.open(io.BytesIO(content))
        assert got.mode == "RGB" and got.size in (plain.size, plain.size[::-1])
