"""Content hashes of a dataset's files, computed once: a file of the same size and time is not read again."""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.files import sha256_of, write_whole
from pipeline.machine.cpus import usable_cpus

FILE = ".hashes.json"


def hashes_of(root: Path, paths: list[Path], remember: bool) -> list[str]:
    """The sha256 of each path; those already known by size and time of change come from `root/.hashes.json`.

    remember: renew that file, where the folder can be written.
    """
    before = _read(root / FILE)
    stamps = [_stamp(path) for path in paths]
    names = [os.path.relpath(path, root) for path in paths]
    fresh = [path for path, name, stamp in zip(paths, names, stamps, strict=True) if before.get(name, [""])[0] != stamp]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        computed = dict(zip(map(str, fresh), pool.map(sha256_of, fresh), strict=True))
    hashes = [computed.get(str(path)) or before[name][1] for path, name in zip(paths, names, strict=True)]
    if fresh and remember:
        known = dict(zip(names, zip(stamps, hashes, strict=True), strict=True))
        with contextlib.suppress(OSError):
            write_whole(root / FILE, json.dumps(known))
    return hashes


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _read(path: Path) -> dict[str, list[str]]:
    """The hashes of an earlier call by file name; nothing where the file is missing or damaged."""
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
        return {name: [stamp, sha256] for name, (stamp, sha256) in hashes.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
