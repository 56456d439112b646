"""Commands in a locale without UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_path_in_korean_is_read_and_shown_in_the_locale_c(tmp_path: Path) -> None:
    recipe = tmp_path / "생쥐 ü.yaml"
    recipe.write_text("base: gslrm_tiny\n", encoding="utf-8")
    words = [sys.executable, "-m", "mouselift", "check", str(recipe)]
    found = subprocess.run(words, cwd=ROOT, env=os.environ | PLAIN, capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.decode().startswith("# 생쥐 ü, fingerprint ")
