"""Views in slots: ring order, references, backgrounds, and the rig that a model's views are labelled with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.cameras import mouse_rig
from pipeline.data.mice.mice import write_mice
from pipeline.data.rings import ring_order, slot_angles, slots
from pipeline.data.scenes import open_dataset
from pipeline.errors import CheckpointError, DataError
from pipeline.mvdiffusion.views import ViewSets, read_rig, rig_of, write_rig


def config(views_recipe, *overrides: str):
    return views_recipe(*overrides).data


@pytest.fixture
def load(mice, frames_cache, views_recipe):
    return lambda *overrides, split="train": ViewSets(mice, split, config(views_recipe, *overrides), frames_cache)


@pytest.mark.parametrize("reference", range(6))
def test_about_any_reference_slot_k_stands_60_k_degrees_to_its_right(reference) -> None:
    rig = mouse_rig()
    azimuths, _ = slot_angles(rig[list(slots(ring_order(rig), reference))])
    away = [(azimuth + 60 * slot + 180) % 360 - 180 for slot, azimuth in enumerate(azimuths)]
    assert max(map(abs, away)) < 15


def test_from_camera_0_the_real_rig_stands_where_it_was_measured() -> None:
    rig = mouse_rig()
    azimuths, elevations = slot_angles(rig[list(slots(ring_order(rig), 0))])
    assert [round(a) for a in azimuths] == [0, -59, -122, 175, 122, 67]
    assert [round(e) for e in elevations] == [1, 15, 2, 15, 1, 18]


def test_the_reference_is_the_only_input(load) -> None:
    loader = load(split="val")
    assert (loader.inputs, loader.held_out) == ((0,), (4, 2, 1, 3, 5))


def test_in_file_order_every_slot_has_its_file(load) -> None:
    loader = load("data.view_sampling=fixed", split="val")
    assert (loader.inputs, loader.held_out) == ((0,), (1, 2, 3, 4, 5))


def test_a_fixed_reference_stays(load, mice) -> None:
    loader = load()
    for step in range(3):
        batch = loader.training_batch(step, 1).to("cpu")
        cameras = mice.scenes[batch.scenes[0]].cameras[[0, 4, 2, 1, 3, 5]].centres.float()
        torch.testing.assert_close(batch.cameras.centres[0], cameras)


def test_a_random_reference_turns_the_ring_and_never_reorders_it(load, mice) -> None:
    loader, seen = load("data.view_sampling=ring_random"), set()
    for step in range(40):
        batch = loader.training_batch(step, 1).to("cpu")
        files = mice.scenes[batch.scenes[0]].cameras.centres.float()
        order = [int((files - centre).norm(dim=-1).argmin()) for centre in batch.cameras.centres[0]]
        assert tuple(order) == slots((0, 5, 3, 1, 2, 4), order[0])
        seen.add(order[0])
    assert seen == set(range(6))


def test_backgrounds_are_white_black_or_grey_and_the_animal_stays(load) -> None:
    white, coloured = (
        load().training_batch(0, 4).to("cpu"),
        load("data.background=three_choices").training_batch(0, 4).to("cpu"),
    )
    assert white.masks is not None
    inside, outside = white.masks == 1, white.masks == 0
    three = {round(float(v), 3) for v in coloured.images[outside.expand_as(coloured.images)].unique()}
    assert three <= {0.0, 0.5, 1.0} and len(three) > 1
    where = inside.expand_as(white.images)
    torch.testing.assert_close(coloured.images[where], white.images[where])


def test_validation_is_on_white_whatever_training_is_on(load) -> None:
    batch = load("data.background=random", split="val").evaluation_batch(0).to("cpu")
    assert batch.masks is not None
    assert float(batch.images[(batch.masks == 0).expand_as(batch.images)].min()) == 1.0


def test_scenes_of_another_number_of_views_are_refused(tmp_path, views_recipe) -> None:
    five = open_dataset(write_mice(tmp_path / "five", scenes=3, size=32, rig="facelift_ring", views=5))
    with pytest.raises(DataError, match=r"expected data\.num_views 6 views, one for each slot, got 5"):
        ViewSets(five, "train", config(views_recipe), tmp_path)


def test_a_dataset_of_one_scene_is_refused(mice_folder, tmp_path, views_recipe) -> None:
    with pytest.raises(DataError, match="expected a dataset of several scenes, got one"):
        ViewSets(open_dataset(mice_folder / "scene_000000"), "test", config(views_recipe), tmp_path)


# ---------------------------------------------------------------- the rig


def test_a_rig_that_all_scenes_share_is_exact(tmp_path, views_recipe) -> None:
    shared = open_dataset(write_mice(tmp_path / "six", scenes=3, size=32, rig="facelift_six"))
    rig = rig_of(shared, config(views_recipe))
    assert (rig.name, rig.spread_px) == ("facelift_six", 0.0)
    torch.testing.assert_close(rig.cameras.centres, shared.scenes["scene_000000"].cameras.centres)


def test_a_rig_that_differs_from_scene_to_scene_says_by_how_much(mice, views_recipe) -> None:
    assert rig_of(mice, config(views_recipe)).spread_px > 0.1


def test_a_rig_is_read_as_it_was_written(mice, views_recipe, tmp_path) -> None:
    rig = rig_of(mice, config(views_recipe))
    write_rig(rig, tmp_path / "rig.json")
    again = read_rig(tmp_path / "rig.json")
    assert torch.equal(again.cameras.c2w, rig.cameras.c2w.double())
    assert replace(again, cameras=rig.cameras) == rig


def test_a_rig_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"rig\.json: expected a file that can be read"):
        read_rig(tmp_path / "rig.json")
