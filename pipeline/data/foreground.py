"""Alpha of a scene's views: its own, or found from a white background by a rule that is stated and checked."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import label

from pipeline.data.scenes import Scene
from pipeline.errors import DataError

WHITE = 250  # of 255: background has every channel at least so bright (FaceLift's mouse loader)
MIN_WHITE_BORDER = 0.98  # of the border's pixels

RULE = (
    f"background is what is connected to the border through pixels with every channel >= {WHITE}, "
    f"where at least {MIN_WHITE_BORDER:.0%} of the border is so"
)


def read_masks(scene: Scene) -> UInt8[np.ndarray, "view height width"]:
    """Alpha of every view at its own size, in bytes; of RGB images by `mask_from_background`. Raises DataError."""
    return np.stack([alpha_of(scene.image(view), str(path)) for view, path in enumerate(scene.paths)])


def alpha_of(image: Image.Image, where: str) -> UInt8[np.ndarray, "height width"]:
    """An image's alpha channel, or its mask by the rule for white backgrounds."""
    if image.mode == "RGBA":
        return np.asarray(image.getchannel("A"))
    return mask_from_background(np.asarray(image), where)


def mask_from_background(image: UInt8[np.ndarray, "height width 3"], where: str) -> UInt8[np.ndarray, "height width"]:
    """255 where an RGB image on white shows the object (`RULE`), holes filled. Raises DataError off white."""
    white = np.asarray((image >= WHITE).all(-1))
    share = border_share(white)
    if share < MIN_WHITE_BORDER:
        raise DataError(
            f"{where}: expected alpha, or a white background to find the object on ({RULE}), got RGB with "
            f"{share:.0%} of its border white — add masks as alpha."
        )
    labels, _ = label(white)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.where(np.isin(labels, outside[outside > 0]), 0, 255).astype(np.uint8)


def border_share(where: Bool[np.ndarray, "height width"]) -> float:
    """Of the pixels along an image's border, how many are true."""
    return float(np.concatenate([where[0], where[-1], where[1:-1, 0], where[1:-1, -1]]).mean())
