"""Lossy grey silhouettes to alpha: the edge lies where the interpolated grey crosses the threshold.

Ringing of the codec around a silhouette stays below the threshold, so it leaves no halo.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import label

from pipeline.data.foreground import border_share
from pipeline.data.gate.scene_check import FULL_BORDER
from pipeline.data.recording.video import Video
from pipeline.errors import DataError

INVERT = "--invert-masks"
THRESHOLD = 127  # of 255: grey above it is the animal
LOOKED_AT = 8  # frames of a mask video, before any is converted
MOST_OF_PICTURE = 0.5  # no animal covers so much; its background does
SPECK = 2e-3  # of the largest part's area
SAMPLES = 4  # per pixel and axis

Array = np.ndarray


def coverage(grey: UInt8[Array, "height width"]) -> UInt8[Array, "height width"]:
    """Alpha of a grey mask: the share of each pixel's 4×4 samples whose bilinear grey is above the threshold.

    Specks of the codec, smaller than 0.2 % of the largest part, are no part of the animal. Beyond the border the
    outermost pixels go on. Without a pixel above the threshold alpha is 0 everywhere.
    """
    alpha = np.zeros_like(grey)
    grey = _without_specks(grey)
    rows, columns = _window(grey > THRESHOLD)
    if rows.stop == 0:
        return alpha
    y, x = (np.arange(span.start - 1, span.stop + 1) for span in (rows, columns))
    padded = grey.take(y, axis=0, mode="clip").take(x, axis=1, mode="clip")
    above = padded > THRESHOLD
    any_near, all_near = _spread(above, np.logical_or), _spread(above, np.logical_and)
    inside = np.where(all_near, np.uint8(255), np.uint8(0))
    y, x = np.nonzero(any_near & ~all_near)
    inside[y, x] = _sampled(padded, y, x)
    alpha[rows, columns] = inside
    return alpha


def check_masks(masks: Sequence[Video], inverted: bool) -> None:
    """Look at some frames of each camera's masks, as they are or `inverted`: is the animal what is white?

    Raises DataError naming the views whose white is the background, or that show nothing white in any frame.
    """
    wrong: dict[int, tuple[float, float]] = {}
    for view, mask in enumerate(masks):
        looked_at = list(mask.sample(LOOKED_AT)) or list(mask.read([0], "gray"))
        white = [(255 - grey if inverted else grey) > THRESHOLD for grey in looked_at]
        shares = [(border_share(picture), picture.mean()) for picture in white if picture.any()]
        if not shares:
            _check_somewhere(mask, view, inverted)
            continue
        border, picture = np.median(shares, axis=0).tolist()
        if border > FULL_BORDER or picture > MOST_OF_PICTURE:
            wrong[view] = border, picture
    if wrong:
        raise DataError(_wrong_way_round(masks, wrong, inverted))


def _wrong_way_round(masks: Sequence[Video], wrong: dict[int, tuple[float, float]], inverted: bool) -> str:
    view, (border, picture) = next(iter(wrong.items()))
    if len(wrong) < len(masks):
        remedy = "turn those videos over: ffmpeg -i IN.mp4 -vf negate OUT.mp4"
    else:
        remedy = f"leave {INVERT} out" if inverted else f"pass {INVERT} if the mouse is black on white"
    return (
        f"{masks[view].path}: expected the mouse white on black, got white on {picture:.0%} of the picture and "
        f"{border:.0%} of its border (views {', '.join(map(str, wrong))}) — {remedy}."
    )


def _check_somewhere(mask: Video, view: int, inverted: bool) -> None:
    """Some frame of all shows something. Raises DataError with the greys there are."""
    darkest, brightest = 255, 0
    for grey in mask.read(range(mask.num_frames), "gray"):
        darkest, brightest = min(darkest, int(grey.min())), max(brightest, int(grey.max()))
        if (255 - darkest if inverted else brightest) > THRESHOLD:
            return
    raise DataError(
        f"{mask.path}: expected a mouse above grey {THRESHOLD}{' when inverted' if inverted else ''}, got greys "
        f"{darkest} to {brightest} in all {mask.num_frames} frames of view {view} — write masks as 0 and 255."
    )


def _without_specks(grey: UInt8[Array, "height width"]) -> UInt8[Array, "height width"]:
    rows, columns = _window(grey > THRESHOLD)
    part = grey[rows, columns]
    labels, count = label(part > THRESHOLD, structure=np.ones((3, 3)))
    if count < 2:
        return grey
    sizes = np.bincount(labels.ravel())
    small = sizes < SPECK * sizes[1:].max()
    small[0] = False
    cleaned = grey.copy()
    cleaned[rows, columns] = np.where(small[labels], np.uint8(0), part)
    return cleaned


def _window(above: Bool[Array, "height width"]) -> tuple[slice, slice]:
    """Rows and columns of all pixels that may be covered: those above the threshold and their neighbours."""
    spans = []
    for axis in (1, 0):
        filled = np.flatnonzero(above.any(axis))
        limit = above.shape[1 - axis]
        spans.append(slice(max(filled[0] - 1, 0), min(filled[-1] + 2, limit)) if len(filled) else slice(0, 0))
    return spans[0], spans[1]


def _spread(above: Bool[Array, "height+2 width+2"], join: np.ufunc) -> Bool[Array, "height width"]:
    """`join` over the 3×3 neighbourhood of every inner pixel."""
    across = join(join(above[:, :-2], above[:, 1:-1]), above[:, 2:])
    joined: Array = join(join(across[:-2], across[1:-1]), across[2:])
    return joined


def _sampled(padded: UInt8[Array, "height+2 width+2"], y: Int[Array, " n"], x: Int[Array, " n"]) -> UInt8[Array, " n"]:
    """Alpha of the pixels (y, x) of the unpadded image from their 3×3 neighbours."""
    steps = np.arange(3)
    near = padded[y[:, None, None] + steps[:, None], x[:, None, None] + steps].astype(np.float32)
    weights = _weights()
    samples = weights @ near @ weights.T
    return np.rint(255 * (samples > THRESHOLD).mean((1, 2))).astype(np.uint8)


def _weights() -> Float[Array, "samples 3"]:
    """Linear weights of the pixels before, at and behind, for samples at (i + 0.5) / SAMPLES of a pixel."""
    offset = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES - 0.5
    before, behind = np.maximum(-offset, 0), np.maximum(offset, 0)
    return np.stack([before, 1 - before - behind, behind], 1)
