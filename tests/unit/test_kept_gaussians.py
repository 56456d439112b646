"""Which Gaussians are kept: FaceLift's filters at their edges, and one PLY from all that write one."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from pipeline import checkpoint
from pipeline.data.scenes import open_dataset, read_scene, write_scene
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.stage import GSLRMStage
from pipeline.pruning import PRUNINGS, Pruning, pruning_of
from pipeline.reconstruction.models import load_gaussians
from pipeline.reconstruction.outputs import Wanted, write_outputs
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.training.processes import ALONE
from sweeps.pyfuncs.pyfunc_gslrm import SIGNATURE, GSLRMModel
from tests.support.pruning_reference import CALLERS, kept

FLOAT = np.float32


def around(*values: float) -> np.ndarray:
    """Each value in float32, and its two neighbours."""
    at = np.array(values, FLOAT)
    return np.unique(np.concatenate([np.nextafter(at, FLOAT(-9)), at, np.nextafter(at, FLOAT(9))]))


def gaussians_of(means: np.ndarray, scales: np.ndarray, opacities: np.ndarray) -> Gaussians:
    count = len(opacities)
    quats, colours = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1), torch.zeros(count, 1, 3)
    return Gaussians(torch.from_numpy(means), quats, torch.from_numpy(scales), torch.from_numpy(opacities), colours)


@pytest.fixture(scope="module")
def edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussians on every threshold of every caller, and one step of float32 below and above, in all combinations."""
    flat = np.array([0, 0.6, 0.75, 0.91], FLOAT)
    x = np.unique(np.concatenate([around(*flat), -around(*flat)]))
    z = np.unique(np.concatenate([around(0, 0.6, 0.75, 0.91, 1.0), -around(0.6, 0.75, 0.91, 1.0)]))
    size, opacity = around(0.1, 0.2), around(0.02, 0.04)
    rows = np.array(list(itertools.product(x, x, z, size[::2], opacity[::2])), FLOAT)
    more = np.array(list(itertools.product(x[::3], x[1::3], around(0, 0.6, 1.0), size, opacity)), FLOAT)
    rows = np.concatenate([rows, more])
    scales = np.full((len(rows), 3), 0.01, FLOAT)
    scales[np.arange(len(rows)), np.arange(len(rows)) % 3] = rows[:, 3]  # whichever axis is the longest
    return np.ascontiguousarray(rows[:, :3]), scales, np.ascontiguousarray(rows[:, 4])


@pytest.mark.parametrize("name", CALLERS)
def test_facelifts_filters_leave_the_rows_that_their_description_leaves(name: str, edges) -> None:
    stay = PRUNINGS[name].keep(gaussians_of(*edges)).nonzero()[:, 0].numpy()
    np.testing.assert_array_equal(stay, kept(CALLERS[name], *edges))
    assert 0 < len(stay) < len(edges[0])


BELOW, ABOVE = float(np.nextafter(FLOAT(0.1), FLOAT(0))), float(np.nextafter(FLOAT(0.04), FLOAT(1)))
# x, y, z, largest scale, opacity -> kept by FaceLift's inference, by its app, in its training, in its validation
GOLDEN = [
    ((0.0, 0.0, 0.0, 0.05, 0.04), (False, False, True, True)),  # at the opacity's limit
    ((0.0, 0.0, 0.0, 0.05, ABOVE), (True, True, True, True)),
    ((0.0, 0.0, 0.0, 0.05, 0.02), (False, False, False, False)),
    ((0.0, 0.0, 0.0, 0.1, 0.5), (False, True, True, True)),  # at the scale's limit, not above the origin's height
    ((0.0, 0.0, 0.0, BELOW, 0.5), (True, True, True, True)),
    ((0.0, 0.0, 1e-9, 0.1, 0.5), (True, True, True, True)),  # large, and above it
    ((0.0, 0.0, 0.5, 0.3, 0.5), (True, True, True, True)),
    ((0.0, 0.0, -0.5, 0.2, 0.5), (False, False, True, True)),
    ((0.61, -0.61, -0.61, 0.05, 0.5), (False, True, True, True)),  # in a column below a corner
    ((0.61, -0.61, -0.6, 0.05, 0.5), (True, True, True, True)),
    ((0.6, -0.61, -0.61, 0.05, 0.5), (True, True, True, True)),
    ((-0.8, -0.8, -0.8, 0.05, 0.5), (False, False, True, True)),
    ((-0.8, 0.8, 0.8, 0.05, 0.5), (True, True, True, True)),  # above no corner is anything left out
    ((0.91, 0.0, 0.91, 0.05, 0.5), (True, True, True, True)),  # on the box
    ((0.0, 0.92, 0.0, 0.05, 0.5), (False, False, False, True)),
    ((0.0, 0.0, 0.95, 0.05, 0.5), (True, True, False, True)),
    ((0.0, 0.0, -1.0, 0.05, 0.5), (True, True, False, True)),
    ((0.0, 0.0, 1.01, 0.05, 0.5), (False, False, False, True)),
]


