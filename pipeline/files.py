"""Files and folders that appear whole or not at all, and their hashes. Imports no torch.

Another process may read at any time, so everything is written under a temporary name beside its target and then
renamed. The name is `.<name>.<process>.<thread>`: hidden, the writer's own, and known to those who clean up after a
process that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write a file to: renamed to `path` when the block ends, removed when it raises.

    The file that stood at `path` is replaced in one step, and stays as it was when the block raises. Those may read it
    who may read any new file there. The folder must be there.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        _share([temporary], path.parent)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write text (as UTF-8) or bytes by way of `whole`; returns `path`."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder to fill: renamed to `path` when the block ends, removed when it raises.

    A folder that stood at `path` is moved aside before and removed after, and stays when the block raises: `path` is
    never half of one. Those may read its files who may read any new file there. Missing parents are made.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _share(temporary.rglob("*"), temporary)
        _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    """Put a folder in the place of another, which is then removed."""
    aside = _temporary(path.with_name(f"{path.name}.old"))
    while True:
        shutil.rmtree(aside, ignore_errors=True)
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
        try:
            new.replace(path)
            break
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer has put its folder there meanwhile
                continue
            if aside.exists():
                aside.rename(path)
            raise
    shutil.rmtree(aside, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the file system cannot do that. Of a symbolic link: its file."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # a copy that is not possible either raises why
        shutil.copy2(source, target)


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists, as far as this user may know."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def free_bytes(folder: Path) -> int:
    """Free space where the folder is, or would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free


def _share(paths: Iterable[Path], folder: Path) -> None:
    """Give files the rights that a new file in `folder` has; safetensors, and all that calls mkstemp, writes for the
    owner alone. The folder's own rule counts as well as the umask, so that a new file is asked.
    """
    closed = [path for path in paths if path.is_file() and not path.is_symlink() and _is_closed(path.stat())]
    if not closed:
        return
    probe = _temporary(folder / "rights")
    probe.touch()
    rights = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in closed:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | rights)


def _is_closed(found: os.stat_result) -> bool:
    """Whether a file of this user is for its owner alone; not one with a second name, which is somebody's original."""
    closed = not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return closed and found.st_uid == os.geteuid() and found.st_nlink == 1


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name.removeprefix('.')}.{os.getpid()}.{threading.get_ident()}")
