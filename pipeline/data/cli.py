"""Commands about data: convert a recording, normalise, check, take in what exists, make procedural mice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.data.checks import Check
    from pipeline.data.quality import Quality

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where absolute paths of a FaceLift list are found on this machine.")
]

data = typer.Typer(no_args_is_help=True, help="Make, judge and name datasets.")


@data.command("convert")
def convert(
    recording: Annotated[Path, typer.Argument(help="videos_undist/, simpleclick_undist/ and new_cam.pkl.")],
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
    as_json: AsJson = False,
) -> None:
    """Turn a raw six-camera recording into scenes: RGBA at the videos' size, cameras in mm, splits apart in time."""
    from pipeline.data.frame_plan import JOINS, FramePlan, parse_frames
    from pipeline.data.recording import convert as converted
    from pipeline.data.recording import open_recording, summary

    chosen = None if frames is None else parse_frames(frames)
    joins = JOINS if join is None else tuple(join)
    plan = FramePlan(count, step, chosen, start, end, joins, guard, split, seed, skip_empty)
    source = open_recording(recording)
    show_progress(converted(source, out, plan), plan.total(source.num_frames, source.fps, str(recording)))
    typer.echo(json.dumps(summary(out)) if as_json else out)


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
    from pipeline.data.normalise import method_of
    from pipeline.data.normalise import normalise as normalised
    from pipeline.data.scenes import open_dataset

    chosen, dataset = method_of(method, size=size, zoom=zoom), open_dataset(source)
    show_progress(normalised(dataset, out, chosen), len(dataset.scenes))
    say_dataset(out, as_json)


@data.command("check")
def check(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder, FaceLift folder or one scene.")],
    page: Annotated[Path | None, typer.Option(help="HTML page (default: beside dataset.yaml, or here).")] = None,
    scenes: Annotated[
        int, typer.Option(min=1, help="How many scenes to look at, evenly spread; fewer than 60 are not stored.")
    ] = 60,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Judge whether cameras fit their images, and report the masks, the rig and the leakage between splits."""
    from pipeline import config
    from pipeline.data import checks
    from pipeline.data.check_page import write_page
    from pipeline.data.quality import quality
    from pipeline.data.scenes import MANIFEST_FILE, open_dataset

    opened = open_dataset(dataset, verify=False, data_root=data_root)
    found = checks.check(opened, scenes)
    measured = quality(found)
    stored = checks.store(found)
    written = write_page(found, measured, page or _page_beside(dataset, stored))
    if as_json:
        plain = checks.as_plain(found)
        typer.echo(json.dumps(plain | {"quality": config.as_plain(measured), "page": str(written), "stored": stored}))
        return
    _print_check(found, measured)
    typer.echo(f"page: {written}", err=True)
    if not stored:
        typer.echo(
            f"{dataset}: the verdict is not stored there (no {MANIFEST_FILE}, read only, or too few scenes)", err=True
        )


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
) -> None:
    """Write procedural mice seen through a rig: exact cameras, exact masks, several animals per split."""
    from pipeline.data.mice import write_mice

    folder = write_mice(out, scenes=scenes, size=size, rig=rig, zoom=zoom, views=views, seed=seed)
    typer.echo(folder)


def show_progress(done: Iterator[int], total: int) -> None:
    """Draw how many scenes are done, and the time that is left, on the standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("scenes", total=total)
        for count in done:
            progress.update(task, completed=count)


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
    px, iou = geometry.reprojection_px_p95, geometry.silhouette_iou
    typer.echo(f"{geometry.verdict}: {px:.2f} px by {geometry.measured_by}, silhouette IoU {iou:.3f}", err=True)


def _page_beside(dataset: Path, stored: bool) -> Path:
    return dataset / "check.html" if stored else Path(f"check-{dataset.resolve().name}.html")


def _print_check(found: Check, measured: Quality) -> None:
    """Verdict and problems, a row per view, and the seed's figures."""
    from pipeline.data.quality import human_rigs

    geometry = found.geometry
    typer.echo(
        f"{found.dataset.name}: {geometry.verdict}, {geometry.reprojection_px_p95:.2f} px (p95 at 512) by "
        f"{geometry.measured_by}, silhouette IoU {geometry.silhouette_iou:.3f}, {geometry.scenes} scenes looked at"
    )
    for problem in found.problems:
        typer.echo(f"  {problem}")
    views = zip(found.scores.tolist(), found.iou.tolist(), measured.views, strict=True)
    _print_table(
        ["view", "px", "IoU", "distance", "azimuth", "elevation", "FOV", ""],
        [
            [str(i), f"{px:.2f}", f"{iou:.3f}", f"{v.distance:.2f} ± {v.distance_std:.2f}"]
            + [f"{angle:.1f}°" for angle in (v.azimuth, v.elevation, v.fov)]
            + ["disagrees" if i in geometry.views else ""]
            for i, (px, iou, v) in enumerate(views)
        ],
    )
    typer.echo(f"about {measured.origin}; ring {', '.join(map(str, measured.ring))}; {human_rigs()}")
    typer.echo(
        f"grade {measured.grade} (blind to geometry): size {measured.size_ratio_percent:.1f} % ± "
        f"{measured.size_cv_percent:.2f} %, off the middle {measured.com_offset_px:.1f} px, foreground "
        f"{measured.foreground_share:.1%}, clipped views {measured.clipped_views_share:.0%}, "
        f"extent ±{geometry.extent:.2f}"
    )
    near = measured.leakage
    if near.nearest is not None:
        typer.echo(
            f"leakage: nearest neighbour of val and test in train {near.nearest:g} (by {near.measured_by}), "
            f"{near.near_duplicates} near-duplicates"
        )


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table, highlight=False)
