"""What MLflow's pages say of a version: figures with how they were taken, licence, picture, and how it is called."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache

from PIL import Image

from sweeps.registry.held import Held, PairInfo, kind_name
from sweeps.registry.verification import LICENCE, SCENES
from sweeps.registry.versions import DIGEST, PROTOCOL, Version

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
_PURPOSES = {
    "gslrm": "GS-LRM: posed views of a mouse to 3D Gaussians.",
    "mvdiffusion": "MVDiffusion: one picture of a mouse to six views, with the cameras of its rig.",
    "pair": ABOUT,
}
_CALLS = {
    "gslrm": 'ply = model.predict(views)["ply"][0]  # a DataFrame: scene, image (PNG bytes), c2w, fxfycxcy',
    "mvdiffusion": 'views = model.predict([{"name": "mouse", "image": open("mouse.png", "rb").read()}])["image"]',
    "pair": 'open("mouse.ply", "wb").write(model.predict(open("mouse.png", "rb").read())["ply"][0])',
}
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
    pair = info.pair
    about = ABOUT_SCORED if version.metrics else "the input example"
    parts = [
        f"One photo of a mouse to 3D Gaussians: `{pair.views.name}/{pair.views.version}` draws six views of it, for "
        f"the rig `{pair.rig}`; `{pair.gaussians.name}/{pair.gaussians.version}` makes Gaussians of these.",
        # MLflow's page strips data URIs; this link is of the server that shows it.
        f"![{about}](get-artifact?path={PICTURE}&run_uuid={version.run_id})\n\n{about[0].upper()}{about[1:]}.",
        _figures(version.tags, "one view of each given, the five others drawn"),
        _licence(pair.licence),
        _called(f"{version.name}/{version.version}", _CALLS["pair"]),
    ]
    return "\n\n".join(parts)[:_LONGEST]


def brief(name: str, held: Held, tags: Mapping[str, str]) -> str:
    """The description of a checkpoint's version, Markdown, by what its tags will be; of a pair, `card` follows."""
    kind = kind_name(held)
    parts = [
        _PURPOSES[kind],
        _figures(tags, "of views that were not given"),
        _licence(tags.get(LICENCE)),
        _called(f"{name}@champion", _CALLS[kind]),
    ]
    return "\n\n".join(parts)[:_LONGEST]


def _figures(tags: Mapping[str, str], of_what: str) -> str:
    rows = [
        f"| {name}{f' ({unit})' if unit else ''} | {float(tags[f'test/{name}']):.4g} |"
        for name, unit in _SHOWN
        if f"test/{name}" in tags
    ]
    if not rows:
        return "**No figures**: it was registered without data."
    scenes = f"n = {tags[SCENES]} scenes" if SCENES in tags else "the scenes"
    how = (
        f"Means of {scenes} of `{tags.get('data.name')}` (test): {of_what}. Protocol `{tags.get(PROTOCOL)}`, "
        f"data `{tags.get(DIGEST, '')[:12]}`."
    )
    return "\n".join(["| figure | mean |", "|---|---|", *rows, "", how])


def _licence(licence: str | None) -> str:
    return f"**Licence**: {licence or 'none is named; ask who trained it'}."


def _called(ref: str, call: str) -> str:
    return f'```python\nimport mlflow\nmodel = mlflow.pyfunc.load_model("models:/{ref}")\n{call}\n```'
