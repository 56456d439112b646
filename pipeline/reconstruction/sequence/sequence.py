"""A sequence, frame after frame: framed, reconstructed, kept; killed and continued without a difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.photo.framing import Framing
from pipeline.errors import DataError
from pipeline.pruning import Pruning
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.reconstruction.sequence.wanted import Wanted


@dataclass(frozen=True)
class Progress:
    """How many of a sequence's frames are done, those that failed among them, and what to say of the last one."""

    done: int
    total: int
    failed: int
    failure: str | None = None  # of the frame that was done last, in one line


def reconstruct_sequence(
    source: Path,
    out: Path,  # noqa: ARG001
    reconstructor: Reconstructor,  # noqa: ARG001
    wanted: Wanted,  # noqa: ARG001
    pruning: Pruning,  # noqa: ARG001
    framing: Framing | None,  # noqa: ARG001
    size: int | None = None,  # noqa: ARG001
    sh_degree: int | None = None,  # noqa: ARG001
) -> Iterator[Progress]:
    """Gaussians for each frame of a video, a folder of frames or a dataset of a recording's scenes, to `out`."""
    raise DataError(f"{source}: expected a photo or a scene, got a sequence — not yet.")
