"""What calibrations of other laboratories leave open, and what is done about it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pipeline.cameras import Cameras, mouse_rig
from pipeline.data.calibration.calibration import (
    Calibration,
    Wanted,
    files_of,
    find_calibration,
    mm_of,
    read_calibration,
    up_of,
)
from pipeline.errors import DataError
from tests.support.calibrations import (
    HEIGHT,
    PAIR_WRITERS,
    WIDTH,
    WRITERS,
    Filmed,
    filmed,
    rigid,
    write_anipose,
    write_colmap_binary,
    write_colmap_text,
    write_deeplabcut,
    write_easymocap,
    write_label3d,
    write_nerfstudio,
    write_opencv_yaml,
    write_pickle,
    write_storage,
)

MM = Wanted(mm=1.0)
VIDEOS = tuple(str(i) for i in range(6))


def read(path: Path, wanted: Wanted = MM, videos: tuple[str, ...] = VIDEOS) -> Calibration:
    return read_calibration(path, WIDTH, HEIGHT, wanted, videos)


def scaled(factor: float) -> list[Filmed]:
    return [Filmed(c.name, c.K, c.R, c.T * factor) for c in filmed()]


def named(names: str) -> list[Filmed]:
    return [Filmed(name, c.K, c.R, c.T) for name, c in zip(names.split(), filmed(), strict=True)]


# ---------------------------------------------------------------- units

SILENT = [name for name in {**WRITERS, **PAIR_WRITERS} if not name.startswith(("list", "DANNCE"))]


@pytest.mark.parametrize("format", SILENT)
def test_a_format_that_says_no_unit_is_refused_until_someone_says_it(tmp_path: Path, format: str) -> None:
    cameras = filmed()[: 2 if format in PAIR_WRITERS else 6]
    path = {**WRITERS, **PAIR_WRITERS}[format](tmp_path, cameras)
    with pytest.raises(
        DataError, match=r"expected the unit of its lengths, which .* pass --calibration-unit mm, cm or"
    ):
        read(path, Wanted(), VIDEOS[: len(cameras)])


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("cm", 0.1), ("m", 0.001), ("23.5", 1 / 23.5)])
def test_lengths_become_millimetres_by_the_unit_that_was_said(tmp_path: Path, unit: str, factor: float) -> None:
    came = read(write_anipose(tmp_path, scaled(factor)), Wanted(mm=mm_of(unit))).cameras
    torch.testing.assert_close(came.centres, rigid(mouse_rig()).centres)


def test_a_reconstruction_in_its_own_unit_is_scaled_to_millimetres(tmp_path: Path) -> None:
    came = read(write_nerfstudio(tmp_path, scaled(1 / 81.5)), Wanted(mm=81.5)).cameras
    torch.testing.assert_close(came.centres, rigid(mouse_rig()).centres)


@pytest.mark.parametrize("text", ["inch", "0", "-1", "inf", "nan", ""])
def test_a_unit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="--calibration-unit: expected mm, cm, m or the millimetres of one unit, got"):
        mm_of(text)


def test_metres_taken_for_millimetres_are_found_by_the_rigs_size(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"got 0\.303 to 0\.333 — store T in millimetres, or say its unit with --calibr"
    ):
        read(write_anipose(tmp_path, scaled(0.001)))


# ---------------------------------------------------------------- which camera is which video


@pytest.mark.parametrize("writer", [write_anipose, write_colmap_text, write_nerfstudio])
def test_cameras_called_as_the_videos_are_matched_by_name(tmp_path: Path, writer, caplog) -> None:
    came = read(writer(tmp_path, named("3 1 4 0 5 2"))).cameras
    order = [3, 1, 5, 0, 2, 4]  # where videos 0 to 5 stand in the names
    torch.testing.assert_close(came.c2w, rigid(mouse_rig()).c2w[order])
    assert not caplog.records


@pytest.mark.parametrize(
    "names", ["cam4 cam2 cam5 cam1 cam6 cam3", "Cam_3 Cam_1 Cam_4 Cam_0 Cam_5 Cam_2", "3/a 1/a 4/a 0/a 5/a 2/a"]
)
def test_cameras_that_are_numbered_come_in_the_order_of_their_numbers(tmp_path: Path, names: str, caplog) -> None:
    caplog.set_level(logging.WARNING)
    came = read(write_anipose(tmp_path, named(names)))
    torch.testing.assert_close(came.cameras.c2w, rigid(mouse_rig()).c2w[[3, 1, 5, 0, 2, 4]])
    assert ("cameras are taken in their order" in caplog.text) == ("/" not in names)


def test_other_names_are_taken_as_they_come_and_that_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    came = read(write_anipose(tmp_path, named("front left right back top side")))
    torch.testing.assert_close(came.cameras.c2w, rigid(mouse_rig()).c2w)
    assert "taken in their order: front is 0, left is 1, right is 2, back is 3, top is 4, side is 5" in caplog.text


# ---------------------------------------------------------------- axes


def turned(direction: tuple[float, float, float]) -> list[Filmed]:
    """The rig in a world whose up is another direction."""
    x, y, z = direction
    turn = {(0, 0, 1): np.eye(3), (0, -1, 0): np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])}[int(x), int(y), int(z)]
    return [Filmed(c.name, c.K, c.R @ turn.T, c.T) for c in filmed()]


def test_cameras_that_stand_askew_in_their_world_are_said_with_the_up_they_have(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    read(write_colmap_text(tmp_path, turned((0, -1, 0))))
    assert (
        "z is taken as up, and the cameras' own up is -0.01,-1.00,0.01 there: pass --up -0.01,-1.00,0.01" in caplog.text
    )


def test_the_world_is_turned_until_the_given_up_is_z(tmp_path: Path, caplog) -> None:
    came = read(write_colmap_text(tmp_path, turned((0, -1, 0))), Wanted(mm=1.0, up=up_of("0,-2,0"))).cameras
    torch.testing.assert_close(-came.c2w[:, 2, 1], -rigid(mouse_rig()).c2w[:, 2, 1])
    torch.testing.assert_close(came.centres[:, 2], rigid(mouse_rig()).centres[:, 2])
    assert not caplog.records


@pytest.mark.parametrize("text", ["z", "0,0", "0,0,0", "0,nan,1", "1,2,3,4"])
def test_an_up_that_is_no_direction_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="--up: expected a direction x,y,z, got"):
        up_of(text)


# ---------------------------------------------------------------- distortion


def test_distortion_is_never_left_in_silence(tmp_path: Path) -> None:
    came = read(write_label3d(tmp_path, filmed((-0.3, 0.1, 0, 0, 0))))
    with pytest.raises(DataError, match=r"camera 0: opencv k1 -0.05 k2 0.01667.* pass --undistorted, or --distorted"):
        came.undistortions(tmp_path, None)
    assert came.undistortions(tmp_path, True) == (None,) * 6
    assert all(each is not None for each in came.undistortions(tmp_path, False))
    assert came.as_plain(Wanted(undistorted=False))["distortion"] == "removed"


@pytest.mark.parametrize("key", ["D", "dist", "distCoef", "distCoeffs", "distortion_coefficients", "distortions"])
def test_distortion_is_known_under_each_of_its_names(tmp_path: Path, key: str) -> None:
    """A list of our own, and CMU Panoptic's JSON, in which every camera has K, distCoef, R and t."""
    bent = [-0.3, 0.1, 0.002, 0.003, 0.04]
    plain = [{"K": c.K.tolist(), "R": c.R.tolist(), "t": c.T[:, None].tolist(), key: bent} for c in filmed()]
    (tmp_path / "panoptic.json").write_text(
        json.dumps({"cameras": [e | {"name": f"00_0{i}"} for i, e in enumerate(plain)]})
    )
    (tmp_path / "list.json").write_text(json.dumps([each | {"T": each["t"]} for each in plain]))
    for name in ("panoptic.json", "list.json"):
        came = read(tmp_path / name)
        torch.testing.assert_close(came.cameras.c2w, rigid(mouse_rig()).c2w)
        assert list(came.lenses[3].coefficients[:5]) == bent


