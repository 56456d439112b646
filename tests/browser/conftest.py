"""The browser looks at the sweep that the end-to-end tests read."""

from tests.e2e.conftest import promoted, spine

__all__ = ["promoted", "spine"]
