"""Procedural mice: the body, its motion, the pictures' geometry and the dataset."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import trimesh
import typer
from scipy.ndimage import maximum_filter

import mouselift
from pipeline.cameras import Cameras, facelift_ring, facelift_six, look_at
from pipeline.data.mice.body import Pose, anatomy
from pipeline.data.mice.looks import BODIES, COATS, STRAINS
from pipeline.data.mice.mice import MicePlan, MouseSequence, render_mouse, write_mice
from pipeline.data.mice.render import MouseMesh, Tracer, irradiance
from pipeline.data.scenes import open_dataset
from pipeline.errors import DataError

ROOT = Path(__file__).parents[2]
RIGS = ["facelift_six", "facelift_ring", "mouse", "mouse_centred"]
SECONDS = np.arange(0, 6, 0.37)


@pytest.fixture(scope="module")
def mouse() -> MouseMesh:
    return MouseSequence(3).mesh(0)


def as_trimesh(mesh: MouseMesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def ball(centre: tuple[float, float, float], radius: float) -> MouseMesh:
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = sphere.vertices + np.array(centre)
    return MouseMesh(vertices, sphere.faces, np.full((len(vertices), 3), 0.5), Tracer.of(vertices, sphere.faces))


def crooked_camera() -> Cameras:
    """Unequal focal lengths, an image that is no square, a principal point far from its middle."""
    c2w = look_at(torch.tensor([[1.9, -1.6, 1.1]]), torch.tensor([[0.2, 0.1, -0.1]]))
    return Cameras(c2w, torch.tensor([[133.0, 171.0, 41.3, 58.9]]), width=101, height=83)


def projected(mesh: MouseMesh, cameras: Cameras) -> np.ndarray:
    pixels, depth = cameras.to(torch.float64).project(torch.from_numpy(mesh.vertices))
    assert bool((depth > 0).all())
    return pixels.numpy()


# ---------------------------------------------------------------- body


@pytest.mark.parametrize("seed", range(6))
def test_the_skin_is_one_watertight_piece_with_outward_faces(seed: int) -> None:
    mesh = as_trimesh(MouseSequence(seed).mesh(40 * seed))
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1 and mesh.volume > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_mouse_is_as_large_as_a_mouse_and_stands_on_the_floor(seed: int) -> None:
    mesh = MouseSequence(seed).mesh(0)
    size = np.ptp(mesh.vertices, axis=0)
    assert 55 < np.hypot(size[0], size[1]) < 120 and 20 < size[2] < 90
    assert -2.5 < mesh.vertices[:, 2].min() < 2.5


def test_fur_stays_on_the_animal_when_it_moves() -> None:
    sequence = MouseSequence(3)
    rest = [anatomy(sequence.pose(t), sequence.looks)[0].frame for t in (0.0, 2.0)]
    points = np.random.default_rng(0).normal(size=(5, 3))
    there = [points @ frame.axes.T + frame.origin for frame in rest]
    np.testing.assert_allclose(rest[0].rest(there[0]), rest[1].rest(there[1]))


# ---------------------------------------------------------------- motion


@pytest.mark.parametrize("seed", range(4))
def test_a_shorter_moment_is_a_proportionally_smaller_motion(seed: int) -> None:
    sequence = MouseSequence(seed)

    def moved(seconds: float) -> float:
        """The farthest any joint gets in `seconds`, mm."""

        def joints(t: float) -> np.ndarray:
            return np.stack([np.stack([part.a, part.b]) for part in anatomy(sequence.pose(t), sequence.looks)])

        return max(float(np.abs(joints(t + seconds) - joints(t)).max()) for t in SECONDS)

    assert moved(0.04) < 5 and moved(0.004) < moved(0.04) / 6


def test_a_frame_later_the_mouse_is_nearly_where_it_was() -> None:
    sequence = MouseSequence(5)
    centres = np.stack([sequence.mesh(frame).centre for frame in range(4)])
    assert np.linalg.norm(np.diff(centres, axis=0), axis=1).max() < 5


def test_the_same_seed_is_the_same_mouse_to_the_bit_and_another_seed_is_not() -> None:
    def picture(seed: int) -> np.ndarray:
        return render_mouse(*MicePlan("facelift_ring", 32, seed=seed, views=2).shot(0))

    assert np.array_equal(picture(1), picture(1)) and not np.array_equal(picture(1), picture(2))


def test_a_pale_mouse_is_the_same_mouse_in_a_coat_nearly_white() -> None:
    plain, pale = (render_mouse(*MicePlan("facelift_ring", 48, seed=1, views=2, pale=pale).shot(0)) for pale in (0, 1))
    assert np.array_equal(plain[..., 3], pale[..., 3])
    assert np.quantile(pale[pale[..., 3] == 255][:, :3].min(-1), 0.95) > 0.85 * 255
    assert "pale" not in MicePlan("facelift_ring", 48).provenance()  # sets from before continue


def test_mice_of_a_strain_are_the_same_mice_in_one_coat() -> None:
    born, asked = (MicePlan("facelift_ring", 48, seed=1, views=2, coat=coat) for coat in (None, "calico"))
    pairs = [(render_mouse(*born.shot(scene)), render_mouse(*asked.shot(scene))) for scene in range(2)]
    assert all(np.array_equal(one[..., 3], other[..., 3]) for one, other in pairs)
    assert not any(np.array_equal(one, other) for one, other in pairs)
    assert "coat" not in born.provenance() and asked.provenance()["coat"] == "calico"


@pytest.mark.parametrize(("body", "wide", "tailed"), [("hamster", True, False), ("rat", False, True)])
def test_another_body_in_the_coat_and_pose_of_the_mouse(body: str, wide: bool, tailed: bool) -> None:
    born, asked = MouseSequence(3), MouseSequence(3, body=body)
    assert asked.looks.coat == born.looks.coat and asked.pose(1.0) == born.pose(1.0)
    widths = [np.ptp(np.stack([part.box for part in anatomy(Pose(), one.looks)[:3]])[..., 1]) for one in (born, asked)]
    assert (widths[1] > 1.1 * widths[0], asked.looks.tail > born.looks.tail / 2) == (wide, tailed)
    plan = MicePlan("facelift_ring", 48, views=2, body=body)
    assert plan.provenance()["body"] == body and "body" not in MicePlan("facelift_ring", 48).provenance()


def test_the_command_names_every_strain_and_body():
    command = typer.main.get_command(mouselift.app).commands["data"].commands["mice"]
    said = {option.name: option.help for option in command.params if option.name in ("coat", "body")}
    assert f"{', '.join(COATS)}, or calico" in said["coat"] and set(STRAINS) == {*COATS, "calico"}
    *most, last = BODIES
    assert f"{', '.join(most)} or {last}" in said["body"]


def test_no_mouse_drawn_at_random_is_calico() -> None:
    """The bases have seen mice of every random coat; the demo's strain is new to them."""
    assert STRAINS["calico"] not in COATS.values()
    assert all(MouseSequence(seed).looks.coat in COATS.values() for seed in range(200))


