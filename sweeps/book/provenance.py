"""Where a sweep comes from: git commit and uncommitted changes, package versions, user.

It is gathered when a sweep opens, so that it is right even if it reaches MLflow later.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline.machine.account import user_name

_CODE = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 20


def provenance(keep: Callable[[str, bytes], str], code: Path = _CODE) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and artifacts (path below the run's -> blob) for `SweepOpened`; `keep` is `Journal.keep`.

    Without a git repository, or without git, the tags have no git facts.
    """
    tags = {"mlflow.user": user_name(), "mlflow.source.name": "mouselift", "mlflow.source.type": "LOCAL"}
    artifacts = {"code/packages.txt": keep("packages.txt", packages().encode())}
    commit = _git(code, "rev-parse", "HEAD").strip()
    if not commit:
        return tags, artifacts
    diff = _git(code, "diff", "HEAD")
    tags["mlflow.source.git.commit"] = commit
    tags["mlflow.source.git.branch"] = _git(code, "rev-parse", "--abbrev-ref", "HEAD").strip()
    tags["mlflow.source.git.dirty"] = str(bool(_git(code, "status", "--porcelain"))).lower()
    if diff:
        artifacts["code/diff.patch"] = keep("diff.patch", diff.encode())
    return tags, artifacts


def packages() -> str:
    """Every installed distribution as `name==version`, one a line."""
    found = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _git(folder: Path, *arguments: str) -> str:
    """Git's output; empty where git fails or is missing."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=_GIT_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else ""
