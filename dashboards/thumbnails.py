"""Previews of a sweep made small enough to travel inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from PIL import Image

from sweeps.book.record import Preview, SweepRecord, TrialRecord

MOST_BYTES, MOST_TRIALS = 900_000, 24
_WIDTH, _QUALITY = 640, 62  # px, at which labels can be read; of WebP


class Thumbnail(NamedTuple):
    """A preview of a trial as a data URI."""

    trial: int
    preview: Preview
    uri: str


@dataclass(frozen=True)
class Thumbnails:
    """Pictures, the one most worth its room first. left_out: previews without room; unread: files that are damaged."""

    pictures: tuple[Thumbnail, ...] = ()
    left_out: int = 0
    unread: int = 0

    @property
    def trials(self) -> list[int]:
        """Numbers of the trials that have pictures here, best first."""
        return list(dict.fromkeys(one.trial for one in self.pictures))

    def within(self, most_bytes: int) -> Thumbnails:
        """As many of the first as fit."""
        ends = accumulate(len(one.uri) for one in self.pictures)
        kept = sum(end <= most_bytes for end in ends)
        return replace(self, pictures=self.pictures[:kept], left_out=self.left_out + len(self.pictures) - kept)


def thumbnails(record: SweepRecord, most_bytes: int = MOST_BYTES, most_trials: int = MOST_TRIALS) -> Thumbnails:
    """Previews of the best trials, until `most_bytes` are spent: the last of each trial first, then the earlier ones.

    A file that is gone or damaged is left out and counted.
    """
    shown, spent, unread = list[Thumbnail](), 0, 0
    for one, preview in _by_weight(record, most_trials):
        if spent > most_bytes:
            break
        try:
            shown.append(Thumbnail(one.trial.number, preview, _data_uri(preview)))
        except (OSError, ValueError):  # Pillow's own error of a file that is no picture is an OSError
            unread += 1
        else:
            spent += len(shown[-1].uri)
    total = sum(len(one.previews) for one in record.trials)
    return Thumbnails(tuple(shown), total - len(shown) - unread, unread).within(most_bytes)


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
