"""gsplat's kernels, before the first trial: built in a process of their own, so that this one takes no GPU's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from pipeline.errors import MachineError
from pipeline.machine.devices import seen_gpus
from pipeline.splatting.gsplat_build import BUILDING, WHAT, are_installed, built_folder

_LONGEST_SECONDS = 3600.0
_REFUSED = 2
_BEGIN = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipeline.errors import PipelineError
from pipeline.splatting.gsplat_build import require_kernels
try:
    require_kernels()
except PipelineError as error:
    sys.stdout.write(str(error))
    sys.exit({_REFUSED})
"""


def ready_kernels(on_cluster: bool, say: Callable[[str], None]) -> str:
    """What was found, once the kernels for the GPUs of this machine are there. say: is called before they are built.

    The nodes of a cluster have kernels of their own, and so has a driver without a GPU none to build. Raises
    MachineError for what this machine lacks, and for a build that fails.
    """
    elsewhere = "the first trial on a node builds those that it lacks, about a minute"
    if not on_cluster:
        return _ready_here(say)
    say(f"{WHAT}: {elsewhere}")
    return f"{_ready_here(say)}; {elsewhere}" if seen_gpus().names else elsewhere


def _ready_here(say: Callable[[str], None]) -> str:
    if are_installed():
        return "gsplat came with them"
    folder = built_folder()
    if folder is not None:
        return f"built before, in {folder}"
    say(BUILDING)
    began = time.monotonic()
    build_apart()
    return f"built in {time.monotonic() - began:.0f} s, in {built_folder()}"


def build_apart() -> None:
    """`require_kernels` in a process that ends with it. Raises MachineError as that does."""
    words = [sys.executable, "-P", "-c", _BEGIN, json.dumps(sys.path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _failed(f"no end within {_LONGEST_SECONDS / 60:g} min") from None
    if done.returncode == _REFUSED:
        raise MachineError(done.stdout)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word")
        raise _failed(f"a process that ended with {done.returncode}: {last.strip()}")


def _failed(got: str) -> MachineError:
    return MachineError(f"{WHAT}: expected them to be built, got {got} — docs/gpu.md says what a build needs.")
