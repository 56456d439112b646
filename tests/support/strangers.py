"""Commands run as a user that the machine does not know: a number, no home of its own, leave to write nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 12345
ROOT = Path(__file__).parents[2]
# The interpreter may lie where only root looks; writing is refused all the same.
_MAY_READ = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)


def python(code: str, cwd: Path, may_read: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code as the unknown user with nothing but this environment. may_read: every file of the machine."""
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *(_MAY_READ if may_read else ())]
    words = [*become, sys.executable, "-c", code]
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=cwd, env=known | environment, capture_output=True, text=True, check=False)
