"""The door to rembg: a network that looks for the animal, with weights that the user has. Nothing is downloaded."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.photo.framing import Alpha
from pipeline.errors import CheckpointError, MachineError
from pipeline.weights.known import require_weights, weights_named

# Weights that may be there, the better first, and rembg's session for a file of that kind: a session by a network's
# own name would download what it misses.
_SESSIONS = {"isnet-general-use": "dis_custom", "u2net": "u2net_custom"}


def segmented(picture: Image.Image) -> tuple[Alpha, str]:
    """Alpha of what a network of rembg's takes for the object in an RGB picture, and the network's name.

    Raises MachineError without rembg, and CheckpointError without weights or with other ones.
    """
    name = _network()
    (mask,) = _session(name).predict(picture)
    return np.asarray(mask.convert("L")), name


def _network() -> str:
    """The first network whose weights are there."""
    for name in _SESSIONS:
        if weights_named(name, os.environ).file.is_file():
            return name
    name = next(iter(_SESSIONS))
    wanted = weights_named(name, os.environ)
    raise CheckpointError(
        f"--segment rembg: expected weights of {' or '.join(_SESSIONS)}, found none — {wanted.ways_out}; "
        "`mouselift weights list` names them all."
    )


@lru_cache(maxsize=1)
def _session(name: str) -> Any:
    path: Path = require_weights(name, os.environ)
    try:
        from rembg import new_session
    except ImportError as error:
        raise MachineError(
            f"--segment rembg: expected the packages of `pip install 'mouselift[segment]'`, got {error} — install them."
        ) from None
    return new_session(_SESSIONS[name], model_path=str(path))
