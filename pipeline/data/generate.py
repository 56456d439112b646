"""Six-view scenes from single pictures, by a trained multi-view model, labelled with the rig that the model carries.

The cameras of the source are never copied: a generated view shows what the model's own training targets showed from
that slot, whatever photographed its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.foreground import RULE, all_shown, cut_out
from pipeline.data.gate.checks import checked
from pipeline.data.photo.cutout import Cutting
from pipeline.data.photo.folders import Pictures
from pipeline.data.photo.framing import Framing
from pipeline.data.photo.photo import read_photo
from pipeline.data.pictures import pixels_of
from pipeline.data.scenes import Manifest, write_manifest, write_scene
from pipeline.data.unfinished import writing
from pipeline.errors import DataError
from pipeline.progress import Tell, silent

if TYPE_CHECKING:
    from pipeline.mvdiffusion.deployed import ViewGenerator

VERSION = 2  # raise it when the same plan gives other scenes
_NO_CUTTING = Cutting()


def generate(
    pictures: Pictures,
    out: Path,
    model: ViewGenerator,
    provenance: Mapping[str, Any],
    batch_size: int = 4,
    framing: Framing | None = None,
    cutting: Cutting = _NO_CUTTING,
    tell: Tell = silent,
) -> Iterator[int]:
    """Write a scene of generated views per picture to `out`; yields how many are done, last after the gate's check.

    provenance: what tells this model and its sampling from others; another one does not continue the folder. A scene
    with a view that shows nothing is left out, and the manifest names it. framing, cutting: how the pictures are read
    (`photo.read_photo`). tell: hears of each denoising step of a batch. Raises DataError for a picture that is none or
    of which nothing tells the animal, for a folder of another plan, and where nothing could be generated.
    """
    rig, names = model.rig, sorted(pictures.paths)
    plan = {"kind": "generated", "version": VERSION, "masks": RULE, "rig": rig.name, **provenance}
    with writing(out, plan | {"source": pictures.digest}, "generated scenes"):
        waiting = [(number, name) for number, name in enumerate(names) if not (out / name).is_dir()]
        done = len(names) - len(waiting)
        yield done
        for start in range(0, len(waiting), batch_size):
            part = waiting[start : start + batch_size]
            images = torch.stack(
                [read_photo(pictures.paths[name], framing, cutting).image(model.image_size) for _, name in part]
            )
            with torch.inference_mode():
                generated = model(images, [number for number, _ in part], tell=tell)
            for (_, name), views in zip(part, generated, strict=True):
                rgba = cut_out(pixels_of(views))
                if all_shown(rgba):
                    write_scene(out / name, rgba, rig.cameras)
            done += len(part)
            yield done
        written = [name for name in names if (out / name).is_dir()]
        if not written:
            raise DataError(f"{out}: expected views that show something, got none — look at the model's own previews.")
        transforms = (plan | {"left_out": sorted({*names} - {*written})},)
        splits = {split: tuple(n for n in some if n in written) for split, some in pictures.splits.items()}
        order = tuple(-slot % len(rig.cameras.c2w) for slot in range(len(rig.cameras.c2w)))
        manifest = Manifest(
            name=out.name, parent=pictures.digest, transforms=transforms, rig=rig.name, view_order=order, splits=splits
        )
        checked(write_manifest(out, manifest), tell)
