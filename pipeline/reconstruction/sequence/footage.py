"""Where a sequence comes from: a video, a folder of numbered frames, or a dataset whose scenes are a recording's."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from pipeline.data.hashes import hashes_of
from pipeline.data.incoming.names import named
from pipeline.data.incoming.picture import read_picture
from pipeline.data.photo.folders import pictures_in
from pipeline.data.recording.masks import coverage
from pipeline.data.recording.video import Picture, Video, open_video
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, Dataset, Scene, open_dataset
from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.reconstruction.sequence.wanted import Wanted

FOLDER_FPS = 25.0  # of a folder of frames, where nothing says it
_Frame = TypeVar("_Frame")
_NUMBER = re.compile(r"\d+(?=\D*$)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Footage:
    """The frames that are wanted of a source, in order.

    numbers: of the frames, as the source counts; times: seconds on its clock; fps: of the chosen frames, so that what
    is made of them lasts as long as they do. digest: of the source's content.
    """

    source: Path
    kind: Literal["video", "frames", "scenes"]
    numbers: tuple[int, ...]
    times: tuple[float, ...]
    fps: float
    digest: str
    read_from: Video | tuple[Path, ...] | tuple[Scene, ...]
    masks: Video | None = None

    def where(self, place: int) -> str:
        """What a message about one frame begins with; of a folder's frame, its file."""
        path = None if isinstance(self.read_from, Video) else self.read_from[place]
        return str(path) if isinstance(path, Path) else f"{self.source}: frame {self.numbers[place]}"

    def pictures(self, places: Sequence[int]) -> Iterator[Image.Image | DataError]:
        """The picture of each of these frames (ascending), or why there is none; of a video with masks, cut out.

        After a fault in a video no later frame of it is read: each gets the fault.
        """
        if isinstance(self.read_from, Video):
            numbers = [self.numbers[place] for place in places]
            pictures = _of_video(self.read_from, numbers)
            yield from pictures if self.masks is None else _cut_out(pictures, self.masks, numbers)
            return
        for place in places:
            path = self.read_from[place]
            assert isinstance(path, Path)
            try:
                yield read_picture(path)
            except DataError as error:
                yield error

    def scene(self, place: int) -> Scene:
        """One frame's scene; of datasets alone."""
        scene = self.read_from[place] if isinstance(self.read_from, tuple) else None
        assert isinstance(scene, Scene)
        return scene


def open_footage(source: Path, wanted: Wanted, masks: Path | None = None) -> Footage:
    """What is wanted of a source; no frame is decoded but a video's first.

    masks: a video of silhouettes, as long and as large as the source, which has to be a video too. Gaps between the
    numbers of frames in a folder, and what is left out, are said on the log. Raises DataError: for what is no sequence,
    numbers that fall together, and where nothing is wanted of it.
    """
    if source.is_file():
        if wanted.fps is not None:
            raise DataError(
                f"--fps {wanted.fps:g}: expected a folder of frames, got a video, which says it — leave it."
            )
        video = open_video(source)
        numbers = tuple(range(video.num_frames))
        times = tuple(map(float, video.times))
        chosen = wanted.chosen(numbers, times, str(source))
        silhouettes = None if masks is None else _fitting(open_video(masks), video)
        digest = "+".join(sha256_of(path) for path in (source, masks) if path is not None)
        lasting = _rate_that_lasts(source, video.fps / wanted.every, [times[place] for place in chosen])
        return _footage(source, "video", chosen, numbers, times, lasting, digest, video, silhouettes)
    if masks is not None:
        raise DataError(f"{masks}: expected masks as pictures beside {source}, got a video — name a folder of them.")
    frames, digest, fps = _folder_or_dataset(source)
    numbers = tuple(frames)
    _say_gaps(source, numbers)
    if wanted.fps is None and fps is None:
        _log.warning("%s: no clock, taken as %g frames a second; --fps says another", source, FOLDER_FPS)
    rate = wanted.fps or fps or FOLDER_FPS
    times = tuple(number / rate for number in numbers)
    chosen = wanted.chosen(numbers, times, str(source))
    files: tuple[Path, ...] | tuple[Scene, ...] = tuple(frames[numbers[place]] for place in chosen)  # type: ignore[assignment]
    kind: Literal["frames", "scenes"] = "scenes" if isinstance(files[0], Scene) else "frames"
    spacing = min((b - a for a, b in pairwise(numbers[place] for place in chosen)), default=1)
    return _footage(source, kind, chosen, numbers, times, rate / spacing, digest, files)


