"""Photos that users have: the table as a picture, and what is kept of mice before backgrounds of one colour.

`python -m benchmarks.photos docs/photos.png` draws the table; without a file it measures.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.tables import table
from pipeline.data.incoming.picture import read_picture
from pipeline.data.mice.mice import MicePlan
from pipeline.data.mice.render import render_mouse
from pipeline.data.photo.photo import photo_of, read_photo, strip
from pipeline.errors import DataError
from tests.support.wild_photos import FRAMING, WildPhoto, backgrounds, two_mice, wild_photos

SIZE, HIGH, COLUMNS = 384, 120, 3
WIDE, TEXT, GAP = 480, 50, 16  # pixels of a cell, of its three lines above, and between cells
INK, FAINT, RED = (30, 30, 30), (110, 110, 110), (170, 40, 30)


def cell(one: WildPhoto) -> Image.Image:
    """The name of a photo, what was understood, and its strip; or the photo and the line that refuses it."""
    drawn = Image.new("RGB", (WIDE, TEXT + HIGH), "white")
    pen, font, small = ImageDraw.Draw(drawn), ImageFont.load_default(15), ImageFont.load_default(11)
    pen.text((0, 0), one.name, INK, font)
    try:
        photo = read_photo(one.path, FRAMING, one.cutting)
    except DataError as error:
        picture = read_picture(one.path).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, (190, 190, 190, 255)), picture).convert("RGB")
        white.thumbnail((2 * HIGH, HIGH))
        ImageDraw.Draw(white).rectangle((0, 0, white.width - 1, white.height - 1), outline=(190, 190, 190))
        drawn.paste(white, (0, TEXT))
        words = str(error).removeprefix(f"{one.path}: ").replace(str(one.path.parent) + "/", "")
        pen.text((white.width + 10, TEXT), _wrapped(words, WIDE - white.width - 10, small), RED, small)
        return drawn
    by = photo.cut_by.replace(str(one.path.parent) + "/", "")
    said = "; ".join([by, *(change for change in photo.changes if not change.startswith("framed"))])
    framed = [change.split(";")[0] for change in photo.changes if change.startswith("framed")] or ["left as it is"]
    pen.text((0, 18), _wrapped(f"{said}; {framed[0]}", WIDE, small), FAINT, small)
    shown = Image.fromarray(strip(photo, HIGH))
    shown.thumbnail((WIDE, HIGH))
    drawn.paste(shown, (0, TEXT))
    return drawn


def rows(mice: int = 14) -> list[dict[str, object]]:
    """For each background, over mice of all coats: overlap of the found mask with the true one, and what is kept."""
    plan, found = MicePlan(rig="mouse_centred", size=SIZE), dict[str, list[tuple[float, float, float]]]()
    for scene in range(mice):
        shot = plan.shot(scene)
        mouse = Image.fromarray(render_mouse(shot.mesh, shot.cameras[[scene % 6]])[0])
        truth = np.asarray(mouse.getchannel("A")) > 127
        for name, picture in backgrounds(mouse).items():
            mask = photo_of(picture, f"{name} {scene}").alpha > 127
            both, size = (mask & truth).sum(), truth.sum()
            found.setdefault(name, []).append((both / (mask | truth).sum(), both / size, (mask & ~truth).sum() / size))
    return [
        {
            "background": name,
            "IoU, median (least)": f"{overlap.median():.3f} ({overlap.min():.3f})",
            "of the mouse kept, least": f"{kept.min():.3f}",
            "background kept, of the mouse's area, most": f"{extra.max():.3f}",
        }
        for name, values in found.items()
        for overlap, kept, extra in [torch.tensor(values).T]
    ]


def main() -> None:
    if len(sys.argv) < 2:
        print(table(rows()))
        return
    with tempfile.TemporaryDirectory() as folder:
        cells = [np.asarray(cell(one)) for one in wild_photos(Path(folder), *two_mice(SIZE))]
    height, width = cells[0].shape[:2]
    high = -(-len(cells) // COLUMNS)
    page = np.full((high * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP, 3), 255, np.uint8)
    for number, drawn in enumerate(cells):
        y, x = GAP + number // COLUMNS * (height + GAP), GAP + number % COLUMNS * (width + GAP)
        page[y : y + height, x : x + width] = drawn
    Image.fromarray(page).save(sys.argv[1], optimize=True)


def _wrapped(words: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """On lines of that width; the font has neither dashes nor crosses."""
    lines = [""]
    for word in words.replace("—", "-").replace("×", " x ").split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
