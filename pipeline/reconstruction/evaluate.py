"""A pair of models end to end: one view of a scene to six views to Gaussians, drawn beside the scene's other views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.cameras import Cameras
from pipeline.data.photo.framing import Crop
from pipeline.data.photo.photo import photo_of
from pipeline.data.pictures import SHOWN_PX, Pixels, sheet
from pipeline.data.scenes import Dataset
from pipeline.errors import DataError
from pipeline.gslrm.evaluate import lpips_network, means_over_scenes, scene_metrics, titles_of
from pipeline.metrics import Protocol
from pipeline.mvdiffusion.views import Rig, ViewSets
from pipeline.precision import evaluated_in
from pipeline.previews import Preview
from pipeline.progress import Tell, silent, told
from pipeline.pruning import PRUNINGS
from pipeline.recipe import DataConfig
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.splatting.rendering import render
from pipeline.stages import Evaluation

# Of the picture's edge: how far a scene's cameras may put things from where the rig's put them, beside the rig's own
# spread. Further away, the figures would tell of the cameras and not of the models.
MAX_OFF_RIG = 0.05
_REACH = 0.5  # half the edge, in world units, of the box about the origin whose corners are compared


@dataclass(frozen=True)
class PairEvaluation(Evaluation):
    """The same with the first scene: what stage 1 drew, where it did, what the Gaussians show, and the photographs,
    slot by slot; and these Gaussians with the cameras of what GS-LRM was given.
    """

    picture: Pixels
    preview: Preview


def evaluate_pair(
    pair: Reconstructor,
    data: DataConfig,
    dataset: Dataset,
    split: str,
    cache: Path,
    limit: int | None = None,
    tell: Tell = silent,
) -> PairEvaluation:
    """Score the views of a split that a pair was not shown. Stage 1 is given one view of each scene as it is, the one
    of slot 0; GS-LRM what stage 1 makes of it, or that view alone, as the pair has it. The Gaussians are drawn with
    the scene's own cameras, on white.

    `<split>/psnr` and so on are of the other views, `<split>/input/…` of that one, as in `gslrm.evaluate`. data: which
    view stands in which slot, and the size of the figures. tell: hears of each scene. Raises DataError for scenes
    without a view for each slot, and where their cameras are not those of the pair's rig.
    """
    assert pair.views is not None
    loader, rig = ViewSets(dataset, split, data, cache), pair.views.generator.rig
    count = min(len(loader.scenes), limit or len(loader.scenes))
    lpips = lpips_network(pair.device)
    rows: list[dict[str, float | str]] = []
    shown: list[Tensor] = []
    titles: list[str] = []
    preview = None
    for index, scene in enumerate(told(loader.scenes[:count], f"{split} scenes", count, tell)):
        batch = loader.evaluation_batch(index).to(pair.device)
        _require_rig(str(scene.folder), rig, batch.cameras[0])
        picture = scene.image(loader.order(scene)[0])
        photo = photo_of(picture, scene.name, crop=Crop(0, 0, picture.width))
        with torch.no_grad():
            made = pair.photo(photo, index, render=False)
            rendering = render(made.gaussians[None], batch.cameras)
        if not shown:
            drawn = [] if made.views is None else [made.views]
            shown = [_small(images) for images in (*drawn, rendering.images[0], batch.images[0])]
            titles = titles_of(batch, rendering)
            kept, given = PRUNINGS["default"](made.gaussians), made.batch.input_cameras[0]
            preview = Preview(kept.to("cpu"), given.to("cpu"), scene.name)
        rows.append({"scene": scene.name, **scene_metrics(batch, rendering, lpips)})
    protocol = Protocol(
        resolution=data.image_size,
        input_views=loader.inputs,
        target_views=loader.held_out,
        split_digest=f"{split}:{count}:{dataset.split_digest(split)[:16]}",
        precision=evaluated_in(pair.gaussians.recipe.train.precision, pair.device),
        refine_steps=pair.refine_steps,
    )
    assert preview is not None, "a split has a scene"
    names = ("generated", "rendered", "true")[-len(shown) :]
    picture_of_first = sheet(torch.stack(shown), names=names, titles=titles)
    return PairEvaluation(means_over_scenes(rows, split), protocol, rows, picture_of_first, preview)


def _small(images: Float[Tensor, "view 3 height width"]) -> Float[Tensor, "view 3 size size"]:
    return F.interpolate(images.cpu(), (SHOWN_PX, SHOWN_PX), mode="bilinear", antialias=True)


def _require_rig(where: str, rig: Rig, cameras: Cameras) -> None:
    """Raises DataError unless a scene's cameras, in slot order, show the origin's surroundings where the rig's do."""
    size, ends = rig.cameras.width, (-_REACH, _REACH)
    corners = torch.tensor([[x, y, z] for x in ends for y in ends for z in ends])
    found, wanted = (_pixels(one.resize(size, size), corners) for one in (cameras.to("cpu"), rig.cameras))
    away = float((found - wanted).norm(dim=-1).max())
    if away > rig.spread_px + MAX_OFF_RIG * size:
        raise DataError(
            f"{where}: expected cameras of the rig {rig.name}, for which stage 1 draws its views, got some that show a "
            f"mouse up to {away:.0f} of {size} pixels elsewhere — name a dataset of that rig."
        )


def _pixels(cameras: Cameras, points: Tensor) -> Tensor:
    cameras = cameras.to(torch.float64)
    return cameras.project(points.double().expand(len(cameras.c2w), *points.shape))[0]