@pytest.mark.parametrize(("place", "name"), list(enumerate(CALLERS)))
def test_the_golden_list_of_which_gaussians_stay(place: int, name: str) -> None:
    rows = np.array([row for row, _ in GOLDEN], FLOAT)
    scales = np.repeat(rows[:, 3:4], 3, 1) * np.array([1, 0.5, 0.5], FLOAT)
    stay = PRUNINGS[name].keep(gaussians_of(rows[:, :3].copy(), scales, rows[:, 4].copy()))
    assert stay.tolist() == [answers[place] for _, answers in GOLDEN]


def cloud(centre: tuple[float, float, float], count: int, seed: int, spread: float = 0.1) -> np.ndarray:
    """Points about a centre."""
    return (np.random.default_rng(seed).uniform(-spread, spread, (count, 3)) + centre).astype(FLOAT)


def of_means(means: np.ndarray, opacity: float = 0.5) -> Gaussians:
    count = len(means)
    return gaussians_of(means, np.full((count, 3), 0.01, FLOAT), np.full(count, opacity, FLOAT))


def test_specks_beside_the_animal_are_no_part_of_what_is_connected() -> None:
    body, specks = cloud((0, 0, 0), 400, 0), cloud((0.5, 0, -0.4), 3, 1, 0.02)
    gaussians = of_means(np.concatenate([specks, body, specks + FLOAT(0.3)]))
    assert PRUNINGS["connected"].keep(gaussians).tolist() == [False] * 3 + [True] * 400 + [False] * 3
    assert PRUNINGS["default"](gaussians).count == 406


def test_two_animals_are_both_kept_and_what_nobody_sees_joins_nothing() -> None:
    bridge = np.linspace((0.1, 0, 0), (0.8, 0, 0), 60).astype(FLOAT)
    two = of_means(np.concatenate([cloud((0, 0, 0), 300, 0), cloud((1, 0, 0), 300, 1)]))
    assert PRUNINGS["connected"](two).count == 600
    faint = of_means(np.concatenate([cloud((0, 0, 0), 300, 0), bridge, cloud((0.9, 0, 0), 2, 1, 0.02)]))
    faint.opacities[300:360] = 0.01
    assert PRUNINGS["connected"].keep(faint).tolist() == [True] * 300 + [False] * 62


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_that_scipy_labels_in_a_dense_grid(seed: int) -> None:
    random = np.random.default_rng(seed)
    means = np.concatenate([cloud(tuple(random.uniform(-1, 1, 3)), 10 * place, place, 0.1) for place in range(1, 12)])
    cells = np.floor(means.astype(float) / 0.05).astype(int)
    grid = np.zeros(np.ptp(cells, 0) + 1, bool)
    at = tuple((cells - cells.min(0)).T)
    grid[at] = True
    label = ndimage.label(grid, np.ones((3, 3, 3)))[0][at]
    share = (np.bincount(label) / len(label))[label]
    kept = Pruning(component=0.1).keep(of_means(means)).numpy()
    np.testing.assert_array_equal(kept, share >= 0.1)
    assert 0 < kept.sum() < len(kept)


def test_one_far_away_costs_nothing_and_none_left_is_none() -> None:
    far = of_means(np.concatenate([cloud((0, 0, 0), 100, 0), np.array([[1e6, -1e6, 3e5]], FLOAT)]))
    assert PRUNINGS["connected"].keep(far).tolist() == [True] * 100 + [False]
    assert PRUNINGS["connected"](of_means(cloud((0, 0, 0), 9, 0), opacity=0.01)).count == 0


def test_rules_without_components_are_written_as_they_were_before_there_were_any() -> None:
    assert "component" not in PRUNINGS["facelift"].as_plain()
    assert PRUNINGS["connected"].as_plain()["component"] == 0.02


def test_what_is_kept_stays_in_its_order(edges) -> None:
    gaussians = gaussians_of(*edges)
    pruned = PRUNINGS["facelift"](gaussians)
    assert torch.equal(pruned.means, gaussians.means[torch.from_numpy(kept(CALLERS["facelift"], *edges))])


def test_none_keeps_everything_even_what_nobody_sees() -> None:
    count = 5
    gaussians = gaussians_of(np.full((count, 3), 9, FLOAT), np.full((count, 3), 9, FLOAT), np.zeros(count, FLOAT))
    assert PRUNINGS["none"](gaussians).count == count


def test_a_rule_of_ones_own_stands_in_place_of_the_named_ones() -> None:
    mixed = pruning_of("facelift", min_opacity=0.3, box=[2, 2, 3])
    assert mixed == Pruning(0.3, 0.1, 0.0, 0.6, (2.0, 2.0, 3.0))


