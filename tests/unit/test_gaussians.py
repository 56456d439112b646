"""Gaussians: PLY files in and out, pruning, shapes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.gaussians import SH_C0, Gaussians


def random_gaussians(count: int = 40, degree: int = 0, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        means=randn(count, 3),
        quats=randn(count, 4),
        scales=(randn(count, 3) - 3).exp(),
        opacities=randn(count).sigmoid(),
        sh=randn(count, (degree + 1) ** 2, 3),
    )


def as_dict(gaussians: Gaussians) -> dict[str, torch.Tensor]:
    return {field.name: getattr(gaussians, field.name) for field in fields(gaussians)}


def header(path: Path) -> list[str]:
    return path.read_bytes().partition(b"end_header\n")[0].decode().splitlines()


def write_facelift_ply(path: Path, gaussians: Gaussians) -> None:
    """As FaceLift writes it: colours as bytes, no normals, f_rest always 45 and here all zero."""
    names = ["x", "y", "z", "red", "green", "blue", *(f"f_dc_{i}" for i in range(3))]
    names += [*(f"f_rest_{i}" for i in range(45)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    kinds = {name: "u1" if name in ("red", "green", "blue") else "<f4" for name in names}
    table = np.zeros(gaussians.count, dtype=list(kinds.items()))
    for i in range(3):
        table["xyz"[i]] = gaussians.means[:, i]
        table[f"f_dc_{i}"] = gaussians.sh[:, 0, i]
        table[f"scale_{i}"] = gaussians.scales[:, i].log()
        table[("red", "green", "blue")[i]] = (255 * (0.5 + SH_C0 * gaussians.sh[:, 0, i]).clamp(0, 1)).byte()
    for i in range(4):
        table[f"rot_{i}"] = gaussians.quats[:, i]
    table["opacity"] = gaussians.opacities.logit()
    assert table.itemsize == 239
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {gaussians.count}"]
    lines += [f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind in kinds.items()]
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + table.tobytes())


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        Gaussians.load_ply(path)
    return str(caught.value).replace(f"{path.parent}/", "")


# ---------------------------------------------------------------- PLY


@pytest.mark.parametrize("degree", range(4))
def test_a_ply_gives_back_what_was_written(tmp_path: Path, degree: int) -> None:
    written = random_gaussians(degree=degree)
    written.save_ply(tmp_path / "g.ply")
    read = Gaussians.load_ply(tmp_path / "g.ply")
    torch.testing.assert_close(as_dict(read), as_dict(written), rtol=1e-5, atol=1e-6)


def test_a_ply_keeps_means_quats_and_colours_to_the_bit(tmp_path: Path) -> None:
    written = random_gaussians(degree=2)
    written.save_ply(tmp_path / "g.ply")
    read = Gaussians.load_ply(tmp_path / "g.ply")
    assert all(torch.equal(as_dict(read)[name], as_dict(written)[name]) for name in ("means", "quats", "sh"))


def test_the_header_is_the_standard_3dgs_layout_in_order(tmp_path: Path) -> None:
    random_gaussians(5, degree=1).save_ply(tmp_path / "g.ply")
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    expected = ["ply", "format binary_little_endian 1.0", "element vertex 5", *(f"property float {n}" for n in names)]
    assert header(tmp_path / "g.ply") == expected


def test_f_rest_is_channel_major(tmp_path: Path) -> None:
    gaussians = random_gaussians(1, degree=1)
    gaussians.save_ply(tmp_path / "g.ply")
    body = np.frombuffer((tmp_path / "g.ply").read_bytes().partition(b"end_header\n")[2], "<f4")
    np.testing.assert_array_equal(body[9:18], gaussians.sh[0, 1:].T.flatten())


def test_facelifts_ply_is_read_without_its_padding(tmp_path: Path) -> None:
    written = random_gaussians()
    write_facelift_ply(tmp_path / "facelift.ply", written)
    read = Gaussians.load_ply(tmp_path / "facelift.ply")
    torch.testing.assert_close(as_dict(read), as_dict(written), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_the_ends_of_opacity_are_written_finite(tmp_path: Path, opacity: float) -> None:
    replace(random_gaussians(), opacities=torch.full((40,), opacity)).save_ply(tmp_path / "g.ply")
    body = (tmp_path / "g.ply").read_bytes().partition(b"end_header\n")[2]
    assert np.isfinite(np.frombuffer(body, "<f4")).all()


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_the_ends_of_opacity_come_back(tmp_path: Path, opacity: float) -> None:
    replace(random_gaussians(), opacities=torch.full((40,), opacity)).save_ply(tmp_path / "g.ply")
    read = Gaussians.load_ply(tmp_path / "g.ply").opacities
    torch.testing.assert_close(read, torch.full((40,), opacity), rtol=0, atol=2e-7)


def test_a_scene_without_gaussians_round_trips(tmp_path: Path) -> None:
    random_gaussians(0).save_ply(tmp_path / "g.ply")
    assert Gaussians.load_ply(tmp_path / "g.ply").count == 0


def test_saving_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    random_gaussians().save_ply(tmp_path / "g.ply")
    assert [path.name for path in tmp_path.iterdir()] == ["g.ply"]


def test_a_batch_is_not_saved(tmp_path: Path) -> None:
    one = random_gaussians()
    batch = Gaussians(*(value[None] for value in as_dict(one).values()))
    with pytest.raises(DataError) as caught:
        batch.save_ply(tmp_path / "g.ply")
    assert str(caught.value) == "save_ply: expected one scene, got a batch (1, 40) — index it first."


def test_a_missing_ply_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "g.ply") == "g.ply: expected a PLY file, found none — check the path."


def test_a_ply_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.ply"
    random_gaussians(10).save_ply(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path) == "g.ply: expected 680 bytes of vertices, got 679 — it is cut short."


def test_an_ascii_ply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.ply").write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0.0\n")
    assert refusal(tmp_path / "g.ply") == "g.ply: expected a binary little-endian PLY — export it again."


def test_a_mesh_is_refused(tmp_path: Path) -> None:
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 0", "property float x", "element face 0"]
    lines += ["property list uchar int vertex_indices", "end_header\n"]
    (tmp_path / "g.ply").write_text("\n".join(lines))
    expected = "g.ply: expected one element, vertex, of plain numbers — export it as Gaussians, not a mesh."
    assert refusal(tmp_path / "g.ply") == expected


def test_a_cloud_of_points_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 0"]
    lines += [*(f"property float {name}" for name in "xyz"), "end_header\n"]
    (tmp_path / "g.ply").write_text("\n".join(lines))
    assert refusal(tmp_path / "g.ply") == (
        "g.ply: expected a 3DGS PLY; missing ['f_dc_0', 'f_dc_1', 'f_dc_2', 'opacity', 'scale_0', 'scale_1', "
        "'scale_2', 'rot_0', 'rot_1', 'rot_2', 'rot_3'] — export it again."
    )


# ---------------------------------------------------------------- pruning and shapes


def test_pruning_keeps_what_is_more_opaque_than_the_limit() -> None:
    gaussians = random_gaussians()
    assert torch.equal(gaussians.pruned(0.5).opacities, gaussians.opacities[gaussians.opacities > 0.5])


def test_pruning_by_scale_looks_at_the_longest_axis() -> None:
    gaussians = random_gaussians()
    kept = gaussians.pruned(0.0, max_scale=0.05)
    assert torch.equal(kept.means, gaussians.means[gaussians.scales.amax(-1) < 0.05])


def test_pruning_by_bounds_keeps_the_box() -> None:
    gaussians = random_gaussians()
    inside = (gaussians.means.abs() <= torch.tensor([0.9, 1.2, 2.0])).all(-1)
    assert torch.equal(gaussians.pruned(0.0, bounds=(0.9, 1.2, 2.0)).sh, gaussians.sh[inside])


def test_a_batch_is_not_pruned() -> None:
    batch = Gaussians(*(value[None] for value in as_dict(random_gaussians()).values()))
    with pytest.raises(DataError) as caught:
        batch.pruned()
    assert str(caught.value) == "pruned: expected one scene, got a batch (1, 40) — index it first."


@pytest.mark.parametrize("name", ["means", "quats", "scales", "sh"])
def test_values_for_another_number_of_gaussians_are_refused(name: str) -> None:
    gaussians = random_gaussians()
    with pytest.raises(DataError, match=f"gaussians: expected {name} "):
        replace(gaussians, **{name: getattr(gaussians, name)[:-1]})


def test_a_number_of_coefficients_that_is_no_sh_degree_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        replace(random_gaussians(), sh=torch.zeros(40, 2, 3))
    assert str(caught.value) == (
        "gaussians: expected sh (40, 'K', 3), K of 1, 4, 9, 16; got (40, 2, 3) — give all coefficients of a degree "
        "from 0 to 3."
    )
