"""The files of one reconstruction: Gaussians, a turntable, a comparison."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.pictures import write_png
from pipeline.data.recording.video import write_video
from pipeline.gslrm.stage import preview
from pipeline.reconstruction.reconstructor import Reconstruction
from pipeline.reconstruction.turntable import GIF_EVERY, TURNTABLE_FPS, render_frames, turntable_around, write_gif


def write_outputs(
    result: Reconstruction, out: Path, size: int | None = None, sh_degree: int | None = None
) -> list[Path]:
    """Write `gaussians.ply`, `turntable.mp4`, `turntable.gif` and `comparison.png` to `out`; each file whole.

    size: pixels of the turntable's frames (default: at least 256). sh_degree: of the PLY, as `Gaussians.save_ply`.
    """
    out.mkdir(parents=True, exist_ok=True)
    gaussians = result.gaussians.pruned()
    cameras = turntable_around(result.batch.cameras[0], size or max(256, result.batch.cameras.width))
    frames = render_frames(gaussians, cameras)
    paths = [out / name for name in ("gaussians.ply", "turntable.mp4", "turntable.gif", "comparison.png")]
    gaussians.save_ply(paths[0], sh_degree)
    write_video(frames, paths[1], TURNTABLE_FPS)
    write_gif(frames[::GIF_EVERY], paths[2])
    write_png(preview(result.batch, result.rendering), paths[3])
    return paths