def test_a_distortion_that_no_lens_has_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    came = read(write_pickle(tmp_path, filmed((-6.0, 0, 0, 0, 0))))
    came.undistortions(tmp_path, False)
    assert "camera 5: the distortion turns back at 13°, which no lens does" in caplog.text
    assert "camera 0" not in caplog.text


def test_without_distortion_nobody_is_asked(tmp_path: Path) -> None:
    assert read(write_label3d(tmp_path, filmed())).undistortions(tmp_path, None) == (None,) * 6


def test_there_is_nothing_to_take_out_where_no_lens_distorts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected coefficients to take out, got none — leave --distorted out, or st"):
        read(write_label3d(tmp_path, filmed())).undistortions(tmp_path, False)


def with_keys(folder: Path, **more: object) -> Path:
    """CMU Panoptic's JSON, whose first camera has further keys."""
    listed = [{"K": c.K.tolist(), "R": c.R.tolist(), "t": c.T[:, None].tolist()} for c in filmed()]
    listed[0] |= more
    (folder / "a.json").write_text(json.dumps({"cameras": listed}))
    return folder / "a.json"


@pytest.mark.parametrize("more", [{"distance_to_board": 310.0}, {"distances": [3.0] * 5}, {"distorted": True}])
def test_a_distance_is_no_distortion(tmp_path: Path, more: dict[str, object]) -> None:
    assert read(with_keys(tmp_path, **more)).lenses[0].is_pinhole


