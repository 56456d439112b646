"""The account that a process runs under: a user's name, and folders where libraries may keep files.

In a container or a batch job the user may be a number without a name (`docker --user 12345`), and the home may be
missing or closed to writing. Libraries fail there when they are imported. They are told by the environment where to go
instead: numba, torch, huggingface, gsplat's build and matplotlib ask XDG_CACHE_HOME, matplotlib MPLCONFIGDIR, triton
TRITON_HOME, getpass LOGNAME. Imports no library.
"""

from __future__ import annotations

import contextlib
import getpass
import locale
import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.files import nearest_existing


def user_name() -> str:
    """The user's login name, or the user's number where the machine knows no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return str(os.getuid())


def settle() -> None:
    """Give this process, and those that it starts, what its account lacks; what is there stays as it is.

    Call it before libraries that keep files are imported. Raises OutputError where no folder for temporary files can
    be written to.
    """
    temporary_folder()
    if (name := user_name()) == str(os.getuid()):
        os.environ.setdefault("LOGNAME", name)
    if os.path.expanduser("~") == "~":  # neither HOME nor an entry in the machine's list of users
        os.environ["HOME"] = str(_own_folder())
    home = Path.home()
    if not _takes_files(Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")):
        os.environ["XDG_CACHE_HOME"] = str(_own_folder())
    if not home_takes_files():
        for variable in ("MPLCONFIGDIR", "TRITON_HOME"):
            os.environ.setdefault(variable, str(_own_folder()))


def speak_utf8() -> None:
    """Begin this command again in Python's UTF-8 mode, where the locale (`LC_ALL=C`) has another encoding.

    Names of files would not reach MLflow otherwise, nor a `✓` the terminal. Does not return then.
    """
    if sys.getfilesystemencoding() == "utf-8" and locale.getpreferredencoding(False).lower() in ("utf-8", "utf8"):
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def home_takes_files() -> bool:
    """Whether libraries may keep files in the user's home."""
    return _takes_files(Path.home())


def temporary_folder() -> Path:
    """Where temporary files go: TMPDIR, or what Python finds. Raises OutputError where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise OutputError(
            "TMPDIR: expected a folder for temporary files that can be written to, got none, and none of /tmp, "
            "/var/tmp and the working directory is one — set it to a folder with room."
        ) from None


def _takes_files(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the one in which it would be made."""
    nearest = nearest_existing(folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


@cache
def _own_folder() -> Path:
    """A folder among the temporary files, the same for all processes of a user.

    Caches hold code that is run. So a folder that another user has made under this name, or may write to, is not taken.
    """
    folder = temporary_folder() / f"mouselift-{os.getuid()}"
    with contextlib.suppress(FileExistsError):  # a file of this name, which is then not taken
        folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_own else Path(tempfile.mkdtemp(prefix="mouselift-"))
