"""Gaussians as other programs' files: gsplat writes `.splat` and SuperSplat's compressed PLY, gsply writes `.spz`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import MachineError
from pipeline.gaussians import Gaussians


def require_gsply() -> None:
    """Raises MachineError where the library is not installed."""
    if find_spec("gsply") is None:
        raise MachineError(
            "format spz: expected the package gsply, found none — pip install 'mouselift[formats]', or leave spz out."
        )


def write_splat(gaussians: Gaussians, path: Path) -> None:
    """32 bytes per Gaussian: float32 means and scales, uint8 colour and opacity, uint8 quaternion. Degree 0 alone."""
    path.write_bytes(_by_gsplat(gaussians, "splat"))


def write_compressed(gaussians: Gaussians, path: Path) -> None:
    """SuperSplat's PLY: chunks of 256, 16 bytes per Gaussian and one per coefficient above degree 0."""
    path.write_bytes(_by_gsplat(gaussians, "ply_compressed"))


def write_spz(gaussians: Gaussians, path: Path) -> None:
    """Version 3: about 20 bytes per Gaussian before compression. Raises MachineError without gsply."""
    require_gsply()
    import gsply

    data = gsply.GSData.from_arrays(**_stored(gaussians), format="ply")
    gsply.write_spz(path, data)


WRITERS = {"splat": write_splat, "compressed": write_compressed, "spz": write_spz}


def _by_gsplat(gaussians: Gaussians, name: str) -> bytes:
    from gsplat import export_splats

    values = {key: torch.from_numpy(value) for key, value in _stored(gaussians).items()}
    return export_splats(**values | {"sh0": values["sh0"][:, None]}, format=name)


def _stored(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Values as such files hold them: logits and logs, the quaternion as wxyz."""

    def array(value: Tensor) -> np.ndarray:
        return value.detach().to("cpu", torch.float32).contiguous().numpy()

    return {
        "means": array(gaussians.means),
        "scales": array(gaussians.scales.log()),
        "quats": array(gaussians.quats),
        "opacities": array(gaussians.opacities.logit(1e-7)),
        "sh0": array(gaussians.sh[:, 0]),
        "shN": array(gaussians.sh[:, 1:]),
    }
