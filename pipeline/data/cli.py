"""Commands about data: convert a recording, normalise, take in what exists, make procedural mice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.data.scenes import Dataset

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where absolute paths of a FaceLift list are found on this machine.")
]

data = typer.Typer(no_args_is_help=True, help="Make, judge and name datasets.")


@data.command("convert")
def convert(
    recording: Annotated[
        Path, typer.Argument(help="videos_undist/, simpleclick_undist/ and a calibration, such as new_cam.pkl.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    count: Annotated[int | None, typer.Option(help="So many frames, evenly spread (default: 2000, or all).")] = None,
    step: Annotated[int | None, typer.Option(help="Every so many-th frame.")] = None,
    frames: Annotated[str | None, typer.Option(help="These frames: 1,2,3.")] = None,
    start: Annotated[int, typer.Option(help="First frame that may be taken.")] = 0,
    end: Annotated[int | None, typer.Option(help="Frame before which to stop (default: all).")] = None,
    join: Annotated[
        list[int] | None,
        typer.Option(help="First frame of a further take. Repeatable; replaces 5900, 11800 and 17700."),
    ] = None,
    guard: Annotated[float, typer.Option(help="Seconds between blocks of two splits.")] = 1.0,
    split: Annotated[
        str, typer.Option(help="blocks of time, or random: near-duplicates in train and test.")
    ] = "blocks",
    seed: Annotated[int, typer.Option(min=0, help="Of a random split.")] = 0,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave out frames with an empty mask.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration file or folder elsewhere (formats: docs/data.md).")
    ] = None,
    calibration_unit: Annotated[
        str | None, typer.Option(help="Of its lengths: mm, cm, m, or the millimetres of one unit, such as 23.5.")
    ] = None,
    up: Annotated[str | None, typer.Option(help="Up in the calibration's world: x,y,z (default: 0,0,1).")] = None,
    undistorted: Annotated[
        bool | None,
        typer.Option("--undistorted/--distorted", help="Whether the videos are, where the calibration has distortion."),
    ] = None,
    invert_masks: Annotated[bool, typer.Option("--invert-masks", help="Masks show the mouse black on white.")] = False,
    offsets: Annotated[
        str | None,
        typer.Option(
            help="Where one moment, such as a flash, lies in each video: frames 120,132,… or seconds 1.2s,1.32s,…, or "
            "a YAML, JSON or CSV file of them (default: frame f of every video is one moment)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a raw six-camera recording into scenes: RGBA at the videos' size, cameras in mm, splits apart in time."""
    from pipeline.data.calibration.calibration import Wanted, mm_of, up_of
    from pipeline.data.recording.frame_plan import JOINS, FramePlan, parse_frames
    from pipeline.data.recording.moments import parse_offsets
    from pipeline.data.recording.recording import convert as converted
    from pipeline.data.recording.recording import open_recording, summary
    from pipeline.data.scenes import open_dataset

    chosen = None if frames is None else parse_frames(frames)
    joins = JOINS if join is None else tuple(join)
    plan = FramePlan(count, step, chosen, start, end, joins, guard, split, seed, skip_empty)
    mm = None if calibration_unit is None else mm_of(calibration_unit)
    wanted = Wanted(calibration, mm, None if up is None else up_of(up), undistorted)
    moments = None if offsets is None else parse_offsets(offsets)
    source = open_recording(recording, offsets=moments, inverted=invert_masks, wanted=wanted)
    show_progress(converted(source, out, plan), plan.total(source.num_frames, source.fps, str(recording)))
    typer.echo(json.dumps(summary(out)) if as_json else out)
    say_verdict(open_dataset(out, verify=False))