def test_an_empty_d_leaves_dist_to_be_read(tmp_path: Path) -> None:
    assert read(with_keys(tmp_path, D=None, dist=[-0.1, 0, 0, 0, 0])).lenses[0].coefficients[0] == -0.1


def test_coefficients_under_two_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.json: 0: expected one of D and dist, got both — keep one of the two"):
        read(with_keys(tmp_path, D=[0.0] * 5, dist=[-0.1, 0, 0, 0, 0]))


# ---------------------------------------------------------------- from the formats' documentation


def two(path: Path, size: tuple[int, int], frames: list[dict[str, object]], **shared: object) -> Cameras:
    path.write_text(json.dumps(shared | {"frames": frames}))
    return read_calibration(path, *size, Wanted(mm=100.0)).cameras


def from_front_and_side() -> list[dict[str, object]]:
    """OpenGL cameras 4 away from the origin on +z and on +x, both upright about y."""
    front = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
    side = [[0, 0, 1, 4], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]
    return [{"file_path": f"./{i}", "transform_matrix": matrix} for i, matrix in enumerate((front, side))]


def test_an_opengl_camera_looks_along_its_minus_z(tmp_path: Path) -> None:
    came = two(tmp_path / "transforms.json", (800, 800), from_front_and_side(), camera_angle_x=0.6911112070083618)
    assert came.forward.round(decimals=9).tolist() == [[0, 0, -1], [-1, 0, 0]]
    assert came.centres.round(decimals=9).tolist() == [[0, 0, 400], [400, 0, 0]]
    torch.testing.assert_close(came.fxfycxcy[0].tolist(), [1111.1110311937682] * 2 + [400.0, 400.0])  # NeRF's own


def test_a_frames_intrinsics_come_before_those_of_all(tmp_path: Path) -> None:
    frames = from_front_and_side()
    frames[1] |= {"fl_x": 900.0, "cx": 410.5}
    came = two(tmp_path / "transforms.json", (800, 800), frames, fl_x=1000.0, fl_y=1010.0, cx=400.5, cy=399.5)
    assert came.fxfycxcy.tolist() == [[1000, 1010, 400.5, 399.5], [900, 1010, 410.5, 399.5]]


COLMAPS = {  # model -> its parameters, and fx fy cx cy with the distortion that OpenCV's order has for them
    "SIMPLE_PINHOLE": ("1000 570 500", (1000, 1000, 570, 500), (0, 0, 0, 0, 0)),
    "PINHOLE": ("1000 1010 570 500", (1000, 1010, 570, 500), (0, 0, 0, 0, 0)),
    "SIMPLE_RADIAL": ("1000 570 500 -0.1", (1000, 1000, 570, 500), (-0.1, 0, 0, 0, 0)),
    "RADIAL": ("1000 570 500 -0.1 0.02", (1000, 1000, 570, 500), (-0.1, 0.02, 0, 0, 0)),
    "OPENCV": ("1000 1010 570 500 -0.1 0.02 0.003 0.004", (1000, 1010, 570, 500), (-0.1, 0.02, 0.003, 0.004, 0)),
}


