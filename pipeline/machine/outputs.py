"""Whether something can be written where it was asked for: known before the work that makes it. Imports no torch."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.files import nearest_existing

_PROBE = b"0" * 4096
# What a file system answers that does not take, or does not give, what it was asked for.
REFUSALS = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
)


def require_folder(folder: Path, where: str = "") -> None:
    """Raises OutputError unless files can be made in a folder, or in the one in which it would be made.

    where: what names the folder, such as a variable; the folder itself, if empty. Nothing of the trial is left behind,
    and a folder that is missing stays so.
    """
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise _no_folder(folder, where, "a file" if nearest == folder else f"the file {nearest} in the way")
    if os.path.islink(folder) and not os.path.exists(folder):
        raise _no_folder(folder, where, "a link to nothing")
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:  # without a name where the system can
            file.write(_PROBE)
    except OSError as error:
        raise _no_folder(folder, where, os.strerror(error.errno or errno.EIO)) from None


def require_locks(folder: Path, where: str = "") -> None:
    """Raises OutputError where the file system of a folder knows no locks, as NFS without its lock service.

    Without them two processes would write one journal, or one dataset.
    """
    with tempfile.TemporaryFile(dir=nearest_existing(folder)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"{where or folder}: expected a file system that knows locks, got {error.strerror} for {folder} — "
                "mount it with locks, or name a folder on another disk."
            ) from None


def require_file(path: Path) -> None:
    """Raises OutputError unless a file can be made, or replaced, in a folder that is made where it is missing."""
    if path.is_dir():
        raise OutputError(f"{path}: expected a file to write, got a folder — name a file in it.")
    require_folder(path.parent)


def told(error: OSError) -> str:
    """A file system's refusal as one line: where, and what is to be done."""
    return (
        f"{os.fsdecode(error.filename)}: expected a path that this user may use, got {error.strerror} — "
        "see to its rights, or name another."
    )


def _no_folder(folder: Path, where: str, came: str) -> OutputError:
    came = f"{came} for {folder}" if where else came
    return OutputError(
        f"{where or folder}: expected a folder that can be written to, got {came} — make it writable, or name another "
        "folder."
    )
