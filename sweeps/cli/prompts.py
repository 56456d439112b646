"""`mouselift prompts`: the text of each view, embedded by a model's own text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.cli import AsJson
from pipeline.machine.outputs import require_file
from sweeps.cli import terminal


def prompts(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.")],
    pipeline: Annotated[
        str, typer.Option(help="Whose text encoder is used: pipeckpts, or a model of views (NAME@ALIAS, a folder).")
    ],
    style: Annotated[str, typer.Option(help="facelift, mouse_elevated, realistic, hybrid, simple or from_camera.")] = (
        "facelift"
    ),
    scene: Annotated[Path | None, typer.Option(help="A scene of the rig whose angles the texts name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Embed one text per view with a pipeline's own text encoder, and keep what they say beside them."""
    from pipeline.data.rings import ring_order, slots
    from pipeline.data.scenes import read_scene
    from pipeline.mvdiffusion.prompts import make_prompts, write_prompts
    from sweeps.registry.named import located

    require_file(out)
    cameras = None if scene is None else read_scene(scene).cameras
    if cameras is not None:
        cameras = cameras[list(slots(ring_order(cameras), 0))]
    with located(pipeline, terminal.home()) as named:
        made = make_prompts(_pipeline_of(named.path), style, cameras)
    write_prompts(made, out)
    if as_json:
        typer.echo(json.dumps({"file": str(out), **made.as_plain()}))
        return
    for slot, text in enumerate(made.texts):
        typer.echo(f"{slot}: {text}")
    typer.echo(out, err=True)


def _pipeline_of(model: Path) -> Path:
    """The pipeline's folder of a model: of a checkpoint or a pair, the one in it."""
    from pipeline.mvdiffusion.deployed import PIPELINE
    from pipeline.reconstruction.models import VIEWS, is_pair

    stage = model / VIEWS if is_pair(model) else model
    return stage / PIPELINE if (stage / PIPELINE).is_dir() else stage
