"""The champions: versions of registered models, how they are verified and judged, and the files that serve them."""

import sweeps.tracking  # noqa: F401 — sets what MLflow reads, before a module of this room imports it
