"""A sequence, frame after frame: framed, reconstructed, kept; killed and continued without a difference."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.cameras import Cameras
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.folders import pictures_in
from pipeline.data.unfinished import writing
from pipeline.errors import DataError, DivergedError
from pipeline.pruning import Pruning
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.reconstruction.sequence import temporal, track
from pipeline.reconstruction.sequence.folder import Record, SequenceFolder, is_begun
from pipeline.reconstruction.sequence.footage import Footage, digest_of, open_footage
from pipeline.reconstruction.sequence.looking import Looking, each_said_once, masks_of
from pipeline.reconstruction.sequence.moments import Similarity, Studio, Taken
from pipeline.reconstruction.sequence.summary import summary
from pipeline.reconstruction.sequence.track import Found
from pipeline.reconstruction.sequence.wanted import Wanted

VERSION = 1  # raise it when the same plan gives other files
_FAULTS = (DataError, DivergedError)  # of one frame alone: others may be sound
_SUMMARY_SECONDS = 2.0  # between two writings of sequence.json at least
_SUMMARY_SHARE = 0.05  # of the time, at most, to write it: it grows with the sequence, to seconds for 5,000 frames
_FIRST_VIDEO = (
    32  # frames after which the videos are made for the first time, and then whenever there are twice as many
)


@dataclass(frozen=True)
class Progress:
    """How many frames are done in this pass, how many of them failed, and what to say of the last one that did.

    stage: `framing` is the first pass over a video, where there are two.
    """

    stage: str
    done: int
    total: int
    failed: int = 0
    failure: str | None = None  # of the frame that was done last, in one line


def reconstruct_sequence(
    source: Path,
    out: Path,
    reconstructor: Reconstructor,
    wanted: Wanted,
    pruning: Pruning,
    cutting: Cutting,
    size: int | None = None,
    sh_degree: int | None = None,
    models: Mapping[str, Any] | None = None,
) -> Iterator[Progress]:
    """Gaussians for each frame of a video, a folder of frames or a dataset of a recording's scenes, to `out`.

    A call that was interrupted, however it ended, is continued by the same one, and the files are the same then. A
    frame that fails is skipped and told of. cutting: what tells the animal from its background in every frame. size:
    pixels along a side of a picture in the videos; at least 256, and as the model's, if None. models: what else is to
    be said of the models, in plain values.

    Raises DataError: for what is no sequence, for a folder of another plan, and where no frame came out.
    """
    masks, rest = masks_of(cutting, source)
    footage = open_footage(source, wanted, masks)
    if footage.kind != "scenes" and reconstructor.views is None:
        raise DataError(f"{source}: expected a model that makes views of a photo, got none — name --views.")
    asked = _Asked(wanted, pruning, size, sh_degree, {} if models is None else models)
    plan = _plan(footage, reconstructor, asked, cutting)
    looking = Looking(footage, None if reconstructor.views is None else reconstructor.views.framing, rest)
    with each_said_once():
        if footage.kind != "scenes" and not is_begun(out):
            looking.require_animal()
        yield from _written(looking, out, reconstructor, asked, plan)


@dataclass(frozen=True)
class _Asked:
    """What `reconstruct_sequence` was asked for, beside its inputs."""

    wanted: Wanted
    pruning: Pruning
    size: int | None
    sh_degree: int | None
    models: Mapping[str, Any]


def _written(
    looking: Looking, out: Path, reconstructor: Reconstructor, asked: _Asked, plan: dict[str, Any]
) -> Iterator[Progress]:
    total = len(looking.footage.numbers)
    with writing(out, plan, "a sequence"):
        folder = SequenceFolder(out)
        if not folder.is_finished:
            folder.begin()
            yield from _Work(looking, folder, reconstructor, asked, plan).run()
        folder.clear()
        yield Progress("frames", total, total, folder.failed)


def _plan(footage: Footage, reconstructor: Reconstructor, asked: _Asked, cutting: Cutting) -> dict[str, Any]:
    """What decides the files, in plain values."""
    views = reconstructor.views
    own: dict[str, Any] = {"given": "photo"} if reconstructor.given == "photo" else {}  # plans from before have neither
    own |= {"refine_steps": reconstructor.refine_steps} if reconstructor.refine_steps else {}
    return own | {
        "kind": "sequence",
        "version": VERSION,
        "source": footage.digest,
        "frames": len(footage.numbers),
        **asdict(asked.wanted),
        "gaussians": reconstructor.gaussians.sha256,
        "views": None if views is None else views.sha256,
        "sampling": reconstructor.sampling,
        "framing": None if views is None or views.framing is None else asdict(views.framing),
        "pruning": asked.pruning.as_plain(),
        "masks": _digest_of_masks(cutting.mask),
        "segment": cutting.segment,
        "size": asked.size,
        "sh_degree": asked.sh_degree,
    }


def _digest_of_masks(mask: Path | None) -> str | None:
    """Of a folder's masks, as others under the same names give other frames; a video's is part of its footage's."""
    return None if mask is None or not mask.is_dir() else digest_of(mask, pictures_in(mask))