# ---------------------------------------------------------------- light


def test_a_part_is_as_far_from_a_grid_as_from_its_points() -> None:
    axes = [np.linspace(-20, 20, n, dtype=np.float32) + start for n, start in ((7, 10), (6, 0), (5, 15))]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    for part in anatomy(MouseSequence(3).pose(0), MouseSequence(3).looks):
        np.testing.assert_allclose(part.distance_on(axes).ravel(), part.distance(points), atol=2e-4)


def test_light_of_every_fourth_vertex_lights_the_others_too(mouse: MouseMesh, monkeypatch) -> None:
    """Against the light traced from every vertex, which shadows' edges alone may leave."""
    mesh = as_trimesh(mouse)
    lit = [mouse.tracer, mouse.vertices, mouse.faces, mesh.vertex_normals]
    spread = irradiance(*lit)
    monkeypatch.setattr("pipeline.data.mice.render.TRACED", 1)
    monkeypatch.setattr("pipeline.data.mice.render.SMOOTHED", 0)
    off = np.abs(spread - irradiance(*lit))
    assert np.median(off) < 0.01 and np.quantile(off, 0.95) < 0.08


# ---------------------------------------------------------------- camera truth


def test_a_ball_appears_where_the_camera_says() -> None:
    camera, radius = crooked_camera(), 0.1
    for centre in [(0.2, 0.1, -0.1), (0.5, -0.3, 0.2), (0.0, 0.4, -0.2)]:
        alpha = render_mouse(ball(centre, radius), camera)[0, ..., 3].astype(float)
        rows, columns = np.indices(alpha.shape) + 0.5
        seen = np.array([(columns * alpha).sum(), (rows * alpha).sum()]) / alpha.sum()
        x, y, z = (camera.w2c[0] @ torch.tensor([*centre, 1.0]))[:3].tolist()
        fx, fy, cx, cy = camera.fxfycxcy[0].tolist()
        middle = z / (z**2 - radius**2)  # the outline of a sphere is an ellipse, a little beyond its centre
        assert np.abs(seen - [fx * x * middle + cx, fy * y * middle + cy]).max() < 0.05


