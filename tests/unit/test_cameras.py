"""Cameras: projection, rays, image operations, similarities, rigs and refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cameras import (
    FACELIFT_DISTANCE,
    Cameras,
    closest_point,
    facelift_ring,
    facelift_six,
    look_at,
    mouse_rig,
    orbit,
    plucker,
    ray_parameter_of_closest_point,
)
from pipeline.errors import DataError
from pipeline.reconstruction.turntable import turntable_around

GOLDEN = Path(__file__).parents[1] / "golden" / "gslrm" / "forward.npz"
MEETING_POINT = torch.tensor([46.9, 49.2, 59.6])  # mm; where the optical axes of the mouse rig come nearest


def crooked(width: int = 11, height: int = 7) -> Cameras:
    """Two scenes of three cameras in float64: unequal focal lengths, principal point off the middle."""
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) + torch.tensor([3.0, -2.0, 1.0])
    target = 0.2 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([9.0, 12.0, 4.1, 2.7], dtype=torch.float64).expand(2, 3, 4)
    return Cameras(look_at(position, target), intrinsics, width, height)


def points() -> Tensor:
    return 0.5 * torch.randn(2, 3, 20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def whole_turn(size: int, views: int = 150) -> Cameras:
    """A turntable at elevation 0, as a reconstruction of FaceLift's six views gets it."""
    return turntable_around(facelift_six(size), size, views)


def rotation() -> Tensor:
    """A proper rotation about no axis in particular."""
    return look_at(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([-0.3, 0.1, 0.2]).double())[:3, :3]


# ---------------------------------------------------------------- projection and rays


def test_world_to_camera_undoes_camera_to_world() -> None:
    cameras = crooked()
    torch.testing.assert_close(cameras.w2c @ cameras.c2w, torch.eye(4).double().expand(2, 3, 4, 4))


def test_rays_project_back_to_their_pixel_centres() -> None:
    cameras = crooked()
    origins, directions = cameras.rays()
    pixels, _ = cameras.project((origins + 1.7 * directions).flatten(2, 3))
    rows, columns = torch.meshgrid(torch.arange(7) + 0.5, torch.arange(11) + 0.5, indexing="ij")
    wanted = torch.stack([columns, rows], -1).flatten(0, 1).double().expand(2, 3, -1, -1)
    torch.testing.assert_close(pixels, wanted)


def test_ray_directions_have_length_one() -> None:
    directions = crooked().rays().directions
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones_like(directions[..., 0]))


def test_rays_keep_full_precision_under_autocast() -> None:
    cameras = crooked().to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under = cameras.rays().directions
    assert torch.equal(under, cameras.rays().directions)


def test_projection_agrees_with_the_matrices() -> None:
    cameras = crooked()
    pixels, depth = cameras.project(points())
    homogeneous = torch.cat([points(), torch.ones(2, 3, 20, 1)], -1)
    image = homogeneous @ (cameras.K @ cameras.w2c[..., :3, :]).mT
    torch.testing.assert_close((pixels, depth), (image[..., :2] / image[..., 2:], image[..., 2]))


def test_indexing_picks_cameras() -> None:
    cameras = crooked()
    assert torch.equal(cameras[1, 2].c2w, cameras.c2w[1, 2]) and cameras[:, :2].batch_shape == (2, 2)


def test_golden_rays_are_facelifts() -> None:
    golden = np.load(GOLDEN)
    c2w, fxfycxcy = (torch.from_numpy(golden[name])[:, :3] for name in ("c2w", "fxfycxcy"))
    rays = Cameras(c2w, fxfycxcy, 32, 32).rays()
    wanted = tuple(torch.from_numpy(golden[name]).movedim(2, -1) for name in ("ray_o", "ray_d"))
    torch.testing.assert_close(tuple(rays), wanted, rtol=0, atol=1e-5)


