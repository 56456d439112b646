"""Previews of a sweep made small enough to travel inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image, UnidentifiedImageError

from sweeps.book.record import Preview, SweepRecord, TrialRecord

MOST_BYTES, MOST_TRIALS = 450_000, 24
_WIDTH, _QUALITY = 448, 62  # px; of WebP


@dataclass(frozen=True)
class Thumbnails:
    """WebP pictures as data URIs, by trial and preview. left_out: previews that had no room; unread: damaged files."""

    pictures: dict[int, dict[Preview, str]] = field(default_factory=dict)
    left_out: int = 0
    unread: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.pictures.values()))


def thumbnails(record: SweepRecord, most_bytes: int = MOST_BYTES, most_trials: int = MOST_TRIALS) -> Thumbnails:
    """Previews of the best trials, until `most_bytes` are spent: the last of each trial first, then the earlier ones.

    A file that is gone or damaged is left out and counted.
    """
    pictures: dict[int, dict[Preview, str]] = {}
    spent = left_out = unread = 0
    for one, preview in _by_weight(record, most_trials):
        if spent >= most_bytes:
            left_out += 1
            continue
        try:
            uri = _data_uri(preview)
        except (OSError, UnidentifiedImageError, ValueError):
            unread += 1
            continue
        if spent + len(uri) > most_bytes:
            left_out += 1
            spent = most_bytes
            continue
        spent += len(uri)
        pictures.setdefault(one.trial.number, {})[preview] = uri
    beyond = sum(len(one.previews) for one in _with_previews(record)[most_trials:])
    ranked = [one.trial.number for one in record.ranked]
    return Thumbnails({n: pictures[n] for n in ranked if n in pictures}, left_out + beyond, unread)


def _with_previews(record: SweepRecord) -> list[TrialRecord]:
    return [one for one in record.ranked if one.previews]


def _by_weight(record: SweepRecord, most_trials: int) -> Iterator[tuple[TrialRecord, Preview]]:
    """First the last preview of every trial, best trial first; then each trial's others, the latest first."""
    shown = _with_previews(record)[:most_trials]
    steps = {one.trial.number: max(preview.step for preview in one.previews) for one in shown}
    for one in shown:
        yield from ((one, preview) for preview in one.previews if preview.step == steps[one.trial.number])
    for one in shown:
        earlier = [preview for preview in one.previews if preview.step != steps[one.trial.number]]
        yield from ((one, preview) for preview in sorted(earlier, key=lambda found: -found.step))


def _data_uri(preview: Preview) -> str:
    with Image.open(preview.path) as image:
        small = image.convert("RGB")
        small.thumbnail((_WIDTH, 4 * _WIDTH))
        file = io.BytesIO()
        small.save(file, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
