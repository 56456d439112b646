"""Chromium, and the sweep that the end-to-end tests read, for it to look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import promoted, spine
from tests.support.chromium import CHROMIUM, OPTIONS, PATIENCE

__all__ = ["promoted", "spine"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all tests; what they open has the machine's usual patience."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()
