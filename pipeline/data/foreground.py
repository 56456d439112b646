"""Alpha of a scene's views: their own, or a soft mask by the distance of each pixel from a white background.

A fixed threshold takes pale fur for background, or a background that is not quite white for fur. So the border of the
picture tells how far from white its background is, and an edge lies where a pixel is half as far from white as the
animal beside it: at the same place for a black mouse and a pale one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import binary_erosion, binary_fill_holes, label, maximum_filter, uniform_filter

from pipeline.data.scenes import Scene
from pipeline.errors import DataError

WHITE = 250  # of 255: a clean background has every channel at least so bright (FaceLift's mouse loader)
MIN_WHITE_BORDER = 0.98  # of the border's pixels
TYPICAL = 0.9  # of a side's pixels, which are no farther from white than what stands for the background there
MARGIN = 3.0  # times as far from white is animal
MOST = 50  # of 255: what is farther from white is animal, whatever the border says
SPECK = 1e-3  # of the picture: smaller pieces are noise
EDGE = 1 / 256  # of the picture's side: pixels to either side of an edge that it may mix, at least one

RULE = (
    f"the animal is what is more than {255 - WHITE} of 255 from white, and {MARGIN:g} times as far as the border is, "
    "holes filled; alpha at its edge is the distance from white as a share of the animal's beside it"
)


def read_masks(scene: Scene) -> UInt8[np.ndarray, "view height width"]:
    """Alpha of every view at its own size, in bytes; of RGB images by `RULE`. Raises DataError."""
    return np.stack([alpha_of(scene.image(view), str(path)) for view, path in enumerate(scene.paths)])


def alpha_of(image: Image.Image, where: str) -> UInt8[np.ndarray, "height width"]:
    """An image's alpha channel, or its mask by the rule for white backgrounds. Raises DataError off white."""
    if image.mode == "RGBA":
        return np.asarray(image.getchannel("A"))
    return mask_from_background(np.asarray(image), where)


def rgba_of(image: Image.Image, where: str) -> UInt8[np.ndarray, "height width 4"]:
    """An image with its own alpha, or cut out of its white background. Raises DataError off white."""
    if image.mode == "RGBA":
        return np.array(image)
    colours = np.asarray(image)
    return uncovered(colours, mask_from_background(colours, where))


def mask_from_background(image: UInt8[np.ndarray, "height width 3"], where: str) -> UInt8[np.ndarray, "height width"]:
    """`soft_mask` of an RGB image, which must be on white: at least `MIN_WHITE_BORDER` of its border is `WHITE` or
    brighter. Raises DataError.
    """
    share = border_share(np.asarray((image >= WHITE).all(-1)))
    if share < MIN_WHITE_BORDER:
        raise DataError(
            f"{where}: expected alpha, or a white background to find the object on (at least {MIN_WHITE_BORDER:.0%} "
            f"of the border with every channel >= {WHITE}), got RGB with {share:.0%} of its border white — add masks "
            "as alpha."
        )
    return soft_mask(image)


def cut_out(pictures: UInt8[np.ndarray, "picture height width 3"]) -> UInt8[np.ndarray, "picture height width 4"]:
    """Pictures on white with the alpha of `soft_mask`; on white they are what they were, within 1 of 255."""
    return np.stack([uncovered(picture, soft_mask(picture)) for picture in pictures])


def all_shown(pictures: UInt8[np.ndarray, "picture height width 4"]) -> bool:
    """Whether each of them shows something."""
    return bool((pictures[..., 3] > 127).any((1, 2)).all())


def soft_mask(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """Alpha of what a picture on white shows (`RULE`), and nowhere less than its colours need to be seen on white.

    Fur as white as the background is found where other fur surrounds it, and lost where it is the outline.
    """
    away = 255.0 - picture.min(-1).astype(np.float32)
    least = _least(away)
    shown = binary_fill_holes(_without_specks(away > least))
    width = 2 * max(1, round(EDGE * max(away.shape))) + 1
    inner = binary_erosion(shown, np.ones((width, width)), border_value=1)
    alpha = away / np.maximum(_of_animal(away, shown, inner, width), 2 * least)
    alpha = np.where(maximum_filter(shown, width), np.minimum(alpha, 1), 0)
    alpha[inner | (binary_fill_holes(alpha > 0.5) & (alpha <= 0.5))] = 1
    return np.maximum(np.rint(255 * alpha), np.where(away > 1, away, 0)).astype(np.uint8)


def uncovered(
    colours: UInt8[np.ndarray, "height width 3"], alpha: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 4"]:
    """A picture on white as straight alpha and the colours that show it there; black where alpha is 0."""
    opacity = alpha[..., None].astype(np.float32) / 255
    own = (colours - 255 * (1 - opacity)) / np.maximum(opacity, 1 / 255)
    return np.dstack([np.where(opacity > 0, np.rint(own).clip(0, 255), 0).astype(np.uint8), alpha])


def border_share(where: Bool[np.ndarray, "height width"]) -> float:
    """Of the pixels along an image's border, how many are true."""
    return float(np.concatenate([where[0], where[-1], where[1:-1, 0], where[1:-1, -1]]).mean())


def _least(away: Float[np.ndarray, "height width"]) -> float:
    """How far from white the background is nowhere. An animal that is cut off by two sides changes it little."""
    sides = (away[0], away[-1], away[:, 0], away[:, -1])
    common = float(np.median([np.quantile(side, TYPICAL) for side in sides]))
    return min(max(MARGIN * common, 255.0 - WHITE), MOST)


def _without_specks(shown: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    pieces, count = label(shown, np.ones((3, 3)))
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= SPECK * shown.size
    large[0] = False
    return np.asarray(large[pieces])


def _of_animal(
    away: Float[np.ndarray, "height width"],
    shown: Bool[np.ndarray, "height width"],
    inner: Bool[np.ndarray, "height width"],
    width: int,
) -> Float[np.ndarray, "height width"]:
    """How far from white the animal is around each pixel: the mean of what no edge mixes with the background, or of a
    thin part, which has no such pixels, the most.
    """
    share = uniform_filter(inner.astype(np.float32), width)
    mean = uniform_filter(np.where(inner, away, 0), width) / np.maximum(share, 1e-6)
    return np.where(share * width**2 > 0.5, mean, maximum_filter(np.where(shown, away, 0), width))
