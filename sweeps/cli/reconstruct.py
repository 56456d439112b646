"""`mouselift reconstruct`: photos, scenes and videos to Gaussians, with the models that are named, or the champions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli import Device, device_of
from pipeline.data.cli import AsJson
from pipeline.errors import DataError, PipelineError, counted
from pipeline.progress import Tell, shown, told
from sweeps.cli import terminal
from sweeps.cli.sequence import Every, Fps, From, Smooth, To, World, show, wanted_of

if TYPE_CHECKING:
    from pipeline.pruning import Pruning
    from pipeline.reconstruction.inputs import Input
    from pipeline.reconstruction.outputs import Viewer, Wanted
    from pipeline.reconstruction.reconstructor import Reconstruction, Reconstructor
    from pipeline.reconstruction.sequence.sequence import Progress
    from pipeline.reconstruction.sequence.wanted import Wanted as Frames
    from sweeps.registry.named import Models

_OF_FORMATS = "Files of the Gaussians: ply, splat, compressed (SuperSplat's PLY), spz; several with commas."
_OF_PLY = "Degree of the PLY: 3 for viewers that ask for 45 f_rest (default: own)."

Inputs = Annotated[list[Path], typer.Argument(help="Photos, folders of photos, scenes, datasets with --split, videos.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the results; of several inputs, for a folder of each.")
]
Model = Annotated[str | None, typer.Option(help="A registered pair or model (NAME@ALIAS), a folder, or a file.")]
Views = Annotated[str | None, typer.Option(help="The model that makes six views of a photo; as --model, or pipeckpts.")]
GaussiansOf = Annotated[
    str | None, typer.Option("--gaussians", "--checkpoint", help="The model that makes Gaussians of views; or a .pt.")
]
Split = Annotated[str | None, typer.Option(help="Of a dataset: train, val or test.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the views' noise (default: the model's; FaceLift's: 4).")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps (default: the model's; FaceLift's: 50).")]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Guidance of the views (default: the model's; FaceLift's: 3.0).")
]
Size = Annotated[
    int | None, typer.Option(min=16, max=4096, help="Pixels of the turntable (default: 384; FaceLift's: 512).")
]
Prune = Annotated[
    str,
    typer.Option(help="Which Gaussians are kept: default (opacity above 0.02), connected (no specks), facelift …"),
]
Opacity = Annotated[
    float | None, typer.Option(min=0, max=1, help="Keep Gaussians more opaque than this (FaceLift's: 0.04).")
]
MaxScale = Annotated[
    float | None, typer.Option(min=0, help="Keep Gaussians smaller than this, in world units (FaceLift's: 0.1).")
]
Floater = Annotated[
    float | None,
    typer.Option(min=0, help="Keep none below a corner: |x| and |y| above this, z below -this (FaceLift's: 0.6)."),
]
Box = Annotated[str | None, typer.Option(help="Keep Gaussians within ±X,Y,Z (FaceLift's: 0.91,0.91,1).")]
Mask = Annotated[Path | None, typer.Option(help="A photo's mask, or a folder with one of each photo's name.")]
Segment = Annotated[str | None, typer.Option(help="rembg: cut photos out with a model that this machine has.")]
Formats = Annotated[str, typer.Option("--format", help=_OF_FORMATS)]
Degree = Annotated[int | None, typer.Option(min=0, max=3, help=_OF_PLY)]
Given = Annotated[
    Literal["views", "photo"] | None,
    typer.Option(
        help="What GS-LRM is given of a photo: the views drawn of it, or the photo alone (default: the pair's own way)."
    ),
]
Refine = Annotated[
    int,
    typer.Option(
        min=0, max=10_000, help="Steps that Gaussians are optimised on the views they were made of, such as 50."
    ),
]
Sequence = Annotated[bool, typer.Option("--sequence", help="A folder's pictures, or a dataset's scenes, are frames.")]


def reconstruct(
    context: typer.Context,
    inputs: Inputs,
    out: Out = Path("out"),
    model: Model = None,
    views: Views = None,
    gaussians: GaussiansOf = None,
    split: Split = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    given: Given = None,
    refine: Refine = 0,
    size: Size = None,
    prune: Prune = "default",
    opacity: Opacity = None,
    max_scale: MaxScale = None,
    floater: Floater = None,
    box: Box = None,
    mask: Mask = None,
    segment: Segment = None,
    formats: Formats = "ply",
    ply_sh_degree: Degree = None,
    sequence: Sequence = False,
    every: Every = 1,
    start: From = None,
    end: To = None,
    world: World = "object",
    smooth: Smooth = 0.0,
    fps: Fps = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Turn photos, posed views or videos into 3D Gaussians.

    Without a model: the champion pair of this home, mouse-facelift, or else the champions of its two stages.
    """
    from pipeline.machine.outputs import require_folder
    from pipeline.reconstruction.inputs import read_inputs

    require_folder(out)
    asked = read_inputs(inputs, split, sequence)
    needs_views = any(one.needs_views for one in asked)
    if given is not None and not needs_views:
        raise DataError(f"--given {given}: expected a photo or a video, got scenes, which have views — leave it.")
    photos = [one for one in asked if one.kind == "photo"]
    if len(photos) == len(asked) == 1:
        from pipeline.data.incoming.picture import read_picture

        read_picture(photos[0].path)  # what is no picture is said before torch is imported
    chosen = device_of(device)
    from pipeline.pruning import pruning_of

    rules = pruning_of(prune, opacity, max_scale, floater, None if box is None else _box(box))
    wanted = _wanted(rules, formats, ply_sh_degree, size, terminal.view_page(context))
    sequences = [one for one in asked if one.kind == "sequence"]
    frames = wanted_of(len(sequences), every, start, end, world, smooth, fps)
    work = _Work(_folders(asked, out), wanted, _cutting(mask, segment, len(photos), len(sequences)), frames)
    work.require_inputs()
    with contextlib.ExitStack() as stack:
        from pipeline.reconstruction.reconstructor import Reconstructor
        from sweeps.registry.named import models_of

        found = stack.enter_context(models_of(terminal.home(), model, views, gaussians, needs_views))
        what = given or found.given
        if refine and needs_views and what == "photo":
            raise DataError(
                f"--refine {refine}: expected views that were drawn of a photo, got the photo alone — leave it out, or "
                "add --given views."
            )
        drawing = {"--seed": seed, "--steps": steps, "--guidance": guidance}
        _say_models(found, what if needs_views else "views", [name for name, one in drawing.items() if one is not None])
        first = found.load_views(chosen)
        second = found.load_gaussians(chosen, None if first is None else first.generator.image_size)
        reconstructor = Reconstructor(second, first, chosen, steps, guidance, seed, what, refine)
        work.run(reconstructor, found.facts(first, second), as_json, stack.enter_context(shown()))