def test_the_outline_spans_what_the_vertices_span(mouse: MouseMesh) -> None:
    mesh, camera = mouse.transform(0.012, mouse.centre), crooked_camera()
    pixels = projected(mesh, camera)[0]
    assert (pixels.min(0) > 0).all() and (pixels.max(0) < [camera.width, camera.height]).all()
    rows, columns = np.nonzero(render_mouse(mesh, camera)[0, ..., 3])
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(seen - [*pixels.min(0), *pixels.max(0)]).max() < 1.3


@pytest.mark.parametrize("rig", RIGS)
def test_every_surface_point_lies_in_every_mask(rig: str) -> None:
    mesh, cameras = MicePlan(rig, 96).shot(1)
    masks = maximum_filter(render_mouse(mesh, cameras)[..., 3] > 0, size=(1, 3, 3))
    columns, rows = np.floor(projected(mesh, cameras)).astype(int).transpose(2, 0, 1)
    assert masks[np.arange(len(masks))[:, None], rows, columns].all()


def test_a_mouse_partly_outside_the_image_is_cut_at_the_edge(mouse: MouseMesh) -> None:
    mesh, camera = mouse.transform(0.03, mouse.centre), crooked_camera()
    whole = Cameras(camera.c2w, camera.fxfycxcy + torch.tensor([0, 0, 80, 80]), 261, 243)
    window = render_mouse(mesh, whole)[0, 80 : 80 + 83, 80 : 80 + 101]
    cut = render_mouse(mesh, camera)[0]
    assert cut[..., 3].max() == 255 and (cut != window).mean() < 1e-3  # rounding may move a sample over an edge


def test_colour_is_zero_where_alpha_is_zero_and_alpha_counts_sixteenths() -> None:
    images = render_mouse(*MicePlan("facelift_six", 48).shot(0))
    alpha = images[..., 3]
    assert not images[alpha == 0, :3].any()
    assert set(np.unique(alpha)) <= {round(255 * i / 16) for i in range(17)}


# ---------------------------------------------------------------- rigs


@pytest.mark.parametrize("scene", range(4))
def test_a_facelift_mouse_fits_the_box_and_fills_its_share_of_the_picture(scene: int) -> None:
    mesh, cameras = MicePlan("facelift_six", 48).shot(scene)
    assert 0.8 < np.abs(mesh.vertices).max() < 0.9
    torch.testing.assert_close(cameras.c2w, facelift_six(48).c2w)
    assert 0.08 < render_mouse(mesh, cameras)[..., 3].mean() / 255 < 0.25


def test_a_facelift_video_keeps_one_scale_and_stays_in_the_box() -> None:
    plan = MicePlan("facelift_six", 32, frames=5, step=12)
    meshes = [plan.shot(scene).mesh for scene in range(5)]
    assert all(np.abs(mesh.vertices).max() < 0.9 for mesh in meshes)
    assert np.ptp([mesh.vertices[:, 2].min() for mesh in meshes]) < 0.03  # the floor is one floor


def test_fewer_views_of_the_ring_are_views_of_the_ring() -> None:
    torch.testing.assert_close(MicePlan("facelift_ring", 48, views=8).shot(0).cameras.c2w, facelift_ring(48).c2w[::4])


@pytest.mark.parametrize("scene", range(4))
def test_the_arena_mouse_is_wholly_seen_by_the_real_rig(scene: int) -> None:
    mesh, cameras = MicePlan("mouse", 1152, frames=4, step=40).shot(scene)
    pixels = projected(mesh, cameras)
    assert (cameras.width, cameras.height) == (1152, 1024)
    assert (pixels > 0).all() and (pixels < [1152, 1024]).all()
    assert (np.abs(mesh.centre[:2] - 50) < 50).all() and 12 < mesh.centre[2] < 38


