"""Gaussians: PLY files in and out, shapes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.gaussians import SH_C0, Gaussians
from tests.support.mutations import mutations


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
    assert refusal(path) == "g.ply: expected 10 vertices, got 9 — it is cut short."


def test_a_ply_that_holds_more_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.ply"
    random_gaussians(10).save_ply(path)
    path.write_bytes(path.read_bytes().replace(b"vertex 10", b"vertex 9"))
    assert refusal(path) == "g.ply: expected 9 vertices as its header says, got 10 — export it again."


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_a_promise_of_more_gaussians_than_there_are_takes_no_memory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "g.ply"
    variant(path, random_gaussians(10), form)
    path.write_bytes(path.read_bytes().replace(b"vertex 10", b"vertex 1000000000000"))
    assert refusal(path).endswith("expected 1000000000000 vertices, got 10 — it is cut short.")


def variant(
    path: Path, gaussians: Gaussians, form: str = "binary_little_endian", kind: str = "float", end: str = "\n"
) -> None:
    """The Gaussians as other programs write them: a comment, an element before and one after the vertices, columns
    in the order of the alphabet and one that nobody knows.
    """
    gaussians.save_ply(path)
    names = [line.split()[-1] for line in header(path) if line.startswith("property")]
    body = path.read_bytes().partition(b"end_header\n")[2]
    table = np.frombuffer(body, [(name, "<f4") for name in names])
    columns = sorted([*names, "label"])
    lines = ["ply", f"format {form} 1.0", "comment made elsewhere", "element intrinsic 4", "property float fov"]
    lines += [f"element vertex {gaussians.count}"]
    lines += [f"property {'uchar' if name == 'label' else kind} {name}" for name in columns]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    values = {"intrinsic": np.ones(4, "f4"), "face": np.array([(3, 0, 1, 2)], "u1,i4,i4,i4")}
    types = [(name, "u1" if name == "label" else {"float": "f4", "double": "f8"}[kind]) for name in columns]
    shuffled = np.zeros(gaussians.count, types)
    for name in names:
        shuffled[name] = table[name]
    parts = [values["intrinsic"], shuffled, values["face"]]
    if form == "ascii":
        rows = [" ".join(repr(value) for value in np.atleast_1d(row).item(0)) for row in shuffled]
        content = "\n".join(["1.0"] * 4 + rows + ["3 0 1 2", ""]).encode()
    else:
        order = ">" if "big" in form else "<"
        content = b"".join(part.astype(part.dtype.newbyteorder(order)).tobytes() for part in parts)
    path.write_bytes("".join(line + end for line in lines).encode() + content)


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize(("kind", "end"), [("float", "\n"), ("double", "\r\n")])
def test_a_ply_of_another_program_gives_the_same_gaussians(
    tmp_path: Path, degree: int, form: str, kind: str, end: str
) -> None:
    written = random_gaussians(degree=degree)
    variant(tmp_path / "g.ply", written, form, kind, end)
    for name, values in as_dict(Gaussians.load_ply(tmp_path / "g.ply")).items():
        torch.testing.assert_close(values, as_dict(written)[name])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["means", "quats", "sh"])
def test_a_gaussian_that_is_not_finite_is_refused(tmp_path: Path, name: str, value: float) -> None:
    gaussians = random_gaussians(3)
    getattr(gaussians, name)[1] = value
    gaussians.save_ply(tmp_path / "g.ply")
    assert refusal(tmp_path / "g.ply") == (
        "g.ply: expected finite numbers, got inf or nan in 1 of 3 Gaussians — leave them out, and export it again."
    )


def test_a_scale_that_is_too_large_for_its_logarithm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.ply"
    variant(path, random_gaussians(1), "ascii")
    lines = path.read_text().splitlines()
    place = [line.split()[-1] for line in lines if line.startswith("property")].index("scale_0") - 1  # less `fov`
    row = lines.index("end_header") + 5
    lines[row] = " ".join("1000" if i == place else word for i, word in enumerate(lines[row].split()))
    path.write_text("\n".join(lines))
    assert "got inf or nan in 1 of 1" in refusal(path)


def test_viewers_that_expect_degree_3_get_its_zeros(tmp_path: Path) -> None:
    written = random_gaussians(degree=1)
    written.save_ply(tmp_path / "g.ply", sh_degree=3)
    assert sum("f_rest" in line for line in header(tmp_path / "g.ply")) == 45
    read = Gaussians.load_ply(tmp_path / "g.ply")
    assert torch.equal(read.sh[:, :4], written.sh) and not read.sh[:, 4:].any()


@pytest.mark.parametrize("degree", [1, 4])
def test_a_ply_of_a_degree_that_cannot_hold_the_colours_is_refused(tmp_path: Path, degree: int) -> None:
    with pytest.raises(DataError, match=f"save_ply: expected a degree of 2 to 3, got {degree}"):
        random_gaussians(degree=2).save_ply(tmp_path / "g.ply", sh_degree=degree)


def text(*lines: str) -> bytes:
    return "\n".join(["ply", "format binary_little_endian 1.0", *lines, "end_header", ""]).encode()


FLOATS = tuple(f"property float {name}" for name in "xyz")
COMPRESSED = (
    "element chunk 0",
    *(f"property float {end}_{name}" for end in ("min", "max") for name in "xyz"),
    "element vertex 0",
    *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")),
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text("element vertex 0", *FLOATS), "— it is a mesh or a cloud of points; export it as Gaussians."),
        (text(*COMPRESSED), "— it is SuperSplat's compressed PLY; export it there as an uncompressed one."),
        (text("element vertex 0", "property list uchar int v"), "got elements vertex — export it as Gaussians, not a"),
        (text(), "got elements of no kind"),
        (text("element vertex 1000000000000"), "got elements vertex — export it as Gaussians"),
        (text("element vertex -1", *FLOATS), "expected the header of a PLY, got 'element vertex -1'"),
        (text("element vertex 1e6", *FLOATS), "expected the header of a PLY, got 'element vertex 1e6'"),
        (text("property float x"), "expected the header of a PLY, got 'property float x'"),
        (text("element vertex 0", "property half x"), "expected the header of a PLY, got 'property half x'"),
        (text("element vertex 0", *FLOATS, *FLOATS), "each property once"),
        (text("element vertex 0", "property float f_rest_red", *FLOATS), "expected a 3DGS PLY; missing"),
        (b"ply\nformat ascii 2.0\nend_header\n", "got 'format ascii 2.0'"),
        (b"ply\nformat ascii 1.0\n", "expected a PLY, got one without a whole header — name a PLY."),
        (b"", "expected a PLY, got an empty file — name a PLY."),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "expected a PLY, got a pointer of Git LFS in its place — name a PLY.",
        ),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\none\n", "got other text"),
    ],
)
def test_a_ply_that_holds_no_gaussians_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "g.ply").write_bytes(content)
    assert said in refusal(tmp_path / "g.ply")


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_a_damaged_ply_is_read_or_refused_in_one_line(tmp_path: Path, form: str) -> None:
    path = tmp_path / "g.ply"
    variant(path, random_gaussians(20, degree=1), form)
    for content in mutations(path.read_bytes(), seed=1, count=200):
        path.write_bytes(content)
        try:
            read = Gaussians.load_ply(path)
        except DataError as error:
            said = str(error)
        else:
            said = f"{read.count}"
            assert all(values.isfinite().all() for values in as_dict(read).values())
        assert "\n" not in said


# ---------------------------------------------------------------- shapes


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