@pytest.mark.parametrize("model", COLMAPS)
def test_colmaps_models_have_their_own_parameters(tmp_path: Path, model: str) -> None:
    given, pinhole, distortion = COLMAPS[model]
    path = write_colmap_text(tmp_path, filmed())
    lines = (path / "cameras.txt").read_text().splitlines()
    ids = [line.split()[0] for line in lines if not line.startswith("#")]
    (path / "cameras.txt").write_text("".join(f"{i} {model} {WIDTH} {HEIGHT} {given}\n" for i in ids))
    came = read(path)
    assert came.cameras.fxfycxcy[2].tolist() == list(pinhole)
    assert came.lenses[2].coefficients[:5] == distortion and came.lenses[2].model == "opencv"


def test_matlabs_first_pixel_is_one_one(tmp_path: Path) -> None:
    """MathWorks' example: a principal point of OpenCV at (570.6455, 346.0108) is MATLAB's (571.6455, 347.0108)."""
    K = np.array([[729.4644, 0, 0], [0, 728.8196, 0], [571.6455, 347.0108, 1]])
    folder = tmp_path / "calibration"
    folder.mkdir()
    for i, camera in enumerate(filmed()):
        rest = {"r": camera.R.T, "t": camera.T[None], "RDistort": [[-0.4262, 0.5460]], "TDistort": [[0.0038, -0.0051]]}
        savemat(folder / f"hires_cam{i + 1}_params.mat", {"K": K, **rest}, do_compression=True)
    came = read_calibration(folder, 1072, 712, MM, VIDEOS)
    torch.testing.assert_close(came.cameras.fxfycxcy[0].tolist(), [729.4644, 728.8196, 570.6455 + 0.5, 346.0108 + 0.5])
    assert came.lenses[0].coefficients[:5] == (-0.4262, 0.5460, 0.0038, -0.0051, 0)


def test_tables_of_anipose_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    text = write_anipose(tmp_path, named("a b c d e f")).read_text()
    for i in reversed(range(6)):
        text = text.replace(f"[cam_{i}]", f"[cam_{2 * i + 2}]")
    (tmp_path / "calibration.toml").write_text(text)  # cam_2 … cam_12, which sort as text as 10, 12, 2 …
    torch.testing.assert_close(read(tmp_path / "calibration.toml").cameras.c2w, rigid(mouse_rig()).c2w)


# ---------------------------------------------------------------- where it is, and what is none