def test_golden_posed_images_are_facelifts() -> None:
    golden = np.load(GOLDEN)
    c2w, fxfycxcy = (torch.from_numpy(golden[name])[:, :3] for name in ("c2w", "fxfycxcy"))
    colours = torch.from_numpy(golden["image"])[:, :3, :3].movedim(2, -1) * 2 - 1
    posed = torch.cat([colours, closest_point(Cameras(c2w, fxfycxcy, 32, 32).rays())], -1)
    torch.testing.assert_close(posed, torch.from_numpy(golden["posed"]).movedim(2, -1), rtol=0, atol=1e-5)


def test_plucker_is_the_same_anywhere_on_the_ray() -> None:
    rays = crooked().rays()
    moved = rays._replace(origins=rays.origins + 2.5 * rays.directions)
    torch.testing.assert_close(plucker(moved), plucker(rays))


def test_the_closest_point_is_orthogonal_to_its_direction() -> None:
    directions, nearest = closest_point(crooked().rays()).split(3, dim=-1)
    torch.testing.assert_close((directions * nearest).sum(-1), torch.zeros(2, 3, 7, 11).double())


def test_no_other_point_of_the_ray_is_nearer_to_the_origin() -> None:
    rays = crooked().rays()
    t = ray_parameter_of_closest_point(rays)
    near, *others = ((rays.origins + (t + step)[..., None] * rays.directions).norm(dim=-1) for step in (0, -0.1, 0.1))
    assert all(bool((near < other).all()) for other in others)


# ---------------------------------------------------------------- images and worlds change


@pytest.mark.parametrize(
    ("change", "scale", "shift"),
    [
        (lambda c: c.resize(22, 21), (2.0, 3.0), (0.0, 0.0)),
        (lambda c: c.crop(3, 1, 5, 4), (1.0, 1.0), (-3.0, -1.0)),
        (lambda c: c.affine(0.5, 1.5, 2.0, -1.0, (8, 8)), (0.5, 1.5), (2.0, -1.0)),
    ],
    ids=["resize", "crop", "affine"],
)
def test_projecting_and_changing_the_image_commute(change, scale, shift) -> None:
    before, _ = crooked().project(points())
    after, _ = change(crooked()).project(points())
    torch.testing.assert_close(after, before * before.new_tensor(scale) + before.new_tensor(shift))


def test_an_image_operation_leaves_the_camera_where_it_is() -> None:
    assert torch.equal(crooked().resize(30, 40).crop(1, 2, 3, 4).c2w, crooked().c2w)


def test_an_image_operation_says_its_new_size() -> None:
    window = crooked().resize(30, 40).crop(1, 2, 13, 14)
    assert (window.width, window.height) == (13, 14)


def test_a_similarity_of_the_world_leaves_every_pixel_where_it_is() -> None:
    centre = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    moved = crooked().transform(3.7, rotation(), centre)
    after, _ = moved.project(3.7 * (points() - centre) @ rotation().mT)
    torch.testing.assert_close(after, crooked().project(points())[0])


def test_a_similarity_scales_depth() -> None:
    _, depth = crooked().transform(3.7).project(3.7 * points())
    torch.testing.assert_close(depth, 3.7 * crooked().project(points())[1])


def test_a_similarity_leaves_the_intrinsics() -> None:
    assert torch.equal(crooked().transform(2.0, rotation()).fxfycxcy, crooked().fxfycxcy)


def test_a_mirrored_camera_sees_the_mirrored_world_flipped_left_to_right() -> None:
    before, depth = crooked().project(points())
    after, same_depth = crooked().mirror().project(points() * points().new_tensor([-1.0, 1.0, 1.0]))
    flipped = torch.stack([11 - before[..., 0], before[..., 1]], -1)
    torch.testing.assert_close((after, same_depth), (flipped, depth))


def test_mirrored_cameras_stay_proper() -> None:
    mirrored = crooked().mirror()
    mirrored.check("mirrored")
    torch.testing.assert_close(torch.linalg.det(mirrored.c2w[..., :3, :3]), torch.ones(2, 3).double())


