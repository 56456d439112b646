"""The values of the page that shows Gaussians beside each other, and the page of each one's Gaussians."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from PIL import Image

from dashboards.app.compare import known
from dashboards.app.models import registry_of
from dashboards.app.sweep import Ref, found, preview_file
from sweeps.book.record import TrialRecord
from sweeps.errors import StudyError, SweepError
from sweeps.home import Home
from sweeps.tracking.elsewhere import is_number
from sweeps.tracking.queries import Reader, answers

if TYPE_CHECKING:
    from pipeline.previews import Preview

MOST = 6  # as many as a graphics card of a laptop turns at once
MOST_GAUSSIANS = 400_000  # of one page: 28 bytes each
PREVIEW = "val/preview"


def scenes_values(home: Home, reader: Reader, runs: Sequence[str], versions: Sequence[str]) -> dict[str, Any]:
    """Runs and versions beside each other. Raises StudyError, RegistryError, OutageError."""
    wanted = [("run", ref) for ref in dict.fromkeys(runs)] + [("version", ref) for ref in dict.fromkeys(versions)]
    if len(wanted) > MOST:
        raise StudyError(f"3D: expected at most {MOST} runs and versions, got {len(wanted)} — leave some out.")
    scenes = [_of_run(home, reader, ref) if kind == "run" else _of_version(home, reader, ref) for kind, ref in wanted]
    return {"scenes": scenes, "known": known(reader)}


def gaussians_page(home: Home, reader: Reader, run: str | None, version: str | None) -> str:
    """The page of one run's or version's Gaussians. Raises as `scenes_values`, and DataError for damaged files."""
    from dashboards.pages.splat import splat_page
    from pipeline.cameras import facelift_six
    from sweeps.tracking.pages import Shown

    if run is not None:
        folders, title = _folders(home, Ref.parse(run), found(reader, Ref.parse(run))[1]), run
    else:
        folders, title = _version_folders(home, version or ""), version or ""
    if not folders:
        raise StudyError(f"{title}: expected Gaussians on this machine, got none — they are kept with checkpoints.")
    steps = [(label, _read(folder)) for label, folder in folders]
    inputs = next((preview.inputs for _, preview in reversed(steps) if preview.inputs is not None), None)
    shown = [Shown(label, preview.gaussians) for label, preview in steps]
    begin = inputs if inputs is not None else facelift_six(256)
    return splat_page(shown, begin, title, inputs, MOST_GAUSSIANS)


def input_views(reader: Reader, ref: Ref) -> bytes:
    """The pictures that a run's last preview was made of, as a PNG: its first row, with the titles of the views.

    Raises StudyError where there is none.
    """
    _, one = found(reader, ref)
    counts = [one.recipe_params.get(f"data.num_{kind}_views") for kind in ("input", "held_out")]
    views = sum(count for count in counts if isinstance(count, int))
    with Image.open(preview_file(reader, ref, PREVIEW, None)) as picture:
        size = one.recipe_params.get("data.image_size")
        buffer = io.BytesIO()
        first_row(picture, views, size if isinstance(size, int) else 0).save(buffer, "PNG")
    return buffer.getvalue()


def first_row(preview: Image.Image, views: int, size: int) -> Image.Image:
    """The first row of views of a preview, with their titles. size: of the views; 0 where nobody knows it."""
    from pipeline.data.pictures import shown_px  # imports torch

    side = shown_px(size) if size else preview.height
    if views and preview.width <= views * side:  # of a version that wrote no titles
        side, titles = preview.width // views, 0
    else:
        titles = preview.height % side
    return preview.crop((0, 0, preview.width, min(titles + side, preview.height)))


def _of_run(home: Home, reader: Reader, ref: str) -> dict[str, Any]:
    parsed = Ref.parse(ref)
    record, one = found(reader, parsed)
    objective, trial = record.ledger.objective, one.trial
    return {
        "kind": "run",
        "ref": ref,
        "name": f"t{trial.number:04d} · {record.ledger.name}",
        "link": "run?" + urlencode({"run": ref}),
        "scene": "gaussians?" + urlencode({"run": ref}) if _folders(home, parsed, one) else "",
        "inputs": "inputs?" + urlencode({"run": ref}) if any(p.name == PREVIEW for p in one.previews) else "",
        "figure": None if objective is None else objective.metric,
        "value": trial.best_value,
        "step": trial.best_step,
        "protocol": one.protocol,
        "words": one.measured,
    }


def _of_version(home: Home, reader: Reader, ref: str) -> dict[str, Any]:
    from sweeps.registry.versions import PROTOCOL

    with answers(home.tracking_uri):
        version = registry_of(home).resolve(ref)
    run = f"{version.tags.get('sweep.name', '')}/{version.tags.get('trial.number', '')}"
    named = next((name for name in ("test/psnr_fg", "test/psnr") if name in version.metrics), None)
    return {
        "kind": "version",
        "ref": version.ref,
        "name": f"{version.name} version {version.version}",
        "link": "model?" + urlencode({"name": version.name}),
        "scene": "gaussians?" + urlencode({"version": version.ref}) if _version_folders(home, ref) else "",
        "inputs": "inputs?" + urlencode({"run": run}) if _has_preview(reader, run) else "",
        "figure": named,
        "value": None if named is None else version.metrics[named],
        "step": int(step) if is_number(step := version.tags.get("checkpoint.step", "")) else None,
        "protocol": version.tags.get(PROTOCOL),
        "words": "",
    }


def _has_preview(reader: Reader, run: str) -> bool:
    try:
        return any(preview.name == PREVIEW for preview in found(reader, Ref.parse(run))[1].previews)
    except (SweepError, OSError):
        return False


def _folders(home: Home, ref: Ref, one: TrialRecord) -> list[tuple[str, Path]]:
    """Folders that hold Gaussians of a run on this machine, with their steps: kept ones, else its checkpoints."""
    places = [Path(one.trial.gaussians)] if one.trial.gaussians is not None else []
    if not home.keeps_in_store and not ref.run_id:
        places.append(Path(home.checkpoints) / ref.sweep / f"t{ref.number:04d}")
    for place in places:
        steps = sorted((int(folder.name[5:]), folder) for folder in place.glob("step-*") if is_number(folder.name[5:]))
        if kept := [(f"{step:,}", folder) for step, folder in steps if _holds(folder)]:
            return kept
    released = Path(one.trial.released) if one.trial.released else None
    return [("", released)] if released is not None and _holds(released) else []


def _version_folders(home: Home, ref: str) -> list[tuple[str, Path]]:
    """The folder that holds a version's Gaussians on this machine: that of its checkpoint, or of its pair's second."""
    from sweeps.registry.named import folder_here

    with answers(home.tracking_uri):
        folder = folder_here(registry_of(home).resolve(ref))
    if folder is None:
        return []
    return [("", one) for one in (folder, folder / "gaussians") if _holds(one)]


def _holds(folder: Path) -> bool:
    from pipeline import checkpoint

    return (folder / checkpoint.PREVIEW).is_file()


def _read(folder: Path) -> Preview:
    from pipeline.previews import read_preview

    return read_preview(folder)
