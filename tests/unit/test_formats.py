"""Files that viewers open, read back by other people's readers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch.nn import functional as F

from pipeline.cameras import orbit
from pipeline.errors import DataError, MachineError
from pipeline.gaussians import SH_C0, Gaussians
from pipeline.reconstruction.formats import SUFFIXES, require_formats, write_format
from pipeline.splatting.export import Z_UP_TO_Y_UP, turned
from pipeline.splatting.rendering import render
from tests.unit.test_gaussians import random_gaussians

gsply = pytest.importorskip("gsply", reason="needs gsply, of the extra `formats`")
plyfile = pytest.importorskip("plyfile", reason="needs plyfile, of the extra `dev`")
COUNT = 600  # more than two chunks of a compressed PLY


def scene(degree: int = 0, count: int = COUNT) -> Gaussians:
    """As a model makes them: within the box, sizes of a few hundredths, quaternions of any length."""
    made = random_gaussians(count, degree)
    return Gaussians(0.3 * made.means, made.quats, made.scales.clamp(1e-3, 0.3), made.opacities, 0.5 * made.sh)


def array(value: torch.Tensor) -> np.ndarray:
    return value.numpy()


def unit(quats: np.ndarray) -> np.ndarray:
    """Of length one, with w at least 0: both signs are one rotation."""
    quats = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    return quats * np.where(quats[:, :1] < 0, -1, 1)


# ---------------------------------------------------------------- PLY


@pytest.mark.parametrize(("degree", "padded"), [(0, None), (2, None), (0, 3)])
def test_plyfile_reads_what_was_written_as_its_users_do(tmp_path: Path, degree: int, padded: int | None) -> None:
    gaussians = scene(degree)
    vertex = plyfile.PlyData.read(write_format(gaussians, tmp_path / "a.ply", "ply", padded))["vertex"]
    count = 3 * (((padded or degree) + 1) ** 2 - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(count))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    assert [one.name for one in vertex.properties] == names and len(vertex) == COUNT

    def columns(*wanted: str) -> np.ndarray:
        return np.stack([vertex[name] for name in wanted], -1)

    np.testing.assert_array_equal(columns("x", "y", "z"), array(gaussians.means))
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), array(gaussians.opacities), atol=1e-6)
    np.testing.assert_allclose(np.exp(columns(*names[-7:-4])), array(gaussians.scales), rtol=1e-5)
    np.testing.assert_array_equal(columns(*names[-4:]), array(gaussians.quats))
    np.testing.assert_array_equal(columns("f_dc_0", "f_dc_1", "f_dc_2"), array(gaussians.sh[:, 0]))
    rest = columns(*names[9 : 9 + count]).reshape(COUNT, 3, -1).swapaxes(1, 2) if count else np.zeros((COUNT, 0, 3))
    own = gaussians.sh.shape[1] - 1
    np.testing.assert_array_equal(rest[:, :own], array(gaussians.sh[:, 1:]))
    assert not rest[:, own:].any()


def test_trimesh_sees_a_cloud_with_the_same_points_in_their_order(tmp_path: Path) -> None:
    gaussians = scene()
    cloud = trimesh.load(write_format(gaussians, tmp_path / "a.ply", "ply"), process=False)
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), array(gaussians.means))


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_gsply_reads_the_same_gaussians(tmp_path: Path, degree: int) -> None:
    gaussians = scene(degree)
    read = gsply.plyread(write_format(gaussians, tmp_path / "a.ply", "ply"))
    np.testing.assert_array_equal(read.means, array(gaussians.means))
    np.testing.assert_array_equal(read.quats, array(gaussians.quats))
    np.testing.assert_allclose(np.exp(read.scales), array(gaussians.scales), rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-read.opacities)), array(gaussians.opacities), atol=1e-6)
    np.testing.assert_array_equal(read.sh0, array(gaussians.sh[:, 0]))
    if degree:
        np.testing.assert_array_equal(read.shN, array(gaussians.sh[:, 1:]))


# ---------------------------------------------------------------- the smaller ones


def nearest(means: np.ndarray, gaussians: Gaussians) -> np.ndarray:
    """Which Gaussian each place is; each once, as writers order them anew."""
    distances = torch.cdist(torch.from_numpy(means.copy()), gaussians.means)
    order = distances.argmin(1)
    assert len(order.unique()) == gaussians.count
    return order.numpy()


def test_a_splat_file_holds_places_sizes_colours_and_turns(tmp_path: Path) -> None:
    gaussians = scene(1)
    rows = np.frombuffer(
        write_format(gaussians, tmp_path / "a.splat", "splat").read_bytes(),
        [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)],
    )
    order = nearest(rows["means"], gaussians)
    np.testing.assert_array_equal(rows["means"], array(gaussians.means)[order])
    np.testing.assert_allclose(rows["scales"], array(gaussians.scales)[order], rtol=1e-5)
    colours = (0.5 + SH_C0 * array(gaussians.sh[:, 0]).clip(-9, 9)).clip(0, 1)
    np.testing.assert_allclose(rows["rgba"][:, :3] / 255, colours[order], atol=1.01 / 255)
    np.testing.assert_allclose(rows["rgba"][:, 3] / 255, array(gaussians.opacities)[order], atol=1.01 / 255)
    np.testing.assert_allclose(unit(rows["quats"].astype(float) - 128), unit(array(gaussians.quats))[order], atol=0.03)


@pytest.mark.parametrize("degree", [0, 1])
def test_supersplats_ply_comes_back_within_its_steps(tmp_path: Path, degree: int) -> None:
    gaussians = scene(degree)
    path = write_format(gaussians, tmp_path / "a.compressed.ply", "compressed")
    assert all(element.properties for element in plyfile.PlyData.read(path).elements)
    read = gsply.plyread(path)
    visible = gaussians[gaussians.opacities > 1 / 255]
    order = nearest(read.means, visible)
    np.testing.assert_allclose(read.means, array(visible.means)[order], atol=3 / 1023)
    np.testing.assert_allclose(read.scales, np.log(array(visible.scales))[order], atol=6 / 1023)
    np.testing.assert_allclose(1 / (1 + np.exp(-read.opacities)), array(visible.opacities)[order], atol=0.51 / 255)
    np.testing.assert_allclose(read.sh0, array(visible.sh[:, 0])[order], atol=4 / 255)
    np.testing.assert_allclose(unit(read.quats), unit(array(visible.quats))[order], atol=0.005)
    if degree:
        np.testing.assert_allclose(read.shN, array(visible.sh[:, 1:])[order], atol=8 / 255)


def test_an_spz_stands_upright_and_comes_back_within_its_steps(tmp_path: Path) -> None:
    gaussians = scene(1)
    read = gsply.read_spz(write_format(gaussians, tmp_path / "a.spz", "spz"))
    x, y, z = array(gaussians.means).T
    np.testing.assert_allclose(read.means, np.stack([x, z, -y], -1), atol=1 / 4096)  # right, up, back
    np.testing.assert_allclose(read.scales, np.log(array(gaussians.scales)), atol=1 / 32 + 1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-read.opacities)), array(gaussians.opacities), atol=0.51 / 255)
    np.testing.assert_allclose(read.sh0, array(gaussians.sh[:, 0]), atol=0.51 / 255 / 0.15)
    np.testing.assert_allclose(unit(read.quats), unit(array(turned(gaussians, Z_UP_TO_Y_UP).quats)), atol=0.005)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_turned_gaussians_look_the_same_to_cameras_turned_with_them(degree: int) -> None:
    gaussians = scene(degree, count=80)
    cameras = orbit([0.0, 100.0], 20.0, 24)
    turn = torch.eye(4)
    turn[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    moved = type(cameras)(turn @ cameras.c2w, cameras.fxfycxcy, 24, 24)
    images = [
        render(Gaussians(*(value[None] for value in vars(one).values())), seen[None]).images
        for one, seen in ((gaussians, cameras), (turned(gaussians, Z_UP_TO_Y_UP), moved))
    ]
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=0)
    assert float(F.mse_loss(images[0], torch.ones_like(images[0]))) > 0.01


@pytest.mark.parametrize("name", SUFFIXES)
def test_a_file_is_the_same_whenever_it_is_written(tmp_path: Path, name: str) -> None:
    first, second = (write_format(scene(), tmp_path / f"{i}", name).read_bytes() for i in range(2))
    assert first == second
    assert first[:2] != b"\x1f\x8b" or first[4:8] == bytes(4)  # a gzip file that does not say when it was written


@pytest.mark.parametrize("name", ["splat", "compressed"])
def test_a_format_that_cannot_hold_nothing_says_so_and_leaves_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected Gaussians, got none — keep more of them, or write a ply"):
        write_format(scene(count=0), tmp_path / "a", name)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_would_leave_out_or_bend_in_silence_is_refused(tmp_path: Path) -> None:
    faint, far = (scene(count=3) for _ in range(2))
    faint, far = replace(faint, opacities=faint.opacities * 0 + 0.003), replace(far, means=far.means * 0 + 3000)
    with pytest.raises(DataError, match=r"format compressed: expected Gaussians of an opacity above 0\.0039, got none"):
        write_format(faint, tmp_path / "a", "compressed")
    with pytest.raises(DataError, match="format spz: expected places within ±2048, got one at 3000"):
        write_format(far, tmp_path / "a", "spz")
    assert list(tmp_path.iterdir()) == []


def test_a_gaussian_without_extent_is_kept(tmp_path: Path) -> None:
    some = scene(count=4)
    some.scales[1] = 0
    assert write_format(some, tmp_path / "a.splat", "splat").stat().st_size == 4 * 32


def test_one_gaussian_alone_fills_every_format(tmp_path: Path) -> None:
    one = scene(count=1)
    for name, suffix in SUFFIXES.items():
        write_format(one, tmp_path / f"a{suffix}", name)
    read = gsply.plyread(tmp_path / "a.compressed.ply")
    np.testing.assert_allclose(read.means, array(one.means), atol=1e-6)
    np.testing.assert_allclose(read.sh0, array(one.sh[:, 0]), atol=1e-5)


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(DataError, match="expected one of ply, splat, compressed, spz, got 'obj' — name one of them"):
        require_formats(["ply", "obj"])


def test_spz_without_its_library_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("pipeline.splatting.export.find_spec", lambda name: None if name == "gsply" else found(name))
    with pytest.raises(MachineError, match=r"expected the package gsply, found none — pip install 'mouselift\[formats"):
        require_formats(["spz"])
    require_formats(["ply", "splat"])