def digest_of(folder: Path, pictures: list[Path]) -> str:
    """Of the names and the content of a folder's pictures."""
    hashes = hashes_of(folder, pictures, remember=False)
    lines = "".join(f"{path.name} {found}\n" for path, found in zip(pictures, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _footage(
    source: Path,
    kind: Literal["video", "frames", "scenes"],
    chosen: tuple[int, ...],
    numbers: tuple[int, ...],
    times: tuple[float, ...],
    fps: float,
    digest: str,
    read_from: Video | tuple[Path, ...] | tuple[Scene, ...],
    masks: Video | None = None,
) -> Footage:
    picked = tuple(numbers[place] for place in chosen), tuple(times[place] for place in chosen)
    return Footage(source, kind, *picked, fps, digest, read_from, masks)


def _rate_that_lasts(source: Path, fps: float, times: Sequence[float]) -> float:
    """A video's frames a second, or the mean of the chosen ones where those come so unevenly that it is another."""
    spread = times[-1] - times[0]
    if not spread or abs((len(times) - 1) / fps - spread) < 1 / fps:
        return fps
    mean = (len(times) - 1) / spread
    _log.warning("%s: its frames come unevenly: what is made of them plays at their mean, %.4g a second", source, mean)
    return mean


def _fitting(masks: Video, video: Video) -> Video:
    came, expected = ((one.width, one.height, one.num_frames) for one in (masks, video))
    if came != expected:
        raise DataError(
            f"{masks.path}: expected {expected[0]}×{expected[1]} and {expected[2]} frames as in {video.path.name}, got "
            f"{came[0]}×{came[1]} and {came[2]} — name the masks of this video."
        )
    return masks


def _cut_out(
    pictures: Iterator[Image.Image | DataError], masks: Video, numbers: list[int]
) -> Iterator[Image.Image | DataError]:
    for picture, grey in zip(pictures, _until_damaged(masks.read(numbers, "gray"), len(numbers)), strict=True):
        if isinstance(picture, DataError):
            yield picture
        elif isinstance(grey, DataError):
            yield grey
        else:
            picture.putalpha(Image.fromarray(coverage(grey)).resize(picture.size))
            yield picture


def _of_video(video: Video, numbers: list[int]) -> Iterator[Image.Image | DataError]:
    for picture in _until_damaged(video.read(numbers, "rgba"), len(numbers)):
        if isinstance(picture, DataError):
            yield picture
            continue
        image = Image.fromarray(picture).convert("RGB")
        if video.pixel_aspect != 1:
            image = image.resize((round(image.width * video.pixel_aspect), image.height), Image.Resampling.LANCZOS)
        yield image


def _until_damaged(pictures: Iterator[Picture], count: int) -> Iterator[Picture | DataError]:
    """So many pictures of a video; from where it is damaged, what is wrong with it in place of each."""
    for done in range(count):
        try:
            picture = next(pictures)
        except DataError as error:
            yield from [error] * (count - done)
            return
        yield picture


def _folder_or_dataset(source: Path) -> tuple[dict[int, Path] | dict[int, Scene], str, float | None]:
    """Frames by number, ascending; the digest of their content; frames a second, where something says it."""
    if (source / MANIFEST_FILE).is_file() or any(source.glob(f"[!.]*/{CAMERAS_FILE}")):
        dataset = open_dataset(source, verify=False)
        return _of_dataset(dataset), dataset.digest, _rate_of(dataset)
    frames = _numbered(source, {path.name: path for path in pictures_in(source)})
    return frames, digest_of(source, list(frames.values())), None


def _of_dataset(dataset: Dataset) -> dict[int, Scene]:
    scenes = list(dataset.scenes.values())
    if all(scene.notes.frame is not None for scene in scenes):
        frames: dict[int, Scene] = {}
        for scene in sorted(scenes, key=lambda scene: scene.notes.frame or 0):
            number = scene.notes.frame or 0
            if number in frames:
                raise DataError(
                    f"{dataset.root}: expected one scene for each frame of a recording, got {frames[number].name} and "
                    f"{scene.name} of frame {number} — name a dataset of one recording."
                )
            frames[number] = scene
        return frames
    return _numbered(dataset.root, {Path(scene.name).name: scene for scene in scenes})


def _rate_of(dataset: Dataset) -> float | None:
    """Frames a second of the recording that `data convert` made the scenes of."""
    rates = [step["fps"] for step in dataset.manifest.transforms if isinstance(step.get("fps"), int | float)]
    return float(rates[-1]) if rates and rates[-1] > 0 else None


def _numbered(folder: Path, frames: dict[str, _Frame]) -> dict[int, _Frame]:
    """Frames by the last number in their names, ascending. Raises DataError where two have one, or none has any."""
    found: dict[int, str] = {}
    left_out = []
    for name in frames:
        number = _NUMBER.search(Path(name).stem)
        if number is None:
            left_out.append(name)
        elif int(number[0]) in found:
            raise DataError(
                f"{folder}: expected frames of different numbers, got {found[int(number[0])]} and {name} — rename one."
            )
        else:
            found[int(number[0])] = name
    if not found:
        raise DataError(
            f"{folder}: expected frames with a number in their names, such as 000123.png, got none — rename them, or "
            "take them as single photos, without --sequence."
        )
    if left_out:
        _log.warning("%s: left out, as without a number: %s", folder, named(left_out))
    return {number: frames[found[number]] for number in sorted(found)}


def _say_gaps(source: Path, numbers: tuple[int, ...]) -> None:
    usual = min((b - a for a, b in pairwise(numbers)), default=1)
    missing = [(a + usual, b - usual) for a, b in pairwise(numbers) if b - a >= 2 * usual]
    gaps = [str(first) if first == last else f"{first} to {last}" for first, last in missing]
    if gaps:
        _log.warning("%s: %d frames, every %d of the source, without %s", source, len(numbers), usual, named(gaps))
