"""Commands that name datasets and generate them with a registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import Device, device_of
from pipeline.data.cli import AsJson
from pipeline.data.cli import data as data_commands
from pipeline.machine.outputs import require_folder
from sweeps.cli import terminal


@data_commands.command("register")
def data_register(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder.")],
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a dataset a name that `--data` understands; its content is compared whenever it is used."""
    from pipeline import config
    from sweeps import datasets

    entry = datasets.register(terminal.home(), name or dataset.resolve().name, dataset)
    typer.echo(json.dumps(config.as_plain(entry)) if as_json else f"{entry.name} {entry.digest[:12]} {entry.path}")


@data_commands.command("forget")
def data_forget(name: Annotated[str, typer.Argument(help="A registered dataset.")]) -> None:
    """Take a dataset's name away; the data stays."""
    from sweeps import datasets

    datasets.forget(terminal.home(), name)


@data_commands.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the registered datasets."""
    from pipeline import config
    from sweeps import datasets

    known = datasets.registered(terminal.home()).values()
    if as_json:
        typer.echo(json.dumps([config.as_plain(entry) for entry in known]))
        return
    terminal.table(
        ["name", "digest", "geometry", "path"], [[e.name, e.digest[:12], e.geometry or "", e.path] for e in known]
    )


@data_commands.command("generate")
def data_generate(
    source: Annotated[Path, typer.Argument(help="Pictures: a folder, a file, or a dataset's scenes.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    model: Annotated[
        str, typer.Option(help="The model that makes the views: NAME@ALIAS, a folder, or FaceLift's pipeckpts.")
    ],
    view: Annotated[int, typer.Option(min=0, help="Of a dataset: which view of each scene is the picture.")] = 0,
    mask: Annotated[
        Path | None, typer.Option(help="Of a picture: its mask, or a folder of masks called as the pictures are.")
    ] = None,
    segment: Annotated[str | None, typer.Option(help="rembg: a network that looks for the animal.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Objects generated at a time.")] = 4,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Turn single pictures into six-view scenes, labelled with the rig that the model was trained on."""
    from pipeline import progress
    from pipeline.data.cli import say_dataset
    from pipeline.data.generate import generate
    from pipeline.data.photo.cutout import Cutting
    from pipeline.data.photo.folders import read_pictures
    from pipeline.reconstruction.models import load_views
    from sweeps.registry.named import VIEWS, located

    require_folder(out)
    cutting = Cutting.asked(mask, segment)
    pictures = read_pictures(source, view, cutting)
    chosen = device_of(device)
    with located(model, terminal.home()) as named:
        loaded = load_views(named.path, chosen)
        named.expect(VIEWS, loaded.sha256)
        own = loaded.generator.provenance()
        told = {"model": model, "sha256": loaded.sha256, "step": loaded.step, "view": view, **own}
        cut = {"mask": str(mask), "segment": segment} if mask or segment else {}
        with progress.shown() as tell:
            for done in generate(pictures, out, loaded.generator, told | cut, batch, loaded.framing, cutting, tell):
                tell("scenes", done, len(pictures.paths))
    say_dataset(out, as_json)
