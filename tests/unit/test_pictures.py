"""Pictures: what is transparent is white, bytes are rounded, sheets keep every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.data.incoming.picture import decoded
from pipeline.data.pictures import on_white, pixels_of, sheet, view_on_white, write_png

HALF = np.full((8, 8, 4), (0, 0, 0, 51), np.uint8)  # black, a fifth of it


def test_what_is_transparent_is_white() -> None:
    assert np.asarray(on_white(Image.fromarray(HALF))).max() == np.asarray(on_white(Image.fromarray(HALF))).min() == 204


def test_a_picture_without_transparency_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(on_white(Image.fromarray(pixels))), pixels)


def test_a_network_sees_the_same_on_white() -> None:
    torch.testing.assert_close(view_on_white(Image.fromarray(HALF), 4), torch.full((3, 4, 4), 0.8))


def test_bytes_are_rounded_and_clamped() -> None:
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0])[None, None].expand(3, 1, 4)
    assert pixels_of(values)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_a_sheet_has_rows_of_views_each_enlarged_by_a_whole_factor() -> None:
    rows = torch.rand(2, 3, 3, 4, 4)
    picture = sheet(rows, least=7)
    assert picture.shape == (2 * 4 * 2, 3 * 4 * 2, 3)
    np.testing.assert_array_equal(picture[8:16:2, 16:24:2], pixels_of(rows[1, 2]))


def test_a_sheets_labels_leave_its_views_as_they_are_and_stand_beside_them() -> None:
    rows = torch.rand(2, 3, 3, 64, 64)
    bare = sheet(rows)
    picture = sheet(rows, names=("given", "a longer name"), titles=("input 0\n21.3 dB", "", "held out 2"))
    top, left = np.array(picture.shape[:2]) - bare.shape[:2]
    np.testing.assert_array_equal(picture[top:, left:], bare)
    inked = (picture < 200).all(-1)
    assert not inked[:top, :left].any() and inked[: top // 2, left:].any()
    beside_rows, above_views = inked[top:, :left], inked[:top, left:].reshape(top, 3, 128).any((0, 2))
    assert beside_rows[:128].any() and beside_rows[128:].sum() > beside_rows[:128].sum()
    assert above_views.tolist() == [True, False, True]


def test_a_png_comes_back_from_a_file_and_from_bytes(tmp_path: Path) -> None:
    pixels = sheet(torch.rand(1, 1, 3, 4, 4), least=4)
    write_png(pixels, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decoded("a", (tmp_path / "a.png").read_bytes())), pixels)
