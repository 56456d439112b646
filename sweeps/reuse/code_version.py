"""The version of the code by which figures come about: a digest of it, and of the libraries that compute.

It is of what is on the disk, whether committed or not. The word of a function that only prints counts as well: that
no figure depends on a line cannot be told from outside.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pipeline
from sweeps.book.provenance import COMPUTING

CODE = "code.digest"  # the tag of a sweep and of a trial
CODE_CHANGED = "code.changed"  # of a trial whose process had other code than its driver: the digest of that


@lru_cache
def code_version(package: Path = Path(pipeline.__file__).parent) -> str:
    """A digest of every source file of a package and of the versions of COMPUTING, taken once in a process."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py"), key=lambda file: file.relative_to(package).as_posix()):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    digest.update("\n".join(f"{name}=={_installed(name)}" for name in COMPUTING).encode())
    return digest.hexdigest()


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
