"""The checkpoints of a sweep's trials, on a disk that every machine of the sweep sees, or in S3.

<root>/<sweep>/t0003/step-000150/    a checkpoint folder as pipeline.checkpoint writes it
A checkpoint counts once its index is there. The index holds every hash and comes last, by a rename or as the last file
sent. Older checkpoints are removed only when a newer one has been verified.

S3 is reached by pyarrow: keys and region are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION or from
`~/.aws`, the address of a server that is not Amazon's from AWS_ENDPOINT_URL, or all from the address itself:
`s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=us-east-1`. A call that gets no answer is repeated.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
from pyarrow import fs

from pipeline import checkpoint, previews
from pipeline.config import one_line
from pipeline.errors import CheckpointError
from pipeline.files import free_bytes, link_or_copy, whole_folder
from sweeps.book.delivery import pause_after
from sweeps.errors import OutageError, StudyError
from sweeps.space.objective import Aims

_STEP = re.compile(r"step-(\d{6,})")
_DAMAGED = ".damaged-"
_WORK = ".work-"
_PROBE = ".probe-"
_GB = 1e9
PATIENCE_SECONDS = 180.0  # with an S3 that does not answer
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 15.0
_OUTAGES = (
    "NETWORK_CONNECTION",
    "UNAVAILABLE",
    "SLOW_DOWN",
    "THROTTLING",
    "REQUEST_TIMEOUT",
    "INTERNAL_FAILURE",
    "curlCode",
)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """A checkpoint in its place: its optimizer step and the metrics of that step."""

    step: int
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints of one trial. root: a folder, or `s3://bucket/prefix` (credentials as for other S3 clients).

    Raises StudyError for an address that is wrong, and OutageError when S3 has not answered for PATIENCE_SECONDS.
    """

    def __init__(self, root: str, sweep: str, trial: int) -> None:
        self.root = root
        self._fs, base = _patiently(_open, root)
        self.folder = f"{base}/{sweep}/t{trial:04d}"

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, fs.LocalFileSystem)

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder to train in, on the disk of the checkpoints where that can be, so that `keep` need not copy."""
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
                yield Path(temporary)
            return
        self.sweep_up()
        folder = Path(self.folder) / f"{_WORK}{socket.gethostname()}-{os.getpid()}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path) -> None:
        """Move a checkpoint folder here."""
        target = f"{self.folder}/{folder.name}"
        if self.is_local:
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
            return
        self._delete(target)
        index = folder / checkpoint.INDEX
        later = index.rename(folder.with_name(f"{folder.name}.json"))
        try:
            _patiently(fs.copy_files, str(folder), target, fs.LocalFileSystem(), self._fs)
            _patiently(fs.copy_files, str(later), f"{target}/{checkpoint.INDEX}", fs.LocalFileSystem(), self._fs)
        except OutageError:
            later.rename(index)
            raise
        shutil.rmtree(folder)
        later.unlink()

    def all(self) -> list[Kept]:
        """The checkpoints in their place, by step."""
        found = []
        for info in self._listed(fs.FileSelector(self.folder, allow_not_found=True)):
            match = _STEP.fullmatch(info.base_name)
            if match and info.type == fs.FileType.Directory and (metrics := self._metrics(info.base_name)) is not None:
                found.append(Kept(int(match[1]), metrics))
        return sorted(found, key=lambda kept: kept.step)

    @contextlib.contextmanager
    def fetched(self, step: int) -> Iterator[Path]:
        """A checkpoint as a local folder. Raises CheckpointError when it is damaged."""
        source = f"{self.folder}/{_name(step)}"
        if self.is_local:
            checkpoint.inspect(source)
            yield Path(source)
            return
        with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
            folder = Path(temporary) / _name(step)
            folder.mkdir()
            _patiently(fs.copy_files, source, str(folder), self._fs, fs.LocalFileSystem())
            checkpoint.inspect(folder)
            yield folder

    @contextlib.contextmanager
    def newest(self, at_most: int) -> Iterator[tuple[Path | None, list[str]]]:
        """The newest sound checkpoint up to step `at_most`, and the errors of damaged ones, which are set aside.

        Those after that step, whose reports were never heard, are removed: they will be made again, and until then
        `thin` would keep them in place of what is written meanwhile.
        """
        damaged: list[str] = []
        for kept in reversed(self.all()):
            if kept.step > at_most:
                self.remove(kept.step)
                continue
            with contextlib.ExitStack() as stack:
                try:
                    folder = stack.enter_context(self.fetched(kept.step))
                except CheckpointError as error:
                    damaged.append(str(error))
                    self._set_aside(kept.step)
                    continue
                yield folder, damaged
                return
        yield None, damaged

    def best(self, aims: Aims) -> list[Kept]:
        """The checkpoints that have the first objective's metric, the best first; those within constraints before."""
        judged = [kept for kept in self.all() if math.isfinite(kept.metrics.get(aims.first.metric, math.nan))]
        return sorted(judged, key=lambda kept: (*aims.place(kept.metrics), -kept.step))

    def thin(self, aims: Aims, best: int, last: int) -> list[int]:
        """Remove all but the best and the last few, if the newest is sound. Returns the steps removed."""
        surplus = self.surplus(aims, best, last)
        if not surplus:
            return []
        try:
            with self.fetched(self.all()[-1].step):
                pass
        except CheckpointError:
            return []
        for step in surplus:
            self.remove(step)
        return surplus

    def surplus(self, aims: Aims, best: int, last: int) -> list[int]:
        """The steps that `thin` would remove."""
        kept = {item.step for item in self.best(aims)[:best]} | {item.step for item in self.all()[-last:]}
        return [item.step for item in self.all() if item.step not in kept]

    def release(self, aims: Aims, target: Path) -> Path | None:
        """Put the best sound checkpoint, without its optimizer state, into `target`: by links, where that can be."""
        for kept in self.best(aims) or list(reversed(self.all())):
            with contextlib.suppress(CheckpointError):
                with whole_folder(target) as folder:
                    self._fetch_stripped(kept.step, folder)
                    checkpoint.inspect(folder)
                return target
        return None

    def previews(self, target: Path) -> Path | None:
        """Put the Gaussians that the kept checkpoints made of one scene into `target`, a folder each, by links, where
        that can be; None where no checkpoint has some. They are not compared with their hashes.
        """
        folders = [f"{self.folder}/{_name(kept.step)}" for kept in self.all()]
        found = [info for folder in folders for info in self._listed(fs.FileSelector(folder, allow_not_found=True))]
        found = [info for info in found if info.base_name in previews.FILES]
        if not any(info.base_name == checkpoint.PREVIEW for info in found):
            return None
        with whole_folder(target) as whole:
            for info in found:
                self._fetch(info.path, whole / Path(info.path).parent.name / info.base_name)
        return target

    def _fetch(self, source: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.is_local:
            link_or_copy(source, target)
        else:
            _patiently(fs.copy_files, source, str(target), self._fs, fs.LocalFileSystem())

    def _fetch_stripped(self, step: int, folder: Path) -> None:
        source = f"{self.folder}/{_name(step)}"
        for info in self._listed(fs.FileSelector(source, recursive=True)):
            relative = Path(info.path).relative_to(source)
            if info.type != fs.FileType.File or str(relative) == checkpoint.TRAINING:
                continue
            self._fetch(info.path, folder / relative)

    def lacks_room(self, floor_gb: float) -> str:
        """Why no checkpoint should be written now: less than the floor would stay free. Empty where there is room."""
        if not self.is_local:
            return ""
        free = free_bytes(Path(self.folder))
        wanted = floor_gb * _GB + max((self.size(kept.step) for kept in self.all()[-1:]), default=0)
        if free >= wanted:
            return ""
        return f"{free / _GB:.3g} GB free at {self.root}, wanted {wanted / _GB:.3g} (floor {floor_gb:g} GB)"

    def size(self, step: int) -> int:
        """The size of a checkpoint in bytes."""
        selector = fs.FileSelector(f"{self.folder}/{_name(step)}", recursive=True, allow_not_found=True)
        return sum(info.size or 0 for info in self._listed(selector))

    def sweep_up(self) -> None:
        """Remove the unfinished folders of workers of this machine that have ended."""
        for folder in Path(self.folder).glob(f"{_WORK}*"):
            host, _, pid = folder.name.removeprefix(_WORK).rpartition("-")
            if host == socket.gethostname() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, step: int) -> None:
        """Remove the checkpoint of one step."""
        self._delete(f"{self.folder}/{_name(step)}")

    def _metrics(self, name: str) -> dict[str, float] | None:
        """The metrics in a checkpoint's index; None without an index, empty where it cannot be read."""
        try:
            return dict(json.loads(_patiently(self._read, f"{self.folder}/{name}/{checkpoint.INDEX}"))["metrics"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return {}

    def _read(self, path: str) -> bytes:
        with self._fs.open_input_file(path) as file:
            return bytes(file.read())

    def _listed(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return list(_patiently(self._fs.get_file_info, selector))

    def _delete(self, folder: str) -> None:
        """Remove the index first, so that a folder that is half removed does not count."""
        with contextlib.suppress(FileNotFoundError):
            _patiently(self._fs.delete_file, f"{folder}/{checkpoint.INDEX}")
        with contextlib.suppress(FileNotFoundError):
            _patiently(self._fs.delete_dir, folder)

    def _set_aside(self, step: int) -> None:
        if not self.is_local:
            self._delete(f"{self.folder}/{_name(step)}")
            return
        aside = Path(self.folder) / f"{_DAMAGED}{_name(step)}"
        shutil.rmtree(aside, ignore_errors=True)
        (Path(self.folder) / _name(step)).replace(aside)


def try_out(address: str) -> None:
    """Write a small object to a store and remove it again. The prefix stays.

    Raises StudyError: at once for a bucket that does not exist or refuses us, after 2 min for a silent server.
    """
    try:
        store, base = _open(address)
        name = f"{base}/{_PROBE}{socket.gethostname()}-{os.getpid()}"
        with store.open_output_stream(name) as stream:
            stream.write(b"mouselift")
        store.delete_file(name)
    except OSError as error:
        whole = one_line(error)
        said = (whole.partition("AWS Error ")[2] or whole).partition(" (Request")[0].partition("; Details")[0]
        raise StudyError(
            f"MOUSELIFT_CHECKPOINTS: expected a store that takes writes at {address}, got {said[:200]} — start it, or "
            "correct its bucket or keys."
        ) from None


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _patiently(call: Callable[P, T], *words: P.args, **options: P.kwargs) -> T:
    """Make a call, and again with growing pauses while S3 does not answer. Raises OutageError."""
    began, failures = time.monotonic(), 0
    while True:
        try:
            return call(*words, **options)
        except OSError as error:
            if not _is_outage(error):
                raise
            waited = time.monotonic() - began
            if waited >= PATIENCE_SECONDS:
                raise OutageError(
                    f"MOUSELIFT_CHECKPOINTS: expected a store that answers, got {one_line(error)[:200]} for "
                    f"{waited:.0f} s — bring it back; `mouselift sweep resume` then goes on."
                ) from None
        failures += 1
        time.sleep(pause_after(failures, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS))


def _is_outage(error: Exception) -> bool:
    """Whether the same call may pass later. A bucket that does not exist, or refuses us, is no outage."""
    return isinstance(error, OSError) and any(word in str(error) for word in _OUTAGES)


def _open(root: str) -> tuple[fs.FileSystem, str]:
    if "://" not in root:
        return fs.LocalFileSystem(), str(Path(root).resolve())
    try:
        return fs.FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        if _is_outage(error):
            raise
        came = str(error).partition("\n")[0]
        raise StudyError(
            f"MOUSELIFT_CHECKPOINTS: expected a folder or s3://bucket/prefix, got {root} ({came}) — set one of them."
        ) from None
