"""Trained models at work: one photo to six views; posed views to Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline import metrics
from pipeline.cameras import Cameras
from pipeline.data.batch import Batch, HostBatch
from pipeline.data.pictures import prepare_view
from pipeline.data.rings import covering, reach
from pipeline.data.scenes import Scene
from pipeline.errors import DataError, DegenerateViewsError
from pipeline.gaussians import Gaussians
from pipeline.precision import autocast, evaluated_in
from pipeline.progress import Tell, silent
from pipeline.recipe import gslrm_parts
from pipeline.reconstruction.models import Given, require_learned_from_one

if TYPE_CHECKING:
    from pipeline.data.photo.photo import Photo
    from pipeline.reconstruction.models import GaussiansModel, ViewsModel
    from pipeline.splatting.rendering import Rendering

MAX_REACH = 2.0  # times the depth that GS-LRM gives a ray on either side of the origin: what half a frame may span


@dataclass(frozen=True)
class Reconstruction:
    """Gaussians [N] of one object, unpruned, and the views they came from: the inputs first, then the held-out ones.

    rendering: of the cameras of `batch`, None where it was not asked for. views: those that were generated of a photo
    [V, 3, H, W], at their own size. left_out: the views, as they were given, that were no inputs. refine_steps: of the
    optimisation that the Gaussians went through, and unrefined: what was drawn of them before it.
    """

    gaussians: Gaussians
    batch: Batch
    rendering: Rendering | None
    views: Float[Tensor, "view 3 height width"] | None = None
    left_out: tuple[int, ...] = ()
    refine_steps: int = 0
    unrefined: Rendering | None = None

    @property
    def held_out_psnr(self) -> float | None:
        """PSNR in dB of the views that the model was not shown, full frame on white; None where there are none."""
        if self.rendering is None or not self.left_out:
            return None
        return self._decibels(self.rendering, slice(self.batch.num_input_views, None))["psnr"]

    @property
    def refinement(self) -> dict[str, dict[str, dict[str, float]]] | None:
        """Figures in dB before and after refining: `psnr` of the full frame and, where there are masks, `psnr_fg`, each
        as a mean over the views of `inputs` and of `held_out`, which is left out where there are none.

        None where nothing was refined, or nothing drawn.
        """
        if self.unrefined is None or self.rendering is None:
            return None
        inputs = self.batch.num_input_views
        views = {"inputs": slice(inputs), "held_out": slice(inputs, None)}
        drawn = {"before": self.unrefined, "after": self.rendering}
        return {
            name: {when: self._decibels(rendering, some) for when, rendering in drawn.items()}
            for name, some in views.items()
            if len(self.batch.images[0, some])
        }

    def _decibels(self, rendering: Rendering, views: slice) -> dict[str, float]:
        images, targets = rendering.images[0, views], self.batch.images[0, views]
        found = {"psnr": float(metrics.psnr(images, targets).mean())}
        if self.batch.masks is not None:
            found["psnr_fg"] = float(metrics.psnr_fg(images, targets, self.batch.masks[0, views]).nanmean())
        return found


class Reconstructor:
    """A model of Gaussians, and where photos are to be taken in a model of views, applied to one object at a time."""

    def __init__(
        self,
        gaussians: GaussiansModel,
        views: ViewsModel | None = None,
        device: torch.device | str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        given: Given = "views",
        refine_steps: int = 0,
    ) -> None:
        """device: of the work; the one that the models were loaded to, if None. steps, guidance, seed: how views are
        drawn, if not as their own model says. given: what GS-LRM is given of a photo. refine_steps: of the optimisation
        of Gaussians on the views they were made of. Raises DataError for a guidance that is no finite number.
        """
        if guidance is not None and not 0 <= guidance < math.inf:
            raise DataError(f"guidance: expected a number of at least 0, got {guidance:g} — give one, or leave it out.")
        self.device = torch.device(device) if device is not None else next(gaussians.model.parameters()).device
        self.gaussians, self.views = gaussians, views
        self.steps, self.guidance, self.seed, self.given = steps, guidance, seed, given
        self.refine_steps = refine_steps
        gaussians.model.to(self.device)
        if views is not None:
            views.generator.to(self.device)

    @property
    def rig(self) -> Cameras | None:
        """The cameras of generated views, where there is a model of views."""
        return None if self.views is None else self.views.generator.rig.cameras

    @property
    def sampling(self) -> dict[str, float] | None:
        """How views are drawn: seed, steps, guidance, eta; None where none are."""
        if self.views is None or self.given == "photo":
            return None
        own = self.views.generator.sampling
        given = {"seed": self.seed, "steps": self.steps, "guidance": self.guidance, "eta": None}
        return {name: getattr(own, name) if value is None else value for name, value in given.items()}

    def photo(self, photo: Photo, number: int = 0, render: bool = True, tell: Tell = silent) -> Reconstruction:
        """Six views of a framed photo, and the Gaussians of these as they are, with no mask (FaceLift); or no views,
        and the Gaussians of the photo on white, with the rig's first camera, which is the photo's.

        Refined they are on the photo in the place of the first view, which has its camera, and on the other views.

        number: with the seed it decides the noise. render: draw the cameras of the views, too. tell: hears of each
        denoising step. Raises DataError where no model of views was given, for one whose rig is of another world, such
        as one in millimetres, and for a photo alone that is to be refined; CheckpointError for a photo alone where
        GS-LRM has learned from more views.
        """
        if self.views is None:
            raise DataError(f"{photo.where}: expected a model that makes views of a photo, got none — name --views.")
        generator = self.views.generator
        self._require_world(
            generator.rig.cameras, f"rig {generator.rig.name}", "name --views trained on normalised scenes"
        )
        cameras, size = generator.rig.cameras, self.gaussians.recipe.data.image_size
        if self.given == "photo":
            require_learned_from_one(self.gaussians.recipe, self.gaussians.name)
            camera = cameras.resize(size, size)[:1].to(torch.float32).to(self.device)[None]
            alone = Batch(photo.image(size)[None, None].to(self.device), None, camera, 1, (photo.where,))
            return self._refined(self._reconstruction(alone, (), render), tell)
        image = photo.image(generator.image_size)[None].to(self.device)
        with torch.inference_mode():
            views = generator(image, [number], self.guidance, self.steps, seed=self.seed, tell=tell)[0]
        if views.shape[-1] != size:
            views_in = F.interpolate(views, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        else:
            views_in = views
        inputs, left_out = self._chosen(cameras, photo.where)
        order = [*inputs, *left_out]
        posed = cameras.resize(size, size)[order].to(torch.float32).to(self.device)[None]
        batch = Batch(views_in[None, order], None, posed, len(inputs), (photo.where,))
        made = self._reconstruction(batch, left_out, render)
        if self.refine_steps:
            shown = torch.cat([photo.image(size)[None, None].to(self.device), batch.images[:, 1:]], 1)
            made = replace(made, batch=replace(batch, images=shown))
        return replace(self._refined(made, tell), views=views)

    def scene(self, scene: Scene, render: bool = True, tell: Tell = silent) -> Reconstruction:
        """Gaussians of posed views: of as many as the model takes, or of all; the others are held out. tell: hears of
        each refining step.

        Raises DataError for an image that cannot be read, for views of which some have alpha, for cameras of another
        world than the model's, such as one in millimetres, and for one view where they are to be refined.
        """
        self._require_world(scene.cameras, str(scene.folder), "run `mouselift data normalise`")
        inputs, left_out = self._chosen(scene.cameras, str(scene.folder))
        batch = _batch_of(scene, self.gaussians.recipe.data.image_size, inputs, left_out).to(self.device)
        return self._refined(self._reconstruction(batch, left_out, render), tell)

    def _require_world(self, cameras: Cameras, where: str, advice: str) -> None:
        config, _ = gslrm_parts(self.gaussians.recipe)
        spanned = reach(cameras)
        if config.pixel_aligned and spanned > MAX_REACH * config.depth_range:
            raise DataError(
                f"{where}: expected cameras about the world's origin, where the model places Gaussians within "
                f"±{config.depth_range:g}, got views that span ±{spanned:.3g} — {advice}."
            )

    def _chosen(self, cameras: Cameras, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(Views that the model is shown, views that are left out) of cameras [V]."""
        try:
            inputs = covering(cameras, self.gaussians.recipe.data.num_input_views)
        except DegenerateViewsError as error:
            raise DataError(f"{where}: {error}") from None
        return inputs, tuple(view for view in range(len(cameras.c2w)) if view not in inputs)

    def _reconstruction(self, batch: Batch, left_out: tuple[int, ...], render: bool) -> Reconstruction:
        precision = evaluated_in(self.gaussians.recipe.train.precision, self.device)
        with torch.inference_mode():
            with autocast(self.device, precision):
                gaussians = self.gaussians.model(batch.input_images, batch.input_cameras)
            rendering = _drawn(gaussians, batch) if render else None
        return Reconstruction(gaussians[0], batch, rendering, left_out=left_out)

    def _refined(self, made: Reconstruction, tell: Tell) -> Reconstruction:
        """The same with Gaussians that were optimised on the input views, where that was asked for."""
        if not self.refine_steps:
            return made
        from pipeline.gslrm.refine import refined

        gaussians = refined(made.gaussians[None], made.batch, self.refine_steps, tell)
        with torch.inference_mode():
            rendering = None if made.rendering is None else _drawn(gaussians, made.batch)
        return replace(
            made,
            gaussians=gaussians[0],
            rendering=rendering,
            unrefined=made.rendering,
            refine_steps=self.refine_steps,
        )


def _drawn(gaussians: Gaussians, batch: Batch) -> Rendering:
    from pipeline.splatting.rendering import render  # a service that draws nothing needs none

    return render(gaussians, batch.cameras)


def _batch_of(scene: Scene, size: int, inputs: Sequence[int], left_out: Sequence[int]) -> HostBatch:
    """A scene's views at a size, the inputs first."""
    order = [*inputs, *left_out]
    images = [scene.image(view) for view in order]
    alpha = [image.mode == "RGBA" for image in images]
    if any(alpha) and not all(alpha):
        path = scene.paths[order[alpha.index(False)]]
        raise DataError(f"{path}: expected alpha as in other images of the scene, got none — add its mask.")
    frames = np.stack([prepare_view(image, size).transpose(2, 0, 1) for image in images])
    if not any(alpha):
        frames = frames[:, :3]
    cameras = scene.cameras.resize(size, size)[order].to(torch.float32)[None]
    return HostBatch(torch.from_numpy(frames[None]), cameras, len(inputs), (scene.name,), (False,))