@data.command("normalise")
def normalise(
    source: Annotated[Path, typer.Argument(help="A converted recording, or any dataset with masks.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    method: Annotated[
        str, typer.Option(help="object_centred, rig_affine, zoom_exact (exact), facelift_rig, pixel_based (legacy).")
    ] = "object_centred",
    size: Annotated[int, typer.Option(help="Image width and height in pixels.")] = 512,
    zoom: Annotated[float | None, typer.Option(help="Factor on the focal length; lowered where it clips.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring scenes into FaceLift's frame, images and cameras together, and judge the result."""
    from pipeline.data.normalise.normalise import method_of
    from pipeline.data.normalise.normalise import normalise as normalised
    from pipeline.data.scenes import open_dataset

    chosen, dataset = method_of(method, size=size, zoom=zoom), open_dataset(source)
    show_progress(normalised(dataset, out, chosen), len(dataset.scenes))
    say_dataset(out, as_json)


@data.command("ingest")
def ingest(
    source: Annotated[Path, typer.Argument(help="A FaceLift folder with lists, or a folder of scenes.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Take in scenes that exist: lists become splits, RGB on white gets masks by a stated rule, the gate judges."""
    from pipeline.data.ingest import ingest as ingested
    from pipeline.data.scenes import open_dataset

    dataset = open_dataset(source, data_root=data_root)
    show_progress(ingested(dataset, out), len(dataset.scenes))
    say_dataset(out, as_json)


@data.command("mice")
def mice(
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset.")],
    scenes: Annotated[int, typer.Option(help="How many scenes.")] = 120,
    size: Annotated[int, typer.Option(help="Image width in pixels.")] = 64,
    rig: Annotated[str, typer.Option(help="mouse_centred, mouse, facelift_six or facelift_ring.")] = "mouse_centred",
    zoom: Annotated[
        float | None,
        typer.Option(help="Factor on mouse_centred's focal length (default: as large as fits every view)."),
    ] = None,
    views: Annotated[int | None, typer.Option(help="Views of facelift_ring, evenly spaced.")] = None,
    seed: Annotated[int, typer.Option(help="Which mice.")] = 0,
    coat: Annotated[
        str | None,
        typer.Option(
            help="One strain instead of mice of any: black, agouti, brown, white, grey, patched, cinnamon, or calico, "
            "of which the bases of this package have seen none."
        ),
    ] = None,
    body: Annotated[
        str,
        typer.Option(help="What the animals are: mouse, rat, vole, hamster or gerbil, all of any coat."),
    ] = "mouse",
    walk: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead of scenes, a recording of one mouse that walks: so many frames, 25 a second, by the six "
            "cameras of the mouse rig, on white. Of the other options, --size and --seed count.",
        ),
    ] = None,
) -> None:
    """Write procedural mice seen through a rig: exact cameras, exact masks, several animals per split."""
    from pipeline import progress

    if walk is not None:
        from pipeline.data.mice.recording import write_walk

        with progress.shown() as tell:
            folder = write_walk(out, walk, size, seed, tell)
    else:
        from pipeline.data.mice.mice import write_mice

        with progress.shown() as tell:
            folder = write_mice(
                out,
                scenes=scenes,
                size=size,
                rig=rig,
                zoom=zoom,
                views=views,
                seed=seed,
                coat=coat,
                body=body,
                tell=tell,
            )
    typer.echo(folder)


def show_progress(done: Iterator[int], total: int) -> None:
    """Show how many scenes are done, and the time that is left, on the standard error."""
    from pipeline import progress

    with progress.shown() as tell:
        for count in done:
            tell("scenes", count, total)


def say_dataset(folder: Path, as_json: bool) -> None:
    """The folder on the standard output, its verdict beside it."""
    from pipeline import config
    from pipeline.data.scenes import open_dataset

    dataset = open_dataset(folder, verify=False)
    geometry = dataset.manifest.geometry
    assert geometry is not None
    if as_json:
        counts = {split: len(names) for split, names in dataset.manifest.splits.items()}
        plain = {"folder": str(folder), "digest": dataset.digest, "scenes": len(dataset.scenes), "splits": counts}
        typer.echo(json.dumps(plain | {"geometry": config.as_plain(geometry)}))
        return
    typer.echo(folder)
    say_verdict(dataset)


def say_verdict(dataset: Dataset) -> None:
    """A dataset's verdict on the standard error; below it what is the matter, where something is, and what to do."""
    from pipeline.data.gate.checks import doubts, figures
    from pipeline.data.gate.evidence import rests

    geometry = dataset.manifest.geometry
    assert geometry is not None
    typer.echo(f"{geometry.verdict}: {figures(geometry)}; {rests(geometry)}", err=True)
    for doubt in doubts(geometry, dataset.manifest):
        typer.echo(f"  {dataset.root}: {doubt}", err=True)
