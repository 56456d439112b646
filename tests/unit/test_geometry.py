"""Triangulation, tangents and hulls against what is known in closed form or of a mesh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from pipeline.cameras import look_at
from pipeline.data.gate.geometry import (
    Silhouette,
    centre_of_mass,
    meeting_point,
    reach_of,
    silhouette,
    tangency,
    triangulate,
    visual_hull,
)
from pipeline.data.gate.scene_check import centre_of
from pipeline.data.mice.mice import MicePlan
from pipeline.data.mice.render import render_mouse
from tests.unit.rigs import ball, random_rig

CENTRE = torch.tensor([60.0, 40.0, 50.0], dtype=torch.float64)
RADIUS = 28.0


def alphas_of(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images[..., 3].copy()).float() / 255


def outlines(alphas: Tensor) -> list[Silhouette]:
    found = [silhouette(alpha.numpy()) for alpha in alphas]
    return [one for one in found if one is not None]


def points(seed: int) -> Tensor:
    return CENTRE + 30 * torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_points_are_found_where_their_pixels_came_from(seed: int) -> None:
    cameras, known = random_rig(seed), points(seed)
    found, residuals = triangulate(cameras, cameras.project(known)[0])
    torch.testing.assert_close(found, known, rtol=0, atol=1e-8)
    assert float(residuals.max()) < 1e-9


def test_triangulation_has_the_least_reprojection_error() -> None:
    """Against a step in every direction: no neighbour explains noisy pixels better."""
    cameras, noise = random_rig(1), torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    pixels = cameras.project(CENTRE[None])[0] + noise
    found, residuals = triangulate(cameras, pixels)
    for step in torch.cat([torch.eye(3), -torch.eye(3)]).double() * 1e-2:
        moved = (cameras.project(found + step)[0] - pixels).norm(dim=-1)
        assert float(moved.square().sum()) > float(residuals.square().sum())


def test_one_wrong_view_hardly_moves_a_robust_point() -> None:
    cameras = random_rig(2)
    pixels = cameras.project(CENTRE[None])[0]
    pixels[3] += 60.0
    found, residuals = triangulate(cameras, pixels, robust=3.0)
    assert float((found[0] - CENTRE).norm()) < 0.2 and int(residuals[:, 0].argmax()) == 3


def test_optical_axes_through_one_point_meet_there() -> None:
    cameras = random_rig(3)
    aimed = replace(cameras, c2w=look_at(cameras.centres, CENTRE.expand(6, 3)))
    torch.testing.assert_close(meeting_point(aimed), CENTRE)


def test_an_outline_lies_on_the_edge_to_a_tenth_of_a_pixel() -> None:
    cameras = random_rig(4)
    found = silhouette(ball(cameras, CENTRE, RADIUS)[0, ..., 3] / np.float32(255))
    assert found is not None
    directions = torch.nn.functional.normalize(
        torch.cat(
            [(found.outline - cameras.fxfycxcy[0, 2:]) / cameras.fxfycxcy[0, :2], torch.ones(len(found.outline), 1)], 1
        )
        @ cameras.c2w[0, :3, :3].mT,
        dim=-1,
    )
    towards = CENTRE - cameras.centres[0]
    passes = (towards - (directions @ towards)[:, None] * directions).norm(dim=-1)
    pixel = float(towards.norm() / cameras.fxfycxcy[0, 0])
    assert float((passes - RADIUS).abs().max()) < 0.1 * pixel


def test_the_centre_of_a_balls_silhouettes_is_the_balls() -> None:
    cameras = random_rig(5)
    found = centre_of(outlines(alphas_of(ball(cameras, CENTRE, RADIUS))), cameras)
    assert float((found - CENTRE).norm()) < 0.25  # mm


def test_the_centre_of_a_mouse_is_its_centre_of_mass_within_a_millimetre() -> None:
    """Twelve mice through the real rig at 288 px; the mask's plain centroid is off by 2 mm."""
    plan = MicePlan("mouse", 288, seed=11)
    errors = []
    for scene in range(12):
        shot = plan.shot(scene)
        solid = trimesh.Trimesh(shot.mesh.vertices, shot.mesh.faces, process=False)
        found = centre_of(outlines(alphas_of(render_mouse(*shot))), shot.cameras.to(torch.float64))
        errors.append(float((found - torch.from_numpy(np.asarray(solid.center_mass))).norm()))
    assert max(errors) < 1.0