def test_the_centred_rig_looks_at_the_mouse_from_2_7_on_average() -> None:
    mesh, cameras = MicePlan("mouse_centred", 512, zoom=1.0).shot(2)
    assert float(cameras.centres.norm(dim=-1).mean()) == pytest.approx(2.7)
    assert cameras.fxfycxcy[0].tolist() == pytest.approx([548.99, 548.99, 256, 256], abs=0.01)
    pixels, _ = cameras.project(torch.zeros(6, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(pixels, torch.full_like(pixels, 256))
    np.testing.assert_allclose(mesh.centre, 0, atol=1e-12)


# ---------------------------------------------------------------- dataset


def test_a_dataset_of_mice_opens_with_its_cameras_and_no_mouse_in_two_splits(tmp_path: Path) -> None:
    out = write_mice(tmp_path / "mice", scenes=6, size=24, rig="facelift_ring", views=3, frames=2)
    dataset = open_dataset(out)
    assert {split: len(names) for split, names in dataset.manifest.splits.items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }
    scene = dataset.split("val")[0]
    torch.testing.assert_close(scene.cameras.c2w, facelift_ring(24, 3).c2w.double())
    assert [path.name for path in scene.paths] == ["cam_000.png", "cam_001.png", "cam_002.png"]


def test_an_interrupted_dataset_is_continued_and_ends_up_the_same(tmp_path: Path) -> None:
    out = write_mice(tmp_path / "mice", scenes=3, size=24)
    digest, kept = open_dataset(out).digest, out / "scene_000000/images/cam_000.png"
    written = kept.stat().st_mtime_ns
    shutil.rmtree(out / "scene_000001")
    (out / "dataset.yaml").unlink()
    write_mice(out, scenes=3, size=24)
    assert open_dataset(out).digest == digest and kept.stat().st_mtime_ns == written


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.mice.mice.usable_cpus", lambda: 2)
    monkeypatch.setattr("pipeline.data.mice.mice.WORTH_A_PROCESS", 2)


@pytest.mark.usefixtures("two_processes")
def test_two_processes_draw_what_one_draws_and_each_scene_is_told(tmp_path: Path, monkeypatch) -> None:
    told: list[tuple[float, float]] = []
    out = write_mice(
        tmp_path / "mice", scenes=5, size=24, tell=lambda part, *count: told.append(count) if part == "scenes" else None
    )
    assert told == sorted(told) and told[-1] == (5, 5) and len({done for done, _ in told}) > 2
    monkeypatch.setattr("pipeline.data.mice.mice.usable_cpus", lambda: 1)
    alone = write_mice(tmp_path / "alone" / "mice", scenes=5, size=24)
    assert open_dataset(out).digest == open_dataset(alone).digest


@pytest.mark.usefixtures("two_processes")
def test_the_scenes_of_a_helper_that_fails_are_drawn_by_its_parent(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.data.mice.helpers._BEGIN", "raise SystemExit(3)")
    out = write_mice(tmp_path / "mice", scenes=4, size=16)
    assert len(open_dataset(out).scenes) == 4


def test_a_helper_ends_with_its_parent_in_the_middle_of_a_scene(tmp_path: Path) -> None:
    """After a kill nobody may be left who goes on writing: the next command may have the folder by then."""
    script = f"""
from pipeline.data.mice import mice
mice.usable_cpus = lambda: 2
mice.write_mice({str(tmp_path / "mice")!r}, scenes=200, size=160)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as parent:
        own = psutil.Process(parent.pid)
        while not (helpers := own.children()) or not (tmp_path / "mice/scene_000001").is_dir():  # the helper's first
            assert parent.poll() is None
            time.sleep(0.02)
        parent.kill()
        drawn = set((tmp_path / "mice").glob("scene_*"))
    assert psutil.wait_procs(helpers, 60)[1] == []
    assert set((tmp_path / "mice").glob("scene_*")) == drawn


def test_a_folder_of_other_mice_is_refused(tmp_path: Path) -> None:
    out = write_mice(tmp_path / "mice", scenes=3, size=16)
    with pytest.raises(DataError, match="expected mice of the same plan, got another size, seed"):
        write_mice(out, scenes=3, size=24, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rig": "facelift_sixty"}, "expected a rig of facelift_six"),
        ({"views": 8}, "expected views only for facelift_ring"),
        ({"zoom": 2.0}, "expected zoom only for mouse_centred"),
        ({"frames": 0}, "1 or more"),
        ({"coat": "tartan"}, "expected a coat of black, agouti, .*, calico, got 'tartan'"),
        ({"coat": "calico", "pale": True}, "expected pale or a coat, got both"),
        ({"body": "cat"}, "expected a body of mouse, rat, vole, hamster, gerbil, got 'cat'"),
        ({"scenes": 2}, "at least 3 mice"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_mice(tmp_path / "mice", **({"scenes": 3, "size": 16} | options))
    assert not (tmp_path / "mice").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="this system cannot bind a thread to a processor")
def test_a_process_that_draws_is_one_thread_and_may_use_every_processor_it_could() -> None:
    script = """
import os
allowed = os.sched_getaffinity(0)
from pipeline.data.mice.mice import MicePlan
before = len(os.listdir("/proc/self/task"))
MicePlan("mouse_centred", 16).shot(0)
print(len(os.listdir("/proc/self/task")) - before, os.sched_getaffinity(0) == allowed)
"""
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as `write_mice` has it
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "True"], done.stderr