class _Work:
    """What is left to do of one sequence."""

    def __init__(
        self,
        looking: Looking,
        folder: SequenceFolder,
        reconstructor: Reconstructor,
        asked: _Asked,
        plan: dict[str, Any],
    ) -> None:
        self.looking, self.footage, self.folder = looking, looking.footage, folder
        self.reconstructor, self.asked, self.wanted, self.plan = reconstructor, asked, asked.wanted, plan
        self.records = folder.records()
        self.due = self.shown = 0.0
        self.found: list[Found | None] | None = None

    def run(self) -> Iterator[Progress]:
        """Every frame that has no record yet, and then what is made of all."""
        crops: list[track.Crop | None] = [None] * len(self.footage.numbers)
        if self.footage.kind != "scenes" and (self.wanted.smooth or self.wanted.world == "fixed"):
            yield from self._first_pass()
            crops = self._crops()
        asked = self.asked
        studio = Studio(self.reconstructor, self._around(), len(crops), asked.pruning, asked.size, self._world())
        places = [place for place, number in enumerate(self.footage.numbers) if number not in self.records]
        yield self._progress(None)
        for place, taken in self._taken(studio, places, crops):
            if isinstance(taken, DataError):
                record = Record(self.footage.numbers[place], self.footage.times[place], failure=str(taken))
                self.folder.keep_failure(record)
            else:
                record, gaussians, pictures = taken
                self.folder.keep(record, gaussians, pictures, asked.sh_degree)
            self.records[record.number] = record
            self._tell_now_and_then()
            yield self._progress(record.failure)
        self._finish()

    def _first_pass(self) -> Iterator[Progress]:
        """Where the animal is in every frame; a frame without one is told of in the second pass."""
        self.found, total = [], len(self.footage.numbers)
        for found in self.looking.found():
            self.found.append(found)
            yield Progress("framing", len(self.found), total)

    def _crops(self) -> list[track.Crop | None]:
        assert self.found is not None
        if self.wanted.world == "object":
            return track.smoothed(self.found, self.footage.times, self.wanted.smooth)
        framing = self.looking.framing
        return [track.one_framing(self.found, None if framing is None else framing.mean)] * len(self.found)

    def _around(self) -> Cameras:
        """The cameras that the turntable's distance and elevation are taken from."""
        if self.footage.kind != "scenes":
            assert self.reconstructor.views is not None
            return self.reconstructor.views.generator.rig.cameras
        first, world = self.footage.scene(0), self._world()
        if world is None:
            return first.cameras
        step = Similarity.of(first).onto(world)
        return first.cameras.transform(step.scale, centre=step.centre)

    def _world(self) -> Similarity | None:
        """Of scenes: the one that all are brought to; None where each stays in its own."""
        if self.footage.kind != "scenes" or self.wanted.world == "object":
            return None
        return Similarity.mean([Similarity.of(self.footage.scene(i)) for i in range(len(self.footage.numbers))])

    def _taken(
        self, studio: Studio, places: list[int], crops: list[track.Crop | None]
    ) -> Iterator[tuple[int, Taken | DataError]]:
        """Each place with what is to be kept of its frame, or why there is nothing."""
        numbers, times = self.footage.numbers, self.footage.times
        if self.footage.kind == "scenes":
            for place in places:
                try:
                    yield place, studio.scene(self.footage.scene(place), numbers[place], place, times[place])
                except _FAULTS as error:
                    yield place, DataError(str(error))
            return
        for place, photo in self.looking.photos(places, crops):
            if isinstance(photo, DataError):
                yield place, photo
                continue
            try:
                noise = numbers[place] if self.wanted.fresh_noise else 0
                yield place, studio.photo(photo, numbers[place], place, times[place], noise)
            except _FAULTS as error:
                yield place, DataError(str(error))

    def _done(self) -> list[Record]:
        return [self.records[number] for number in self.footage.numbers if number in self.records]

    def _progress(self, failure: str | None) -> Progress:
        failed = sum(record.failure is not None for record in self.records.values())
        return Progress("frames", len(self.records), len(self.footage.numbers), failed, failure)

    def _tell_now_and_then(self) -> None:
        """Keep the summary and the videos of what is done so far near to what is done, at little cost."""
        began = clock.monotonic()
        if began > self.due:
            self._summarise(None)
            now = clock.monotonic()
            self.due = now + max(_SUMMARY_SECONDS, (now - began) / _SUMMARY_SHARE)
        if len(self.records) >= max(_FIRST_VIDEO, 2 * self.shown):
            self.folder.write_videos(self._done(), self.footage.fps)
            self.shown = len(self.records)

    def _finish(self) -> None:
        records = self._done()
        if all(record.failure is not None for record in records):
            raise DataError(
                f"{self.footage.source}: expected Gaussians of some frame, got none of {len(records)}; the first: "
                f"{records[0].failure}"
            )
        self.folder.write_videos(records, self.footage.fps)
        self._summarise(temporal.flicker(self.folder.moments(records), [record.time for record in records]))

    def _summarise(self, flicker: temporal.Flicker | None) -> None:
        found = None if self.found is None else [None if one is None else one.crop for one in self.found]
        around = self._around()[0]
        said = summary(self.footage, self.plan, self._done(), around, found, flicker)
        self.folder.write_summary({"models": dict(self.asked.models)} | said)