def test_a_scale_of_ones_own_counts_at_every_height() -> None:
    large = gaussians_of(np.array([[0, 0, 0.5], [0, 0, -0.5]], FLOAT), np.full((2, 3), 0.2, FLOAT), np.ones(2, FLOAT))
    assert pruning_of(max_scale=0.1).keep(large).tolist() == [False, False]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"prune": "mine"}, "prune: expected one of default, connected, facelift, "),
        ({"min_opacity": 1.5}, "min_opacity: expected a number from 0 to 1, got 1.5 — give one, or leave it out."),
        (
            {"min_opacity": float("nan")},
            "min_opacity: expected a number from 0 to 1, got nan — give one, or leave it out.",
        ),
        ({"max_scale": -1.0}, "max_scale: expected a number of at least 0, got -1 — give one, or leave it out."),
        ({"floater": float("inf")}, "floater: expected a number of at least 0, got inf — give one, or leave it out."),
        (
            {"box": [1, 2]},
            "box: expected three numbers of at least 0 for |x|, |y|, |z|, got 1, 2 — give three, or leave it out.",
        ),
        ({"box": [1, 2, -3]}, "box: expected three numbers of at least 0 for |x|, |y|, |z|, got 1, 2, -3 — give"),
    ],
)
def test_a_rule_that_is_none_is_refused(rules: dict, said: str) -> None:
    with pytest.raises(DataError) as caught:
        pruning_of(**rules)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_batch_is_not_pruned() -> None:
    gaussians = gaussians_of(np.zeros((4, 3), FLOAT), np.ones((4, 3), FLOAT), np.ones(4, FLOAT))
    batch = Gaussians(*(value[None] for value in vars(gaussians).values()))
    with pytest.raises(DataError, match=r"pruning: expected one scene, got a batch \(1, 4\) — index it first"):
        Pruning()(batch)


# ---------------------------------------------------------------- one PLY


@pytest.fixture(scope="module")
def stage(tiny_recipe) -> GSLRMStage:
    """A model whose Gaussians are of all opacities, sizes and places."""
    torch.manual_seed(0)
    made = GSLRMStage(tiny_recipe(), torch.device("cpu"))
    with torch.no_grad():
        made.model.pixel_gaussian_decoder[1].weight.mul_(12)
    return made


@pytest.fixture(scope="module")
def folder(stage: GSLRMStage, mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint, with the preview of a validation."""
    tmp = tmp_path_factory.mktemp("one-ply")
    shown = stage.validate(open_dataset(mice_folder), tmp / "cache", 1, ALONE)
    return checkpoint.save(tmp / "step-000001", stage.model, stage.recipe, 1, attachments=shown.attachments)


@pytest.fixture(scope="module")
def scene(stage: GSLRMStage, mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first scene of `val`, with its input views alone."""
    tmp = tmp_path_factory.mktemp("inputs")
    loader = stage.loader(open_dataset(mice_folder), "val", tmp / "cache")
    (read, *_), views = loader.scenes, list(loader.inputs)
    write_scene(tmp / "scene", np.stack([np.asarray(read.image(view)) for view in views]), read.cameras[views])
    return tmp / "scene"


def reconstructed(folder: Path, scene: Path, out: Path, pruning: Pruning) -> bytes:
    out.mkdir()
    result = Reconstructor(load_gaussians(folder)).scene(read_scene(scene))
    write_outputs(result, out, Wanted(pruning, size=16), {})
    return (out / "gaussians.ply").read_bytes()


def predicted(folder: Path, scene: Path, **params: object) -> bytes:
    model, read = GSLRMModel(), read_scene(scene)
    model.load_context(SimpleNamespace(artifacts={"checkpoint": str(folder)}))
    rows = {
        "scene": "a",
        "image": [path.read_bytes() for path in read.paths],
        "c2w": [c2w.flatten().tolist() for c2w in read.cameras.c2w],
        "fxfycxcy": read.cameras.fxfycxcy.tolist(),
    }
    given = {spec.name: spec.default for spec in SIGNATURE.params.params} | params
    return model.predict(None, pd.DataFrame(rows), given)["ply"][0]


def test_preview_reconstruct_and_the_registered_model_give_the_same_ply(
    folder: Path, scene: Path, tmp_path: Path
) -> None:
    preview = (folder / checkpoint.PREVIEW).read_bytes()
    assert reconstructed(folder, scene, tmp_path / "out", PRUNINGS["default"]) == preview
    assert predicted(folder, scene) == preview
    assert 0 < Gaussians.load_ply(folder / checkpoint.PREVIEW).count < 2 + 4 * 32 * 32


def test_facelifts_rules_give_the_same_ply_by_both_that_take_them(folder: Path, scene: Path, tmp_path: Path) -> None:
    by_name = predicted(folder, scene, prune="facelift")
    assert reconstructed(folder, scene, tmp_path / "out", PRUNINGS["facelift"]) == by_name
    assert by_name != predicted(folder, scene, prune="facelift", box=[0.5, 0.5, 0.5]) != predicted(folder, scene)
