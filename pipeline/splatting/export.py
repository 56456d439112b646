"""Gaussians as other programs' files: gsplat writes `.splat` and SuperSplat's compressed PLY, gsply writes `.spz`."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError, MachineError
from pipeline.gaussians import Gaussians
from pipeline.splatting.projection_cpu import sh_basis
from pipeline.splatting.projection_kernels import MIN_ALPHA

# A quarter turn about x, clockwise: what pointed up along z points up along y, and the front, which looked along -y,
# looks along z. SPZ says of its axes that they point right, up and back.
Z_UP_TO_Y_UP = (0.5**0.5, -(0.5**0.5), 0.0, 0.0)
_DIRECTIONS = 64  # more than the 15 coefficients of degree 3
_LEAST_SCALE = 1e-12  # world units; files hold logarithms, and gsplat leaves infinite ones out without a word
_SPZ_REACH = 2048  # of a place in 24 bits, in steps of 1/4096
_GZIP_TIME = 4  # where a gzip file says when it was written


def require_gsply() -> None:
    """Raises MachineError where the library is not installed."""
    if find_spec("gsply") is None:
        raise MachineError(
            "format spz: expected the package gsply, found none — pip install 'mouselift[formats]', or leave spz out."
        )


def write_splat(gaussians: Gaussians, path: Path) -> None:
    """32 bytes per Gaussian: float32 means and scales, uint8 colour and opacity, uint8 quaternion. Degree 0 alone."""
    path.write_bytes(_by_gsplat(gaussians, "splat", "splat", -1.0))


def write_compressed(gaussians: Gaussians, path: Path) -> None:
    """SuperSplat's PLY: chunks of 256, 16 bytes per Gaussian and one per coefficient above degree 0.

    Gaussians of an opacity up to 1/255, which no renderer draws, are left out.
    """
    content = _by_gsplat(gaussians, "compressed", "ply_compressed", MIN_ALPHA)
    # At degree 0 gsplat promises an element without properties, on which readers break (Spark, trimesh).
    path.write_bytes(re.sub(rb"element sh \d+\nend_header", b"end_header", content, count=1))


def write_spz(gaussians: Gaussians, path: Path) -> None:
    """Version 3: about 20 bytes per Gaussian before compression, upright. Raises MachineError without gsply."""
    require_gsply()
    import gsply

    farthest = float(gaussians.means.abs().max()) if gaussians.count else 0.0
    if not farthest < _SPZ_REACH:
        raise DataError(
            f"format spz: expected places within ±{_SPZ_REACH}, got one at {farthest:.4g} — give a --box, or write a "
            "ply."
        )
    data = gsply.GSData.from_arrays(**_stored(turned(gaussians, Z_UP_TO_Y_UP)), format="ply")
    gsply.write_spz(path, data)
    content = path.read_bytes()
    path.write_bytes(content[:_GZIP_TIME] + bytes(4) + content[_GZIP_TIME + 4 :])  # the same file at any time of day


def turned(gaussians: Gaussians, quat: tuple[float, float, float, float]) -> Gaussians:
    """One scene turned about the origin by a unit quaternion (wxyz): places, axes and colours by direction."""
    rotation = _rotation(quat, gaussians.means)
    w, x, y, z = quat
    product = gaussians.quats.new_tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return replace(
        gaussians,
        means=gaussians.means @ rotation.T,
        quats=gaussians.quats @ product.T,
        sh=_turned_colours(gaussians.sh, rotation),
    )


def _rotation(quat: tuple[float, float, float, float], like: Tensor) -> Tensor:
    w, x, y, z = quat
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return like.new_tensor(rows)


def _turned_colours(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [N, K, 3] that show in R·d what the given ones show in d: solved for many directions."""
    degree = int(sh.shape[-2] ** 0.5) - 1
    if degree == 0:
        return sh
    chance = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(_DIRECTIONS, 3, generator=chance, dtype=torch.float64), dim=-1)

    def basis(at: Tensor) -> Tensor:
        return torch.stack(sh_basis(at.T, degree), -1)

    matrix = torch.linalg.lstsq(basis(directions @ rotation.double().cpu().T), basis(directions)).solution
    return torch.cat([sh[:, :1], matrix.to(sh) @ sh[:, 1:]], 1)


WRITERS = {"splat": write_splat, "compressed": write_compressed, "spz": write_spz}


def _by_gsplat(gaussians: Gaussians, name: str, called: str, faintest: float) -> bytes:
    """The bytes of a format, called something else there. faintest: the opacity up to which it leaves Gaussians out."""
    from gsplat import export_splats

    if not bool((gaussians.opacities > faintest).any()):  # which gsplat does not expect
        seen = f" of an opacity above {faintest:.2g}" if gaussians.count else ""
        raise DataError(f"format {name}: expected Gaussians{seen}, got none — keep more of them, or write a ply.")
    values = {key: torch.from_numpy(value) for key, value in _stored(gaussians).items()}
    return export_splats(**values | {"sh0": values["sh0"][:, None]}, format=called)


def _stored(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Values as such files hold them: logits and logs, the quaternion as wxyz."""

    def array(value: Tensor) -> np.ndarray:
        return value.detach().to("cpu", torch.float32).contiguous().numpy()

    return {
        "means": array(gaussians.means),
        "scales": array(gaussians.scales.clamp(min=_LEAST_SCALE).log()),
        "quats": array(gaussians.quats),
        "opacities": array(gaussians.opacities.double().logit(1e-7)),
        "sh0": array(gaussians.sh[:, 0]),
        "shN": array(gaussians.sh[:, 1:]),
    }
