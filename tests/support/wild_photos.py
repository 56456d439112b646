"""Twenty-four photos as users have them: one mouse each, or what is no such photo, with its true mask."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFilter

from pipeline.data.incoming.picture import upright
from pipeline.data.mice.mice import MicePlan
from pipeline.data.mice.render import render_mouse
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.framing import Framing

FRAMING = Framing(mean=0.18, least=0.10, most=0.27, views=100)  # of procedural mice
BLUE, GREEN, GREY, PAPER = (40, 80, 190), (60, 170, 80), (126, 128, 131), (255, 255, 255)
_BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the orientation that undoes each

Array = np.ndarray


@dataclass(frozen=True)
class WildPhoto:
    """A file, what it is, and the animal that is in it: alpha of the upright picture, or None where none is found."""

    name: str
    path: Path
    truth: Array | None
    cutting: Cutting


@dataclass(frozen=True)
class _Scene:
    """A mouse on a canvas of its own size."""

    rgba: Image.Image

    @property
    def truth(self) -> Array:
        return np.asarray(self.rgba.getchannel("A"))

    def on(self, background: tuple[int, int, int] | Array) -> Image.Image:
        size = self.rgba.size
        behind = Image.new("RGB", size, background) if isinstance(background, tuple) else Image.fromarray(background)
        return Image.alpha_composite(behind.convert("RGBA"), self.rgba).convert("RGB")


def wild_photos(folder: Path, mouse: Image.Image, white: Image.Image) -> Iterator[WildPhoto]:
    """Write them into a folder. mouse, white: RGBA, square, of a patterned mouse and of a white one."""
    side = mouse.width
    scene, pale = _Scene(mouse), _Scene(white)

    def written(name: str, picture: Image.Image, truth: Array | None, suffix: str = "png", **options) -> WildPhoto:
        path = folder / f"{name}.{suffix}"
        cutting = options.pop("cutting", Cutting())
        picture.save(path, **options)
        return WildPhoto(name, path, truth, cutting)

    def masked(name: str, picture: Image.Image, mask: Image.Image, truth: Array | None, **options) -> WildPhoto:
        (folder / "masks").mkdir(exist_ok=True)
        mask.save(folder / "masks" / f"{name}.png")
        return written(name, picture, truth, cutting=Cutting(folder / "masks"), **options)

    bedding = _bedding(side)
    silhouette = mouse.getchannel("A")
    yield written("RGBA, cut out", mouse, scene.truth)
    yield written("opaque alpha, white behind", scene.on(PAPER).convert("RGBA"), scene.truth)
    yield written("white behind", scene.on(PAPER), scene.truth)
    yield written("blue studio, lit unevenly", scene.on(_uneven(BLUE, side)), scene.truth)
    yield written("green, a shadow, JPEG", scene.on(_shadowed(GREEN, scene)), scene.truth, "jpg", quality=90)
    yield written("grey, noise", _noisy(scene.on(GREY)), scene.truth)
    yield written("a white mouse on white", pale.on(PAPER), pale.truth)
    yield written("textured background", scene.on(bedding), None)
    yield masked("textured, a mask beside", scene.on(bedding), silhouette, scene.truth)
    half = silhouette.resize((side // 2, side // 2), Image.Resampling.BOX)
    yield masked("a mask of half the size", scene.on(bedding), half, scene.truth)
    yield masked("a mask turned over", scene.on(bedding), silhouette.point(lambda value: 255 - value), None)
    portrait, landscape = (
        _placed(mouse, (side, side * 2), 0.6, (0.5, 0.7)),
        _placed(mouse, (side * 2, side), 0.8, (0.3, 0.5)),
    )
    yield written("portrait", portrait.on(BLUE), portrait.truth)
    yield written("landscape", landscape.on(BLUE), landscape.truth)
    yield written("EXIF orientation 6", _stored(landscape.on(BLUE), 6), landscape.truth, exif=_exif(6))
    turned, mask = _stored(landscape.on(np.tile(bedding, (1, 2, 1))), 8), _stored(Image.fromarray(landscape.truth), 8)
    yield masked("EXIF 8, a mask of the pixels", turned, mask, landscape.truth, exif=_exif(8))
    yield from _files(written, scene)
    edge = _placed(mouse, (side, side), 0.9, (0.05, 0.5))
    yield written("at the edge", edge.on(BLUE), edge.truth)
    pair = _Scene(
        Image.alpha_composite(*(_placed(mouse, (side * 2, side), 0.7, at).rgba for at in ((0.25, 0.5), (0.75, 0.5))))
    )
    yield written("two mice", pair.on(BLUE), None)
    small = _placed(mouse, (side * 3, side * 2), 0.7, (0.6, 0.5))
    dirty = np.asarray(small.on(BLUE)).copy()
    dirty[10:14, 20:24] = dirty[-30:-26, 50:53] = (240, 220, 120)
    yield written("far away, specks", Image.fromarray(dirty), small.truth)
    yield written("nothing on white", Image.new("RGB", (side, side), PAPER), None)
    faint = np.zeros((side, side, 4), np.uint8)
    faint[side // 2, side // 2] = 255
    yield written("alpha almost empty", Image.fromarray(faint), None)


def two_mice(size: int) -> tuple[Image.Image, Image.Image]:
    """RGBA pictures of a mouse with patches and of a white one."""
    plan = MicePlan(rig="mouse_centred", size=size)
    shots = [plan.shot(scene) for scene in (0, 1)]
    patched, white = (
        Image.fromarray(render_mouse(shot.mesh, shot.cameras[[view]])[0]) for view, shot in enumerate(shots)
    )
    return patched, white


def backgrounds(mouse: Image.Image) -> dict[str, Image.Image]:
    """One mouse before backgrounds of one colour, as studios and cages have them."""
    scene, side = _Scene(mouse), mouse.width
    return {
        "white": scene.on(PAPER),
        "paper white, lit unevenly, noise": _noisy(scene.on(_uneven((236, 234, 229), side, 0.25))),
        "grey, noise": _noisy(scene.on(GREY)),
        "black, noise": _noisy(scene.on((14, 14, 16))),
        "blue, lit unevenly, noise": _noisy(scene.on(_uneven(BLUE, side))),
        "blue, a shadow": scene.on(_shadowed(BLUE, scene)),
        "green, JPEG of quality 80": _compressed(scene.on(GREEN)),
        "paper white, a soft shadow": scene.on(_shadowed((240, 239, 236), scene, 0.1)),
    }


def oriented(folder: Path, mouse: Image.Image) -> Iterator[Path]:
    """One photo, stored in each of EXIF's eight orientations."""
    scene = _placed(mouse, (mouse.width * 2, mouse.width), 0.8, (0.3, 0.5))
    for orientation in range(1, 9):
        path = folder / f"{orientation}.png"
        _stored(scene.on(BLUE), orientation).save(path, exif=_exif(orientation))
        yield path


