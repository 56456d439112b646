"""Where a sweep comes from: git commit and uncommitted changes, package versions, user; and what a trial ran on.

It is gathered when a sweep opens, and by the process that runs a trial, so that it is right even if it reaches MLflow
later.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.files import sha256_of
from pipeline.machine.account import user_name
from pipeline.machine.cpus import cpu_kind
from pipeline.machine.devices import CPU

# Artifacts of a sweep: versions of packages, changes that are not committed, hashes of files that git does not know.
PACKAGES, PATCH, UNKNOWN = "code/packages.txt", "code/diff.patch", "code/unknown.txt"
COMMIT, DIRTY = "mlflow.source.git.commit", "mlflow.source.git.dirty"  # tags of a sweep
MACHINE = "machine."  # and a word: tags of a trial
# Distributions that compute what a loss, a step or a figure is made of. What only reads, checks or shows is left out.
COMPUTING = (
    "accelerate",
    "diffusers",
    "gsplat",
    "lpips",
    "numba",
    "numpy",
    "peft",
    "pillow",
    "scikit-image",
    "scipy",
    "torch",
    "torchmetrics",
    "torchvision",
    "transformers",
)
_CODE = Path(__file__).resolve().parents[2]
_OURS = ("pipeline", "sweeps", "dashboards", "mouselift.py")  # what a trial may import of it
_GIT_SECONDS = 20
_SITE = {"site-packages", "dist-packages"}  # of an interpreter; what lies deeper is a library's own


def provenance(keep: Callable[[str, bytes], str], code: Path = _CODE) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and artifacts (path below the run's -> blob) for `SweepOpened`; `keep` is `Journal.keep`.

    Without a git repository, or without git, the tags have no git facts.
    """
    tags = {"mlflow.user": user_name(), "mlflow.source.name": "mouselift", "mlflow.source.type": "LOCAL"}
    artifacts = {PACKAGES: keep("packages.txt", packages().encode())}
    commit = _git(code, "rev-parse", "HEAD").strip()
    if not commit:
        return tags, artifacts
    diff = _git(code, "diff", "HEAD")
    tags[COMMIT] = commit
    tags["mlflow.source.git.branch"] = _git(code, "rev-parse", "--abbrev-ref", "HEAD").strip()
    tags[DIRTY] = str(bool(_git(code, "status", "--porcelain"))).lower()
    if diff:
        artifacts[PATCH] = keep("diff.patch", diff.encode())
    if unknown := _unknown(code):
        artifacts[UNKNOWN] = keep("unknown.txt", unknown.encode())
    return tags, artifacts


def packages() -> str:
    """Every installed distribution as `name==version`, one a line.

    Copies that a library brings along are none, or the list would change when that library is imported: Ray puts its
    `ray/thirdparty_files` on the path then.
    """
    own = [entry for entry in sys.path if not _SITE & set(Path(entry).parts[:-1])]
    found = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions(path=own)}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine(device: str, threads: int, processes: int) -> dict[str, str]:
    """Tags of what a trial runs on, as far as another one may round otherwise.

    device: `cpu`, or a GPU's name. threads: of each of its `processes`.
    """
    import torch

    said = {
        "python": platform.python_version(),
        "cpu": f"{cpu_kind()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": device,
        "threads": str(threads),
        "processes": str(processes),
    }
    return {f"{MACHINE}{word}": value for word, value in said.items()}


def device_name(kind: str) -> str:
    """`cpu`, or the name of the GPU that this process uses. kind: torch's word for the sort of device."""
    import torch

    return CPU if kind == CPU else torch.cuda.get_device_name()


def _unknown(code: Path) -> str:
    """Hash and path of each file of the packages that git neither knows nor ignores, one a line."""
    names = _git(code, "ls-files", "-z", "--others", "--exclude-standard", "--", *_OURS).split("\0")
    files = [name for name in names if name and (code / name).is_file()]
    return "".join(f"{sha256_of(code / name)} {name}\n" for name in files)


def _git(folder: Path, *arguments: str) -> str:
    """Git's output; empty where git fails or is missing."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=_GIT_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else ""
