"""The files of one reconstruction: Gaussians, what was understood of a photo, pictures to judge by, and the facts."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.foreground import all_shown, cut_out
from pipeline.data.pictures import pixels_of, sheet, write_png
from pipeline.data.recording.video import write_video
from pipeline.data.scenes import write_scene
from pipeline.errors import DataError, OutputError
from pipeline.files import write_whole
from pipeline.gaussians import Gaussians
from pipeline.gslrm.stage import preview
from pipeline.machine.outputs import require_folder
from pipeline.machine.version import VERSION
from pipeline.progress import Tell, silent
from pipeline.pruning import PRUNINGS, Pruning
from pipeline.reconstruction.formats import SUFFIXES, write_format
from pipeline.reconstruction.reconstructor import Reconstruction
from pipeline.reconstruction.turntable import (
    GIF_EVERY,
    TURNTABLE_FPS,
    beside,
    render_frames,
    turntable_around,
    write_gif,
)

if TYPE_CHECKING:
    from pipeline.cameras import Cameras
    from pipeline.data.photo.photo import Photo

FACTS = "reconstruction.json"
OWN = (
    *(f"gaussians{suffix}" for suffix in SUFFIXES.values()), "views", "views.png", "input.png", "turntable.mp4",
    "turntable.gif", "comparison.png", "view.html",
)  # fmt: skip
_LEAST_PX = 256  # of a picture for people
_TURNTABLE_PX = 384


Viewer = Callable[[Gaussians, "Cameras", str, "Cameras"], str]


@dataclass(frozen=True)
class Wanted:
    """What is written. size: pixels along a side of the turntable's frames; 384, or as the views, if None.

    formats: of the Gaussians' files, of `formats.SUFFIXES`. sh_degree: of a PLY, as `Gaussians.save_ply`. viewer: makes
    the page `view.html` of kept Gaussians, the cameras of the turntable, a title and the input cameras; there is
    none, if None.
    """

    pruning: Pruning = PRUNINGS["default"]
    formats: tuple[str, ...] = ("ply",)
    sh_degree: int | None = None
    size: int | None = None
    viewer: Viewer | None = None


def require_room(out: Path, source: Path | None = None) -> None:
    """See that results can be written to a folder: one that is there holds none, or only those of an earlier call.

    What else it holds is left alone. source: what they are to be made of, which they may not replace. Raises
    OutputError.
    """
    require_folder(out)
    if source is not None and source.resolve().is_relative_to(out.resolve()):
        place = source.resolve().relative_to(out.resolve()).parts
        if place and place[0] in OWN:
            raise OutputError(
                f"{out}: expected another folder than that of {source}, which would be replaced — name another."
            )
    if not out.is_dir() or (out / FACTS).is_file():
        return
    if others := [name for name in OWN if (out / name).exists()]:
        raise OutputError(
            f"{out}: expected no {others[0]}, or one beside {FACTS}, which says that it can be replaced; got one of "
            "another hand — name another folder."
        )


@contextlib.contextmanager
def results(out: Path) -> Iterator[Path]:
    """An empty folder to fill, whose content is `out`'s when the block ends; nothing is left of it when it raises.

    Earlier results in `out` are replaced, all of them. Raises OutputError as `require_room`.
    """
    require_room(out)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".reconstruction.", dir=out))
    try:
        yield temporary
        _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # one that has content by now stays
            for folder in made:
                folder.rmdir()


def write_outputs(
    result: Reconstruction,
    folder: Path,
    wanted: Wanted,
    facts: Mapping[str, Any],
    photo: Photo | None = None,
    rig: Cameras | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Write the files of one reconstruction to a folder; returns what `reconstruction.json` says.

    facts: what else is known, such as the models. photo: what the views were generated of; rig: their cameras. tell:
    hears of what is drawn. Raises DataError for a generated view that shows nothing.
    """
    if photo is not None and rig is not None:
        _write_views(result, folder, photo, rig)
    kept = wanted.pruning(result.gaussians)
    for name in wanted.formats:
        write_format(kept, folder / f"gaussians{SUFFIXES[name]}", name, wanted.sh_degree)
    cameras = result.batch.cameras[0] if photo is None or rig is None else rig.to(torch.float32)
    _write_pictures(result, kept, folder, wanted, photo, cameras, tell)
    files = sorted(path.name for path in folder.iterdir())
    said = dict(facts) | _facts_of(result, wanted, kept.count, photo) | {"files": [*files, FACTS]}
    write_whole(folder / FACTS, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    return said


def _write_views(result: Reconstruction, folder: Path, photo: Photo, rig: Cameras) -> None:
    """What was understood of a photo, and the views that were generated of it, where some were."""
    from pipeline.data.photo.photo import strip

    shown = result.batch.images.shape[-1] if result.views is None else result.views.shape[-1]
    write_png(strip(photo, max(_LEAST_PX, shown)), folder / "input.png")
    if result.views is None:  # the photo alone was given
        return
    views = result.views.cpu()
    rgba = cut_out(pixels_of(views))
    if not all_shown(rgba):
        raise DataError(
            f"{photo.where}: expected six views that show something, got an empty one — train stage 1 longer."
        )
    size = views.shape[-1]
    write_scene(folder / "views", rgba, rig)
    titles = ["photo", *(f"view {view}" for view in range(len(views)))]
    write_png(sheet(torch.cat([photo.image(size)[None], views])[None], titles=titles), folder / "views.png")


def _write_pictures(
    result: Reconstruction,
    kept: Gaussians,
    folder: Path,
    wanted: Wanted,
    photo: Photo | None,
    cameras: Cameras,
    tell: Tell,
) -> None:
    around = turntable_around(cameras, wanted.size or max(_TURNTABLE_PX, cameras.width))
    given = result.batch.images[0, 0] if photo is None else photo.image(around.width)
    frames = render_frames(kept, around, tell)
    if wanted.viewer is not None:
        inputs, title = result.batch.input_cameras[0], Path(result.batch.scenes[0]).name
        write_whole(folder / "view.html", wanted.viewer(kept, around, title, inputs))
    write_video(beside(given, frames), folder / "turntable.mp4", TURNTABLE_FPS)
    write_gif(beside(given, frames[::GIF_EVERY]), folder / "turntable.gif")
    if result.rendering is not None:
        write_png(preview(result.batch, result.rendering), folder / "comparison.png")


def _facts_of(result: Reconstruction, wanted: Wanted, kept: int, photo: Photo | None) -> dict[str, Any]:
    views = result.batch.images.shape[1]
    psnr = result.held_out_psnr
    against = "held-out views" if photo is None else "held-out views, which were generated too"
    figures = {
        "psnr": psnr,
        "views": len(result.left_out),
        "protocol": f"{against}, full frame on white, {result.batch.cameras.width} px, Gaussians unpruned"
        + (f", refined in {result.refine_steps} steps" if result.refine_steps else ""),
    }
    return {
        "gaussians": {"made": result.gaussians.count, "kept": kept},
        "pruning": wanted.pruning.as_plain(),
        "views": {
            "generated": result.views is not None,
            "inputs": [view for view in range(views) if view not in result.left_out],
            "left_out": list(result.left_out),
        },
        "figures": None if psnr is None else figures,
        "refined": {"steps": result.refine_steps, "figures": result.refinement} if result.refine_steps else None,
        "photo": None if photo is None else _facts_of_photo(photo),
        "software": f"mouselift {VERSION}",
    }


def _facts_of_photo(photo: Photo) -> dict[str, Any]:
    crop = {"x": photo.crop.x, "y": photo.crop.y, "side": photo.crop.side}
    size = [photo.picture.width, photo.picture.height]
    return {"size": size, "cut_by": photo.cut_by, "crop": crop, "changes": list(photo.changes)}


def _replace(new: Path, out: Path) -> None:
    """Put new results in the place of earlier ones. FACTS goes first and comes last: where it is, all is whole."""
    for name in (FACTS, *OWN):
        if (out / name).is_dir() and not (out / name).is_symlink():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    for path in sorted(new.iterdir(), key=lambda path: path.name == FACTS):
        path.replace(out / path.name)
