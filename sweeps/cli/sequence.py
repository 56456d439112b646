"""Sequences on the command line: their options, their progress, and what is said of them at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError
from pipeline.progress import Tell

if TYPE_CHECKING:
    from pipeline.reconstruction.sequence.sequence import Progress
    from pipeline.reconstruction.sequence.wanted import Wanted

Every = Annotated[int, typer.Option(min=1, help="Of a sequence: each so many-th frame.")]
From = Annotated[str | None, typer.Option("--from", help="Of a sequence: first frame: its number, 1.5s or 0:01.5.")]
To = Annotated[str | None, typer.Option("--to", help="Of a sequence: frame before which to stop; as --from.")]
World = Annotated[
    str, typer.Option(help="Of a sequence: object, each frame framed by itself, or fixed, one framing for all.")
]
Smooth = Annotated[float, typer.Option(min=0, help="Of a video: seconds over which the framing is smoothed.")]
Fps = Annotated[float | None, typer.Option(help="Of a folder of frames: frames a second (default: 25).")]


def wanted_of(
    sequences: int, every: int, start: str | None, end: str | None, world: str, smooth: float, fps: float | None
) -> Wanted | None:
    """What is asked of the sequences; None without any. Raises DataError for what is asked in vain."""
    given = {"--every": every != 1, "--from": start, "--to": end, "--world": world != "object", "--smooth": smooth}
    if not sequences:
        if vain := [option for option, value in (given | {"--fps": fps}).items() if value]:
            raise DataError(
                f"{vain[0]}: expected a video, or a folder with --sequence, among the inputs, got none — leave it."
            )
        return None
    from pipeline.reconstruction.sequence.wanted import Wanted

    return Wanted(every, start, end, world, smooth, fps)  # type: ignore[arg-type]


def show(steps: Iterator[Progress], out: Path, as_json: bool, tell: Tell) -> None:
    """Follow a sequence to its end: progress and failures on the standard error, then files and figures."""
    with contextlib.closing(steps) as going:  # type: ignore[type-var]
        for step in going:
            tell(step.stage, step.done, step.total)
            if step.failure is not None:
                typer.echo(f"mouselift: skipped: {step.failure}", err=True)
    said = json.loads((out / "sequence.json").read_text(encoding="utf-8"))
    if as_json:
        said.pop("frames")
        typer.echo(json.dumps({"out": str(out), **said}))
        return
    for name in ("frames", "turntable.mp4", "fixed.mp4", "sequence.json"):
        typer.echo(out / name)
    typer.echo(_in_words(said), err=True)


def _in_words(said: dict[str, Any]) -> str:
    """The figures in one line."""
    flicker, jitter = said["figures"]["flicker"], said["figures"]["jitter"]
    parts = [f"{said['done'] - len(said['failed'])} of {said['wanted']} frames"]
    if flicker["ratio"] is not None:
        parts.append(
            f"flicker {flicker['render']:.4f}, {flicker['ratio']:.2f} of the source's own ({flicker['pairs']} pairs)"
        )
    if jitter["px"]["value"] is not None:
        own = jitter["source_px"]["value"]
        beside = "" if own is None else f", the source's own {own:.2f}"
        parts.append(f"jitter of the centre {jitter['px']['value']:.2f} px{beside} ({jitter['px']['n']} triples)")
    return "; ".join(parts)