def _files(written: Callable[..., WildPhoto], scene: _Scene) -> Iterator[WildPhoto]:
    """One picture in other modes of files."""
    on_white = scene.on(PAPER)
    deep = np.asarray(on_white.convert("L")).astype(np.uint16) * 257
    yield written("16-bit grey", Image.fromarray(deep), scene.truth)
    hard = Image.fromarray(
        np.dstack([np.asarray(scene.rgba)[..., :3], np.where(scene.truth > 127, 255, 0).astype(np.uint8)])
    )
    yield written("palette, one colour clear", hard.quantize(64, Image.Quantize.FASTOCTREE), scene.truth)
    yield written("CMYK", on_white.convert("CMYK"), scene.truth, "jpg", quality=95)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield written("a profile", on_white, scene.truth, icc_profile=lab)


def _placed(mouse: Image.Image, size: tuple[int, int], scale: float, at: tuple[float, float]) -> _Scene:
    """A mouse scaled, with its middle at a share of the canvas."""
    small = mouse.convert("RGBa").resize((round(mouse.width * scale),) * 2, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", size)
    canvas.paste(small, tuple(round(share * length - small.width / 2) for share, length in zip(at, size, strict=True)))
    return _Scene(canvas)


def _stored(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture stored so that EXIF's orientation turns it back."""
    return upright(picture, _BACK[orientation])


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _uneven(colour: tuple[int, int, int], side: int, strength: float = 1.0) -> Array:
    y, x = np.mgrid[0:side, 0:side] / side
    light = 1 + strength * (0.45 * x - 0.3 - 0.3 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    return (np.array(colour) * light[..., None]).clip(0, 255).astype(np.uint8)


def _shadowed(colour: tuple[int, int, int], scene: _Scene, darker: float = 0.33) -> Array:
    """A soft shadow of the mouse beside it, a third darker."""
    side = len(scene.truth)
    cast = np.roll(scene.truth, (side // 16, side // 20), (0, 1))
    soft = np.asarray(Image.fromarray(cast).filter(ImageFilter.GaussianBlur(side / 40))) / 255
    return (np.array(colour) * (1 - darker * soft[..., None])).astype(np.uint8)


def _compressed(picture: Image.Image) -> Image.Image:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=80)
    return Image.open(written).convert("RGB")


def _noisy(picture: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 2, (picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + noise).round().clip(0, 255).astype(np.uint8))


def _bedding(side: int) -> Array:
    grain = np.random.default_rng(0).normal(0, 1, (side // 4, side // 4)).astype(np.float32)
    grey = np.asarray(Image.fromarray(grain).resize((side, side), Image.Resampling.BICUBIC))
    return (np.array([200, 178, 146]) * (0.75 + 0.2 * grey[..., None])).clip(0, 255).astype(np.uint8)
