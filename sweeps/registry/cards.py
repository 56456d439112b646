"""What MLflow's pages say of a pair: figures with how they were taken, licence, picture, and how it is called."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

from sweeps.registry.held import PairInfo
from sweeps.registry.versions import Version

# What a reader looks for first, with its unit.
_SHOWN = (("psnr_fg", "dB, foreground"), ("psnr", "dB"), ("ssim", ""), ("lpips", ""), ("mask_iou", ""))
ABOUT = (
    "One photo of a mouse to 3D Gaussians: MVDiffusion draws six views of it, GS-LRM makes Gaussians of these. Each "
    "version names the two models that it holds; its page has figures, licence and how it is called. "
    '`mlflow.pyfunc.load_model("models:/mouse-facelift@champion").predict(open("mouse.png", "rb").read())`'
)
PICTURE = "card.png"
ABOUT_SCORED = (
    "the first scene, from the top: six views drawn of one photo (the first of the lowest row), the Gaussians made of "
    "them, the photographs"
)
_LONGEST = 4800  # characters; MLflow keeps 5,000 of a description


@lru_cache(maxsize=1)
def example_picture() -> bytes:
    """A procedural mouse as the content of a small PNG: what a registered model is called with to be tried."""
    from pipeline.data.mice.mice import MicePlan
    from pipeline.data.mice.render import render_mouse

    shot = MicePlan("mouse_centred", 128, 0).shot(0)
    buffer = io.BytesIO()
    Image.fromarray(render_mouse(shot.mesh, shot.cameras[:1])[0]).save(buffer, "PNG")
    return buffer.getvalue()


def card(version: Version, info: PairInfo) -> str:
    """The description of a pair's version, Markdown. Its picture is the file PICTURE of the version's run."""
    pair, scored = info.pair, bool(version.metrics)
    about = ABOUT_SCORED if scored else "the input example"
    parts = [
        f"One photo of a mouse to 3D Gaussians: `{pair.views.name}/{pair.views.version}` draws six views of it, for "
        f"the rig `{pair.rig}`; `{pair.gaussians.name}/{pair.gaussians.version}` makes Gaussians of these.",
        # MLflow's page strips data URIs; this link is of the server that shows it.
        f"![{about}](get-artifact?path={PICTURE}&run_uuid={version.run_id})\n\n{about[0].upper()}{about[1:]}.",
        _figures(version),
        f"**Licence**: {pair.licence or 'neither of the two models names one; ask who trained them'}.",
        _how_to_call(version),
    ]
    return "\n\n".join(parts)[:_LONGEST]


def _figures(version: Version) -> str:
    rows = [
        f"| {name}{f' ({unit})' if unit else ''} | {version.metrics[f'test/{name}']:.4g} |"
        for name, unit in _SHOWN
        if f"test/{name}" in version.metrics
    ]
    if not rows:
        return "**No figures**: it was registered without data; `mouselift model pair --data` scores it."
    tags = version.tags
    how = (
        f"Means of n = {tags.get('eval.scenes', '?')} scenes of `{tags.get('data.name')}` (test): one view of each "
        f"given, the five others drawn. Protocol `{tags.get('eval.protocol')}`, "
        f"data `{tags.get('data.digest', '')[:12]}`."
    )
    return "\n".join(["| figure | mean |", "|---|---|", *rows, "", how])


def _how_to_call(version: Version) -> str:
    return (
        "```python\nimport mlflow\n"
        f'model = mlflow.pyfunc.load_model("models:/{version.name}/{version.version}")\n'
        'open("mouse.ply", "wb").write(model.predict(open("mouse.png", "rb").read())["ply"][0])\n```'
    )
