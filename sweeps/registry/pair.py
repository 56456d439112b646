"""Two registered models as one: a version of each becomes one of `mouse-facelift`, scored end to end and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.gate.checks import require_geometry
from pipeline.data.rings import covering, reach
from pipeline.data.variants import prepared
from pipeline.kinds import kind_of
from pipeline.mvdiffusion.deployed import RIG
from pipeline.mvdiffusion.views import read_rig
from pipeline.progress import Tell, silent
from pipeline.recipe import gslrm_parts
from pipeline.reconstruction.models import GAUSSIANS, VIEWS, Given, write_pair
from pipeline.reconstruction.reconstructor import MAX_REACH
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.cards import example_picture
from sweeps.registry.held import PairInfo, inspect, score_pair
from sweeps.registry.named import PAIR as PAIR_NAME
from sweeps.registry.registry import Registry, Verdict
from sweeps.registry.verification import Scene, Verification, facts_of, png_of
from sweeps.registry.versions import Version
from sweeps.space.objective import Objective
from sweeps.tracking.pages import Pages

_SCORED_SCENE: dict[Given, str] = {
    "views": "the first scene, from the top: six views drawn of one photo (the first of the lowest row), the Gaussians "
    "made of them, the photographs",
    "photo": "the first scene, from the top: the Gaussians made of one photo (the first of the lowest row), the "
    "photographs",
}
OBJECTIVE = Objective("val/psnr_fg")  # by its figure on `test`


@dataclass(frozen=True)
class Registered:
    """A pair's version, what is to be said of how the two fit, and the verdict, where there were data for one."""

    version: Version
    notes: tuple[str, ...]
    verdict: Verdict | None


def register_pair(
    home: Home,
    views: str,
    gaussians: str,
    data: str | Path | None = None,
    device: str = "cpu",
    tell: Tell = silent,
    pages: Pages | None = None,
    given: Given = "views",
) -> Registered:
    """Make two registered versions, named as `Registry.resolve` takes them, one version of `mouse-facelift`.

    data: the dataset on whose `test` the pair is scored; with it the pair may become champion, without it never. tell:
    hears how far this is. pages: makes the page of its Gaussians. given: what GS-LRM is given of a photo. Raises
    RegistryError where the two do not fit, and CheckpointError for versions of other kinds of model, or for a photo
    alone where GS-LRM has learned from more views.
    """
    registry = Registry(home, tell=tell, pages=pages)
    first, second = registry.resolve(views), registry.resolve(gaussians)
    with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
        folders = [
            registry.pull(one.ref, Path(temporary) / role) for role, one in ((VIEWS, first), (GAUSSIANS, second))
        ]
        names, versions = (first.name, second.name), (first.version, second.version)
        write_pair(Path(temporary) / PAIR_NAME, folders[0], folders[1], names, versions, given)
        info = inspect(Path(temporary) / PAIR_NAME)
        assert isinstance(info, PairInfo)
        notes = tuple(fit(info, first, second))
        verification, root = _scored(info, data, home, device, tell)
        version = registry.import_checkpoint(PAIR_NAME, verification, {"source": "pair"})
        if root is None:  # figures of before keep their picture
            verification = replace(verification, scene=None)
        version = registry.refresh(version, verification)
        verdict = None if root is None else registry.promote(version, (), OBJECTIVE, root, device)
    return Registered(registry.resolve(version.ref), notes, verdict)


def fit(info: PairInfo, views: Version, gaussians: Version) -> Iterator[str]:
    """What is to be known of two models that work together. Raises RegistryError where they cannot."""
    rig, recipe = read_rig(info.views.folder / RIG), info.gaussians.recipe
    made, taken = len(rig.cameras.c2w), recipe.data.num_input_views
    alone = info.pair.given == "photo"
    if taken > made and not alone:
        raise RegistryError(
            f"{gaussians.ref}: expected a model of at most {made} input views, which {views.ref} makes, got one of "
            f"{taken} — name another with --gaussians."
        )
    depth = gslrm_parts(recipe)[0].depth_range
    if (spanned := reach(rig.cameras)) > MAX_REACH * depth:
        raise RegistryError(
            f"{views.ref}: expected a rig about the origin, where {gaussians.ref} places Gaussians within ±{depth:g}, "
            f"got {rig.name}, whose frames span ±{spanned:.3g} — train it on a normalised dataset."
        )
    if alone:
        yield f"{gaussians.ref} is given the photo alone: {views.ref} draws nothing, its rig and its framing are used"
    elif taken < made:
        left_out = sorted({*range(made)} - {*covering(rig.cameras, taken)})
        yield f"{gaussians.ref} takes {taken} of the {made} views: not slot {', '.join(map(str, left_out))}"
    sizes = info.views.recipe.data.image_size, recipe.data.image_size
    if sizes[0] != sizes[1] and not alone:
        yield f"views of {sizes[0]} pixels are resampled to the {sizes[1]} of {gaussians.ref}"
    ours, theirs = (one.recipe.data.normalise for one in (info.views, info.gaussians))
    if ours != theirs or views.tags.get("data.name") != gaussians.tags.get("data.name"):
        does = "has" if alone else "draws views of"
        yield (
            f"{views.ref} {does} the rig {rig.name} (trained on {_data(views)}, normalised: {ours}); "
            f"{gaussians.ref} was trained on {_data(gaussians)}, normalised: {theirs}"
        )
    yield f"licence: {info.pair.licence or 'neither of the two names one'}"


def _scored(
    info: PairInfo, root: str | Path | None, home: Home, device: str, tell: Tell
) -> tuple[Verification, Path | None]:
    """A pair with its figures on `test`, and the folder of the dataset that was made ready for it; or without figures,
    the input example as its picture, and None.
    """
    facts = kind_of(info.views.recipe).facts(info.views)
    if root is None:
        return Verification(info, {}, facts=facts, scene=Scene(example_picture(), "the input example")), None
    data = replace(info.scored, root=str(root))
    dataset = prepared(data, home.cache, verify=True)
    require_geometry(dataset, home.cache, info.gaussians.recipe.allows_inconsistent_geometry)
    found = score_pair(info, data, dataset, "test", home.cache, device, tell=tell)
    protocol = found.protocol
    verification = Verification(
        info,
        found.metrics,
        protocol=protocol.id,
        data_name=dataset.name,
        data_digest=dataset.digest,
        facts=facts | facts_of(found),
        precision=protocol.precision,
        scene=Scene(png_of(found.picture), _SCORED_SCENE[info.pair.given], found.preview),
    )
    return verification, dataset.root


def _data(version: Version) -> str:
    return version.tags.get("data.name", "data that it does not name")