# ---------------------------------------------------------------- rigs


def test_look_at_makes_proper_rotations() -> None:
    torch.testing.assert_close(torch.linalg.det(crooked().c2w[..., :3, :3]), torch.ones(2, 3).double())


def test_look_at_puts_the_target_on_the_optical_axis() -> None:
    position, target = torch.tensor([3.0, -2.0, 1.0]), torch.tensor([0.1, 0.2, -0.3])
    camera = Cameras(look_at(position, target), torch.tensor([50.0, 50.0, 16.0, 16.0]), 32, 32)
    pixels, depth = camera.project(target[None])
    torch.testing.assert_close((pixels[0], depth[0]), (torch.tensor([16.0, 16.0]), (target - position).norm()))


def test_look_at_is_upright() -> None:
    c2w = look_at(torch.tensor([3.0, -2.0, 1.0]), torch.zeros(3))
    assert abs(float(c2w[2, 0])) < 1e-6 and float(c2w[2, 1]) < 0  # x is level, y points down


def test_look_at_refuses_a_vertical_axis() -> None:
    with pytest.raises(DataError) as caught:
        look_at(torch.tensor([0.0, 0.0, 2.0]), torch.zeros(3))
    expected = "look_at: expected an axis that is not vertical — move the camera off the target's vertical."
    assert str(caught.value) == expected


@pytest.mark.parametrize("rig", [facelift_six, facelift_ring, whole_turn, lambda size: orbit([10, 50], -30.0, size)])
def test_orbiting_cameras_stand_2_7_away_and_face_the_origin(rig) -> None:
    cameras = rig(512)
    torch.testing.assert_close(cameras.centres, -FACELIFT_DISTANCE * cameras.forward)


@pytest.mark.parametrize("rig", [facelift_six, facelift_ring, whole_turn, lambda size: mouse_rig()])
def test_every_rig_passes_its_own_check(rig) -> None:
    rig(64).check("rig")


def test_a_512_pixel_camera_has_facelifts_focal_length() -> None:
    expected = torch.tensor([548.9938, 548.9938, 256.0, 256.0]).expand(6, 4)
    torch.testing.assert_close(facelift_six(512).fxfycxcy, expected, rtol=0, atol=1e-4)


def test_the_six_views_come_in_the_order_facelifts_models_see_them() -> None:
    x, y, z = facelift_six(512).centres.unbind(-1)
    azimuths = torch.rad2deg(torch.atan2(y, x)).round() % 360
    assert azimuths.tolist() == [270, 225, 180, 90, 0, 315] and float(z.abs().max()) == 0


def test_the_ring_is_32_cameras_11_25_degrees_apart_at_elevation_20() -> None:
    x, y, z = facelift_ring(512).centres.double().unbind(-1)
    azimuths = torch.rad2deg(torch.atan2(y, x)) % 360
    torch.testing.assert_close(azimuths, torch.arange(32).double() * 11.25, rtol=0, atol=1e-4)
    torch.testing.assert_close(z, torch.full_like(z, 2.7 * math.sin(math.radians(20))), rtol=0, atol=1e-5)


def test_the_rings_first_camera_is_the_one_of_facelifts_sample() -> None:
    rows = [[0.0, 1.0, 0.0, 0.0], [0.34202, 0.0, -0.93969, 0.0], [-0.93969, 0.0, -0.34202, 2.7], [0.0, 0.0, 0.0, 1.0]]
    torch.testing.assert_close(facelift_ring(512).w2c[0], torch.tensor(rows), rtol=0, atol=1e-5)


def test_the_turntable_starts_in_front() -> None:
    first = whole_turn(512, views=4).c2w[0]
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, -2.7], [0, -1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-6)


def test_the_turntables_second_of_four_frames_is_at_plus_x() -> None:
    centre = whole_turn(512, views=4).centres[1]
    torch.testing.assert_close(centre, torch.tensor([2.7, 0.0, 0.0]), rtol=0, atol=1e-6)


