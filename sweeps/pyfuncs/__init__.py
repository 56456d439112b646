"""What travels with registered models and serves them behind MLflow's `predict`: a file a kind; none knows sweeps."""

import sweeps.tracking  # noqa: F401 — sets what MLflow reads, before a module of this room imports it