def in_root(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("")
    return folder / name


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["calibration/calibration.toml"], "calibration/calibration.toml"),
        (["label3d_dannce.mat"], "label3d_dannce.mat"),
        (["calibration/hires_cam1_params.mat", "calibration/hires_cam2_params.mat"], "calibration"),
        (["camera_matrix/stereo_params.pickle"], "camera_matrix/stereo_params.pickle"),
        (["sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/cameras.txt"], "sparse/0"),
        (["transforms.json"], "transforms.json"),
    ],
)
def test_a_calibration_is_found_where_its_program_puts_it(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        in_root(tmp_path, name)
    assert find_calibration(tmp_path) == tmp_path / found


def test_a_folders_hidden_files_are_no_part_of_its_calibration(tmp_path: Path) -> None:
    names = [in_root(tmp_path, name).name for name in (".DS_Store", "._0.yml", "0.yml")]
    assert [path.name for path in files_of(tmp_path)] == names[2:]


def test_two_calibrations_are_refused_with_both_names(tmp_path: Path) -> None:
    in_root(tmp_path, "new_cam.pkl")
    in_root(tmp_path, "sparse/0/cameras.bin")
    with pytest.raises(DataError, match=r"got new_cam.pkl and sparse/0 — keep one, or say which with --calibration"):
        find_calibration(tmp_path)


def lens_only(folder: Path) -> Path:
    """What OpenCV's calibration sample writes: no place in the world."""
    camera = filmed()[0]
    return write_storage(folder / "a.yml", {"camera_matrix": camera.K, "distortion_coefficients": np.zeros((1, 5))})


def one_of_six(folder: Path) -> Path:
    return WRITERS["OpenCV, a file per camera"](folder, filmed()) / "0.yml"


def of_one_line(name: str, text: str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return written


def another_size(folder: Path) -> Path:
    path = write_anipose(folder, filmed())
    path.write_text(path.read_text().replace("size = [ 1152, 1024,]", "size = [ 640, 480,]"))
    return path


def twice(folder: Path) -> Path:
    path = write_opencv_yaml(folder, filmed())
    path.write_text(path.read_text() + "cam0: { camera_matrix: 1 }\n")
    return path


def in_two_files(folder: Path) -> Path:
    write_storage(write_easymocap(folder, filmed()) / "old_extri.yml", {"Rot_00": np.eye(3)})
    return write_storage(folder / "calibration" / "extri_2.yml", {"Rot_00": np.eye(3)}).parent


def of_two_pairs(folder: Path) -> Path:
    import pickle

    path = write_deeplabcut(folder, filmed()[:2])
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(content | {"camera-1-camera-3": content["camera-1-camera-2"]}))
    return path


def without_images(folder: Path) -> Path:
    path = write_colmap_text(folder, filmed())
    (path / "images.txt").unlink()
    return path


def of_a_fov_camera(folder: Path) -> Path:
    path = write_colmap_text(folder, filmed())
    (path / "cameras.txt").write_text((path / "cameras.txt").read_text().replace("FULL_OPENCV", "FOV"))
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another ending": (
        of_one_line("rig.xml", "<x/>"),
        r"rig.xml: expected a calibration of lists of K, R, T .*got .xml",
    ),
    "an empty folder": (lambda f: f, "expected a calibration of .*, got no files — convert it"),
    "no such file": (lambda f: f / "a.toml", "a.toml: expected a calibration, found none — check the path"),
    "a lens alone": (lens_only, "a.yml: a: expected K, R and T of a camera in a shared world, got no R, T — add them"),
    "one of six": (
        one_of_six,
        "0.yml: expected 2 or more cameras, got 1 — give the whole rig, or the folder of its files",
    ),
    "other keys": (of_one_line("a.json", '{"left": 1}'), "a.json: expected camera_matrix, .*, got left"),
    "another size": (
        another_size,
        "camera 0: expected the calibration of 1152×1024 as the videos are, got one of 640×480",
    ),
    "a key twice": (twice, "calibration.yml: expected OpenCV's YAML or JSON, got the key cam0 twice"),
    "a key in two files": (in_two_files, "expected Rot_00 in one file of the folder, got it again — take one out"),
    "aliases": (of_one_line("a.yml", "a: &a [1, 2]\nb: [*a, *a]\n"), "got an alias, which FileStorage never writes"),
    "a JSON key twice": (of_one_line("a.json", '{"frames": [], "frames": []}'), "got frames twice"),
    "one frame": (of_one_line("a.json", '{"frames": []}'), "expected 2 or more cameras, got 0"),
    "no cameras": (of_one_line("a.toml", "[metadata]\nerror = 1.0\n"), r"a.toml: expected a table \[cam_0\] and so on"),
    "half a table": (
        of_one_line("a.toml", "[cam_0]\nname = 'a'\n"),
        "cam_0: expected matrix, .* got no matrix, rotation, translation, distortions",
    ),
    "two pairs": (of_two_pairs, "expected one pair of cameras, .* got 2: camera-1-camera-2, camera-1-camera-3"),
    "no images": (without_images, "images.txt: expected a file that can be read, got No such file"),
    "another model": (of_a_fov_camera, "expected a model of SIMPLE_PINHOLE, .*, got FOV — reconstruct with one"),
    "MATLAB 7.3": (
        of_one_line("a.mat", "MATLAB 7.3 MAT-file, HDF5"),
        "got one of version 7.3 — load it in MATLAB and save",
    ),
    "no .mat": (of_one_line("a.mat", "hello"), "a.mat: expected a whole .mat, got another beginning"),
}


@pytest.mark.parametrize("change", [lambda content: content + b"\0" * 8, lambda content: content[:-8]])
@pytest.mark.parametrize("part", ["cameras", "images"])
def test_a_binary_model_is_as_long_as_its_counts_say(tmp_path: Path, part: str, change) -> None:
    file = write_colmap_binary(tmp_path, filmed()) / f"{part}.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=rf"{part}.bin: expected .* restore"):
        read(file.parent)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_calibration_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as refusal:
        read(make(tmp_path))
    assert "\n" not in str(refusal.value) and " — " in str(refusal.value)


def test_distortion_in_a_list_of_matrices_is_read(tmp_path: Path) -> None:
    came = read(write_pickle(tmp_path, filmed((-0.6, 0, 0, 0, 0))), Wanted())
    assert came.lenses[5].coefficients[0] == -0.6
    shutil.rmtree(tmp_path)