def test_the_centre_of_mass_of_a_symmetric_mask_is_its_middle() -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[10:31, 20:41] = 1
    np.testing.assert_allclose(centre_of_mass(mask), [30.5, 20.5], atol=1e-9)


def test_a_thin_tail_hardly_moves_the_centre_of_mass() -> None:
    mask = np.zeros((60, 120), np.float32)
    rows, columns = np.mgrid[:60, :120]
    mask[(rows - 30) ** 2 + (columns - 25) ** 2 < 20**2] = 1
    body = centre_of_mass(mask)
    mask[29:31, 45:115] = 1
    area_moves = (mask * (columns + 0.5)).sum() / mask.sum() - body[0]
    assert centre_of_mass(mask)[0] - body[0] < 0.4 * area_moves


# ---------------------------------------------------------------- tangents and hull


@pytest.mark.parametrize("seed", range(3))
def test_tangents_of_true_silhouettes_meet(seed: int) -> None:
    cameras = random_rig(seed)
    residuals = tangency(outlines(alphas_of(ball(cameras, CENTRE, RADIUS))), cameras)
    known = residuals[~residuals.isnan()]
    assert len(known) >= 40 and float(known.max()) < 0.25


def test_a_camera_moved_by_two_pixels_is_missed_by_all_others_and_by_no_more() -> None:
    cameras = random_rig(0)
    seen = outlines(alphas_of(ball(cameras, CENTRE, RADIUS)))
    moved = cameras.fxfycxcy.clone()
    moved[2, 2:] += torch.tensor([2.0, 2.0])
    residuals = tangency(seen, replace(cameras, fxfycxcy=moved))
    others = [v for v in range(6) if v != 2]
    assert float(residuals[others][:, others].nan_to_num().max()) < 0.25
    assert 0.5 < float(residuals[:, 2].nanmedian()) < 3.0


def test_opposite_cameras_whose_baseline_runs_through_the_object_say_nothing() -> None:
    both = random_rig(0, views=2)
    offset = 300 * torch.tensor([[0.8, 0.6, 0.0], [-0.8, -0.6, 0.0]], dtype=torch.float64)
    cameras = replace(both, c2w=look_at(CENTRE + offset, CENTRE.expand(2, 3)))
    assert bool(tangency(outlines(alphas_of(ball(cameras, CENTRE, RADIUS))), cameras).isnan().all())


def test_where_the_frame_cuts_an_object_off_nothing_is_held_against_it() -> None:
    whole = random_rig(1)
    cut = whole.crop(0, 0, 288, 150)
    masks = alphas_of(ball(cut, CENTRE, RADIUS))
    assert bool((masks[:, -1] > 0.5).any())
    residuals = tangency(outlines(masks), cut)
    assert float(residuals[~residuals.isnan()].max()) < 0.3


def test_the_hull_of_true_masks_covers_them_and_holds_the_object() -> None:
    cameras = random_rig(2)
    masks = alphas_of(ball(cameras, CENTRE, RADIUS))
    hull = visual_hull(masks, cameras, CENTRE, reach_of(outlines(masks), cameras, CENTRE))
    assert float(hull.iou.min()) > 0.995
    away = (hull.points - CENTRE).norm(dim=-1)
    assert float(away.max()) < 1.5 * RADIUS and float(away.median()) < RADIUS


def test_the_hull_shrinks_when_a_mask_is_of_something_else() -> None:
    cameras = random_rig(2)
    masks = alphas_of(ball(cameras, CENTRE, RADIUS))
    masks[4] = alphas_of(ball(cameras, CENTRE + torch.tensor([0.0, 0.0, 20.0]), RADIUS))[4]
    hull = visual_hull(masks, cameras, CENTRE, reach_of(outlines(masks), cameras, CENTRE))
    assert float(hull.iou.max()) < 0.9