def test_the_mouse_rigs_distances_are_those_of_its_calibration() -> None:
    expected = torch.tensor([246.1, 414.5, 363.7, 340.0, 318.3, 305.7])
    torch.testing.assert_close(mouse_rig().centres.norm(dim=-1), expected, rtol=0, atol=0.2)


def test_the_mouse_rigs_translations_are_those_of_its_calibration() -> None:
    expected = [[10.34, 66.41, 236.70], [-32.41, 49.67, 410.19], [45.99, 65.00, 354.84]]
    expected += [[-70.51, 57.87, 327.55], [57.16, 60.50, 307.23], [-64.82, 50.92, 294.39]]
    torch.testing.assert_close(mouse_rig().w2c[:, :3, 3], torch.tensor(expected), rtol=0, atol=0.6)


def test_the_mouse_rig_goes_round_in_the_order_0_5_3_1_2_4() -> None:
    offset = mouse_rig().centres - MEETING_POINT
    order = torch.atan2(offset[:, 1], offset[:, 0]).argsort().tolist()
    assert order[order.index(0) :] + order[: order.index(0)] == [0, 5, 3, 1, 2, 4]


def test_the_mouse_rigs_optical_axes_meet_over_the_arena() -> None:
    cameras = mouse_rig().to(torch.float64)
    across = torch.eye(3).double() - cameras.forward[:, :, None] * cameras.forward[:, None, :]
    meeting = torch.linalg.solve(across.sum(0), (across @ cameras.centres[..., None]).sum(0))[:, 0]
    torch.testing.assert_close(meeting.float(), MEETING_POINT, rtol=0, atol=0.5)


# ---------------------------------------------------------------- refusals


def broken(row: int, column: int, value: float) -> Cameras:
    cameras = facelift_six(64)
    c2w = cameras.c2w.clone()
    c2w[4, row, column] = value
    return Cameras(c2w, cameras.fxfycxcy, 64, 64)


def refusal(cameras: Cameras) -> str:
    with pytest.raises(DataError) as caught:
        cameras.check("scene.json")
    return str(caught.value)


def test_a_mirrored_camera_is_refused() -> None:
    cameras = facelift_six(64)
    cameras.c2w[2, :3, 0] *= -1
    assert refusal(cameras) == (
        "scene.json: camera 2: expected a rotation with det +1, got det -1 — the camera is mirrored or scaled; "
        "store w2c with x right, y down, z forward."
    )


def test_a_skewed_camera_is_refused() -> None:
    cameras = facelift_six(64)
    cameras.c2w[2, :3, 0] += 0.25 * cameras.c2w[2, :3, 1]
    assert refusal(cameras) == (
        "scene.json: camera 2: expected an orthonormal rotation, got one off by 0.25 — store a rigid w2c."
    )


def test_a_camera_with_a_nan_is_refused() -> None:
    expected = "scene.json: camera 4: expected finite numbers, got one that is not — calibrate it again."
    assert refusal(broken(1, 3, math.nan)) == expected


def test_a_camera_with_another_last_row_is_refused() -> None:
    expected = "scene.json: camera 4: expected last row 0 0 0 1, got [0.0, 0.0, 0.5, 1.0] — mend w2c."
    assert refusal(broken(3, 2, 0.5)) == expected


def test_a_camera_without_focal_length_is_refused() -> None:
    cameras = facelift_six(64)
    cameras.fxfycxcy[3, 1] = 0
    message = refusal(cameras)
    assert message.startswith("scene.json: camera 3: expected fx, fy > 0, got [68.6") and message.endswith("fx, fy.")


def test_cameras_and_intrinsics_of_different_counts_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        Cameras(torch.eye(4).expand(6, 4, 4), torch.ones(5, 4), 8, 8)
    assert str(caught.value) == (
        "cameras: expected c2w [..., 4, 4] and fxfycxcy [..., 4], got (6, 4, 4) and (5, 4) — align them."
    )