@dataclass(frozen=True)
class _Job:
    """One input, and the folder of its results."""

    input: Input
    out: Path


@dataclass(frozen=True)
class _Work:
    """All that is to be made, and how."""

    jobs: list[_Job]
    wanted: Wanted
    cutting: Any
    frames: Frames | None  # of sequences

    def require_inputs(self) -> None:
        """See what can be seen before a model is loaded: room for the results, and a single photo or scene."""
        from pipeline.data.scenes import read_scene
        from pipeline.reconstruction.outputs import require_room

        for job in self.jobs:
            if job.input.kind != "sequence":  # whose folder is continued
                require_room(job.out, job.input.path)
        if len(self.jobs) > 1:
            return  # one that fails is named, and the others go on
        (job,) = self.jobs
        if job.input.kind == "photo":
            from pipeline.data.photo.photo import read_photo

            read_photo(job.input.path, cutting=self.cutting)
        elif job.input.kind == "scene":
            read_scene(job.input.path)

    def run(self, reconstructor: Reconstructor, models: dict[str, Any], as_json: bool, tell: Tell) -> None:
        """Make everything; what fails among several is named at its place and at the end. Raises DataError then."""
        failed = []
        for job in _one_by_one(self.jobs, tell):
            try:
                if job.input.kind == "sequence":
                    show(self.steps(job, reconstructor, models), job.out, as_json, tell)
                else:
                    _say(self.made(job, reconstructor, models, tell), job.out, as_json)
            except PipelineError as error:
                if len(self.jobs) == 1:
                    raise
                failed.append(job.input.name)
                typer.echo(f"mouselift: {error}", err=True)
                if as_json:
                    typer.echo(json.dumps({"input": str(job.input.path), "error": str(error)}))
        if failed:
            count = counted(len(self.jobs), "input")
            raise DataError(
                f"{count}: expected Gaussians of each, got none of {len(failed)}: {', '.join(failed)} — see above."
            )

    def steps(self, job: _Job, reconstructor: Reconstructor, models: dict[str, Any]) -> Iterator[Progress]:
        """A sequence, frame after frame."""
        from pipeline.reconstruction.sequence.sequence import reconstruct_sequence

        wanted = self.wanted
        assert self.frames is not None
        if wanted.formats != ("ply",):
            raise DataError(f"--format: expected ply for a sequence, got {','.join(wanted.formats)} — leave it.")
        return reconstruct_sequence(
            job.input.path, job.out, reconstructor, self.frames, wanted.pruning, self.cutting, wanted.size,
            wanted.sh_degree, models,
        )  # fmt: skip

    def made(self, job: _Job, reconstructor: Reconstructor, models: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """The results of one input, written; what `reconstruction.json` says of them."""
        from pipeline.data.scenes import read_scene
        from pipeline.reconstruction.outputs import results, write_outputs

        facts: dict[str, Any] = {"input": str(job.input.path), "kind": job.input.kind, "models": models}
        if job.input.kind == "photo":
            from pipeline.data.photo.photo import read_photo

            views = reconstructor.views
            assert views is not None
            photo = read_photo(job.input.path, views.framing, self.cutting)
            result = reconstructor.photo(photo, tell=tell)
            facts |= {"given": reconstructor.given, "sampling": reconstructor.sampling}
        else:
            photo, result = None, reconstructor.scene(read_scene(job.input.path), tell=tell)
        data = reconstructor.gaussians.recipe.data
        _say_views(job.input, result, data.min_input_views or data.num_input_views)
        with results(job.out) as folder:
            return write_outputs(result, folder, self.wanted, facts, photo, reconstructor.rig, tell)


def _folders(asked: list[Input], out: Path) -> list[_Job]:
    """One input's results lie in the folder itself, those of several in a folder of each."""
    return [_Job(one, out if len(asked) == 1 else out / one.name) for one in asked]


def _cutting(mask: Path | None, segment: str | None, photos: int, sequences: int) -> Any:
    if mask is not None and not photos + sequences:
        raise DataError(f"--mask {mask}: expected a photo that it belongs to, got none — leave it.")
    from pipeline.data.photo.cutout import Cutting

    cutting = Cutting.asked(mask, segment)
    cutting.require_masks(photos)
    if mask is not None and sequences and photos + sequences > 1:  # frames of all have the same numbers
        raise DataError(
            f"--mask {mask}: expected a sequence alone, got {counted(photos + sequences, 'input')} — make them one by "
            "one, each with its own masks."
        )
    return cutting


def _wanted(pruning: Pruning, formats: str, degree: int | None, size: int | None, viewer: Viewer | None) -> Wanted:
    from pipeline.reconstruction.formats import require_formats
    from pipeline.reconstruction.outputs import Wanted

    named = tuple(dict.fromkeys(word.strip() for word in formats.split(",")))
    require_formats(named)
    return Wanted(pruning, named, degree, size, viewer)


def _box(text: str) -> tuple[float, float, float]:
    """Half the sides of a box about the origin."""
    try:
        x, y, z = (float(word) for word in text.split(","))
    except ValueError:
        raise DataError(f"--box: expected three numbers X,Y,Z, got {text} — such as 0.91,0.91,1.") from None
    return x, y, z


def _one_by_one(jobs: list[_Job], tell: Tell) -> Iterable[_Job]:
    """The jobs; of several it is told how many are done."""
    return jobs if len(jobs) == 1 else told(jobs, "inputs", len(jobs), tell)


def _say_models(found: Models, given: str, drawing: list[str]) -> None:
    """Which models were taken without having been named, and that no views are drawn, on the standard error."""
    for line in found.notes:
        typer.echo(line, err=True)
    if given == "photo":
        unused = f"; {', '.join(drawing)} {'changes' if len(drawing) == 1 else 'change'} nothing" if drawing else ""
        typer.echo(f"GS-LRM is given the photo alone: no views are drawn of it{unused}", err=True)


def _say_views(one: Input, result: Reconstruction, fewest: int) -> None:
    """Which views the model was not shown, or that there were fewer than it knows, on the standard error."""
    inputs = result.batch.num_input_views
    if result.left_out:
        total = inputs + len(result.left_out)
        views = f"{'view' if len(result.left_out) == 1 else 'views'} {', '.join(map(str, result.left_out))}"
        typer.echo(f"{one.path}: the model takes {inputs} of {total} views: held out for best cover: {views}", err=True)
    elif inputs < fewest:
        typer.echo(f"{one.path}: {counted(inputs, 'view')}, and the model was trained on {fewest}", err=True)


def _say(said: dict[str, Any], out: Path, as_json: bool) -> None:
    """The results of one input: the files on the standard output, the figures beside them."""
    if as_json:
        typer.echo(json.dumps({"out": str(out), **said}))
        return
    for name in said["files"]:
        typer.echo(out / name)
    kept, made = said["gaussians"]["kept"], said["gaussians"]["made"]
    typer.echo(f"{kept} of {made} Gaussians kept", err=True)
    if (figures := said["figures"]) is not None:
        count = counted(figures["views"], "view")
        typer.echo(f"held-out PSNR {figures['psnr']:.2f} dB of {count} ({figures['protocol']})", err=True)
    if (refined := said["refined"]) is not None:
        typer.echo(_of_refining(refined["figures"], said["kind"] == "photo"), err=True)


def _of_refining(figures: dict[str, dict[str, dict[str, float]]], of_photo: bool) -> str:
    """What refining did to the views that the Gaussians were made of, and to those that judge it: of what was drawn of
    a photo, as the Gaussians were, none does.
    """
    inputs, held_out = figures["inputs"], figures.get("held_out")
    views = "the photo and the views drawn of it" if of_photo else "the views given"
    said = f"refined: {views}: {_change(inputs)}"
    if of_photo:
        return said
    if held_out is None:
        return f"{said}; no view is held out to judge it by"
    name = "psnr_fg" if "psnr_fg" in held_out["before"] else "psnr"
    worse = " — they got worse: leave --refine out" if held_out["after"][name] < held_out["before"][name] else ""
    return f"{said}; those held out: {_change(held_out)}{worse}"


def _change(figures: dict[str, dict[str, float]]) -> str:
    """PSNR before and after, of the full frame and of the foreground where there are masks."""
    before, after = figures["before"], figures["after"]
    names = {"psnr": "PSNR", "psnr_fg": "foreground"}
    return ", ".join(f"{names[name]} {value:.2f} → {after[name]:.2f} dB" for name, value in before.items())
